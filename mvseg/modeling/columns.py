"""The label columns of a model, read from the datasets that a config names."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor

from mvseg.data.catalog import get_card
from mvseg.data.label_spaces import label_space
from mvseg.data.sources.base import is_filtered
from mvseg.data.supervision import has_places, has_words
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


def annotated_columns(space: LabelSpace) -> Tensor:
    """Say which columns the boxes of the datasets of a label space can show.

    Args:
        space: the label space; its datasets have cards.

    Returns:
        (n,) bool; False for words that a card's filter leaves out, or that no training image shows as far as the
        vocabulary knows, and for words of datasets without boxes.
    """
    found = torch.zeros(space.n, dtype=torch.bool)
    for dataset, words in space.vocabularies.items():
        card = get_card(dataset)
        if not has_places(card.supervision):
            continue
        counts = words.image_count or (1,) * len(words)
        shown = [count > 0 and not is_filtered(card, words, index) for index, count in enumerate(counts)]
        found[space.columns(dataset)[torch.tensor(shown)]] = True
    return found


def training_image_counts(cfg: Any, space: LabelSpace | None) -> Tensor | None:
    """Give the training images of every column to the losses.

    Args:
        cfg: the config tree; reads MODEL.CLASSIFIER.UNSEEN_LOGITS.
        space: the label space of training, or None.

    Returns:
        (n,) float; where unseen words are told apart, 0 for those that no box can show; None where nobody counted.

    Raises:
        ValueError: if unseen words shall be told apart by a loss that is no softmax.
    """
    node = cfg.MODEL.CLASSIFIER
    if node.UNSEEN_LOGITS != "compete" and node.LOSS != "softmax":
        raise ValueError(
            f"MODEL.CLASSIFIER.UNSEEN_LOGITS {node.UNSEEN_LOGITS} is for LOSS softmax, where columns compete; with "
            f"LOSS {node.LOSS} set it to compete, and MODEL.ANNOTATION_SCOPE or IGNORE_ZERO_CATS to leave columns out"
        )
    if space is None or node.UNSEEN_LOGITS == "compete":
        return None if space is None else space.image_count
    counts = torch.ones(space.n) if space.image_count is None else space.image_count
    return counts * annotated_columns(space)


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
