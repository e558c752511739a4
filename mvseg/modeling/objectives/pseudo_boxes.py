"""Weights of regions where some boxes of an image were not drawn by people but found by a detector.

After "Towards a category-extended object detector without relabeling or conflicts" (arXiv 2012.14115), of which only
the abstract was at hand: pseudo boxes with a confidence, and a loss weighted by overlap. The formulas are our reading.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.structures import Instances
from torch import Tensor
from torchvision.ops import box_iou

WEIGHTS = "gt_weights"  # field of targets: (N,) float, 1 for boxes drawn by people
PSEUDO = "gt_pseudo"  # field of targets: (N,) bool


def pseudo_region_weights(
    boxes: Tensor, foreground: Tensor, gt_boxes: Tensor, gt_weights: Tensor, pseudo: Tensor
) -> Tensor:
    """Weigh the regions of an image in its losses.

    Args:
        boxes: (R, 4) float regions x0, y0, x1, y1, pixels.
        foreground: (R,) bool, whether a region was matched to a box.
        gt_boxes: (N, 4) float boxes of the image, pixels.
        gt_weights: (N,) float confidence in them, 0 to 1.
        pseudo: (N,) bool, those found by a detector.

    Returns:
        (R,) float32. Objects: the weight of the box that they overlap most. Background: 1 - the largest IoU with a
        pseudo box, since what a pseudo box shows may be there or not.

    Source: our own derivation, after the abstract of arXiv 2012.14115.
    """
    if not len(gt_boxes) or not len(boxes):
        return torch.ones(len(boxes), device=boxes.device)
    overlaps = box_iou(boxes.float(), gt_boxes.float())
    matched = gt_weights.float()[overlaps.argmax(1)]
    doubt = torch.where(pseudo, overlaps, 0.0).amax(1)
    return torch.where(foreground, matched, 1 - doubt)


def weights_of_regions(regions: Sequence[Instances], targets: Sequence[Instances], background: int) -> Tensor | None:
    """Weigh the regions of a batch.

    Args:
        regions: for every image ``proposal_boxes`` and ``gt_classes``, R together.
        targets: for every image ``gt_boxes``, and where it has pseudo boxes ``gt_weights`` and ``gt_pseudo``.
        background: value of gt_classes that means background.

    Returns:
        (R,) float32, or None where no image has pseudo boxes.

    Source: our own derivation.
    """
    if not any(image.has(WEIGHTS) for image in targets):
        return None
    weights = []
    for found, image in zip(regions, targets, strict=True):
        boxes = found.proposal_boxes.tensor
        if image.has(WEIGHTS) and len(found):
            facts = (image.gt_boxes.tensor, image.get(WEIGHTS), image.get(PSEUDO))
            weights.append(pseudo_region_weights(boxes, found.gt_classes < background, *facts))
        else:
            weights.append(torch.ones(len(boxes), device=boxes.device))
    return torch.cat(weights)


def multiplied(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    """Multiply weights, where None stands for ones.

    Args:
        first: (R,) float, or None.
        second: (R,) float, or None.

    Returns:
        (R,) float, or None if both are.

    Source: our own derivation.
    """
    if first is None or second is None:
        return second if first is None else first
    return first * second
