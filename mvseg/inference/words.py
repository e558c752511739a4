"""The words that a person asks for: a built-in table, the words of a dataset, a file, or a list with own prompts."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from detectron2.data import DatasetCatalog

from mvseg.data.catalog import get_vocabulary
from mvseg.vocabulary import Vocabulary, builtin_tables, did_you_mean, nearest_names
from mvseg.vocabulary.suggestions import is_blank, normalize

logger = logging.getLogger(__name__)

SEPARATORS = re.compile("[,\uff0c\u3001\n]")  # the comma, and those of Chinese and Japanese
FILE_ENDINGS = (".txt", ".tsv", ".json", ".yaml", ".yml")


@dataclass(frozen=True)
class AskedWords:
    """Words to look for.

    Args:
        vocabulary: the words, with text embeddings if they are known.
        prompts: word to its own sentences for the text encoder; other words are put into the model's prompts.
    """

    vocabulary: Vocabulary
    prompts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def read_words(text: str) -> AskedWords:
    """Find out which words a text means.

    Args:
        text: a built-in table ("coco"; the beginning of its name if only one table begins so: "lvis"), a dataset
            ("coco_2017_val"), a file of names, or words separated by commas: see :func:`parse_words`.

    Returns:
        The words; those of a dataset have the embeddings that its card names, if the file is there.

    Raises:
        ValueError: if the beginning of a name fits several tables.
        FileNotFoundError: if the text looks like a file that does not exist.
    """
    text = text.strip()
    tables = builtin_tables()
    if text in tables:
        return AskedWords(Vocabulary.from_table(text))
    if text in DatasetCatalog.list():
        return AskedWords(_words_of_dataset(text))
    if text and Path(text).is_file():
        return _split_prompts(Vocabulary.from_file(text))
    begin = [table for table in tables if table.startswith(f"{text}_")]
    if len(begin) == 1:
        return AskedWords(Vocabulary.from_table(begin[0]))
    if len(begin) > 1:
        raise ValueError(f"vocabulary {text!r} may be {', '.join(begin)}: write the whole name")
    if text.endswith(FILE_ENDINGS) and "," not in text:
        raise FileNotFoundError(f"vocabulary file {text} does not exist")
    return parse_words(text)


def near_vocabularies(word: str) -> list[str]:
    """Find the tables and datasets whose name looks like a word, for a hint that they may have been meant.

    Args:
        word: what was asked for.

    Returns:
        Names, the most similar first.
    """
    return nearest_names(word, [*builtin_tables(), *DatasetCatalog.list()]) if "_" in word or word.isalnum() else []


def parse_words(text: str | Sequence[str], name: str = "custom") -> AskedWords:
    """Read a list of words of any language.

    Args:
        text: words separated by commas, or a list of them. ``sofa=a couch|a settee in a {}`` gives a word sentences
            of its own, whose embeddings are averaged; ``{}`` stands for the word.
        name: name of the vocabulary.

    Returns:
        The words, without embeddings.

    Raises:
        ValueError: if a word is empty, or there twice (upper and lower case are not told apart).
    """
    items = SEPARATORS.split(text) if isinstance(text, str) else [str(item) for item in text]
    parts = [_parse_word(item, number, len(items)) for number, item in enumerate(items, start=1)]
    names = [word for word, _ in parts]
    counts = Counter(map(normalize, names))
    twice = sorted({word for word in names if counts[normalize(word)] > 1})
    if twice:
        raise ValueError(f"{len(twice)} spellings of words are there more than once: {', '.join(twice[:20])}")
    return AskedWords(Vocabulary.from_names(names, name), {word: prompts for word, prompts in parts if prompts})


def parse_thresholds(text: str) -> dict[str, float]:
    """Read the score thresholds of single words.

    Args:
        text: such as ``"cat=0.3, red car=0.6"``.

    Returns:
        Word to threshold.

    Raises:
        ValueError: if an item is no word with a number from 0 to 1.
    """
    thresholds = {}
    for item in filter(str.strip, SEPARATORS.split(text)):
        word, _, value = (part.strip() for part in item.rpartition("="))
        try:
            thresholds[word] = float(value)
        except ValueError:
            thresholds[word] = -1.0
        if not word or not 0 <= thresholds[word] <= 1:
            raise ValueError(f"threshold {item.strip()!r}: write WORD=NUMBER, the number from 0 to 1")
    return thresholds


def thresholds_of(vocabulary: Vocabulary, common: float, own: Mapping[str, float]) -> list[float]:
    """Give every word its score threshold.

    Args:
        vocabulary: the n words.
        common: threshold of the words without one of their own.
        own: word to its threshold.

    Returns:
        n thresholds.

    Raises:
        ValueError: if a threshold is for a word that is not asked for.
    """
    thresholds = [float(common)] * len(vocabulary)
    for word, value in own.items():
        try:
            thresholds[vocabulary.index(word)] = float(value)
        except KeyError:
            hint = did_you_mean(word, vocabulary.names)
            raise ValueError(f"a threshold for {word!r}, which is not among the words asked for{hint}") from None
    return thresholds


def _words_of_dataset(name: str) -> Vocabulary:
    try:
        return get_vocabulary(name)
    except FileNotFoundError as error:  # a text encoder may do without the file
        logger.warning("The words of %r come without text embeddings: %s", name, error)
        return get_vocabulary(name, embeddings=False)


def _split_prompts(vocabulary: Vocabulary) -> AskedWords:
    """Names of a file may carry prompts too."""
    if not any("=" in name for name in vocabulary.names):
        return AskedWords(vocabulary)
    return parse_words(vocabulary.names, vocabulary.name)


def _parse_word(item: str, number: int, count: int) -> tuple[str, tuple[str, ...]]:
    word, equals, rest = (part.strip() for part in item.partition("="))
    word = unicodedata.normalize("NFC", " ".join(word.split()))
    if is_blank(word):
        raise ValueError(f"word {number} of {count} is empty ({item!r}): write words separated by single commas")
    prompts = tuple(prompt.strip().replace("{}", word) for prompt in rest.split("|")) if equals else ()
    if not all(prompts):
        raise ValueError(f"word {word!r} has an empty prompt: write {word}=PROMPT|PROMPT")
    return word, prompts
