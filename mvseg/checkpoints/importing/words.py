"""Which words the classes of a foreign file are, and the text embeddings that it holds of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mvseg.checkpoints.foreign import ForeignFile
from mvseg.checkpoints.readers.registry import Translation
from mvseg.vocabulary import LabelSpace, Vocabulary, builtin_tables

# Number of classes that tells a table with the order of its columns; other sets of words have several orders.
TABLES = {80: "coco", 1203: "lvis_v1"}
HEAD_TABLES = {80: "coco", 365: "objects365_v1", 500: "openimages_500"}  # of models with a classifier for each dataset


def find_words(translation: Translation, file: ForeignFile, asked: str) -> tuple[Vocabulary | None, tuple[str, ...]]:
    """Find the words of the file's classes.

    Args:
        translation: what the reader found.
        file: the file.
        asked: built-in table or file of names; empty: by the number of classes.

    Returns:
        The words, or None where a text classifier can do without those of its training; and what the user should know.

    Raises:
        ValueError: if the words do not have the file's number of classes, or counts of images speak against them, or
            nobody says what the columns of a closed set are.
    """
    count = translation.num_columns
    name = asked or TABLES.get(count, "")
    if not name:
        if translation.config["MODEL.CLASSIFIER.NAME"] == "text":
            return None, (
                f"note: nobody says which words the {count or 'unknown number of'} text rows of training belong to, so "
                "the config names no training dataset: predict with words of your own, or add --vocabulary",
            )
        raise ValueError(
            f"{file.path}: a closed set of {count} classes, and nothing in the file says in which order: add "
            f"--vocabulary with a built-in table ({', '.join(builtin_tables())}) or a file of names"
        )
    words = _read(name)
    if count and len(words) != count:
        raise ValueError(f"{file.path}: {count} classes, but vocabulary {name!r} has {len(words)} words")
    if asked:
        return words, ()
    counts = file.weights.get(translation.image_weights)
    if counts is not None and words.image_count is not None and not _same_counts(counts, words):
        raise ValueError(
            f"{file.path}: {count} classes as in {name}, but its image counts ({translation.image_weights}) are others:"
            f" say which words they are with --vocabulary (also if it is {name} after all)"
        )
    checked = "its image counts agree" if counts is not None and words.image_count is not None else "by their number"
    return words, (f"note: the {count} classes are taken for {name} ({checked})",)


def _read(name: str) -> Vocabulary:
    return Vocabulary.from_table(name) if name in builtin_tables() else Vocabulary.from_file(name)


def find_vocabularies(
    translation: Translation, file: ForeignFile, asked: Sequence[str], label_space: str | Path | None
) -> tuple[tuple[Vocabulary, ...], tuple[str, ...]]:
    """Find the words of a closed set that was trained with several datasets.

    Args:
        translation: what the reader found.
        file: the file.
        asked: for every dataset, in the order of the file, a built-in table or a file of names; empty: where every
            dataset has a classifier of its own, by their numbers of classes.
        label_space: file that says which words share a column; needed where all datasets have one classifier.

    Returns:
        The words of every dataset, and what the user should know.

    Raises:
        ValueError: if the words do not fit the classifiers of the file, or nobody says what they are.
    """
    heads = translation.heads
    notes: tuple[str, ...] = ()
    names = list(asked)
    if not names:
        names = [table if (table := HEAD_TABLES.get(count, "")) in builtin_tables() else "" for count in heads]
        if "" in names:
            raise ValueError(
                f"{file.path}: classifiers of {', '.join(map(str, heads))} classes, and nothing in the file says of "
                f"which words: add --vocabulary once for each, in this order, with a built-in table or a file of names"
            )
        notes = (f"note: the classes are taken for {', '.join(names)} (by their numbers)",)
    vocabularies = tuple(map(_read, names))
    if len({v.name for v in vocabularies}) < len(vocabularies):
        raise ValueError(f"two vocabularies are called alike: {', '.join(v.name for v in vocabularies)}")
    if heads:
        if tuple(map(len, vocabularies)) != heads:
            listed = ", ".join(f"{v.name}: {len(v)}" for v in vocabularies)
            raise ValueError(
                f"{file.path}: classifiers of {', '.join(map(str, heads))} classes, but the vocabularies have {listed}"
            )
    elif label_space is None:
        raise ValueError(f"{file.path}: one classifier for several vocabularies: add --label-space with their mapping")
    if label_space is not None:
        space = LabelSpace.merge_mapping({v.name: v for v in vocabularies}, label_space)
        if not heads and space.n != translation.num_columns:
            raise ValueError(f"{file.path}: {translation.num_columns} classes, but {label_space} makes {space.n} words")
    return vocabularies, notes


def _same_counts(weights: Tensor, words: Vocabulary) -> bool:
    """Weights are image counts to some power, usually 1/2: that power is fitted at the largest count."""
    counts = words.image_counts().double()
    weights = weights.double()
    top = int(counts.argmax())
    if weights.shape != counts.shape or weights.min() < 0 or weights[top] <= 1:
        return False
    power = weights[top].log() / counts[top].log()
    return bool(torch.allclose(weights, torch.where(counts > 0, counts**power, 0.0), rtol=1e-3, atol=1e-3))


def fit_to_words(config: Mapping[str, Any], words: Vocabulary | None) -> dict[str, Any]:
    """Choose a loss that the words allow: the federated one draws classes by image counts, which only some tables have.

    Args:
        config: config keys with dots to their values.
        words: the words, if known.

    Returns:
        The keys, with the sigmoid loss where counts are needed and not known.
    """
    federated = config.get("MODEL.CLASSIFIER.LOSS") == "federated"
    if federated and (words is None or words.image_count is None):
        return {**config, "MODEL.CLASSIFIER.LOSS": "sigmoid"}
    return dict(config)


def text_rows(translation: Translation, file: ForeignFile) -> Tensor | None:
    """Take the text embeddings of the training out of a file.

    Args:
        translation: what the reader found.
        file: the file.

    Returns:
        (n, D) float32, one row for each class; None if the file has none.

    Raises:
        ValueError: if the last column is not that of the background, zeros.
    """
    if not translation.text_rows:
        return None
    columns = file.weights[translation.text_rows].float()
    if columns[:, -1].any():
        raise ValueError(f"{file.path}: {translation.text_rows} has no column of zeros for the background at its end")
    return columns[:, :-1].t().contiguous()
