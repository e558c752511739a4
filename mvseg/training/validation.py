"""The training losses on a test set, without training on it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

SEED = 0  # every evaluation draws the same samples of regions, so that the losses can be compared
STOCHASTIC = ("DropPath", "StochasticDepth", "DropBlock2d")


@contextmanager
def frozen_training_mode(model: nn.Module) -> Iterator[None]:
    """Let a model compute its losses without changing: training mode, but dropout off and batch statistics fixed.

    Args:
        model: the model; its modes come back afterwards.
    """
    modes = {module: module.training for module in model.modules()}
    model.train()
    for module in model.modules():
        if isinstance(module, _BatchNorm | _DropoutNd) or type(module).__name__ in STOCHASTIC:
            module.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@torch.no_grad()
def validation_losses(model: nn.Module, loader: Iterable[list[dict[str, Any]]]) -> dict[str, float]:
    """Average the training losses over a data set.

    Args:
        model: the model, not wrapped.
        loader: batches with annotations; each process has its own share.

    Returns:
        Loss name to mean over all images of all processes, and their sum as "total". Equal on every process.
    """
    sums: dict[str, float] = {}
    images = 0
    with frozen_training_mode(model), torch.random.fork_rng(), EventStorage():
        torch.manual_seed(SEED)
        for batch in loader:
            losses = model(batch)
            images += len(batch)
            for name, loss in losses.items():
                sums[name] = sums.get(name, 0.0) + float(loss) * len(batch)
    parts = comm.all_gather((images, sums))
    images = sum(count for count, _ in parts)
    names = sorted({name for _, part in parts for name in part})
    means = {name: sum(part.get(name, 0.0) for _, part in parts) / max(images, 1) for name in names}
    return {"total": sum(means.values()), **means}
