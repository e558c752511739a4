"""Instance masks: full-size bitmaps, polygons, and fixed-size masks relative to boxes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pycocotools.mask as coco_mask
import torch
from torch import Tensor
from torchvision.ops import masks_to_boxes, roi_align

from ..layers.mask_ops import paste_masks_in_image
from .boxes import Boxes


def polygon_area(x, y):
    """Area of one polygon with vertices x (V,) and y (V,): the shoelace formula."""
    return 0.5 * np.abs(np.sum(x * np.roll(y, 1) - y * np.roll(x, 1)))


def polygons_to_bitmask(polygons: list[np.ndarray], height: int, width: int) -> np.ndarray:
    """Rasterise the union of polygons [x0, y0, x1, y1, ...] to a (height, width) bool array, COCO's way."""
    if len(polygons) == 0:
        return np.zeros((height, width), dtype=bool)
    parts = coco_mask.frPyObjects([np.asarray(polygon, dtype=np.float64) for polygon in polygons], height, width)
    return coco_mask.decode(coco_mask.merge(parts)).astype(bool)


def rasterize_polygons_within_box(polygons: list[np.ndarray], box: np.ndarray, mask_size: int) -> Tensor:
    """Rasterise what lies in a box (x0, y0, x1, y1), stretched to a (mask_size, mask_size) bool tensor."""
    corner = np.asarray(box[:2], dtype=np.float64)
    # A box thinner than a tenth of a pixel would blow the polygon up without bound.
    size = np.maximum(np.asarray(box[2:], dtype=np.float64) - corner, 0.1)
    local = [((np.reshape(polygon, (-1, 2)) - corner) * (mask_size / size)).ravel() for polygon in polygons]
    return torch.from_numpy(polygons_to_bitmask(local, mask_size, mask_size))


class BitMasks:
    """(N, H, W) bool masks of the size of the image."""

    def __init__(self, tensor: Tensor | np.ndarray):
        tensor = torch.as_tensor(np.asarray(tensor) if isinstance(tensor, (list, tuple)) else tensor).to(torch.bool)
        if tensor.dim() != 3:
            raise AssertionError(f"BitMasks are an (N, H, W) tensor, not {tuple(tensor.shape)}")
        self.tensor = tensor
        self.image_size = tensor.shape[1:]

    def to(self, *args: Any, **kwargs: Any) -> BitMasks:
        return BitMasks(self.tensor.to(*args, **kwargs))

    @property
    def device(self) -> torch.device:
        return self.tensor.device

    def __getitem__(self, item: int | slice | torch.BoolTensor) -> BitMasks:
        """Masks at an index, slice, bool mask or index tensor; an integer gives one mask as (1, H, W)."""
        picked = self.tensor[item][None] if isinstance(item, int) else self.tensor[item]
        return BitMasks(picked)

    def __iter__(self) -> Iterator[Tensor]:
        yield from self.tensor

    def __repr__(self) -> str:
        return f"BitMasks(num_instances={len(self)})"

    def __len__(self) -> int:
        return self.tensor.shape[0]

    def nonempty(self) -> Tensor:
        """(N,) bool: the mask has a pixel."""
        return self.tensor.flatten(1).any(dim=1)

    @staticmethod
    def from_polygon_masks(polygon_masks: PolygonMasks | list[list[np.ndarray]], height: int, width: int) -> BitMasks:
        """Rasterise the polygons of every instance in an image of the given size."""
        instances = polygon_masks.polygons if isinstance(polygon_masks, PolygonMasks) else polygon_masks
        tensor = torch.zeros(len(instances), height, width, dtype=torch.bool)
        for slot, polygons in zip(tensor, instances):
            slot.copy_(torch.from_numpy(polygons_to_bitmask(polygons, height, width)))
        return BitMasks(tensor)

    def crop_and_resize(self, boxes: Tensor, mask_size: int) -> Tensor:
        """Crop mask i to box i and resize it.

        Args:
            boxes: (N, 4) corners in pixels.
            mask_size: side of the result.

        Returns:
            (N, mask_size, mask_size) bool: at least half of the area under the cell is covered.
        """
        if len(boxes) != len(self):
            raise AssertionError(f"{len(boxes)} boxes for {len(self)} masks")
        index = torch.arange(len(boxes), device=boxes.device, dtype=boxes.dtype)[:, None]
        planes = self.tensor[:, None].to(device=boxes.device, dtype=torch.float32)
        return roi_align(planes, torch.cat((index, boxes), dim=1), mask_size, aligned=True).squeeze(1) >= 0.5

    def get_bounding_boxes(self) -> Boxes:
        """Tight boxes around the pixels; zeros for an empty mask."""
        boxes = torch.zeros(len(self), 4, dtype=torch.float32, device=self.device)
        filled = self.nonempty()
        boxes[filled] = masks_to_boxes(self.tensor[filled]) + boxes.new_tensor((0, 0, 1, 1))
        return Boxes(boxes)

    @staticmethod
    def cat(bitmasks_list: list[BitMasks]) -> BitMasks:
        """All masks of a list (of one image size) in one."""
        return type(bitmasks_list[0])(torch.cat([masks.tensor for masks in bitmasks_list], dim=0))


class PolygonMasks:
    """Masks as polygons: `polygons[i]` is the list of arrays [x0, y0, x1, y1, ...] of instance i, in pixels."""

    def __init__(self, polygons: list[list[Tensor | np.ndarray]]):
        if not isinstance(polygons, list) or not all(isinstance(instance, list) for instance in polygons):
            raise ValueError(f"PolygonMasks take a list with a list of polygons for each instance, not {polygons!r}")
        self.polygons = [[_vertices(polygon) for polygon in instance] for instance in polygons]

    def to(self, *args: Any, **kwargs: Any) -> PolygonMasks:
        """Polygons stay where they are."""
        return self

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def get_bounding_boxes(self) -> Boxes:
        """Tight boxes around the vertices; zeros for an instance without polygons."""
        boxes = torch.zeros(len(self), 4)
        for slot, polygons in zip(boxes, self.polygons):
            if polygons:
                vertices = np.concatenate(polygons).reshape(-1, 2).astype(np.float32)
                slot.copy_(torch.from_numpy(np.concatenate((vertices.min(axis=0), vertices.max(axis=0)))))
        return Boxes(boxes)

    def nonempty(self) -> Tensor:
        """(N,) bool: the instance has a polygon."""
        return torch.tensor([bool(polygons) for polygons in self.polygons], dtype=torch.bool)

    def __getitem__(self, item: int | slice | list[int] | torch.BoolTensor) -> PolygonMasks:
        if isinstance(item, (int, slice)):
            return PolygonMasks([self.polygons[item]] if isinstance(item, int) else self.polygons[item])
        index = torch.as_tensor(item)
        if index.dtype == torch.bool:
            index = index.nonzero().squeeze(1)
        return PolygonMasks([self.polygons[i] for i in index.long().tolist()])

    def __iter__(self) -> Iterator[list[np.ndarray]]:
        return iter(self.polygons)

    def __repr__(self) -> str:
        return f"PolygonMasks(num_instances={len(self)})"

    def __len__(self) -> int:
        return len(self.polygons)

    def crop_and_resize(self, boxes: Tensor, mask_size: int) -> Tensor:
        """Rasterise instance i within box i; see `rasterize_polygons_within_box`.

        Args:
            boxes: (N, 4) corners in pixels.
            mask_size: side of the result.

        Returns:
            (N, mask_size, mask_size) bool on the device of the boxes.
        """
        if len(boxes) != len(self):
            raise AssertionError(f"{len(boxes)} boxes for {len(self)} masks")
        result = torch.zeros(len(self), mask_size, mask_size, dtype=torch.bool)
        for slot, polygons, box in zip(result, self.polygons, boxes.detach().cpu().numpy()):
            slot.copy_(rasterize_polygons_within_box(polygons, box, mask_size))
        return result.to(boxes.device)

    def area(self) -> Tensor:
        """(N,) sums of the polygon areas; overlaps count twice."""
        return torch.tensor([sum(polygon_area(p[0::2], p[1::2]) for p in polygons) for polygons in self.polygons])

    @staticmethod
    def cat(polymasks_list: list[PolygonMasks]) -> PolygonMasks:
        """All instances of a list in one."""
        return type(polymasks_list[0])([polygons for masks in polymasks_list for polygons in masks.polygons])


def _vertices(polygon: Tensor | np.ndarray) -> np.ndarray:
    array = np.asarray(polygon.cpu() if isinstance(polygon, Tensor) else polygon).astype(np.float64)
    if array.size % 2 or array.size < 6:
        raise ValueError(f"A polygon needs x and y of at least 3 vertices, not {array.size} numbers: {array}")
    return array


class ROIMasks:
    """(N, M, M) masks, each relative to a box that is kept elsewhere."""

    def __init__(self, tensor: Tensor):
        if tensor.dim() != 3:
            raise ValueError(f"ROIMasks are an (N, M, M) tensor, not {tuple(tensor.shape)}")
        self.tensor = tensor

    def to(self, device: torch.device) -> ROIMasks:
        return ROIMasks(self.tensor.to(device))

    @property
    def device(self) -> torch.device:
        return self.tensor.device

    def __len__(self) -> int:
        return self.tensor.shape[0]

    def __getitem__(self, item) -> ROIMasks:
        picked = self.tensor[item]
        return ROIMasks(picked)

    def __repr__(self) -> str:
        return f"ROIMasks(num_instances={len(self)})"

    def to_bitmasks(self, boxes: Tensor, height, width, threshold=0.5) -> BitMasks:
        """Paste into images of the given size at boxes (N, 4); a pixel belongs to the mask from `threshold` on."""
        return BitMasks(paste_masks_in_image(self.tensor, boxes, (height, width), threshold=threshold))
