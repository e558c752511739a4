"""Pictures of the similarity between the words of several vocabularies."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..label_space import LabelSpace
from ..similarity import cosine_blocks, rescale_similarity, unit_rows

CELLS = 1200  # of the picture in each direction; more words than that share cells, which show their mean
NAMED = 60  # words up to which the picture names them


def draw_similarity(space: LabelSpace, path: str | Path) -> None:
    """Draw the cosine matrix of a label space, as it is and rescaled, with lines between the datasets.

    Args:
        space: a space with embeddings whose columns are ordered by dataset.
        path: file to write, such as similarity.png.
    """
    from matplotlib.figure import Figure  # takes a second; other commands do without

    raw = _pooled_cosines(unit_rows(space.require_embeddings("the picture of similarities")))
    limits = space.similarity_limits
    panels = [
        ("cosine", raw, (min(0.0, limits.minimum), 1.0)),
        (f"rescaled: smallest ({limits.minimum:.2f}) is 0", rescale_similarity(raw, limits, "minmax"), (0.0, 1.0)),
        (f"rescaled: mean ({limits.mean:.2f}) is 0", rescale_similarity(raw, limits, "centered"), (0.0, 1.0)),
    ]
    figure = Figure(figsize=(18, 6.6), layout="constrained")
    for axes, (title, values, (low, high)) in zip(figure.subplots(1, 3), panels, strict=True):
        image = axes.imshow(values.numpy(), vmin=low, vmax=high, cmap="magma", interpolation="nearest")
        axes.set_title(title)
        _mark_datasets(axes, space, len(values) / space.n)
        figure.colorbar(image, ax=axes, shrink=0.8)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def _pooled_cosines(units: Tensor) -> Tensor:
    """Cosines (m, m), m <= CELLS; a cell that stands for several words has their mean."""
    count = min(len(units), CELLS)
    cell = torch.arange(len(units)) * count // len(units)
    size = torch.bincount(cell, minlength=count).float()
    total = torch.zeros(count, count)
    for first, cosines in cosine_blocks(units):
        narrow = torch.zeros(len(cosines), count).index_add_(1, cell, cosines)
        total.index_add_(0, cell[first : first + len(cosines)], narrow)
    return total / (size[:, None] * size[None])


def _mark_datasets(axes: Any, space: LabelSpace, scale: float) -> None:
    edges = [*(int(space.columns(dataset).min()) for dataset in space.datasets), space.n]
    middles = [(a + b) / 2 * scale - 0.5 for a, b in pairwise(edges)]
    for edge in edges[1:-1]:
        axes.axhline(edge * scale - 0.5, color="white", linewidth=1)
        axes.axvline(edge * scale - 0.5, color="white", linewidth=1)
    axes.set_xticks(middles, space.datasets)
    if space.n <= NAMED:
        axes.set_yticks(range(space.n), _labels(space.names), fontsize=6)
    else:
        axes.set_yticks(middles, space.datasets, rotation=90, va="center")


def _labels(names: Sequence[str]) -> list[str]:
    return [name if len(name) <= 24 else f"{name[:23]}…" for name in names]
