"""Non-maximum suppression."""

from torch import Tensor
from torchvision.ops import boxes as box_ops
from torchvision.ops import nms  # noqa: F401


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """Suppress within each category only.

    Args:
        boxes: (N, 4) corners; computed in float32 whatever the dtype.
        scores: (N,).
        idxs: (N,) category of each box.
        iou_threshold: a box that overlaps a better one of its category by more goes.

    Returns:
        (K,) indices of the boxes that stay, best first.
    """
    if boxes.shape[-1] != 4:
        raise AssertionError(f"Boxes are (N, 4), not {tuple(boxes.shape)}")
    return box_ops.batched_nms(boxes.float(), scores, idxs, iou_threshold)
