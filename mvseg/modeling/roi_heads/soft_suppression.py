"""Soft suppression: worse boxes are not taken away, their scores fall with their overlap."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchvision.ops import box_iou


def soft_sigma(cfg: Any) -> float | None:
    """Read whether suppression is soft.

    Args:
        cfg: the config tree; reads ``MODEL.ROI_HEADS.NMS`` and ``SOFT_NMS_SIGMA``.

    Returns:
        Width of the Gaussian; None: worse boxes go.

    Raises:
        ValueError: if the kind does not exist, or the width is not positive.
    """
    node = cfg.MODEL.ROI_HEADS
    if node.NMS not in ("hard", "gaussian"):
        raise ValueError(f"MODEL.ROI_HEADS.NMS {node.NMS!r}: choose hard or gaussian")
    if node.SOFT_NMS_SIGMA <= 0:
        raise ValueError(f"MODEL.ROI_HEADS.SOFT_NMS_SIGMA must be above 0, not {node.SOFT_NMS_SIGMA}")
    return float(node.SOFT_NMS_SIGMA) if node.NMS == "gaussian" else None


def soft_suppression(
    boxes: Tensor,
    scores: Tensor,
    rows: Tensor,
    groups: Tensor,
    *,
    sigma: float = 0.5,
    score_threshold: float | Tensor = 0.0,
    topk: int = -1,
) -> tuple[Tensor, Tensor]:
    """Take the best candidate again and again, and lower the scores of those of its group that overlap with it.

    A score only ever falls, so candidates are taken by descending final score, and the first ``topk`` of them are the
    result: the cost grows with ``topk`` and the number of candidates, not with its square.

    Args:
        boxes: (R, 4) float, pixels.
        scores: (N,) float scores of the candidates, not negative.
        rows: (N,) int64 row of every candidate's box.
        groups: (N,) int64; only candidates of one group lower each other's scores.
        sigma: width of the Gaussian; smaller is harsher.
        score_threshold: final scores must be above it: a number, or (N,) float, one for each candidate.
        topk: largest number of candidates to take; negative takes all.

    Returns:
        (K,) int64 positions of those that are taken, best first, and (K,) float their final scores.

    Source: Bodla et al. 2017, Soft-NMS (arXiv 1704.04503), equation 3: s_i <- s_i exp(-iou(M, b_i)^2 / sigma).
    """
    # As many boxes as proposals, shared by all classes.
    factors = torch.exp(-box_iou(boxes, boxes).square_().div_(sigma)).to(scores.dtype)
    left = torch.where(scores > score_threshold, scores, -1.0)
    count = len(scores) if topk < 0 else min(topk, len(scores))
    taken = torch.zeros(count, dtype=torch.long, device=scores.device)
    final = torch.zeros(count, dtype=scores.dtype, device=scores.device)
    for step in range(count):  # no value is read on the host: a GPU need not wait
        best = left.argmax()
        taken[step], final[step] = best, left[best]
        lowered = torch.where(groups == groups[best], left * factors[rows[best]][rows], left)
        left = torch.where(lowered > score_threshold, lowered, -1.0)  # what has fallen below lowers no others
        left[best] = -1.0
    kept = final >= 0
    return taken[kept], final[kept]
