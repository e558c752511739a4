"""The random policies (crops in _crops.py). They draw from numpy's global generator."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from fvcore.transforms.transform import (
    BlendTransform,
    HFlipTransform,
    NoOpTransform,
    Transform,
    VFlipTransform,
)
from PIL import Image

from ._crops import FixedSizeCrop, MinIoURandomCrop, RandomCrop, RandomCrop_CategoryAreaConstraint, _require
from .augmentation import AugInput, Augmentation, _transform_to_aug
from .transform import ExtentTransform, ResizeTransform, RotationTransform

__all__ = [
    "FixedSizeCrop",
    "MinIoURandomCrop",
    "RandomApply",
    "RandomBrightness",
    "RandomContrast",
    "RandomCrop",
    "RandomCrop_CategoryAreaConstraint",
    "RandomExtent",
    "RandomFlip",
    "RandomLighting",
    "RandomResize",
    "RandomRotation",
    "RandomSaturation",
    "Resize",
    "ResizeScale",
    "ResizeShortestEdge",
]

# BT.601 luma of R, G, B.
_LUMA = (0.299, 0.587, 0.114)
# Principal components of RGB over ImageNet (AlexNet paper, as published with fb.resnet.torch).
_RGB_AXES = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))
_RGB_VARIANCES = (0.2175, 0.0188, 0.0045)


class RandomApply(Augmentation):
    """Another policy with probability prob, else nothing."""

    def __init__(self, tfm_or_aug: Augmentation | Transform, prob: float = 0.5) -> None:
        if not 0.0 <= prob <= 1.0:
            raise AssertionError(f"RandomApply: prob must lie in [0, 1], not {prob}")
        self.aug = _transform_to_aug(tfm_or_aug)
        self.prob = prob

    def get_transform(self, *args: Any) -> Transform:
        """Toss the coin, then ask the policy."""
        return self.aug.get_transform(*args) if self._rand_range() < self.prob else NoOpTransform()

    def __call__(self, aug_input: AugInput) -> Transform:
        """Toss the coin, then run the policy."""
        return self.aug(aug_input) if self._rand_range() < self.prob else NoOpTransform()


class RandomFlip(Augmentation):
    """Mirror with probability prob, horizontally or vertically."""

    def __init__(self, prob: float = 0.5, *, horizontal: bool = True, vertical: bool = False) -> None:
        super().__init__()
        if horizontal == vertical:
            raise ValueError("RandomFlip mirrors one way: choose horizontal or vertical, and use two of them for both")
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        """Toss the coin."""
        height, width = image.shape[:2]
        if self._rand_range() >= self.prob:
            return NoOpTransform()
        return HFlipTransform(width) if self.horizontal else VFlipTransform(height)


class Resize(Augmentation):
    """Resize to a fixed (height, width), or to a square."""

    def __init__(self, shape: int | Sequence[int], interp: int = Image.BILINEAR) -> None:
        shape = (shape, shape) if isinstance(shape, int) else tuple(shape)
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        """Make the resize."""
        return ResizeTransform(*image.shape[:2], *self.shape, self.interp)


class ResizeShortestEdge(Augmentation):
    """Scale so that the short edge gets a random length, and the long edge stays below max_size."""

    def __init__(
        self,
        short_edge_length: int | Sequence[int],
        max_size: int = sys.maxsize,
        sample_style: str = "range",
        interp: int = Image.BILINEAR,
    ) -> None:
        super().__init__()
        _require(sample_style, ("range", "choice"), "ResizeShortestEdge: sample_style")
        if isinstance(short_edge_length, int):
            short_edge_length = (short_edge_length, short_edge_length)
        self.is_range = sample_style == "range"
        if self.is_range and len(short_edge_length) != 2:
            raise AssertionError(f"ResizeShortestEdge: a range is (low, high), not {short_edge_length}")
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        """Draw a length and keep the aspect ratio."""
        height, width = image.shape[:2]
        if self.is_range:
            low, high = self.short_edge_length
            edge = np.random.randint(low, high + 1)
        else:
            edge = np.random.choice(self.short_edge_length)
        if edge == 0:
            return NoOpTransform()
        return ResizeTransform(height, width, *self.get_output_shape(height, width, edge, self.max_size), self.interp)

    @staticmethod
    def get_output_shape(oldh: int, oldw: int, short_edge_length: int, max_size: int) -> tuple[int, int]:
        """Compute (height, width) after scaling the short edge to short_edge_length, long edge at most max_size."""
        short, long = float(short_edge_length), max(oldh, oldw) * (short_edge_length * 1.0 / min(oldh, oldw))
        if long > max_size:
            shrink = max_size * 1.0 / long
            short, long = short * shrink, long * shrink
        short, long = int(short + 0.5), int(long + 0.5)
        return (short, long) if oldh < oldw else (long, short)


class ResizeScale(Augmentation):
    """Fit the image into a random multiple of the target size (large-scale jitter); usually before FixedSizeCrop."""

    def __init__(
        self, min_scale: float, max_scale: float, target_height: int, target_width: int, interp: int = Image.BILINEAR
    ) -> None:
        super().__init__()
        self._init(locals())

    def _get_resize(self, image: np.ndarray, scale: float) -> Transform:
        size = np.array(image.shape[:2])
        target = np.multiply((self.target_height, self.target_width), scale)
        new_size = np.round(np.multiply(size, np.min(target / size))).astype(int)
        return ResizeTransform(*image.shape[:2], int(new_size[0]), int(new_size[1]), self.interp)

    def get_transform(self, image: np.ndarray) -> Transform:
        """Draw the multiple."""
        return self._get_resize(image, np.random.uniform(self.min_scale, self.max_scale))


class RandomResize(Augmentation):
    """Resize to one of several (height, width)."""

    def __init__(self, shape_list: Sequence[tuple[int, int]], interp: int = Image.BILINEAR) -> None:
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        """Draw a shape."""
        height, width = self.shape_list[np.random.randint(low=0, high=len(self.shape_list))]
        return ResizeTransform(*image.shape[:2], height, width, self.interp)


class RandomRotation(Augmentation):
    """Rotate by a random angle (degrees, counter-clockwise) about a random centre (shares of width and height)."""

    def __init__(
        self,
        angle: float | Sequence[float],
        expand: bool = True,
        center: Sequence[Any] | None = None,
        sample_style: str = "range",
        interp: int | None = None,
    ) -> None:
        super().__init__()
        _require(sample_style, ("range", "choice"), "RandomRotation: sample_style")
        self.is_range = sample_style == "range"
        if isinstance(angle, (float, int)):
            angle = (angle, angle)
        if center is not None and isinstance(center[0], (float, int)):
            center = (center, center)
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        """Draw angle and centre."""
        if self.is_range:
            angle, center = np.random.uniform(*self.angle), None
            if self.center is not None:
                center = [np.random.uniform(low, high) for low, high in zip(*self.center)]
        else:
            angle, center = np.random.choice(self.angle), self.center
            if center is not None:
                center = center[np.random.choice(len(center))]
        if angle % 360 == 0:
            return NoOpTransform()
        height, width = image.shape[:2]
        middle = None if center is None else (width * center[0], height * center[1])
        return RotationTransform(height, width, angle, expand=self.expand, center=middle, interp=self.interp)


class RandomExtent(Augmentation):
    """Cut out a rectangle of random scale and shift (both relative to the image); it may reach outside."""

    def __init__(self, scale_range: tuple[float, float], shift_range: tuple[float, float]) -> None:
        super().__init__()
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        """Draw scale, then the two shifts."""
        height, width = image.shape[:2]
        size = np.array([width, height], dtype=float)
        half = 0.5 * size * np.random.uniform(*self.scale_range)
        shift = np.array([share * side * (np.random.rand() - 0.5) for share, side in zip(self.shift_range, size)])
        middle = shift + 0.5 * size
        rectangle = np.concatenate([middle - half, middle + half])
        output_size = (int(rectangle[3] - rectangle[1]), int(rectangle[2] - rectangle[0]))
        return ExtentTransform(src_rect=tuple(rectangle), output_size=output_size)


class _RandomIntensity(Augmentation):
    """What contrast, brightness and saturation share: blending with something by a weight from a range."""

    def __init__(self, intensity_min: float, intensity_max: float) -> None:
        super().__init__()
        self._init(locals())

    def _blend(self, other: Any) -> Transform:
        weight = np.random.uniform(self.intensity_min, self.intensity_max)
        return BlendTransform(src_image=other, src_weight=1 - weight, dst_weight=weight)


class RandomContrast(_RandomIntensity):
    """Blend with the mean value; below 1 lowers the contrast."""

    def get_transform(self, image: np.ndarray) -> Transform:
        """Draw the weight."""
        return self._blend(image.mean())


class RandomBrightness(_RandomIntensity):
    """Blend with black; below 1 darkens."""

    def get_transform(self, image: np.ndarray) -> Transform:
        """Draw the weight."""
        return self._blend(0)


class RandomSaturation(_RandomIntensity):
    """Blend an RGB image with its grey version; below 1 lowers the saturation."""

    def get_transform(self, image: np.ndarray) -> Transform:
        """Draw the weight."""
        if image.shape[-1] != 3:
            raise AssertionError(f"RandomSaturation needs an RGB image, not one of shape {image.shape}")
        return self._blend(image.dot(_LUMA)[:, :, np.newaxis])


class RandomLighting(Augmentation):
    """Shift an RGB image along the principal colour axes of ImageNet by normally distributed amounts."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self._init(locals())
        self.eigen_vecs = np.array(_RGB_AXES)
        self.eigen_vals = np.array(_RGB_VARIANCES)

    def get_transform(self, image: np.ndarray) -> Transform:
        """Draw the three weights."""
        if image.shape[-1] != 3:
            raise AssertionError(f"RandomLighting needs an RGB image, not one of shape {image.shape}")
        weights = np.random.normal(scale=self.scale, size=3)
        return BlendTransform(self.eigen_vecs.dot(weights * self.eigen_vals), src_weight=1.0, dst_weight=1.0)
