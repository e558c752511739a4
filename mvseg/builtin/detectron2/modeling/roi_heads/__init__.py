"""Heads on regions: boxes, masks, cascades, and their registries."""

# ruff: noqa: F401 (re-exports)

from ..._missing import missing_attribute
from .box_head import ROI_BOX_HEAD_REGISTRY, FastRCNNConvFCHead, build_box_head
from .cascade_rcnn import CascadeROIHeads
from .fast_rcnn import FastRCNNOutputLayers
from .mask_head import ROI_MASK_HEAD_REGISTRY, BaseMaskRCNNHead, MaskRCNNConvUpsampleHead, build_mask_head
from .roi_heads import (
    ROI_HEADS_REGISTRY,
    Res5ROIHeads,
    ROIHeads,
    StandardROIHeads,
    build_roi_heads,
    select_foreground_proposals,
)

_LEFT_OUT = (
    "BaseKeypointRCNNHead",
    "KRCNNConvDeconvUpsampleHead",
    "ROI_KEYPOINT_HEAD_REGISTRY",
    "RROIHeads",
    "build_keypoint_head",
    "keypoint_head",
    "rotated_fast_rcnn",
)


def __getattr__(name: str):
    raise missing_attribute(__name__, name, _LEFT_OUT)
