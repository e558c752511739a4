"""Data structures of detection: boxes, masks, instances and image batches."""

# ruff: noqa: F401 (re-exports)

from .._missing import placeholder
from .boxes import Boxes, BoxMode, pairwise_ioa, pairwise_iou, pairwise_point_box_distance
from .image_list import ImageList
from .instances import Instances
from .masks import BitMasks, PolygonMasks, ROIMasks, polygons_to_bitmask

Keypoints, RotatedBoxes, heatmaps_to_keypoints, pairwise_iou_rotated = (
    placeholder(f"structures.{name}")
    for name in ("Keypoints", "RotatedBoxes", "heatmaps_to_keypoints", "pairwise_iou_rotated")
)
