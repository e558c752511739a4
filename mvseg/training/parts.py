"""Checks around the training: registered parts and usable test sets before it, unreadable images after it."""

from __future__ import annotations

import functools
import logging
from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import (
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    PROPOSAL_GENERATOR_REGISTRY,
    ROI_BOX_HEAD_REGISTRY,
    ROI_HEADS_REGISTRY,
    ROI_MASK_HEAD_REGISTRY,
)
from detectron2.utils import comm
from torch import nn

from mvseg.data.card import missing_message
from mvseg.data.catalog import get_card
from mvseg.evaluation import vocabulary_of
from mvseg.vocabulary import did_you_mean

logger = logging.getLogger(__name__)

PARTS = {
    "MODEL.META_ARCHITECTURE": META_ARCH_REGISTRY,
    "MODEL.BACKBONE.NAME": BACKBONE_REGISTRY,
    "MODEL.PROPOSAL_GENERATOR.NAME": PROPOSAL_GENERATOR_REGISTRY,
    "MODEL.ROI_HEADS.NAME": ROI_HEADS_REGISTRY,
    "MODEL.ROI_BOX_HEAD.NAME": ROI_BOX_HEAD_REGISTRY,
    "MODEL.ROI_MASK_HEAD.NAME": ROI_MASK_HEAD_REGISTRY,
}


def unregistered_part(cfg: CfgNode, error: KeyError) -> str | None:
    """Explain a registry's error by the config key that asked for the part.

    Args:
        cfg: the config.
        error: what building the model raised.

    Returns:
        A message with the key and the nearest names, or None if the error has another reason.
    """
    for key, registry in PARTS.items():
        name = functools.reduce(getattr, key.split("."), cfg)
        if repr(name) in str(error) and name not in registry:
            return f"{key} {name!r} is not registered{did_you_mean(name, [known for known, _ in registry])}"
    return None


def check_test_sets(cfg: CfgNode, model: nn.Module) -> None:
    """Find out before training, not after it, that a test set cannot be evaluated.

    Args:
        cfg: the config; reads DATASETS.TEST.
        model: the model, not wrapped; it must be able to speak the words of every test set.

    Raises:
        FileNotFoundError: if the annotations or the image folder of a test set are missing.
        ValueError: if the model cannot speak its words.
    """
    for name in cfg.DATASETS.TEST:
        card = get_card(name)
        places = {"annotations": card.annotations, "image folder": card.image_root}
        for what, place in places.items() if card.format != "detectron2" else ():  # those are checked by who made them
            if "://" not in place and not card.resolve(place).exists():
                raise FileNotFoundError(missing_message(card, what, card.resolve(place)))
        try:
            with vocabulary_of(model, name):
                pass
        except ValueError as error:
            raise ValueError(f"test set {name!r}: {error}") from error


def report_unreadable(loader: Any) -> None:
    """Log the images that training replaced because they could not be read; to be called by every process.

    Args:
        loader: the training loader; one without a count of unreadable images (``bad_images``) is left alone.
    """
    bad_images = getattr(loader, "bad_images", None)
    if bad_images is None:
        return
    found = sorted({tuple(entry) for part in comm.gather(bad_images.state_dict()) for entry in part})
    if found:  # only on the main process
        bad_images.load_state_dict(found)
        logger.warning("Images that could not be read and were replaced:\n%s", bad_images.summary())
