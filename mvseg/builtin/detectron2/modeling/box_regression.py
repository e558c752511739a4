"""Boxes as offsets from reference boxes (Girshick et al. 2014, appendix C), and losses on them."""

import math

import torch
from fvcore.nn import giou_loss, smooth_l1_loss
from torch import Tensor

from ..layers import cat, ciou_loss, diou_loss

# Sizes grow at most by this factor (as a logarithm): 1000 pixels from a 16 pixel anchor.
_DEFAULT_SCALE_CLAMP = math.log(1000.0 / 16)


class Box2BoxTransform:
    """Encode a box as (dx, dy, dw, dh) against a reference: shift over the reference's size, logarithm of growth."""

    def __init__(self, weights: tuple[float, float, float, float], scale_clamp: float = _DEFAULT_SCALE_CLAMP):
        self.weights = weights
        self.scale_clamp = scale_clamp

    def get_deltas(self, src_boxes: Tensor, target_boxes: Tensor) -> Tensor:
        """Offsets (N, 4) that lead from `src_boxes` to `target_boxes`, both (N, 4) corners."""
        source_centre, source_size = _centre_and_size(src_boxes)
        target_centre, target_size = _centre_and_size(target_boxes)
        if not (source_size[..., 0] > 0).all():
            raise AssertionError("Box2BoxTransform got reference boxes without width")
        shift = (target_centre - source_centre) / source_size
        growth = (target_size / source_size).log()
        return torch.cat((shift, growth), dim=-1) * shift.new_tensor(self.weights)

    def apply_deltas(self, deltas: Tensor, boxes: Tensor) -> Tensor:
        """Apply k sets of offsets to each box.

        Args:
            deltas: (N, k * 4).
            boxes: (N, 4) corners of the references.

        Returns:
            (N, k * 4) corners, float32 or better.
        """
        deltas = deltas.float()
        centre, size = (part[:, None] for part in _centre_and_size(boxes.to(deltas.dtype)))
        parts = deltas.reshape(len(deltas), deltas.shape[1] // 4, 4) / deltas.new_tensor(self.weights)
        centre = parts[..., :2] * size + centre
        half = parts[..., 2:].clamp(max=self.scale_clamp).exp() * size / 2
        return torch.cat((centre - half, centre + half), dim=-1).reshape(deltas.shape)


def _centre_and_size(boxes: Tensor) -> tuple[Tensor, Tensor]:
    size = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + size / 2, size


_OVERLAP_LOSSES = {"giou": giou_loss, "diou": diou_loss, "ciou": ciou_loss}


def _dense_box_regression_loss(
    anchors, box2box_transform, pred_anchor_deltas, gt_boxes, fg_mask, box_reg_loss_type="smooth_l1", smooth_l1_beta=0.0
) -> Tensor:
    """Sum of the box losses of all foreground anchors.

    Args:
        anchors: one for each feature level, (HWA, 4).
        box2box_transform: encodes boxes against anchors.
        pred_anchor_deltas: one for each level, (N, HWA, 4).
        gt_boxes: one for each image, (R, 4): the box for every anchor, R = sum of HWA.
        fg_mask: (N, R) bool.
        box_reg_loss_type: "smooth_l1" on the offsets, or "giou", "diou", "ciou" on the boxes.
        smooth_l1_beta: error in offset units at which the loss becomes linear.

    Returns:
        0-dim loss.
    """
    references = torch.cat([getattr(level, "tensor", level) for level in anchors])
    predicted = cat(pred_anchor_deltas, dim=1)
    wanted = torch.stack(gt_boxes)
    if box_reg_loss_type == "smooth_l1":
        wanted = torch.stack([box2box_transform.get_deltas(references, boxes) for boxes in wanted])
        return smooth_l1_loss(predicted[fg_mask], wanted[fg_mask], beta=smooth_l1_beta, reduction="sum")
    if box_reg_loss_type not in _OVERLAP_LOSSES:
        names = ", ".join(("smooth_l1", *_OVERLAP_LOSSES))
        raise ValueError(f"No box regression loss is called {box_reg_loss_type!r}; there are {names}")
    boxes = torch.stack([box2box_transform.apply_deltas(deltas, references) for deltas in predicted])
    return _OVERLAP_LOSSES[box_reg_loss_type](boxes[fg_mask], wanted[fg_mask], reduction="sum")
