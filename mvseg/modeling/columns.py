"""The label columns of a model, read from the datasets that a config names."""

from __future__ import annotations

import logging
from typing import Any

from mvseg.data.catalog import get_card
from mvseg.data.label_spaces import label_space
from mvseg.data.supervision import has_words
from mvseg.modeling.objectives import OBJECTIVES
from mvseg.modeling.words import check_encoders, word_embedder
from mvseg.vocabulary import LabelSpace
from mvseg.vocabulary.scopes import scope_names

DEFAULT_NUM_CLASSES = 80  # Detectron2's default of MODEL.ROI_HEADS.NUM_CLASSES: says nothing about the user's intention

logger = logging.getLogger(__name__)


def training_label_space(cfg: Any) -> LabelSpace | None:
    """Put the vocabularies of the training datasets side by side.

    Args:
        cfg: the config tree; reads DATASETS.TRAIN (DATASETS.TEST if that is empty), DATASETS.LABEL_SPACE and
            MERGE_THRESHOLD, MODEL.CLASSIFIER.NAME and MODEL.ANNOTATION_SCOPE for whether text embeddings are needed,
            MODEL.CLASSIFIER.TEXT_ENCODER and PROMPTS for who makes those that no card names, and LOSS,
            IGNORE_ZERO_CATS and the scopes for whether image counts are needed.

    Returns:
        The label space, or None if the config names no dataset with words.
    """
    # Sentences alone bring no words, and so no columns.
    names = [name for name in cfg.DATASETS.TRAIN or cfg.DATASETS.TEST if _brings_words(name)]
    if not names:
        return None
    text = cfg.MODEL.CLASSIFIER.NAME == "text"
    embedder = word_embedder(cfg)
    if text:
        check_encoders([*names, *cfg.DATASETS.TEST], embedder)
    scopes = {part for scope in scopes_of(cfg).values() for part in scope}
    by_words = cfg.DATASETS.LABEL_SPACE == "merge_similar" or "safe" in scopes
    objective = OBJECTIVES.get(cfg.MODEL.CLASSIFIER.LOSS)
    counts = "federated" in scopes or objective.draws_columns or objective.counts_images
    return label_space(
        names,
        kind=cfg.DATASETS.LABEL_SPACE,
        embeddings=text or by_words,
        embed=embedder,
        threshold=cfg.DATASETS.MERGE_THRESHOLD,
        image_counts=counts or cfg.MODEL.CLASSIFIER.IGNORE_ZERO_CATS,
    )


def _brings_words(dataset: str) -> bool:
    card = get_card(dataset)
    return has_words(card.supervision) or bool(card.vocabulary)


def scopes_of(cfg: Any) -> dict[str, tuple[str, ...]]:
    """Read the annotation scope of every training dataset.

    Args:
        cfg: the config tree; reads MODEL.ANNOTATION_SCOPE and ``annotation_scope`` in the entries of DATASETS.MIX.

    Returns:
        Dataset name to the names of its scopes, and under the empty name those of all other datasets.
    """
    scopes = {"": scope_names(cfg.MODEL.ANNOTATION_SCOPE)}
    for entry in cfg.DATASETS.MIX:
        if entry.get("annotation_scope"):
            where = f"DATASETS.MIX, dataset {entry['name']!r}: annotation_scope"
            scopes[entry["name"]] = scope_names(entry["annotation_scope"], where)
    return scopes


def training_kinds(cfg: Any) -> set[str]:
    """Say what kinds of annotation a config trains with.

    Args:
        cfg: the config tree; reads DATASETS.TRAIN.

    Returns:
        Kinds of supervision.
    """
    return {get_card(name).supervision for name in cfg.DATASETS.TRAIN}


def num_label_columns(cfg: Any, space: LabelSpace | None) -> int:
    """Count the label columns.

    Args:
        cfg: the config tree.
        space: the label space of training; None: MODEL.ROI_HEADS.NUM_CLASSES says how many columns there are.

    Returns:
        Number of label columns.
    """
    wanted = cfg.MODEL.ROI_HEADS.NUM_CLASSES
    if space is None:
        return wanted
    if wanted not in (space.n, DEFAULT_NUM_CLASSES):
        logger.warning(
            "MODEL.ROI_HEADS.NUM_CLASSES is %d, but the vocabularies of %s have %d words: using %d",
            wanted,
            ", ".join(space.datasets),
            space.n,
            space.n,
        )
    return space.n
