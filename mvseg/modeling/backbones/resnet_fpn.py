"""Detectron2's ResNet with a feature pyramid of strides 8 to 128, as CenterNet needs it."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone, build_resnet_backbone
from detectron2.modeling.backbone.fpn import LastLevelP6P7
from torch import Tensor


class FurtherLevels(LastLevelP6P7):
    """The two levels above a pyramid, in float32 on the CPU.

    A strided bfloat16 convolution of a map of one cell has undefined weight gradients there (torch 2.14, oneDNN: NaN in
    one of five runs); such maps are what these levels see of small images, and computing them costs next to nothing.
    """

    def forward(self, c5: Tensor) -> list[Tensor]:
        """Compute both levels.

        Args:
            c5: (B, C, H, W) the last level of the pyramid.

        Returns:
            (B, C, H / 2, W / 2) and (B, C, H / 4, W / 4), sizes rounded up.
        """
        if c5.device.type != "cpu":
            return super().forward(c5)
        with torch.autocast("cpu", enabled=False):
            return super().forward(c5.float())


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
        top_block=FurtherLevels(channels, channels, in_feature=last) if further_levels else None,
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
