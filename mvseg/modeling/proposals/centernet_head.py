"""The convolutional head of the CenterNet proposal generator: one tower shared by heatmap and box distances."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from detectron2.layers import get_norm
from torch import Tensor, nn

from mvseg.modeling.norms import num_groups

CONV_STD = 0.01
INITIAL_DISTANCE = 8.0  # strides


class Scale(nn.Module):
    """One learnable factor."""

    def __init__(self, value: float = 1.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([value]))

    def forward(self, x: Tensor) -> Tensor:
        """Multiply a tensor of any shape, such as (B, 4, H, W).

        Args:
            x: (B, 4, H, W) values.

        Returns:
            (B, 4, H, W) scaled values.
        """
        return x * self.scale


class CenterNetHead(nn.Module):
    """Predict, in every cell of every level, an objectness logit and the distances to the sides of a box."""

    def __init__(
        self, in_channels: int, num_levels: int, num_convs: int = 4, norm: str = "GN", prior_prob: float = 0.01
    ) -> None:
        """Build the head.

        Args:
            in_channels: channels of every level.
            num_levels: number of levels; each has its own distance scale.
            num_convs: 3 x 3 convolutions of the tower.
            norm: normalisation after each of them, as in Detectron2; "" for none.
            prior_prob: initial objectness probability.
        """
        super().__init__()
        tower: list[nn.Module] = []
        for _ in range(num_convs):
            tower.append(_conv(in_channels, in_channels))
            if norm:
                tower.append(_norm(norm, in_channels))
            tower.append(nn.ReLU())
        self.bbox_tower = nn.Sequential(*tower)
        self.bbox_pred = _conv(in_channels, 4, bias=INITIAL_DISTANCE)
        self.scales = nn.ModuleList([Scale() for _ in range(num_levels)])
        self.agn_hm = _conv(in_channels, 1, bias=-math.log((1 - prior_prob) / prior_prob))

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Run the head on all levels.

        Args:
            features: for every level (B, C, H, W) float.

        Returns:
            For every level the objectness logits (B, 1, H, W) and the distances left, top, right, bottom (B, 4, H, W),
            >= 0, in strides.
        """
        heatmaps, distances = [], []
        for feature, scale in zip(features, self.scales, strict=True):
            hidden = self.bbox_tower(feature)
            heatmaps.append(self.agn_hm(hidden))
            distances.append(torch.relu(scale(self.bbox_pred(hidden))))
        return heatmaps, distances


def _conv(in_channels: int, out_channels: int, bias: float = 0.0) -> nn.Conv2d:
    conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)
    nn.init.normal_(conv.weight, std=CONV_STD)
    nn.init.constant_(conv.bias, bias)  # type: ignore[arg-type]
    return conv


def _norm(norm: str, channels: int) -> nn.Module:
    if norm == "GN":  # narrow pyramids of small models need not be a multiple of 32
        return nn.GroupNorm(num_groups(channels), channels)
    return get_norm(norm, channels)
