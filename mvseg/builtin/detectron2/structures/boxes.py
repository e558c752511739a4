"""Axis-aligned boxes: one tensor with small methods, conversion between the usual notations, and pairwise overlaps."""

from __future__ import annotations

from enum import IntEnum, unique

import numpy as np
import torch
from torch import Tensor

from .._missing import missing


@unique
class BoxMode(IntEnum):
    """How the four (or five) numbers of a box are meant."""

    XYXY_ABS = 0  # two corners, pixels
    XYWH_ABS = 1  # left top corner and size, pixels
    XYXY_REL = 2  # two corners as shares of the image size
    XYWH_REL = 3
    XYWHA_ABS = 4  # centre, size, degrees counter-clockwise

    @staticmethod
    def convert(box, from_mode: BoxMode, to_mode: BoxMode):
        """Rewrite boxes in another notation.

        Args:
            box: one box (list or tuple of 4 or 5 numbers) or an (N, 4 or 5) array or tensor.
            from_mode: notation of `box`.
            to_mode: notation wanted.

        Returns:
            The boxes in the container type that came in; the input is not changed.
        """
        if from_mode == to_mode:
            return box
        signs = {(BoxMode.XYWH_ABS, BoxMode.XYXY_ABS): 1, (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS): -1}
        if (from_mode, to_mode) not in signs:
            if {from_mode, to_mode} & {BoxMode.XYXY_REL, BoxMode.XYWH_REL}:
                raise AssertionError("Relative boxes need the image size, which BoxMode.convert does not know")
            raise missing(f"structures.BoxMode.convert from {from_mode!r} to {to_mode!r}")
        values = box.clone() if isinstance(box, Tensor) else torch.tensor(box)
        if values.shape[-1:] != (4,):
            raise AssertionError(f"A box in mode {BoxMode(from_mode).name} is 4 numbers long: {box!r}")
        values[..., 2:] += signs[from_mode, to_mode] * values[..., :2]
        if isinstance(box, (list, tuple)):
            return type(box)(values.tolist())
        return values.numpy() if isinstance(box, np.ndarray) else values


class Boxes:
    """(N, 4) float32 corners (x0, y0, x1, y1) in pixels, with what detectors ask of them."""

    def __init__(self, tensor: Tensor):
        tensor = torch.as_tensor(tensor, dtype=torch.float32)
        if tensor.numel() == 0:
            tensor = tensor.reshape(-1, 4)
        if tensor.dim() != 2 or tensor.shape[1] != 4:
            raise AssertionError(f"Boxes are an (N, 4) tensor, not {tuple(tensor.shape)}")
        self.tensor = tensor

    def clone(self) -> Boxes:
        return Boxes(self.tensor.clone())

    def to(self, device: torch.device) -> Boxes:
        return Boxes(self.tensor.to(device=device))

    def area(self) -> Tensor:
        """(N,) areas in square pixels."""
        return (self.tensor[:, 2:] - self.tensor[:, :2]).prod(dim=1)

    def clip(self, box_size: tuple[int, int]) -> None:
        """Move all corners into an image of size (height, width), in place."""
        if not torch.isfinite(self.tensor).all():
            raise AssertionError("Cannot clip boxes: they contain inf or nan")
        height, width = box_size
        self.tensor = self.tensor.clamp(min=0).minimum(self.tensor.new_tensor((width, height) * 2))

    def nonempty(self, threshold: float = 0.0) -> Tensor:
        """(N,) bool: both sides are longer than `threshold`."""
        return (self.tensor[:, 2:] - self.tensor[:, :2] > threshold).all(dim=1)

    def __getitem__(self, item) -> Boxes:
        """Boxes at an index, slice, bool mask or index tensor; an integer gives one box, still as (1, 4)."""
        picked = self.tensor[item][None] if isinstance(item, int) else self.tensor[item]
        return Boxes(picked)

    def __len__(self) -> int:
        return len(self.tensor)

    def __repr__(self) -> str:
        return f"Boxes({self.tensor})"

    def inside_box(self, box_size: tuple[int, int], boundary_threshold: int = 0) -> Tensor:
        """(N,) bool: the box leaves an image of size (height, width) by less than the threshold on every side."""
        height, width = box_size
        limit = self.tensor.new_tensor((width, height)) + boundary_threshold
        return (self.tensor[:, :2] >= -boundary_threshold).all(dim=1) & (self.tensor[:, 2:] < limit).all(dim=1)

    def get_centers(self) -> Tensor:
        """(N, 2) centres as (x, y)."""
        return (self.tensor[:, :2] + self.tensor[:, 2:]) / 2

    def scale(self, scale_x: float, scale_y: float) -> None:
        """Multiply the coordinates, in place."""
        self.tensor[:, 0::2] *= scale_x
        self.tensor[:, 1::2] *= scale_y

    @classmethod
    def cat(cls, boxes_list: list[Boxes]) -> Boxes:
        """All boxes of a list in one."""
        return cls(torch.cat([boxes.tensor for boxes in boxes_list]) if boxes_list else torch.empty(0, 4))

    @property
    def device(self) -> torch.device:
        return self.tensor.device

    def __iter__(self):
        """Yield (4,) tensors."""
        yield from self.tensor


def pairwise_intersection(boxes1: Boxes, boxes2: Boxes) -> Tensor:
    """(N, M) intersection areas of all pairs."""
    first, second = boxes1.tensor[:, None], boxes2.tensor[None]
    overlap = torch.minimum(first[..., 2:], second[..., 2:]) - torch.maximum(first[..., :2], second[..., :2])
    return overlap.clamp(min=0).prod(dim=-1)


def pairwise_iou(boxes1: Boxes, boxes2: Boxes) -> Tensor:
    """(N, M) intersection over union of all pairs; 0 where the boxes do not meet."""
    intersection = pairwise_intersection(boxes1, boxes2)
    return _share(intersection, boxes1.area()[:, None] + boxes2.area() - intersection)


def pairwise_ioa(boxes1: Boxes, boxes2: Boxes) -> Tensor:
    """(N, M) intersection over the area of the second box."""
    return _share(pairwise_intersection(boxes1, boxes2), boxes2.area()[None])


def _share(intersection: Tensor, whole: Tensor) -> Tensor:
    # Boxes without area make 0 / 0; they overlap nothing.
    return torch.where(intersection > 0, intersection / whole, torch.zeros_like(intersection))


def pairwise_point_box_distance(points: Tensor, boxes: Boxes) -> Tensor:
    """(P, N, 4) distances of points (P, 2) to the left, top, right and bottom edge; all positive inside the box."""
    points = points[:, None]
    return torch.cat((points - boxes.tensor[:, :2], boxes.tensor[:, 2:] - points), dim=-1)
