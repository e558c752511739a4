"""Nearest neighbours of words by the cosine of their embeddings, in blocks: 20,000 words need no table of all pairs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..similarity import cosine_blocks, unit_rows
from ..vocabulary import Vocabulary

BLOCK = 1024


def closest_pairs(vocabulary: Vocabulary, count: int) -> list[tuple[str, str, float]]:
    """Find the pairs of different words that are most alike.

    Args:
        vocabulary: words with embeddings.
        count: largest number of pairs.

    Returns:
        Two words and their cosine, the most alike first.
    """
    units = unit_rows(_rows(vocabulary))
    values, pairs = torch.zeros(0), torch.zeros((0, 2), dtype=torch.long)
    for first, cosines in cosine_blocks(units, BLOCK, upper=True):
        square = cosines[:, : len(cosines)]  # a pair stands in it twice, and every word with itself
        square.masked_fill_(torch.ones_like(square, dtype=torch.bool).tril(), -2.0)
        if len(values) == count and float(cosines.max()) <= float(values[-1]):
            continue
        best, where = cosines.flatten().topk(min(count, cosines.numel()))
        found = torch.stack([where // cosines.shape[1], where % cosines.shape[1]], 1) + first
        values, pairs = torch.cat([values, best[best > -2]]), torch.cat([pairs, found[best > -2]])
        values, order = values.topk(min(count, len(values)))
        pairs = pairs[order]
    names = vocabulary.names
    return [(names[a], names[b], value) for (a, b), value in zip(pairs.tolist(), values.tolist(), strict=True)]


def count_pairs(vocabulary: Vocabulary, threshold: float) -> int:
    """Count the pairs of different words that are alike.

    Args:
        vocabulary: words with embeddings.
        threshold: smallest cosine.

    Returns:
        Number of pairs.
    """
    blocks = cosine_blocks(unit_rows(_rows(vocabulary)), BLOCK, upper=True)
    count = 0
    for _, cosines in blocks:
        alike = cosines >= threshold
        square = alike[:, : len(alike)]
        count += int(alike.sum()) - int(square.sum()) + int(square.triu(1).sum())
    return count


def nearest(
    vocabulary: Vocabulary, rows: Tensor, count: int, skip: Sequence[int] = ()
) -> list[list[tuple[str, float]]]:
    """Find the words that are nearest to given embeddings.

    Args:
        vocabulary: words with embeddings of width D.
        rows: (k, D) embeddings.
        count: largest number of words for each.
        skip: for each embedding the index of a word that does not count (itself), or nothing.

    Returns:
        For each of the k embeddings its nearest words with their cosines, the nearest first.
    """
    units = unit_rows(_rows(vocabulary))
    found = []
    for start in range(0, len(rows), BLOCK):
        cosines = unit_rows(rows[start : start + BLOCK]) @ units.T
        if skip:
            own = torch.tensor(list(skip[start : start + BLOCK]))
            cosines[torch.arange(len(cosines)), own] = -2.0
        values, where = cosines.topk(min(count, len(units) - bool(skip)), dim=1)
        found += [
            [(vocabulary.names[i], value) for i, value in zip(indices, line, strict=True)]
            for indices, line in zip(where.tolist(), values.tolist(), strict=True)
        ]
    return found


def _rows(vocabulary: Vocabulary) -> Tensor:
    assert vocabulary.embeddings is not None  # the commands ask only where there are some
    return vocabulary.embeddings
