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
from mvseg.data.mixing import mixture_from_config
from mvseg.data.supervision import SUPERVISION
from mvseg.evaluation import vocabulary_of
from mvseg.evaluation.evaluators import ANSWERS
from mvseg.modeling.calibration import calibration_of
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


# Detectron2's architectures by class name, derived ones too: what they learn from, and what they answer with.
DETECTRON2 = {
    "PanopticFPN": (("masks",), ("instances", "sem_seg", "panoptic_seg")),
    "GeneralizedRCNN": (("boxes", "masks"), ("instances",)),
    "RetinaNet": (("boxes", "masks"), ("instances",)),
    "FCOS": (("boxes", "masks"), ("instances",)),
    "ProposalNetwork": (("boxes", "masks"), ("proposals",)),
    "SemanticSegmentor": (("semantic",), ("sem_seg",)),
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


def check_training_sets(cfg: CfgNode) -> None:
    """Find out before training that the model cannot learn from the annotation of a dataset.

    Parts say what they learn from by a class method ``learns_from(cfg)``, which the region heads and, before them, the
    meta-architecture are asked for. Detectron2's own architectures are known; others that say nothing are not checked.

    Args:
        cfg: the config; reads the mixture, and the names of the architecture and of the region heads.

    Raises:
        ValueError: if a dataset's kind of supervision teaches the model nothing; the message names what could.
    """
    able = _learns_from(cfg)
    if able is None:
        return
    for entry in mixture_from_config(cfg):
        card = get_card(entry.name)
        if card.supervision not in able:
            loss = getattr(cfg.MODEL.CLASSIFIER, "LOSS", "")
            raise ValueError(
                f"training set {entry.name!r} has supervision {card.supervision!r} ({SUPERVISION[card.supervision]}), "
                f"from which this model cannot learn: {cfg.MODEL.META_ARCHITECTURE} with MODEL.CLASSIFIER.LOSS {loss} "
                f"learns from {', '.join(able)}. Take the dataset out of the mixture, or choose a loss that can"
                + ("; captions also need MODEL.CLASSIFIER.TEXT_ENCODER" if card.supervision == "captions" else "")
            )


def _learns_from(cfg: CfgNode) -> tuple[str, ...] | None:
    places = ((META_ARCH_REGISTRY, cfg.MODEL.META_ARCHITECTURE), (ROI_HEADS_REGISTRY, cfg.MODEL.ROI_HEADS.NAME))
    parts = [registry.get(name) for registry, name in places if name in registry]
    for part in parts:
        if hasattr(part, "learns_from"):
            return tuple(part.learns_from(cfg))
    known = _detectron2(parts[0]) if parts else None
    return known[0] if known else None


def _answers_of(model: nn.Module) -> tuple[str, ...] | None:
    """What a model answers with, or None if nobody knows."""
    said: Any = getattr(model, "answers", None)
    if said is not None:
        return tuple(said)
    known = _detectron2(type(model))
    return known[1] if known else None


def _detectron2(architecture: Any) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    bases = getattr(architecture, "__mro__", ())  # a registry may also hold functions
    return next((DETECTRON2[base.__name__] for base in bases if base.__name__ in DETECTRON2), None)


def check_test_sets(cfg: CfgNode, model: nn.Module) -> None:
    """Find out before training, not after it, that a test set cannot be evaluated.

    Args:
        cfg: the config; reads DATASETS.TEST and TEST.EVALUATOR.
        model: the model, not wrapped; it must be able to speak the words of every test set.

    Raises:
        FileNotFoundError: if the annotations or the image folder of a test set are missing.
        ValueError: if the model cannot speak its words, does not answer with what its evaluator compares, or
            does not calibrate its scores as the config wants.
    """
    answers = _answers_of(model)
    agnostic = getattr(getattr(model, "roi_heads", None), "class_agnostic", False)
    if cfg.MODEL.CALIBRATION.ENABLED and calibration_of(model) is None:
        raise ValueError(
            f"MODEL.CALIBRATION.ENABLED: {type(model).__name__} with MODEL.ROI_HEADS.NAME {cfg.MODEL.ROI_HEADS.NAME} "
            "does not calibrate its scores; set it to False, or use region heads of mvseg"
        )
    for name in cfg.DATASETS.TEST:
        card = get_card(name)
        evaluator = cfg.TEST.EVALUATOR or card.evaluator
        wanted = ANSWERS.get(evaluator)
        if evaluator == "none":
            raise ValueError(f"{card.where} is only for training (evaluator: none); take it out of DATASETS.TEST")
        if answers is not None and wanted is not None and not {*wanted.split(" or ")} & {*answers}:
            raise ValueError(
                f"test set {name!r}: its evaluator {evaluator} needs {wanted!r} in the model's answer, but "
                f"{cfg.MODEL.META_ARCHITECTURE} gives {', '.join(answers)}; take it out of DATASETS.TEST"
            )
        if agnostic and wanted == "instances":
            raise ValueError(
                f"test set {name!r}: its evaluator {evaluator} compares classes, but this model knows none; set "
                "TEST.EVALUATOR proposals"
            )
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
