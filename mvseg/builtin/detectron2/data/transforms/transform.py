"""Deterministic transforms that fvcore does not have: PIL resize, extent, rotation, colour."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from fvcore.transforms.transform import CropTransform, Transform, TransformList
from PIL import Image

__all__ = ["ColorTransform", "ExtentTransform", "PILColorTransform", "ResizeTransform", "RotationTransform"]

_TORCH_MODES = {Image.NEAREST: "nearest", Image.BILINEAR: "bilinear", Image.BICUBIC: "bicubic"}


class _PrintedTransform(Transform):
    """Transform whose repr shows the constructor arguments that are not at their default."""

    def __repr__(self) -> str:
        shown = []
        for name, parameter in inspect.signature(type(self).__init__).parameters.items():
            if name == "self":
                continue
            value = getattr(self, name)
            same = value is parameter.default or (np.isscalar(value) and value == parameter.default)
            if not same:
                shown.append(f"{name}={value!r}")
        return f"{type(self).__name__}({', '.join(shown)})"


def _pil_with_channels(array: np.ndarray, operation: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    """Run a PIL operation on an (H, W) or (H, W, C) uint8 array; PIL itself would refuse a channel axis of length 1."""
    single = array.ndim == 3 and array.shape[2] == 1
    result = np.asarray(operation(Image.fromarray(array[:, :, 0] if single else array)))
    return result[:, :, None] if single else result


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
        self._set_attributes(
            {"h": h, "w": w, "new_h": new_h, "new_w": new_w, "interp": Image.BILINEAR if interp is None else interp}
        )

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        """Resize; uint8 goes through PIL (antialiased), everything else through torch (not antialiased)."""
        if img.shape[:2] != (self.h, self.w):
            raise AssertionError(f"ResizeTransform made for {self.h} x {self.w} got an image of {img.shape[:2]}")
        interp = self.interp if interp is None else interp
        if img.dtype == np.uint8:
            return _pil_with_channels(img, lambda image: image.resize((self.new_w, self.new_h), interp))
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


class ExtentTransform(_PrintedTransform):
    """Cut out the rectangle src_rect = (x0, y0, x1, y1), also beyond its edges, and scale it to output_size (h, w)."""

    def __init__(
        self, src_rect: Any, output_size: tuple[int, int], interp: int = Image.BILINEAR, fill: int = 0
    ) -> None:
        super().__init__()
        self._set_attributes({"src_rect": src_rect, "output_size": output_size, "interp": interp, "fill": fill})

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        """Sample the rectangle; outside the image stands the fill value."""
        height, width = self.output_size
        resample = self.interp if interp is None else interp
        return _pil_with_channels(
            img,
            lambda image: image.transform(
                (width, height), Image.Transform.EXTENT, data=self.src_rect, resample=resample, fill=self.fill
            ),
        )

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """Move coordinates into the frame of the rectangle."""
        left, top, right, bottom = self.src_rect
        height, width = self.output_size
        coords = coords.astype("float32")
        coords -= np.array([left, top], dtype=float)
        coords *= np.array([width / (right - left), height / (bottom - top)])
        return coords

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """Sample labels without mixing them."""
        return self.apply_image(segmentation, interp=Image.NEAREST)


class RotationTransform(_PrintedTransform):
    """Rotate counter-clockwise by an angle in degrees; with expand the canvas grows to hold the whole image."""

    def __init__(
        self,
        h: int,
        w: int,
        angle: float,
        expand: bool = True,
        center: Any = None,
        interp: int | None = None,
    ) -> None:
        super().__init__()
        middle = np.array((w / 2, h / 2))
        cosine, sine = np.abs([np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))])
        bound_w, bound_h = np.rint([w * cosine + h * sine, w * sine + h * cosine]).astype(int) if expand else (w, h)
        self._set_attributes(
            {
                "h": h,
                "w": w,
                "angle": angle,
                "expand": expand,
                "center": middle if center is None else center,
                "interp": cv2.INTER_LINEAR if interp is None else interp,
                "image_center": middle,
                "abs_cos": cosine,
                "abs_sin": sine,
                "bound_w": bound_w,
                "bound_h": bound_h,
            }
        )
        self.rm_coords = self.create_rotation_matrix()
        # OpenCV places pixel centres on integers, coordinates here place them on halves.
        self.rm_image = self.create_rotation_matrix(offset=-0.5)

    def create_rotation_matrix(self, offset: float = 0) -> np.ndarray:
        """Return the 2 x 3 matrix of the rotation about the centre, moved so that the picture fills the new canvas."""
        center = (float(self.center[0] + offset), float(self.center[1] + offset))
        matrix = cv2.getRotationMatrix2D(center, self.angle, 1)
        if self.expand:
            moved_center = matrix @ np.append(self.image_center + offset, 1.0)
            canvas_center = np.array([self.bound_w / 2, self.bound_h / 2]) + offset
            matrix[:, 2] += canvas_center - moved_center
        return matrix

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        """Rotate the pixels; corners that come from outside are 0."""
        if len(img) == 0 or self.angle % 360 == 0:
            return img
        if img.shape[:2] != (self.h, self.w):
            raise AssertionError(f"RotationTransform made for {self.h} x {self.w} got an image of {img.shape[:2]}")
        flags = self.interp if interp is None else interp
        return cv2.warpAffine(img, self.rm_image, (int(self.bound_w), int(self.bound_h)), flags=flags)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """Rotate points, shape (N, 2)."""
        coords = np.asarray(coords, dtype=float)
        if len(coords) == 0 or self.angle % 360 == 0:
            return coords
        return coords @ self.rm_coords[:, :2].T + self.rm_coords[:, 2]

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """Rotate labels without mixing them."""
        return self.apply_image(segmentation, interp=cv2.INTER_NEAREST)

    def inverse(self) -> TransformList:
        """Rotate back and cut off the border that both expansions have added."""
        if not self.expand:
            raise NotImplementedError("a rotation with expand=False loses corners and has no inverse")
        back = RotationTransform(self.bound_h, self.bound_w, -self.angle, True, None, self.interp)
        crop = CropTransform((back.bound_w - self.w) // 2, (back.bound_h - self.h) // 2, self.w, self.h)
        return TransformList([back, crop])


class ColorTransform(_PrintedTransform):
    """Any function from image array to image array; geometry stays."""

    def __init__(self, op: Callable[[np.ndarray], np.ndarray]) -> None:
        if not callable(op):
            raise ValueError(f"{type(self).__name__} needs a function of an image, not {type(op).__name__}")
        super().__init__()
        self._set_attributes({"op": op})

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        """Change the colours."""
        return self.op(img)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """Leave coordinates alone."""
        return coords

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """Leave labels alone."""
        return segmentation

    def inverse(self) -> Transform:
        """Undo the geometry, of which there is none."""
        from fvcore.transforms.transform import NoOpTransform

        return NoOpTransform()


class PILColorTransform(ColorTransform):
    """As ColorTransform, with a function of PIL images (ImageEnhance, ImageOps)."""

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        """Change the colours through PIL."""
        return np.asarray(self.op(Image.fromarray(img)))
