"""Formulas of class-agnostic localisation: sides and centerness of anchors, losses, and the confidence of a box."""

from __future__ import annotations

import torch
from torch import Tensor

from mvseg.modeling.precision import at_least_float32

SMALLEST = 1e-6  # square pixels: the union of two empty boxes


def sides_of_boxes(anchors: Tensor, boxes: Tensor) -> Tensor:
    """Measure how far the sides of boxes are from the centres of anchors.

    Args:
        anchors: (A, 4) float x0, y0, x1, y1, pixels.
        boxes: (A, 4) float, one box for each anchor, pixels.

    Returns:
        (A, 4) distances left, top, right, bottom, in widths and heights of the anchor; negative where the centre lies
        outside the box.

    Source: Kim et al. 2022, Object Localization Network (arXiv 2108.06753), section 3.2, after Tian et al. 2019, FCOS
    (arXiv 1904.01355), equation 1; in units of the anchor as the published code of UniDetector has it.
    """
    centers = (anchors[:, :2] + anchors[:, 2:]) / 2
    size = anchors[:, 2:] - anchors[:, :2]
    return torch.cat([(centers - boxes[:, :2]) / size, (boxes[:, 2:] - centers) / size], 1)


def boxes_of_sides(anchors: Tensor, sides: Tensor) -> Tensor:
    """Undo :func:`sides_of_boxes`.

    Args:
        anchors: (..., 4) float x0, y0, x1, y1, pixels.
        sides: (..., 4) float distances left, top, right, bottom, in widths and heights of the anchor.

    Returns:
        (..., 4) float boxes x0, y0, x1, y1, pixels.

    Source: the inverse of ``sides_of_boxes``.
    """
    centers = (anchors[..., :2] + anchors[..., 2:]) / 2
    size = anchors[..., 2:] - anchors[..., :2]
    return torch.cat([centers - sides[..., :2] * size, centers + sides[..., 2:] * size], -1)


def centerness(sides: Tensor) -> Tensor:
    """Say how near the middle of its box a point is.

    Args:
        sides: (A, 4) float distances left, top, right, bottom; each axis in any unit.

    Returns:
        (A,) float: 1 in the middle, 0 on a side and outside.

    Source: Tian et al. 2019, FCOS (arXiv 1904.01355), equation 3: sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b)).
    """
    near = torch.minimum(sides[:, :2], sides[:, 2:])
    far = torch.maximum(sides[:, :2], sides[:, 2:])
    inside = (near > 0).all(1)
    ratio = near.clamp(min=0) / far.clamp(min=torch.finfo(far.dtype).tiny)
    return torch.where(inside, ratio.prod(1).sqrt(), 0.0)


def paired_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Measure the overlap of pairs of boxes.

    Args:
        boxes: (P, 4) float x0, y0, x1, y1, pixels; one whose sides are the wrong way round has no area.
        others: (P, 4) float boxes, pixels.

    Returns:
        (P,) float intersection over union, 0 to 1.

    Source: Everingham et al. 2010, Pascal VOC challenge, section 4.2.
    """
    low = torch.maximum(boxes[:, :2], others[:, :2])
    high = torch.minimum(boxes[:, 2:], others[:, 2:])
    common = (high - low).clamp(min=0).prod(1)
    areas = [(b[:, 2:] - b[:, :2]).clamp(min=0).prod(1) for b in (boxes, others)]
    return common / (areas[0] + areas[1] - common).clamp(min=SMALLEST)


def linear_iou_loss(boxes: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Sum 1 - IoU over pairs of boxes.

    Args:
        boxes: (P, 4) float predicted boxes x0, y0, x1, y1, pixels; those that do not overlap have no gradient.
        targets: (P, 4) float true boxes, pixels.
        weights: (P,) float weight of every pair.

    Returns:
        The sum, a scalar tensor; 0, connected to the boxes, without pairs.

    Source: Yu et al. 2016, UnitBox (arXiv 1608.01471), section 3, with 1 - IoU for -log IoU as OLN (arXiv 2108.06753).
    """
    return ((1 - paired_iou(at_least_float32(boxes), at_least_float32(targets))) * weights).sum()


def quality_loss(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Sum the distance of a predicted quality in [0, 1] from the true one.

    Args:
        logits: (P,) float logits of the quality (centerness of an anchor, overlap of a region).
        targets: (P,) float true quality.
        weights: (P,) float weight of every row.

    Returns:
        Weighted sum of |sigmoid(logit) - target|, a scalar tensor; 0, connected to the logits, without rows.

    Source: Kim et al. 2022, Object Localization Network (arXiv 2108.06753), section 3.2: L1 of localization quality.
    """
    return ((at_least_float32(logits).sigmoid() - targets).abs() * weights).sum()


def localization_confidence(objectness: Tensor, center: Tensor, overlap: Tensor, alpha: float) -> Tensor:
    """Join what three branches say of a box.

    Args:
        objectness: (R,) float probability that the region is an object.
        center: (R,) float predicted centerness of the proposal that it comes from.
        overlap: (R,) float predicted overlap with an object.
        alpha: weight of the first, 0 to 1; the rest is that of the two localization scores.

    Returns:
        (R,) float confidence objectness^alpha * (center * overlap)^(1 - alpha), 0 to 1.

    Source: Wang et al. 2023, UniDetector (arXiv 2303.11749), class-agnostic localization network, as in its code.
    """
    return objectness**alpha * (center * overlap) ** (1 - alpha)
