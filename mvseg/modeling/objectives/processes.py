"""What losses sum up over the processes of a training."""

from __future__ import annotations

import torch
from detectron2.utils import comm
from torch import Tensor


def summed_over_processes(values: Tensor) -> Tensor:
    """Add up a tensor over all processes of a training step; every process must call it.

    Args:
        values: (...) numbers of this process, of any shape, without a gradient.

    Returns:
        (...) their sums, equal on all processes; the values themselves where nothing is learnt (no gradient is wanted)
        or there is one process.

    Source: our own derivation.
    """
    if torch.is_grad_enabled() and comm.get_world_size() > 1:
        values = values.detach().clone()
        torch.distributed.all_reduce(values)
    return values
