"""What the class-agnostic localisation network learns at its anchors: which of them, which boxes, how centred."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from detectron2.structures import Boxes, pairwise_iou
from torch import Tensor

from mvseg.modeling.objectives.localization import centerness, sides_of_boxes

NEGATIVE, IGNORED = -1, -2


@dataclass(frozen=True)
class AnchorSampling:
    """Which anchors of an image learn.

    Attributes:
        low: an anchor whose largest IoU is below it is no object.
        high: an anchor whose largest IoU is at least that belongs to that object.
        least: the best anchors of an object belong to it if their IoU is at least that.
        count: number of anchors of an image.
        positive_fraction: largest share of anchors of objects among them.
    """

    low: float
    high: float
    least: float
    count: int
    positive_fraction: float


@dataclass(frozen=True)
class LocalizationTargets:
    """What some anchors of one image learn.

    Attributes:
        box_anchors: (P,) int64 anchors that predict boxes.
        boxes: (P, 4) float their boxes, pixels.
        center_anchors: (Q,) int64 anchors that predict centerness.
        centers: (Q,) float their centerness.
        count: number of anchors that the losses are averaged over.
    """

    box_anchors: Tensor
    boxes: Tensor
    center_anchors: Tensor
    centers: Tensor
    count: int


def match_anchors(anchors: Tensor, boxes: Tensor, *, low: float, high: float, least: float) -> Tensor:
    """Find the object of every anchor.

    Args:
        anchors: (A, 4) float x0, y0, x1, y1, pixels.
        boxes: (G, 4) float boxes of the objects, pixels.
        low: an anchor whose largest IoU is below it is negative.
        high: an anchor whose largest IoU is at least that belongs to that object.
        least: the best anchors of an object belong to it if their IoU is at least that, whatever else they overlap.

    Returns:
        (A,) int64 index of the object; -1 negative, -2 neither.
    """
    if not len(boxes) or not len(anchors):
        return torch.full((len(anchors),), NEGATIVE, dtype=torch.long, device=anchors.device)
    iou = pairwise_iou(Boxes(boxes), Boxes(anchors))  # (G, A)
    best, match = iou.max(0)
    match = torch.where(best >= high, match, IGNORED)
    match = torch.where(best < low, NEGATIVE, match)
    top = iou.amax(1, keepdim=True)
    chosen = (iou == top) & (top >= least)
    last = len(boxes) - 1 - chosen.flip(0).to(torch.uint8).argmax(0)  # of several objects the last
    return torch.where(chosen.any(0), last, match)


def learning_anchors(anchors: Tensor, image_size: tuple[int, int], border: int) -> Tensor:
    """Find the anchors that belong to an image and not to its padding.

    Args:
        anchors: (A, 4) float x0, y0, x1, y1, pixels.
        image_size: height and width of the image without padding.
        border: pixels that an anchor may reach beyond the image; negative: as far as it likes.

    Returns:
        (A,) bool: the centre lies in the image, and the anchor reaches no further than allowed.
    """
    size = torch.tensor([image_size[1], image_size[0]], dtype=anchors.dtype, device=anchors.device)
    centers = (anchors[:, :2] + anchors[:, 2:]) / 2
    inside = ((centers >= 0) & (centers < size)).all(1)
    if border >= 0:
        inside &= (anchors[:, :2] >= -border).all(1) & (anchors[:, 2:] < size + border).all(1)
    return inside


def localization_targets(
    anchors: Tensor,
    boxes: Tensor,
    image_size: tuple[int, int],
    *,
    regression: AnchorSampling,
    quality: AnchorSampling,
    border: int,
    quality_negatives: bool,
) -> LocalizationTargets:
    """Choose anchors of one image at random and say what they learn.

    Args:
        anchors: (A, 4) float x0, y0, x1, y1, pixels.
        boxes: (G, 4) float boxes of the objects of any class, pixels.
        image_size: height and width of the image without padding.
        regression: which anchors learn boxes.
        quality: which learn centerness.
        border: pixels that a learning anchor may reach beyond the image; negative: as far as it likes.
        quality_negatives: where objects give too few anchors of centerness, others learn that theirs is 0.

    Returns:
        The targets; boxes are learnt only where the centre of the anchor lies in the box.

    Source: Kim et al. 2022, Object Localization Network (arXiv 2108.06753), section 3.2.
    """
    usable = learning_anchors(anchors, image_size, border).nonzero()[:, 0]
    candidates = anchors[usable]
    match = match_anchors(candidates, boxes, low=regression.low, high=regression.high, least=regression.least)
    positive = _some((match >= 0).nonzero()[:, 0], int(regression.count * regression.positive_fraction))
    negatives = min(int((match == NEGATIVE).sum()), regression.count - len(positive))
    count = max(len(positive), 1) + max(negatives, 1)
    truth = boxes[match[positive]]
    inside = (sides_of_boxes(candidates[positive], truth) > 0).all(1)
    positive, truth = positive[inside], truth[inside]
    match = match_anchors(candidates, boxes, low=quality.low, high=quality.high, least=quality.least)
    centered = _some((match >= 0).nonzero()[:, 0], int(quality.count * quality.positive_fraction))
    centers = centerness(sides_of_boxes(candidates[centered], boxes[match[centered]]))
    if quality_negatives:
        rest = _some((match == NEGATIVE).nonzero()[:, 0], quality.count - len(centered))
        centered, centers = torch.cat([centered, rest]), torch.cat([centers, centers.new_zeros(len(rest))])
    return LocalizationTargets(usable[positive], truth, usable[centered], centers, count)


def _some(rows: Tensor, count: int) -> Tensor:
    """So many of the rows, drawn at random; all if there are not more."""
    if len(rows) <= count:
        return rows
    return rows[torch.randperm(len(rows), device=rows.device)[:count]]


def batch_targets(targets: Sequence[LocalizationTargets], weights: Tensor) -> tuple[Tensor, Tensor]:
    """Weigh every learning anchor, so that a sum over the batch is a mean over images and their anchors.

    Args:
        targets: those of the images.
        weights: (I,) float weight of every image.

    Returns:
        Weights (P,) of the anchors with boxes and (Q,) of those with centerness, image by image.
    """
    shares = [weight / (t.count * len(targets)) for t, weight in zip(targets, weights, strict=True)]
    box = [share.expand(len(t.box_anchors)) for t, share in zip(targets, shares, strict=True)]
    center = [share.expand(len(t.center_anchors)) for t, share in zip(targets, shares, strict=True)]
    return torch.cat(box), torch.cat(center)
