"""What losses sum up over the processes of a training."""

from __future__ import annotations

import torch
from detectron2.utils import comm
from torch import Tensor


def summed_over_processes(values: Tensor) -> Tensor:
    """Add up a tensor over all processes of a training step; every process must call it.

    Args:
        values: (N,) numbers of this process, or any other shape such as (2, n), without a gradient.

    Returns:
        (N,) their sums, equal on all processes; the values themselves where nothing is learnt (no gradient is wanted)
        or there is one process.

    Source: our own derivation.
    """
    if torch.is_grad_enabled() and comm.get_world_size() > 1:
        values = values.detach().clone()
        torch.distributed.all_reduce(values)
    return values


def mean_over_processes(values: Tensor) -> Tensor:
    """Average a tensor over all processes of a training step; every process must call it.

    Args:
        values: (N,) numbers of this process, or any other shape such as (2, n), without a gradient.

    Returns:
        (N,) float, their means, equal on all processes; the values themselves where nothing is learnt (no gradient is
        wanted), since then processes do not go through as many batches.

    Source: our own derivation.
    """
    return summed_over_processes(values) / (comm.get_world_size() if torch.is_grad_enabled() else 1)
