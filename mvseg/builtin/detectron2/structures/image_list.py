"""A batch of images of different sizes in one padded tensor."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class ImageList:
    """Padded images `tensor` (N, ..., H, W), with the size (height, width) of each before padding in `image_sizes`."""

    def __init__(self, tensor: Tensor, image_sizes: list[tuple[int, int]]):
        self.tensor, self.image_sizes = tensor, image_sizes

    def __len__(self) -> int:
        return len(self.image_sizes)

    def __getitem__(self, idx: int) -> Tensor:
        """One image without its padding."""
        height, width = self.image_sizes[idx]
        return self.tensor[idx, ..., :height, :width]

    def to(self, *args: Any, **kwargs: Any) -> ImageList:
        return ImageList(self.tensor.to(*args, **kwargs), self.image_sizes)

    @property
    def device(self) -> torch.device:
        return self.tensor.device

    @staticmethod
    def from_tensors(tensors, size_divisibility=0, pad_value=0.0, padding_constraints=None) -> ImageList:
        """Pad images at the right and bottom to one size.

        Args:
            tensors: images (..., h, w) that agree in all dimensions but the last two.
            size_divisibility: the common height and width become multiples of it (0 and 1: any size).
            pad_value: what the padding holds.
            padding_constraints: a backbone's wishes: "size_divisibility" (wins over the argument) and
                "square_size" (> 0: exactly this height and width).

        Returns:
            The batch; its tensor is contiguous and has the dtype of the first image.
        """
        if not isinstance(tensors, (list, tuple)) or len({image.shape[:-2] for image in tensors}) != 1:
            raise AssertionError("ImageList.from_tensors needs a list of images that agree in their channels")
        constraints = padding_constraints or {}
        sizes = [(image.shape[-2], image.shape[-1]) for image in tensors]
        height, width = (max(side) for side in zip(*sizes))
        if constraints.get("square_size", 0) > 0:
            height = width = constraints["square_size"]
        multiple = max(constraints.get("size_divisibility", size_divisibility), 1)
        height, width = (-(-side // multiple) * multiple for side in (height, width))

        batch = tensors[0].new_full((len(tensors), *tensors[0].shape[:-2], height, width), pad_value)
        for slot, image, (image_height, image_width) in zip(batch, tensors, sizes):
            slot[..., :image_height, :image_width].copy_(image)
        return ImageList(batch, sizes)
