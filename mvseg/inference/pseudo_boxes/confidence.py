"""How sure a detector is of where a thing is: what its boxes do when its region features are disturbed.

Monte-Carlo dropout after the abstract of arXiv 2012.14115, whose formulas were not at hand: our reading.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import box_iou


@contextmanager
def dropout_in_box_heads(roi_heads: Any, probability: float) -> Iterator[None]:
    """Set random numbers of the region features of all stages to zero, also in evaluation mode.

    Args:
        roi_heads: region heads with a ``box_head``.
        probability: of each number, 0 to 1.

    Yields:
        Nothing; afterwards the heads are as before.

    Raises:
        ValueError: if the heads have no box head, or the probability is out of its range.
    """
    head = getattr(roi_heads, "box_head", None)
    if head is None:
        raise ValueError(f"{type(roi_heads).__name__} has no box head whose features could be dropped: use --passes 0")
    if not 0 < probability < 1:
        raise ValueError(f"the probability of dropout must be between 0 and 1, not {probability}")

    def drop(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return F.dropout(output, probability, training=True)

    handles = [part.register_forward_hook(drop) for part in (head if isinstance(head, nn.ModuleList) else [head])]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def localization_confidence(
    boxes: Tensor, classes: Tensor, passes: Sequence[tuple[Tensor, Tensor]], least_iou: float = 0.5
) -> Tensor:
    """Say how well the boxes of disturbed passes agree.

    Args:
        boxes: (N, 4) float detections x0, y0, x1, y1.
        classes: (N,) int64 their classes.
        passes: boxes (K, 4) and classes (K,) of every disturbed pass.
        least_iou: a detection of a pass is of the same thing if it has its class and overlaps at least so much.

    Returns:
        (N,) float32, 0 to 1: mean IoU of the boxes of the M passes to their mean box, where a pass that lost the thing
        counts 0.

    Source: our own derivation, after the abstract of arXiv 2012.14115.
    """
    found = torch.full((len(passes), len(boxes), 4), torch.nan)
    boxes = boxes.float().cpu()
    for number, (others, their) in enumerate(passes):
        if not len(others) or not len(boxes):
            continue
        others = others.float().cpu()
        overlaps = torch.where(classes.cpu()[:, None] == their.cpu(), box_iou(boxes, others), 0.0)
        best, row = overlaps.max(1)
        seen = best >= least_iou
        found[number, seen] = others[row[seen]]
    mean = found.nanmean(0)  # nan where no pass found it
    corner = torch.maximum(found[..., :2], mean[:, :2]), torch.minimum(found[..., 2:], mean[:, 2:])
    shared = (corner[1] - corner[0]).clamp(min=0).prod(-1)
    areas = (found[..., 2:] - found[..., :2]).prod(-1) + (mean[:, 2:] - mean[:, :2]).prod(-1)
    return (shared / (areas - shared)).nan_to_num(0.0).mean(0)
