"""Overlap losses of boxes with centre distance and aspect ratio (Zheng et al. 2020), as torchvision computes them."""

from __future__ import annotations

from torch import Tensor
from torchvision.ops import complete_box_iou_loss, distance_box_iou_loss


def diou_loss(boxes1: Tensor, boxes2: Tensor, reduction: str = "none", eps: float = 1e-7) -> Tensor:
    """Distance-IoU loss of boxes (N, 4) against boxes (N, 4): 1 - IoU + squared centre distance / squared diagonal."""
    return distance_box_iou_loss(boxes1, boxes2, reduction=reduction, eps=eps)


def ciou_loss(boxes1: Tensor, boxes2: Tensor, reduction: str = "none", eps: float = 1e-7) -> Tensor:
    """Complete-IoU loss of boxes (N, 4) against boxes (N, 4): the distance-IoU loss plus an aspect-ratio term."""
    return complete_box_iou_loss(boxes1, boxes2, reduction=reduction, eps=eps)
