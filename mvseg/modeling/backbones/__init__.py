"""Backbones that Detectron2 lacks; importing this package registers them."""

from mvseg.modeling.backbones.clip_resnet import ClipResNet, build_clip_resnet_backbone, clip_resnet
from mvseg.modeling.backbones.resnet_fpn import build_p67_resnet_fpn_backbone
from mvseg.modeling.backbones.swin_fpn import build_swin_fpn_backbone
from mvseg.modeling.backbones.timm_fpn import TimmBackbone, build_timm_fpn_backbone

__all__ = [
    "ClipResNet",
    "TimmBackbone",
    "build_clip_resnet_backbone",
    "build_p67_resnet_fpn_backbone",
    "build_swin_fpn_backbone",
    "build_timm_fpn_backbone",
    "clip_resnet",
]
