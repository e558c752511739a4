"""Classification and box losses of regions, and the probabilities that go with them; pure functions of tensors.

Rows are regions, columns label columns. A region's class is a label column, or n (the number of columns) if it is
background. Losses are sums over rows and columns divided by the number of rows, as in Detectron2.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from detectron2.modeling.box_regression import Box2BoxTransform
from fvcore.nn import smooth_l1_loss
from torch import Tensor
from torchvision.ops import generalized_box_iou_loss

from mvseg.modeling.precision import at_least_float32


def column_targets(classes: Tensor, columns: Tensor | None, num_classes: int) -> Tensor:
    """Translate classes into positions among the computed columns.

    Args:
        classes: (R,) int64 label columns; num_classes means background.
        columns: (k,) int64 computed label columns; None means all num_classes.
        num_classes: number n of label columns.

    Returns:
        (R,) int64 position in ``columns``; k for background and for classes whose column is not computed.

    Source: our own derivation.
    """
    if columns is None:
        return classes
    position = torch.full((num_classes + 1,), len(columns), dtype=torch.long, device=classes.device)
    position[columns] = torch.arange(len(columns), device=classes.device)
    return position[classes]


def equal_image_weights(images: Tensor, num_images: int) -> Tensor:
    """Weigh regions so that an average over regions is an average over images, each with its own average.

    Args:
        images: (R,) int64 index of every region's image.
        num_images: number I of images that the indices may name; those without regions do not count.

    Returns:
        (R,) float32, R / (images with regions * regions of the image).

    Source: our own derivation.
    """
    counts = torch.zeros(num_images, device=images.device).index_add_(0, images, torch.ones_like(images).float())
    return len(images) / ((counts > 0).sum() * counts[images])


def positive_entries(logits: Tensor, positions: Tensor, positives: Tensor | None = None) -> Tensor:
    """Say which columns are true for every region.

    Args:
        logits: (R, k) float logits.
        positions: (R,) int64 position of the true column, k for none (``column_targets``).
        positives: (R, k) bool, further true columns; None means none.

    Returns:
        (R, k) 1 where a column is true, else 0, of the logits' type.

    Source: our own derivation.
    """
    targets = _marked(positions, logits.new_zeros((len(logits), logits.shape[1] + 1)))[:, :-1]
    return targets if positives is None else torch.maximum(targets, positives.to(targets.dtype))


def sigmoid_classification_loss(
    logits: Tensor,
    positions: Tensor,
    *,
    scope: Tensor | None = None,
    weights: Tensor | None = None,
    positives: Tensor | None = None,
) -> Tensor:
    """Sum the binary cross-entropy of every region and computed column.

    Args:
        logits: (R, k) float logits.
        positions: (R,) int64 position of the true column, k for none (``column_targets``).
        scope: (R, k) bool or float, the entries that count; None means all.
        weights: (R,) float weight of every region; None means 1.
        positives: (R, k) bool, further true columns; None means none.

    Returns:
        Sum over rows and columns divided by R, a scalar tensor; 0 without regions.

    Source: Zhou et al. 2022 (arXiv 2201.02605), section 5.1; restricted to some columns it is the federated loss of
    Gupta et al. 2019, LVIS (arXiv 1908.03195), as used by Zhou et al. 2021 (arXiv 2103.07461), section 5.1.
    """
    logits = at_least_float32(logits)
    targets = positive_entries(logits, positions, positives)
    loss = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    if scope is not None:
        loss = loss * scope
    if weights is not None:
        loss = loss * weights[:, None]
    return loss.sum() / max(len(logits), 1)


def softmax_classification_loss(
    logits: Tensor,
    positions: Tensor,
    *,
    scope: Tensor | None = None,
    class_weights: Tensor | None = None,
    weights: Tensor | None = None,
    groups: Tensor | None = None,
) -> Tensor:
    """Average the cross-entropy of the regions over the columns in scope and the background.

    Columns of one group are one answer: its probability is the sum of theirs.

    Args:
        logits: (R, k + 1) float logits, background last.
        positions: (R,) int64 position of the true column, k for background.
        scope: (R, k) bool, the columns that compete; None means all. The true column always competes.
        class_weights: (k + 1,) float weight of a region by its true column, also in the average; None means 1.
        weights: (R,) float further weight of every region, which does not enter the normaliser; None means 1.
        groups: (R, k + 1) int group of every column, background last; None: every column is a group of its own.

    Returns:
        The loss, a scalar tensor; 0 without regions.

    Source: cross-entropy; Ren et al. 2015, Faster R-CNN (arXiv 1506.01497), section 3.1.2; groups: GroupSoftmax cross
    entropy (https://github.com/chengzhengxin/groupsoftmax-simpledet), loss = -log of the group's probability.
    """
    logits = at_least_float32(logits)
    if scope is not None:
        allowed = _marked(positions, F.pad(scope.bool(), (0, 1), value=True))
        logits = logits.masked_fill(~allowed, -torch.inf)
    if groups is None:
        loss = F.cross_entropy(logits, positions, reduction="none")
    else:
        others = groups != groups.gather(1, positions[:, None])
        loss = logits.logsumexp(1) - logits.masked_fill(others, -torch.inf).logsumexp(1)
    importance = torch.ones_like(loss) if class_weights is None else class_weights[positions].to(loss.dtype)
    normalizer = importance.sum().clamp(min=torch.finfo(loss.dtype).tiny)
    loss = loss * importance
    if weights is not None:
        loss = loss * weights
    return loss.sum() / normalizer


def _marked(positions: Tensor, table: Tensor) -> Tensor:
    """Put a one (True) at one position of every row, in place; F.one_hot would make int64 numbers first."""
    return table.scatter_(1, positions[:, None], 1)


def box_loss(
    deltas: Tensor,
    boxes: Tensor,
    gt_boxes: Tensor,
    foreground: Tensor,
    transform: Box2BoxTransform,
    *,
    kind: str = "smooth_l1",
    beta: float = 0.0,
    weights: Tensor | None = None,
) -> Tensor:
    """Compare predicted box deltas of foreground regions with their boxes.

    Args:
        deltas: (R, 4) float predicted deltas.
        boxes: (R, 4) float regions x0, y0, x1, y1, pixels.
        gt_boxes: (R, 4) float matched boxes, pixels; rows of background are not read.
        foreground: (R,) bool.
        transform: encodes boxes as deltas.
        kind: "smooth_l1" on deltas, or "giou" on decoded boxes.
        beta: where smooth L1 turns from quadratic to linear; 0 is plain L1.
        weights: (R,) float weight of every region; None means 1.

    Returns:
        Sum over the foreground divided by R, a scalar tensor; 0 without regions.

    Raises:
        ValueError: if the kind is neither.

    Source: Girshick 2015, Fast R-CNN (arXiv 1504.08083), equations 2 and 3; Rezatofighi et al. 2019 (arXiv 1902.09630).
    """
    deltas, boxes, gt_boxes = at_least_float32(deltas[foreground]), boxes[foreground], gt_boxes[foreground]
    if kind == "smooth_l1":
        target = transform.get_deltas(boxes, gt_boxes)
        loss = smooth_l1_loss(deltas, target, beta, reduction="none").sum(1)
    elif kind == "giou":
        loss = generalized_box_iou_loss(transform.apply_deltas(deltas, boxes), gt_boxes, reduction="none")
    else:
        raise ValueError(f"MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE {kind!r}: choose smooth_l1 or giou")
    if weights is not None:
        loss = loss * weights[foreground]
    return loss.sum() / max(len(foreground), 1)


def mask_loss(logits: Tensor, targets: Tensor, *, weights: Tensor | None = None) -> Tensor:
    """Average the binary cross-entropy of class-agnostic masks.

    Args:
        logits: (N, S, S) float mask logits of N foreground regions.
        targets: (N, S, S) bool true masks inside the regions.
        weights: (N,) float weight of every region; None means 1.

    Returns:
        Mean over regions and cells, a scalar tensor; 0, still connected to the logits, without regions.

    Source: He et al. 2017, Mask R-CNN (arXiv 1703.06870), section 3.
    """
    logits = at_least_float32(logits)
    if len(logits) == 0:
        return logits.sum() * 0
    loss = F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), reduction="none").mean((1, 2))
    return (loss if weights is None else loss * weights).mean()
