"""Deformable convolutions, versions 1 and 2, on torchvision's operator."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.utils import _pair
from torchvision.ops import deform_conv2d


class DeformConv(nn.Module):
    """Deformable convolution (Dai et al. 2017), without bias, followed by `norm` and `activation`."""

    _with_bias_allowed = False

    def __init__(
        self,
        in_channels,
        out_channels,
        kernel_size,
        stride=1,
        padding=0,
        dilation=1,
        groups=1,
        deformable_groups=1,
        bias=False,
        norm=None,
        activation=None,
    ):
        super().__init__()
        if bias and not self._with_bias_allowed:
            raise AssertionError("DeformConv has no bias; ModulatedDeformConv has")
        if in_channels % groups or out_channels % groups:
            raise AssertionError(f"{in_channels} and {out_channels} channels do not divide into {groups} groups")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = _pair(kernel_size)
        self.stride = _pair(stride)
        self.padding = _pair(padding)
        self.dilation = _pair(dilation)
        self.groups = groups
        self.deformable_groups = deformable_groups
        self.with_bias = bias
        self.norm = norm
        self.activation = activation
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, *self.kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        nn.init.kaiming_uniform_(self.weight, nonlinearity="relu")

    def forward(self, x: Tensor, offset: Tensor) -> Tensor:
        """Convolve (N, C, H, W) at places moved by offset (N, 2 * deformable_groups * kernel area, H', W')."""
        return self._convolve(x, offset, None)

    def _convolve(self, x: Tensor, offset: Tensor, mask: Tensor | None) -> Tensor:
        if x.numel() == 0:
            # The operator wants data; the product keeps the parameters in the graph, as DDP asks.
            x = x.new_zeros((len(x), self.out_channels, *offset.shape[-2:])) + 0.0 * self.weight.sum()
        else:
            x = deform_conv2d(x, offset, self.weight, self.bias, self.stride, self.padding, self.dilation, mask=mask)
        for step in (self.norm, self.activation):
            if step is not None:
                x = step(x)
        return x

    def extra_repr(self) -> str:
        names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups")
        parts = [f"{name}={getattr(self, name)}" for name in (*names, "deformable_groups")]
        return ", ".join([*parts, f"bias={self.with_bias}"])


class ModulatedDeformConv(DeformConv):
    """Deformable convolution with a weight for every sample (Zhu et al. 2019)."""

    _with_bias_allowed = True

    def __init__(
        self,
        in_channels,
        out_channels,
        kernel_size,
        stride=1,
        padding=0,
        dilation=1,
        groups=1,
        deformable_groups=1,
        bias=True,
        norm=None,
        activation=None,
    ):
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            deformable_groups,
            bias,
            norm,
            activation,
        )

    def forward(self, x: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
        """As `DeformConv`, with mask (N, deformable_groups * kernel area, H', W') of sample weights."""
        return self._convolve(x, offset, mask)
