"""Losses of the CenterNet proposal generator: focal loss of the heatmap, overlap loss of the box distances."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from mvseg.modeling.precision import at_least_float32

LocationLoss = Literal["giou", "iou", "linear_iou"]


def heatmap_focal_loss(
    logits: Tensor,
    heatmap: Tensor,
    centers: Tensor,
    center_classes: Tensor | None = None,
    *,
    normalizer: float | Tensor,
    alpha: float = 0.25,
    beta: float = 4.0,
    gamma: float = 2.0,
    clamp: float = 1e-4,
    ignore_above: float = -1.0,
    weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute the focal loss of predicted centres, where cells near a centre count less as negatives.

    Args:
        logits: (M, C) float logits of M cells for C classes (C = 1: class-agnostic).
        heatmap: (M, C) float target in [0, 1], exactly 1 at centres.
        centers: (P,) int64 row of every positive cell; rows may repeat.
        center_classes: (P,) int64 column of every positive cell; None means column 0.
        normalizer: number of positives to divide by, a number or a scalar tensor.
        alpha: weight of the positive part, 1 - alpha of the negative part; negative values leave both at 1.
        beta: exponent of 1 - heatmap, the discount of negatives near a centre.
        gamma: focusing exponent.
        clamp: probabilities are kept in [clamp, 1 - clamp]; beyond it the gradient is zero.
        ignore_above: negatives with a higher probability are left out (probably unlabelled objects); < 0: off.
        weights: (M,) float weight of every cell; None means 1.

    Returns:
        Positive and negative loss, two scalar tensors.

    Source: Zhou et al. 2019, "Objects as Points" (arXiv 1904.07850), equation 1; the ignored negatives are CenterNet2's
    (Zhou et al. 2021, arXiv 2103.07461).
    """
    probability = torch.sigmoid(at_least_float32(logits)).clamp(clamp, 1 - clamp)
    if center_classes is None:
        center_classes = torch.zeros_like(centers)
    at_centers = probability[centers, center_classes]
    positive = -torch.log(at_centers) * (1 - at_centers) ** gamma
    negative = -torch.log1p(-probability) * probability**gamma * (1 - heatmap) ** beta
    if ignore_above >= 0:
        negative = negative * (probability < ignore_above)
    if weights is not None:
        positive, negative = positive * weights[centers], negative * weights[:, None]
    if alpha >= 0:
        positive, negative = alpha * positive, (1 - alpha) * negative
    return positive.sum() / normalizer, negative.sum() / normalizer


def location_loss(
    predicted: Tensor,
    target: Tensor,
    *,
    normalizer: float | Tensor,
    kind: LocationLoss = "giou",
    weights: Tensor | None = None,
) -> Tensor:
    """Compare boxes that are given by the distances of one inner point to their sides.

    Areas are smoothed by one square unit in the ratio, so that boxes smaller than a cell give finite gradients.

    Args:
        predicted: (K, 4) float distances left, top, right, bottom, >= 0, in any unit (CenterNet: strides).
        target: (K, 4) float distances of the same points to the target boxes.
        normalizer: what the sum is divided by, a number or a scalar tensor.
        kind: "giou" (1 - GIoU), "iou" (-log IoU) or "linear_iou" (1 - IoU).
        weights: (K,) float weight of every point; None means 1.

    Returns:
        The loss, a scalar tensor.

    Raises:
        ValueError: if the kind is none of the three.

    Source: Rezatofighi et al. 2019 (arXiv 1902.09630), algorithm 1; -log IoU: Yu et al. 2016, UnitBox (arXiv
    1608.01471), equation 2. Boxes around one point intersect in the smaller distances, the larger enclose both.
    """
    predicted, target = at_least_float32(predicted), at_least_float32(target)
    area, target_area = _area(predicted), _area(target)
    intersection = _area(torch.minimum(predicted, target))
    union = area + target_area - intersection
    iou = (intersection + 1) / (union + 1)
    if kind == "iou":
        loss = -torch.log(iou)
    elif kind == "linear_iou":
        loss = 1 - iou
    elif kind == "giou":
        enclosing = _area(torch.maximum(predicted, target)).clamp(min=torch.finfo(torch.float32).eps)
        loss = 1 - iou + (enclosing - union) / enclosing
    else:
        raise ValueError(f"MODEL.CENTERNET.LOC_LOSS_TYPE {kind!r}: choose giou, iou or linear_iou")
    if weights is not None:
        loss = loss * weights
    return loss.sum() / normalizer


def _area(distances: Tensor) -> Tensor:
    left, top, right, bottom = distances.unbind(-1)
    return (left + right) * (top + bottom)
