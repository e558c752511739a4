"""Precision of what must not be computed in half precision."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """Widen bfloat16 and float16 to float32; leave float32 and float64 as they are.

    Args:
        x: (...,) float tensor of any shape.

    Returns:
        (...,) float32 or float64, the same values.
    """
    return x.to(torch.promote_types(x.dtype, torch.float32))
