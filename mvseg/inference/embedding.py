"""Text embeddings for the words that a person asks for, as the model's own words were embedded in training."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from mvseg.data.catalog import get_card
from mvseg.inference.words import AskedWords
from mvseg.modeling.words import WordEmbedder
from mvseg.vocabulary import LabelSpace, TextEncoder, Vocabulary
from mvseg.vocabulary.embedding_files import Provenance, read_provenance
from mvseg.vocabulary.encoders.base import unread_texts
from mvseg.vocabulary.suggestions import normalize

logger = logging.getLogger(__name__)


def words_of(space: LabelSpace) -> Vocabulary:
    """List the words of a label space once each, with the embedding of their first column.

    Args:
        space: the label space of training.

    Returns:
        A vocabulary; words of several datasets that are spelled alike are one.
    """
    first: dict[str, int] = {}
    for column, word in enumerate(space.names):
        first.setdefault(normalize(word), column)
    columns = list(first.values())
    embeddings = None if space.embeddings is None else space.embeddings[columns]
    return Vocabulary(name="training", names=tuple(space.names[c] for c in columns), embeddings=embeddings)


class _EncoderOfFile(WordEmbedder):
    """The encoder that made an embedding file; an encoder of that name with other weights is refused."""

    def __init__(self, path: Path, made: Provenance) -> None:
        super().__init__(made.encoder, made.prompts)
        self._path, self._made = path, made

    @cached_property
    def encoder(self) -> TextEncoder:
        encoder = WordEmbedder(self.description).encoder
        if encoder.fingerprint != self._made.fingerprint:
            raise ValueError(
                f"the text embeddings of {self._path} were made with another {self.description} than the one installed "
                f"here (content {self._made.fingerprint[:8]}, not {encoder.fingerprint[:8]})"
            )
        logger.info("Text encoder: %s, which made %s", self.description, self._path)
        return encoder


def embedder_of_cards(datasets: Sequence[str]) -> WordEmbedder | None:
    """Find the text encoder of the training where the config does not name it, but its embedding files do.

    Args:
        datasets: names of the training datasets.

    Returns:
        The encoder and the prompts that made their embeddings, or None if no file says it.
    """
    for dataset in datasets:
        for path in get_card(dataset).embedding_files():
            made = read_provenance(path) if path.is_file() else None
            if made is not None and made.prompts and made.synonyms == "ignore":
                return _EncoderOfFile(path, made)
    return None


def embed(asked: AskedWords, space: LabelSpace | None, embedder: WordEmbedder | None, width: int) -> Vocabulary:
    """Give the words text embeddings: those they come with, those of training, or the text encoder's.

    Args:
        asked: the words.
        space: label space of training, with embeddings (columns, D); None: not known.
        embedder: the text encoder and the prompts of training, loaded only if they are needed; None: not known.
        width: D of the model.

    Returns:
        The vocabulary with embeddings (n, D), float32.

    Raises:
        ValueError: if there is neither an embedding nor an encoder for a word, or the width is not the model's.
    """
    vocabulary = asked.vocabulary
    if vocabulary.embeddings is not None and vocabulary.embeddings.shape[1] != width and embedder is not None:
        logger.warning("The text embeddings of %r are another encoder's: embedding its words anew", vocabulary.name)
        vocabulary = dataclasses.replace(vocabulary, embeddings=None)
        asked = dataclasses.replace(asked, vocabulary=vocabulary)
    if vocabulary.embeddings is None:
        known = None if asked.prompts or space is None else _rows_of_training(vocabulary, space)
        if known is not None:
            vocabulary = dataclasses.replace(vocabulary, embeddings=known)
        elif embedder is not None:
            vocabulary = _encode(asked, embedder)
        else:
            raise ValueError(_no_encoder(vocabulary, space))
    assert vocabulary.embeddings is not None
    found = vocabulary.embeddings.shape[1]
    if found != width:
        raise ValueError(
            f"the text embeddings of vocabulary {vocabulary.name!r} are {found} wide, but this model's are {width}: "
            "they were made by another text encoder than the one it was trained with"
        )
    return vocabulary


def _rows_of_training(vocabulary: Vocabulary, space: LabelSpace) -> Tensor | None:
    """The rows (n, D) that the model was trained with, if it knows all the words."""
    trained = words_of(space)
    if trained.embeddings is None:
        return None
    position = {normalize(word): row for row, word in enumerate(trained.names)}
    rows = [position.get(normalize(word), -1) for word in vocabulary.names]
    return None if min(rows) < 0 else trained.embeddings[rows]


def _encode(asked: AskedWords, embedder: WordEmbedder) -> Vocabulary:
    vocabulary = asked.vocabulary
    plain = [word for word in vocabulary.names if word not in asked.prompts]
    rows: dict[str, Tensor] = {}
    if plain:
        embedded = embedder(vocabulary if len(plain) == len(vocabulary) else vocabulary.subset(plain)).embeddings
        assert embedded is not None
        rows.update(zip(plain, embedded, strict=True))
    for word, own in asked.prompts.items():
        sentences = torch.nn.functional.normalize(embedder.encoder.encode(list(own)).float(), dim=1)
        rows[word] = torch.nn.functional.normalize(sentences.mean(0), dim=0)
    said = [*plain, *(prompt for own in asked.prompts.values() for prompt in own)]
    if unread := unread_texts(embedder.encoder, said):
        logger.warning(
            "The text encoder %s cannot read %s: it does not know the symbols, so what is found for them means nothing",
            embedder.description,
            ", ".join(unread[:10]) + (f" and {len(unread) - 10} more" if len(unread) > 10 else ""),
        )
    return dataclasses.replace(vocabulary, embeddings=torch.stack([rows[word] for word in vocabulary.names]))


def _no_encoder(vocabulary: Vocabulary, space: LabelSpace | None) -> str:
    known = set() if space is None else {normalize(word) for word in space.names}
    new = [word for word in vocabulary.names if normalize(word) not in known]
    some = ", ".join(new[:5]) + (f" and {len(new) - 5} more" if len(new) > 5 else "")
    why = f"for {len(new)} of the {len(vocabulary)} words ({some})" if new else "for prompts of your own"
    return (
        f"{why} there are no text embeddings, and this model's config does not say which text encoder makes them. "
        "Ways to get them: MODEL.CLASSIFIER.TEXT_ENCODER minilm (python -m pip install 'mvseg[minilm]'), "
        "open_clip:ARCHITECTURE:CHECKPOINT, huggingface:FOLDER or table:FILE, the one that the training words were "
        "embedded with; or a vocabulary that has them: a dataset whose card names an embeddings file "
        "(python -m mvseg.vocabulary embed makes one)"
    )
