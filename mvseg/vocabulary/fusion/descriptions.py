"""Sentences that say what a class looks like, and rows of the classifier made of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..encoders import TextEncoder
from ..suggestions import is_blank, normalize
from ..vocabulary import Vocabulary
from .rows import average_embeddings

FORMS = 'a .json file {"WORD": ["SENTENCE", ...]}, or a .tsv file with a line WORD<TAB>SENTENCE for every sentence'

Descriptions = dict[str, tuple[str, ...]]


def read_descriptions(path: str | Path) -> Descriptions:
    """Read the descriptions of words.

    Args:
        path: ``.json``, an object of words with a sentence or a list of sentences each; or ``.tsv``, a word and a
            sentence in every line, a word in as many lines as it has sentences.

    Returns:
        Word to its sentences, in the order of the file.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if it has another form, a word is there twice, or a sentence is empty; it names the word or line.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"descriptions file {path} does not exist")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"descriptions file {path} is not UTF-8: {error}") from error
    if path.suffix == ".json":
        found = _read_json(path, text)
    elif path.suffix == ".tsv":
        found = _read_tsv(path, text)
    else:
        raise ValueError(f"descriptions file {path}: write {FORMS}")
    if not found:
        raise ValueError(f"descriptions file {path} has no word: write {FORMS}")
    return found


def _read_json(path: Path, text: str) -> Descriptions:
    try:
        tree = json.loads(text, object_pairs_hook=_Pairs)
    except json.JSONDecodeError as error:
        raise ValueError(f"descriptions file {path} is no JSON: {error}") from error
    if not isinstance(tree, _Pairs):
        raise ValueError(f"descriptions file {path}: write {FORMS}")
    found: Descriptions = {}
    spelled: dict[str, str] = {}
    for word, value in tree:
        sentences = [value] if isinstance(value, str) else value
        good = isinstance(sentences, list) and not isinstance(sentences, _Pairs) and len(sentences) > 0
        if not good or not all(isinstance(s, str) and not is_blank(s) for s in sentences):
            raise ValueError(
                f"descriptions file {path}, word {word!r}: expected sentences, none empty, found {value!r}"
            )
        if is_blank(word) or normalize(word) in spelled:
            other = spelled.get(normalize(word), "")
            raise ValueError(f"descriptions file {path}: word {word!r} is empty or there twice (as {other!r})")
        spelled[normalize(word)] = word
        found[word] = tuple(" ".join(sentence.split()) for sentence in sentences)
    return found


class _Pairs(list):
    """A JSON object as the list of its pairs, so that a word that is there twice is seen."""


def _read_tsv(path: Path, text: str) -> Descriptions:
    spelled: dict[str, str] = {}
    found: dict[str, list[str]] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        word, _, sentence = (part.strip() for part in line.partition("\t"))
        if is_blank(word) or is_blank(sentence) or "\t" in sentence:
            raise ValueError(f"descriptions file {path}, line {number}: expected WORD<TAB>SENTENCE, found {line!r}")
        found.setdefault(spelled.setdefault(normalize(word), word), []).append(" ".join(sentence.split()))
    return {word: tuple(sentences) for word, sentences in found.items()}


def find_descriptions(vocabulary: Vocabulary, descriptions: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """Find the sentences of every word of a vocabulary, by its name, its spellings, then its synonyms.

    Args:
        vocabulary: the n words.
        descriptions: word to sentences; words outside the vocabulary are passed over.

    Returns:
        Word of the vocabulary to its sentences; words that have none are left out.
    """
    known = {normalize(word): tuple(sentences) for word, sentences in descriptions.items()}
    found = {}
    for word, spellings, synonyms in zip(vocabulary.names, vocabulary.spellings, vocabulary.synonyms, strict=True):
        hits = [known[s] for s in map(normalize, (word, *spellings, *synonyms)) if s in known]
        if hits:
            found[word] = hits[0]
    return found


def embed_descriptions(
    encoder: TextEncoder, descriptions: Mapping[str, Sequence[str]], average: str = "raw"
) -> dict[str, Tensor]:
    """Embed descriptions: a word's row is the mean over its sentences.

    Source: Kaul, Xie and Zisserman 2023, Multi-modal classifiers for open-vocabulary detection, arXiv 2306.05493.

    Args:
        encoder: the text encoder, of width D.
        descriptions: word to its sentences, at least one each.
        average: "raw": mean of the embeddings as the encoder gives them (as published); "normalized": each is brought
            to length 1 before, and so is the mean.

    Returns:
        Word to its row, (D,) float32.
    """
    if not descriptions:
        return {}
    sentences = [sentence for group in descriptions.values() for sentence in group]
    rows = encoder.encode(sentences)
    parts = torch.split(rows, [len(group) for group in descriptions.values()])
    return {word: average_embeddings(part, average) for word, part in zip(descriptions, parts, strict=True)}
