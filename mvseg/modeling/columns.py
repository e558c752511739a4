"""The label columns of a model, read from the datasets that a config names."""

from __future__ import annotations

import logging
from typing import Any

from mvseg.data.catalog import label_space
from mvseg.modeling.words import check_encoders, word_embedder
from mvseg.vocabulary import LabelSpace

DEFAULT_NUM_CLASSES = 80  # Detectron2's default of MODEL.ROI_HEADS.NUM_CLASSES: says nothing about the user's intention

logger = logging.getLogger(__name__)


def training_label_space(cfg: Any) -> LabelSpace | None:
    """Put the vocabularies of the training datasets side by side.

    Args:
        cfg: the config tree; reads DATASETS.TRAIN (DATASETS.TEST if that is empty), DATASETS.LABEL_SPACE, and
            MODEL.CLASSIFIER.NAME, TEXT_ENCODER and PROMPTS for whether text embeddings are needed and who makes those
            that no card names.

    Returns:
        The label space, or None if the config names no dataset.
    """
    names = list(cfg.DATASETS.TRAIN or cfg.DATASETS.TEST)
    if not names:
        return None
    text = cfg.MODEL.CLASSIFIER.NAME == "text"
    embedder = word_embedder(cfg)
    if text:
        check_encoders([*names, *cfg.DATASETS.TEST], embedder)
    return label_space(names, kind=cfg.DATASETS.LABEL_SPACE, embeddings=text, embed=embedder)


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
