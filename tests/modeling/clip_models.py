"""A narrow CLIP model with a ResNet, made by open_clip itself, and detectors on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import torch

from mvseg.config import get_cfg

WIDTH = 16


def write_clip(folder: Path, name: str = "narrow_clip", side: int = 224) -> tuple[Any, Path, Path]:
    """The model, the file of its architecture, and a file of its weights."""
    vision = {"image_size": side, "layers": [1, 2, 1, 1], "width": 8, "patch_size": None, "head_width": 32}
    text = {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    architecture = folder / f"{name}.json"
    architecture.write_text(json.dumps({"embed_dim": WIDTH, "vision_cfg": vision, "text_cfg": text}))
    open_clip.add_model_config(architecture)
    torch.manual_seed(0)
    model = open_clip.create_model(name).eval()
    for module in model.visual.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    torch.save(model.state_dict(), folder / f"{name}.pth")
    return model, architecture, folder / f"{name}.pth"


def rows_of(words: list[str]) -> torch.Tensor:
    """A fixed random text embedding for every word."""
    seeds = [sum(map(ord, word)) for word in words]
    return torch.stack([torch.randn(WIDTH, generator=torch.Generator().manual_seed(s)) for s in seeds])


def clip_cfg(architecture: Path, *datasets: str) -> Any:
    """A second stage on stored proposals, as UniDetector's."""
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.DATASETS.TRAIN = datasets
    cfg.INPUT.FORMAT = "RGB"
    cfg.MODEL.PIXEL_MEAN = [122.7709383, 116.7460125, 104.09373615]
    cfg.MODEL.PIXEL_STD = [68.5005327, 66.6321579, 70.32316305]
    cfg.MODEL.META_ARCHITECTURE = "MultiDatasetRCNN"
    cfg.MODEL.BACKBONE.NAME = "build_clip_resnet_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 2
    cfg.MODEL.CLIP.ARCHITECTURE = str(architecture)
    cfg.MODEL.PROPOSAL_GENERATOR.NAME = "PrecomputedProposals"
    cfg.MODEL.ROI_HEADS.NAME = "ClipRes5ROIHeads"
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 16
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 14
    cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = True
    cfg.MODEL.CLASSIFIER.TEMPERATURE = 100.0
    cfg.MODEL.CLASSIFIER.PROJECTION = False
    return cfg
