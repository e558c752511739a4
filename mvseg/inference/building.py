"""From a config and a weight file to a model that is ready to predict."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model

import mvseg.modeling  # noqa: F401  (registers the parts)
from mvseg.checkpoints import AtomicCheckpointer
from mvseg.checkpoints.checkpointer import LAST_CHECKPOINT
from mvseg.data.catalog import get_vocabulary, register_cards
from mvseg.vocabulary import Vocabulary, did_you_mean

logger = logging.getLogger(__name__)

NmsKind = Literal["class", "agnostic", "none"]
STAND_IN = "words_in_place_of_training"  # name of the dataset that replaces those of training
# Losses that need image counts, or store a number for each word of training: what they are at test time.
SAME_AT_TEST = {"federated": "sigmoid", "eql": "sigmoid", "eqlv2": "sigmoid", "seesaw": "softmax"}
PREFERRED = ("model_final.pth", "model_best.pth")


def set_selection(
    cfg: CfgNode, score_threshold: float, nms: NmsKind | None, nms_threshold: float | None, max_detections: int | None
) -> None:
    """Write which detections to keep into the config, in place.

    Args:
        cfg: the config.
        score_threshold: from 0 to 1.
        nms: within each class, over all classes, or none at all; None: as the config says.
        nms_threshold: IoU from 0 to 1; None: as the config says.
        max_detections: per image; None: as the config says.

    Raises:
        ValueError: if a value is out of its range.
    """
    if nms is not None and nms not in get_args(NmsKind):
        raise ValueError(f"nms {nms!r}{did_you_mean(nms, get_args(NmsKind))}")
    for what, value in (("score threshold", score_threshold), ("NMS threshold", nms_threshold)):
        if value is not None and not 0 <= value <= 1:
            raise ValueError(f"the {what} must be from 0 to 1, not {value}")
    if max_detections is not None and max_detections < 1:
        raise ValueError(f"the largest number of detections must be at least 1, not {max_detections}")
    heads = cfg.MODEL.ROI_HEADS
    heads.SCORE_THRESH_TEST = cfg.MODEL.RETINANET.SCORE_THRESH_TEST = float(score_threshold)
    if nms is not None:
        heads.NMS_CLASS_AGNOSTIC = nms == "agnostic"
    if nms == "none":
        nms_threshold = 1.0  # no IoU is above it
        heads.NMS = "hard"
    if nms_threshold is not None:
        heads.NMS_THRESH_TEST = cfg.MODEL.RETINANET.NMS_THRESH_TEST = float(nms_threshold)
    if max_detections is not None:
        cfg.TEST.DETECTIONS_PER_IMAGE = max_detections


def find_training_words(cfg: CfgNode) -> Exception | None:
    """Register the training datasets and look up their words.

    Args:
        cfg: the config.

    Returns:
        Why they are not on this machine, or None if they are.
    """
    if cfg.MODEL.CLASSIFIER.NAME == "text" and not (cfg.DATASETS.TRAIN or cfg.DATASETS.TEST):
        return ValueError("the config names no dataset (DATASETS.TRAIN), so nothing says which words to look for")
    try:
        register_cards(cfg.DATASETS.CARDS)
        for name in cfg.DATASETS.TRAIN:
            get_vocabulary(name, embeddings=cfg.MODEL.CLASSIFIER.NAME == "text")
    except (FileNotFoundError, KeyError) as error:
        return error
    return None


def replace_training_words(cfg: CfgNode, words: Vocabulary | None, reason: Exception) -> None:
    """Let other words stand for those of the training in a config, in place.

    The text rows of training are in no checkpoint, so a model that knows its text encoder can be built without them.

    Args:
        cfg: the config.
        words: the words that are asked for.
        reason: why the words of training are not on this machine; raised if nothing can stand for them.

    Raises:
        Exception: the reason.
    """
    node = cfg.MODEL.CLASSIFIER
    if words is None or node.NAME != "text" or not node.TEXT_ENCODER:
        raise reason
    logger.warning("The words of the training are not on this machine: %s", reason.args[0])
    for catalog in (DatasetCatalog, MetadataCatalog):
        if STAND_IN in catalog:
            catalog.remove(STAND_IN)
    DatasetCatalog.register(STAND_IN, list)
    MetadataCatalog.get(STAND_IN).thing_classes = list(words.names)
    cfg.DATASETS.MIX, cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = [], (STAND_IN,), ()
    cfg.DATASETS.LABEL_SPACE, cfg.MODEL.ANNOTATION_SCOPE, node.IGNORE_ZERO_CATS = "concatenate", "all", False
    node.LOSS = SAME_AT_TEST.get(node.LOSS, node.LOSS)


def build(cfg: CfgNode, weights: str | Path | None, device: str | None) -> Any:
    """Build the model of a config and load its weights.

    Args:
        cfg: the config; ``MODEL.WEIGHTS`` and ``MODEL.DEVICE`` are set to what is used.
        weights: the weight file; None: as the config says.
        device: the device; None: as the config says, or the CPU if that is not there.

    Returns:
        The model in evaluation mode.

    Raises:
        ValueError: if the device is not there, or the model cannot suppress over classes as the config wants.
    """
    if weights is not None:
        cfg.MODEL.WEIGHTS = str(weights)
    cfg.MODEL.DEVICE = _device(cfg.MODEL.DEVICE, device)
    model = build_model(cfg).eval()
    if cfg.MODEL.ROI_HEADS.NMS_CLASS_AGNOSTIC and not hasattr(getattr(model, "roi_heads", None), "class_agnostic_nms"):
        raise ValueError(f"{type(model).__name__} of this config cannot suppress over classes: leave nms at 'class'")
    if not cfg.MODEL.WEIGHTS:
        logger.warning("No weight file is given: the answers come from random weights")
    AtomicCheckpointer(model, save_to_disk=False).load(cfg.MODEL.WEIGHTS)
    return model


def _device(configured: str, asked: str | None) -> str:
    if (asked or configured).startswith("cuda") and not torch.cuda.is_available():
        if asked:
            raise ValueError(f"device {asked!r}: torch finds no CUDA device")
        logger.warning("MODEL.DEVICE is %s, but torch finds no CUDA device: running on the CPU", configured)
        return "cpu"
    return asked or configured


def find_run(output_dir: str | Path, weights: str = "") -> tuple[Path, Path]:
    """Find the config and the weights that a training left.

    Args:
        output_dir: its OUTPUT_DIR.
        weights: "final", "best", "final_ema" (``model_<weights>.pth``) or a file name; empty: the final weights, else
            the best ones, else the last checkpoint.

    Returns:
        Config file and weight file.

    Raises:
        FileNotFoundError: if one is not there; the message lists the weights that are.
    """
    folder = Path(output_dir)
    config = folder / "config.yaml"
    if not config.is_file():
        raise FileNotFoundError(f"{folder} is no OUTPUT_DIR of a training: it has no config.yaml")
    names = [weights, f"model_{weights}.pth"] if weights else list(PREFERRED)
    if not weights and (folder / LAST_CHECKPOINT).is_file():
        names.append((folder / LAST_CHECKPOINT).read_text().strip())
    for name in names:
        if (folder / name).is_file():
            logger.info("Weights: %s", folder / name)
            return config, folder / name
    there = ", ".join(sorted(path.name for path in folder.glob("*.pth"))) or "none"
    raise FileNotFoundError(f"{folder} has no {' or '.join(names)}; weight files there: {there}")
