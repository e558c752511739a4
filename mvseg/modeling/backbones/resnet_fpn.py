"""Detectron2's ResNet with a feature pyramid of strides 8 to 128, as CenterNet needs it."""

from __future__ import annotations

from typing import Any

from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone, build_resnet_backbone
from detectron2.modeling.backbone.fpn import LastLevelP6P7


def build_p67_fpn(cfg: Any, bottom_up: Backbone, in_features: list[str], further_levels: bool = True) -> FPN:
    """Put a pyramid on a bottom-up network.

    Args:
        cfg: the config tree; reads ``MODEL.FPN``.
        bottom_up: network with the named outputs.
        in_features: names of its outputs, from fine to coarse.
        further_levels: add two levels, made from the last one by strided convolutions.

    Returns:
        The pyramid; with inputs of strides 8, 16, 32 its outputs are p3 to p7.
    """
    channels = cfg.MODEL.FPN.OUT_CHANNELS
    last = f"p{bottom_up.output_shape()[in_features[-1]].stride.bit_length() - 1}"
    return FPN(
        bottom_up=bottom_up,
        in_features=in_features,
        out_channels=channels,
        norm=cfg.MODEL.FPN.NORM,
        top_block=LastLevelP6P7(channels, channels, in_feature=last) if further_levels else None,
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )


@BACKBONE_REGISTRY.register()
def build_p67_resnet_fpn_backbone(cfg: Any, input_shape: ShapeSpec) -> FPN:
    """Build Detectron2's ResNet with levels p3 to p7 (``MODEL.BACKBONE.NAME: build_p67_resnet_fpn_backbone``).

    Args:
        cfg: the config tree; reads ``MODEL.RESNETS``, ``MODEL.FPN`` and ``MODEL.BACKBONE.FREEZE_AT``.
        input_shape: channels of the image.

    Returns:
        The backbone.
    """
    return build_p67_fpn(cfg, build_resnet_backbone(cfg, input_shape), list(cfg.MODEL.FPN.IN_FEATURES))
