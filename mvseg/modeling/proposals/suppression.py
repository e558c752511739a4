"""Suppression of overlapping boxes where only the best of what is left is wanted."""

from __future__ import annotations

import torch
from detectron2.layers import nms
from torch import Tensor

BOXES_AT_ONCE = 256


def best_after_suppression(boxes: Tensor, scores: Tensor, threshold: float, count: int) -> Tensor:
    """Suppress boxes that overlap a better one, and give the best of the others.

    The same as ``nms(boxes, scores, threshold)[:count]``. On a CPU, where that compares box with box in a loop, the
    boxes come in blocks, best first, each compared with all that were kept at once, until there are enough.

    Args:
        boxes: (N, 4) float32, pixels.
        scores: (N,) float.
        threshold: IoU above which the worse of two boxes goes.
        count: how many are wanted.

    Returns:
        (K,) int64 positions, best first, K at most ``count``.
    """
    if boxes.device.type != "cpu":
        return nms(boxes, scores, threshold)[:count]
    order = scores.argsort(descending=True, stable=True)
    ordered, best = boxes[order], scores[order]
    kept = order[:0]
    for block in torch.arange(len(order)).split(BOXES_AT_ONCE):
        block = block[~_overlaps_any(ordered[block], ordered[kept], threshold)]
        kept = torch.cat([kept, block[nms(ordered[block], best[block], threshold)]])
        if len(kept) >= count:
            break
    return order[kept[:count]]


def _overlaps_any(boxes: Tensor, others: Tensor, threshold: float) -> Tensor:
    """Which of the boxes (N,) overlap any of the others by more than the threshold, rounded as in ``nms``."""
    limit = torch.tensor(threshold)  # nms compares with the number itself, not with its nearest float32
    limit = limit if float(limit) > threshold else limit.nextafter(torch.tensor(torch.inf))
    areas = [(b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1]) for b in (boxes, others)]
    sides = [
        torch.minimum(boxes[:, None, high], others[:, high])
        .sub_(torch.maximum(boxes[:, None, low], others[:, low]))
        .clamp_(min=0)
        for low, high in ((0, 2), (1, 3))
    ]
    common = sides[0].mul_(sides[1])
    union = (areas[0][:, None] + areas[1]).sub_(common)
    return (common.div_(union) >= limit).any(1)
