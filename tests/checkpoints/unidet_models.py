"""Names and shapes of UniDet's files, written down from what its models call their parameters, and values for them."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence

import torch
from foreign_models import CHANNELS, HIDDEN, Shapes, box_head, frozen, layer, pyramid
from torch import Tensor

ANCHORS = 9  # three sizes and three shapes at every place
CLASSES = (6, 5, 7)  # of the heads in the tests


def resnet50() -> Shapes:
    base = "backbone.bottom_up."
    found = layer(f"{base}stem.conv1", 64, 3, 7, 7, bias=False) | frozen(f"{base}stem.conv1.norm", 64, False)
    before = 64
    for stage, count in zip((2, 3, 4, 5), (3, 4, 6, 3), strict=True):
        inner, outer = 2 ** (stage + 4), 2 ** (stage + 6)
        for block in range(count):
            name = f"{base}res{stage}.{block}."
            parts = {"conv1": (inner, before, 1, 1), "conv2": (inner, inner, 3, 3), "conv3": (outer, inner, 1, 1)}
            if block == 0:
                parts["shortcut"] = (outer, before, 1, 1)
            for part, shape in parts.items():
                found |= layer(name + part, *shape, bias=False) | frozen(f"{name}{part}.norm", shape[0], False)
            before = outer
    return found


def rpn(anchors: int = ANCHORS) -> Shapes:
    head = "proposal_generator.rpn_head."
    found = layer(f"{head}conv", CHANNELS, CHANNELS, 3, 3) | layer(f"{head}objectness_logits", anchors, CHANNELS, 1, 1)
    return found | layer(f"{head}anchor_deltas", 4 * anchors, CHANNELS, 1, 1)


def old_buffers() -> Shapes:
    """What Detectron2 stored in 2021: constants that follow from the config."""
    cells = {f"proposal_generator.anchor_generator.cell_anchors.{level}": (ANCHORS, 4) for level in range(5)}
    return {"pixel_mean": (3, 1, 1), "pixel_std": (3, 1, 1)} | cells


def unidet(classifier: Sequence[int] | int, backbone: Shapes | None = None, stored: bool = False) -> Shapes:
    """A partitioned model (sizes of its heads) or one with a single classifier (its classes), three stages."""
    found = (backbone or resnet50()) | pyramid((512, 1024, 2048)) | rpn() | (old_buffers() if stored else {})
    for stage in range(3):
        found |= box_head(f"roi_heads.box_head.{stage}.")
        name = f"roi_heads.box_predictor.{stage}."
        found |= layer(f"{name}bbox_pred", 4, HIDDEN)
        if isinstance(classifier, int):
            found |= layer(f"{name}cls_score", classifier + 1, HIDDEN)
        else:
            for head, classes in enumerate(classifier):
                found |= layer(f"{name}cls_score.{head}", classes + 1, HIDDEN)
    return found


def lively_weights(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Values that follow from the names and keep activations of ordinary size, so that boxes and scores differ."""
    state: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        draw = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        value = torch.randn(shape, generator=draw)
        if name.endswith("running_var") or name.endswith("norm.weight"):
            state[name] = torch.full(shape, 0.3 if ".conv3.norm.w" in name else 1.0)
        elif name.endswith(("running_mean", "norm.bias")):
            state[name] = 0.05 * value
        elif "cls_score" in name:
            state[name] = value - 2.0 if name.endswith("bias") else value
        elif name.endswith("bias"):
            state[name] = 0.05 * value
        else:
            gains = {"stem": 0.02, "fpn_lateral": 0.2, "bbox_pred": 0.5, "anchor_deltas": 0.5}
            gain = next((gain for part, gain in gains.items() if part in name), 1.0)
            state[name] = gain * value * math.sqrt(2 / max(1, math.prod(shape[1:])))
    return state
