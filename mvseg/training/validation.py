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

from mvseg.data.catalog import get_vocabulary

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


def trained_as(model: nn.Module, name: str) -> str | None:
    """Find the training set whose words a test set has: as an image of it, the model can learn from the test set.

    Args:
        model: the model, not wrapped; one without a label space takes every dataset as it is.
        name: name of the test set.

    Returns:
        Name of a training set with the same vocabulary, or None if there is none.
    """
    space = getattr(model, "label_space", None)
    if space is None or name in space.datasets:
        return name
    words = get_vocabulary(name, embeddings=False)
    for dataset, known in space.vocabularies.items():
        if (known.name, known.names) == (words.name, words.names):
            return dataset
    return None


@torch.no_grad()
def validation_losses(
    model: nn.Module, loader: Iterable[list[dict[str, Any]]], dataset: str | None = None
) -> dict[str, float]:
    """Average the training losses over a data set.

    Args:
        model: the model, not wrapped.
        loader: batches with annotations; each process has its own share.
        dataset: what the model is told about where the images come from, see :func:`trained_as`; None: nothing else
            than the images themselves say.

    Returns:
        Loss name to mean over all images of all processes, and their sum as "total". Equal on every process.
    """
    sums: dict[str, float] = {}
    images = 0
    device = next(model.parameters()).device
    # Only this process's GPU: asked for its random state, every other one would reserve memory for this process.
    gpus = [device] if device.type == "cuda" else []
    with frozen_training_mode(model), torch.random.fork_rng(gpus), EventStorage():
        torch.manual_seed(SEED)
        for batch in loader:
            if dataset is not None:
                batch = [{**record, "dataset": dataset} for record in batch]
            losses = model(batch)
            images += len(batch)
            values = torch.stack([loss.float() for loss in losses.values()]).tolist()  # one wait for the GPU
            for name, loss in zip(losses, values, strict=True):
                sums[name] = sums.get(name, 0.0) + loss * len(batch)
    parts = comm.all_gather((images, sums))
    images = sum(count for count, _ in parts)
    names = sorted({name for _, part in parts for name in part})
    means = {name: sum(part.get(name, 0.0) for _, part in parts) / max(images, 1) for name in names}
    return {"total": sum(means.values()), **means}
