"""Deterministic transforms that fvcore does not have: PIL resize, and colour."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from fvcore.transforms.transform import NoOpTransform, Transform
from PIL import Image

_TORCH_MODES = {Image.NEAREST: "nearest", Image.BILINEAR: "bilinear", Image.BICUBIC: "bicubic"}


class _PrintedTransform(Transform):
    """Transform whose repr shows the constructor arguments that are not at their default."""

    def __repr__(self) -> str:
        _, *parameters = inspect.signature(type(self).__init__).parameters.values()
        values = [(p.name, getattr(self, p.name)) for p in parameters if getattr(self, p.name) is not p.default]
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in values)})"


def _interpolate(array: np.ndarray, size: tuple[int, int], mode: str) -> np.ndarray:
    """Resize an array of a type that PIL cannot take, shape (H, W) or (H, W, C), through torch."""
    channels_last = array.reshape(*array.shape[:2], -1)
    batch = torch.from_numpy(np.ascontiguousarray(channels_last.transpose(2, 0, 1)))[None]
    exact = batch if batch.is_floating_point() else batch.double()
    result = F.interpolate(exact, size, mode=mode, align_corners=None if mode == "nearest" else False)
    return result[0].permute(1, 2, 0).numpy().astype(array.dtype).reshape(*size, *array.shape[2:])


class ResizeTransform(_PrintedTransform):
    """Resize an image of h x w to new_h x new_w."""

    def __init__(self, h: int, w: int, new_h: int, new_w: int, interp: int | None = None) -> None:
        super().__init__()
        self.h, self.w, self.new_h, self.new_w = h, w, new_h, new_w
        self.interp = Image.BILINEAR if interp is None else interp

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        """Resize; uint8 goes through PIL (antialiased), everything else through torch (not antialiased)."""
        if img.shape[:2] != (self.h, self.w):
            raise AssertionError(f"ResizeTransform made for {self.h} x {self.w} got an image of {img.shape[:2]}")
        interp = self.interp if interp is None else interp
        if img.dtype == np.uint8:
            # PIL itself would refuse a channel axis of length 1.
            single = img.ndim == 3 and img.shape[2] == 1
            image = Image.fromarray(img[:, :, 0] if single else img).resize((self.new_w, self.new_h), interp)
            return np.asarray(image)[:, :, None] if single else np.asarray(image)
        return _interpolate(img, (self.new_h, self.new_w), _TORCH_MODES[interp])

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """Scale x and y, shape (N, 2); in place where they are floats."""
        if not np.issubdtype(coords.dtype, np.floating):
            coords = coords.astype(float)
        coords[:, 0] *= self.new_w * 1.0 / self.w
        coords[:, 1] *= self.new_h * 1.0 / self.h
        return coords

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """Resize without mixing labels."""
        return self.apply_image(segmentation, interp=Image.NEAREST)

    def inverse(self) -> ResizeTransform:
        """Resize back to h x w."""
        return ResizeTransform(self.new_h, self.new_w, self.h, self.w, self.interp)


class ColorTransform(_PrintedTransform):
    """Any function from image array to image array; geometry stays."""

    def __init__(self, op: Callable[[np.ndarray], np.ndarray]) -> None:
        if not callable(op):
            raise ValueError(f"{type(self).__name__} needs a function of an image, not {type(op).__name__}")
        super().__init__()
        self.op = op

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        """Change the colours."""
        return self.op(img)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """Leave coordinates alone."""
        return coords

    apply_segmentation = apply_coords

    def inverse(self) -> Transform:
        """Undo the geometry, of which there is none."""
        return NoOpTransform()


class PILColorTransform(ColorTransform):
    """As ColorTransform, with a function of PIL images (ImageEnhance, ImageOps)."""

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        """Change the colours through PIL."""
        return np.asarray(self.op(Image.fromarray(img)))
