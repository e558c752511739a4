"""Overlap losses of boxes with centre distance and aspect ratio (Zheng et al. 2020): torchvision's."""

from torchvision.ops import complete_box_iou_loss as ciou_loss  # noqa: F401
from torchvision.ops import distance_box_iou_loss as diou_loss  # noqa: F401
