"""The label space of several datasets: their vocabularies joined, with counted images where nobody wrote them down."""

from __future__ import annotations

import dataclasses
import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from mvseg.vocabulary import LabelSpace, Vocabulary, did_you_mean
from mvseg.vocabulary.merging import MAPPING_FILES

from .catalog import get_records, get_vocabulary
from .streams import ClassCounts

logger = logging.getLogger(__name__)

_LABEL_SPACES = ("concatenate", "merge_names", "merge_similar", "object")


def label_space(
    names: Sequence[str],
    kind: str = "concatenate",
    embeddings: bool = True,
    embed: Callable[[Vocabulary], Vocabulary] | None = None,
    threshold: float = 0.98,
    image_counts: bool = False,
) -> LabelSpace:
    """Join the vocabularies of several datasets.

    Args:
        names: names of registered datasets.
        kind: "concatenate": own columns for every vocabulary; "merge_names": equal words share a column;
            "merge_similar": words with similar text embeddings do; "object": all words do; or a file with a mapping by
            hand (:func:`mvseg.vocabulary.read_mapping`).
        embeddings: attach the text embeddings that the cards name.
        embed: gives embeddings to a vocabulary whose card names none, or None.
        threshold: smallest cosine of words that share a column, for "merge_similar".
        image_counts: count the images of every class where the vocabulary does not say them; reads the annotations.

    Returns:
        The label space.

    Raises:
        KeyError: if a dataset does not exist.
        ValueError: if the kind does not exist, the mapping is wrong, or embeddings are missing or do not fit together.
    """
    is_file = Path(kind).suffix in MAPPING_FILES
    if kind not in _LABEL_SPACES and not is_file:
        hint = did_you_mean(kind, _LABEL_SPACES)
        raise ValueError(f"label space {kind!r}{hint}; or name a mapping file ({', '.join(MAPPING_FILES)})")
    if kind == "object":
        return LabelSpace.merge_all({name: get_vocabulary(name, embeddings=False) for name in names})
    vocabularies = {name: get_vocabulary(name, embeddings) for name in names}
    if embed is not None and embeddings:
        vocabularies = {name: embed(words) for name, words in vocabularies.items()}
    if image_counts:
        vocabularies = with_image_counts(vocabularies)
    if is_file:
        return LabelSpace.merge_mapping(vocabularies, kind)
    if kind == "merge_similar":
        return LabelSpace.merge_similar(vocabularies, threshold)
    return LabelSpace.merge_names(vocabularies) if kind == "merge_names" else LabelSpace.concatenate(vocabularies)


def with_image_counts(vocabularies: Mapping[str, Vocabulary]) -> dict[str, Vocabulary]:
    """Count the images that show a class in the records of datasets whose vocabulary does not say it.

    Datasets that share a vocabulary share its counts: those that one of them has, else the sum over their records.
    Where the files of a dataset are not on this machine, every class counts as one image: the counts matter in training
    alone, which stops without the files, and a model must be evaluated without them.

    Args:
        vocabularies: dataset name to its words.

    Returns:
        The same with ``image_count``.
    """
    alike: dict[tuple[str, tuple[str, ...]], list[str]] = defaultdict(list)
    for dataset, words in vocabularies.items():
        alike[words.name, words.names].append(dataset)
    counts: dict[str, tuple[int, ...]] = {}
    for (_, names), datasets in alike.items():
        known = [count for d in datasets if (count := vocabularies[d].image_count) is not None]
        if known:
            total = known[0]
        else:
            total = tuple(np.sum([_count_images(d, len(names)) for d in datasets], axis=0).tolist())
        counts.update(dict.fromkeys(datasets, total))
    return {d: dataclasses.replace(words, image_count=counts[d]) for d, words in vocabularies.items()}


def _count_images(dataset: str, num_classes: int) -> np.ndarray:
    try:
        records = get_records(dataset)
    except FileNotFoundError as error:
        logger.warning("The images of each class are not counted, which only training needs: %s", error)
        return np.ones(num_classes, dtype=np.int64)
    return ClassCounts.from_records(records, num_classes).image_count()
