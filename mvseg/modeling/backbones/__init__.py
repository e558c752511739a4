"""Backbones that Detectron2 lacks; importing this package registers them."""

from mvseg.modeling.backbones.resnet_fpn import build_p67_resnet_fpn_backbone
from mvseg.modeling.backbones.swin_fpn import build_swin_fpn_backbone
from mvseg.modeling.backbones.timm_fpn import TimmBackbone, build_timm_fpn_backbone

__all__ = ["TimmBackbone", "build_p67_resnet_fpn_backbone", "build_swin_fpn_backbone", "build_timm_fpn_backbone"]
