"""Heads on regions: boxes, masks, cascades, and their registries."""

# ruff: noqa: F401, I001 (re-exports)

from ..._missing import module_getattr
from .box_head import ROI_BOX_HEAD_REGISTRY, FastRCNNConvFCHead, build_box_head
from .cascade_rcnn import CascadeROIHeads
from .fast_rcnn import FastRCNNOutputLayers
from .mask_head import ROI_MASK_HEAD_REGISTRY, BaseMaskRCNNHead, MaskRCNNConvUpsampleHead, build_mask_head
from .roi_heads import ROI_HEADS_REGISTRY, Res5ROIHeads, ROIHeads, StandardROIHeads, build_roi_heads
from .roi_heads import select_foreground_proposals

__getattr__ = module_getattr(__name__)
