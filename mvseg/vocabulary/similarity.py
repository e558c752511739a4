"""Cosine similarity between many words, in blocks of rows: 20,000 words need no second table of 20,000 x 20,000."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Rescale = Literal["minmax", "centered"]
RESCALES = ("minmax", "centered")


@dataclass(frozen=True)
class SimilarityRange:
    """Smallest, mean and largest cosine between two different words.

    Args:
        minimum: smallest cosine of two different rows.
        mean: their mean.
        maximum: largest cosine of two different rows.
    """

    minimum: float
    mean: float
    maximum: float


def unit_rows(embeddings: Tensor) -> Tensor:
    """Scale every embedding to length 1, so that products are cosines.

    Args:
        embeddings: (n, D) float.

    Returns:
        (n, D) float32; rows of zeros stay zero.
    """
    return F.normalize(embeddings.float(), dim=1)


def cosine_blocks(units: Tensor, block: int = 1024, upper: bool = False) -> Iterator[tuple[int, Tensor]]:
    """Go through the matrix of cosines in blocks of rows.

    Args:
        units: (n, D) float32 rows of length 1.
        block: number of rows that are held at a time.
        upper: leave out the columns before the first row of the block (the matrix is symmetric).

    Yields:
        Index of the first row, and the block (rows, n) or (rows, n - first), float32 in [-1, 1].
    """
    for first in range(0, len(units), block):
        others = units[first:] if upper else units
        yield first, (units[first : first + block] @ others.t()).clamp_(-1, 1)


def similarity_range(units: Tensor, block: int = 1024) -> SimilarityRange:
    """Measure the cosines of all pairs of different words.

    Args:
        units: (n, D) float32 rows of length 1.
        block: number of rows that are held at a time.

    Returns:
        Smallest, mean and largest cosine; all 1 for a single word.
    """
    n = len(units)
    if n < 2:
        return SimilarityRange(1.0, 1.0, 1.0)
    lowest, highest, total = torch.inf, -torch.inf, 0.0
    for _, cosines in cosine_blocks(units, block, upper=True):
        rows = len(cosines)
        diagonal = cosines.diagonal()
        diagonal.fill_(torch.inf)
        lowest = min(lowest, float(cosines.min()))
        diagonal.fill_(-torch.inf)
        highest = max(highest, float(cosines.max()))
        diagonal.fill_(0)
        within = cosines[:, :rows].double().sum() / 2  # pairs inside the block stand in it twice
        total += float(within + cosines[:, rows:].double().sum())
    return SimilarityRange(lowest, total / (n * (n - 1) / 2), highest)


def rescale_similarity(cosines: Tensor, limits: SimilarityRange, kind: str | None) -> Tensor:
    """Map cosines to [0, 1], with 1 for a word and itself.

    Args:
        cosines: (k, n) float.
        limits: of all pairs of different words.
        kind: None leaves the cosines; "minmax": (S - min) / (1 - min); "centered": (S - mean) / (1 - mean), negative
            values become 0.

    Returns:
        (k, n) of the same type; ones if all words are alike.

    Raises:
        ValueError: if the kind does not exist.

    Source: minmax: one reading of ScaleDet (Chen et al. 2023, arXiv 2306.04849), whose normalisation is not published
    in full; centered: our own variant, under which unrelated words (cosine near the mean) get 0.
    """
    if kind is None:
        return cosines
    if kind not in RESCALES:
        raise ValueError(f"rescaling {kind!r} of similarities does not exist; there are {', '.join(RESCALES)}")
    low = limits.minimum if kind == "minmax" else limits.mean
    if 1 - low < 1e-6:
        return torch.ones_like(cosines)
    return ((cosines - low) / (1 - low)).clamp_(0, 1)


def similar_pairs(units: Tensor, threshold: float, block: int = 1024) -> tuple[Tensor, Tensor]:
    """Find the pairs of different words whose cosine reaches a threshold.

    Args:
        units: (n, D) float32 rows of length 1.
        threshold: smallest cosine.
        block: number of rows that are held at a time.

    Returns:
        Pairs (P, 2) int64, first < second, and their cosines (P,) float32; in the order of the pairs.
    """
    pairs, values = [], []
    for first, cosines in cosine_blocks(units, block, upper=True):
        row, column = (cosines >= threshold).triu_(1).nonzero(as_tuple=True)
        pairs.append(torch.stack([row, column], 1) + first)
        values.append(cosines[row, column])
    if not pairs:
        return torch.zeros(0, 2, dtype=torch.long), torch.zeros(0)
    return torch.cat(pairs), torch.cat(values)
