"""Thin layers and tensor helpers: convolution with norm and activation, losses that survive empty input."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Conv2d(nn.Conv2d):
    """`torch.nn.Conv2d` followed by `norm` (a module or None) and `activation` (a callable or None)."""

    def __init__(self, *args, norm=None, activation=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.norm, self.activation = norm, activation

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        for step in (self.norm, self.activation):
            x = x if step is None else step(x)
        return x


def cat(tensors: list[Tensor], dim: int = 0) -> Tensor:
    """`torch.cat` that hands a single tensor through without a copy."""
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors, dim)


def nonzero_tuple(x: Tensor) -> tuple[Tensor, ...]:
    """One index tensor for each dimension; a scalar counts as one element."""
    return torch.atleast_1d(x).nonzero(as_tuple=True)


def cross_entropy(input: Tensor, target: Tensor, *, reduction: str = "mean", **kwargs) -> Tensor:
    """`torch.nn.functional.cross_entropy` whose mean is 0 (not nan) without targets, with zero gradients."""
    if target.numel() == 0 and reduction == "mean":
        return input.sum() * 0.0 + target.sum() * 0.0
    return F.cross_entropy(input, target, reduction=reduction, **kwargs)


def shapes_to_tensor(x: list[int], device: torch.device | None = None) -> Tensor:
    """Sizes, plain or as 0-dim tensors, as one tensor."""
    return torch.stack([torch.as_tensor(size, device=device) for size in x])


def move_device_like(src: Tensor, dst: Tensor) -> Tensor:
    """`src` on the device of `dst`."""
    return src.to(dst.device)
