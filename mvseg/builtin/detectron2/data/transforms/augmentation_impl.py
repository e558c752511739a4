"""The random policies. They draw from numpy's global generator."""

# ruff: noqa: I001

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from fvcore.transforms.transform import BlendTransform, CropTransform, HFlipTransform, NoOpTransform, PadTransform
from fvcore.transforms.transform import Transform, TransformList, VFlipTransform
from PIL import Image

from ..._missing import module_getattr
from .augmentation import AugInput, Augmentation, _transform_to_aug
from .transform import ResizeTransform

# BT.601 luma of R, G, B.
_LUMA = (0.299, 0.587, 0.114)

__getattr__ = module_getattr(__name__)


def _require(choice: str, choices: Sequence[str], what: str) -> None:
    if choice not in choices:
        raise AssertionError(f"{what} must be one of {', '.join(choices)}, not {choice!r}")


class FixedSizeCrop(Augmentation):
    """Crop at a random place to at most crop_size (height, width), then pad below and right up to it."""

    def __init__(
        self, crop_size: tuple[int, int], pad: bool = True, pad_value: float = 128.0, seg_pad_value: int = 255
    ) -> None:
        super().__init__()
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> TransformList:
        """Draw the place of the crop."""
        size = np.array(image.shape[:2])
        # One draw for both axes, as everywhere this policy is used for published numbers.
        top, left = np.round(np.maximum(size - self.crop_size, 0) * np.random.uniform(0.0, 1.0)).astype(int).tolist()
        height, width = np.minimum(self.crop_size, size).tolist()
        steps = [CropTransform(left, top, width, height, image.shape[1], image.shape[0])]
        if self.pad:
            below, right = np.subtract(self.crop_size, (height, width))
            steps.append(PadTransform(0, 0, right, below, width, height, self.pad_value, self.seg_pad_value))
        return TransformList(steps)


class RandomCrop(Augmentation):
    """Crop at a random place.

    The size is a share of the image ("relative"), a random share of at least crop_size ("relative_range"),
    a number of pixels ("absolute"), or a random number of pixels between the two values ("absolute_range").
    """

    def __init__(self, crop_type: str, crop_size: tuple[float, float]) -> None:
        super().__init__()
        _require(crop_type, ("relative_range", "relative", "absolute", "absolute_range"), "RandomCrop: crop_type")
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        """Draw size, then place."""
        height, width = image.shape[:2]
        crop_h, crop_w = self.get_crop_size((height, width))
        if crop_h > height or crop_w > width:
            raise AssertionError(f"RandomCrop: a crop of {crop_h} x {crop_w} does not fit into {height} x {width}")
        top = np.random.randint(height - crop_h + 1)
        left = np.random.randint(width - crop_w + 1)
        return CropTransform(left, top, crop_w, crop_h)

    def get_crop_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Draw the (height, width) of the crop for an image of (height, width)."""
        first, second = self.crop_size
        height, width = image_size
        if self.crop_type == "absolute":
            return min(first, height), min(second, width)
        if self.crop_type == "absolute_range":
            return tuple(np.random.randint(min(side, first), min(side, second) + 1) for side in image_size)
        share = np.asarray(self.crop_size, dtype=np.float32)
        if self.crop_type == "relative_range":
            share = share + np.random.rand(2) * (1 - share)
        return int(height * share[0] + 0.5), int(width * share[1] + 0.5)


class RandomCrop_CategoryAreaConstraint(Augmentation):
    """RandomCrop that tries up to ten times for a crop in which no category fills more than a share of the pixels."""

    def __init__(self, crop_type, crop_size, single_category_max_area=1.0, ignored_category=None) -> None:
        self.crop_aug = RandomCrop(crop_type, crop_size)
        self._init(locals())

    def _is_varied(self, labels: np.ndarray) -> bool:
        values, counts = np.unique(labels, return_counts=True)
        if self.ignored_category is not None:
            counts = counts[values != self.ignored_category]
        return len(counts) > 1 and counts.max() < counts.sum() * self.single_category_max_area

    def get_transform(self, image: np.ndarray, sem_seg: np.ndarray) -> Transform:
        """Draw crops until one is varied; keep the last one otherwise."""
        if self.single_category_max_area >= 1.0:
            return self.crop_aug.get_transform(image)
        height, width = sem_seg.shape
        for _ in range(10):
            crop_h, crop_w = self.crop_aug.get_crop_size((height, width))
            top = np.random.randint(height - crop_h + 1)
            left = np.random.randint(width - crop_w + 1)
            if self._is_varied(sem_seg[top : top + crop_h, left : left + crop_w]):
                break
        return CropTransform(left, top, crop_w, crop_h)


class RandomApply(Augmentation):
    """Another policy with probability prob, else nothing."""

    def __init__(self, tfm_or_aug: Augmentation | Transform, prob: float = 0.5) -> None:
        if not 0.0 <= prob <= 1.0:
            raise AssertionError(f"RandomApply: prob must lie in [0, 1], not {prob}")
        self.aug, self.prob = _transform_to_aug(tfm_or_aug), prob

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

    def __init__(self, short_edge_length, max_size=sys.maxsize, sample_style="range", interp=Image.BILINEAR) -> None:
        super().__init__()
        _require(sample_style, ("range", "choice"), "ResizeShortestEdge: sample_style")
        short_edge_length = (short_edge_length,) * 2 if isinstance(short_edge_length, int) else short_edge_length
        self.is_range = sample_style == "range"
        if self.is_range and len(short_edge_length) != 2:
            raise AssertionError(f"ResizeShortestEdge: a range is (low, high), not {short_edge_length}")
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        """Draw a length and keep the aspect ratio."""
        height, width = image.shape[:2]
        edges = self.short_edge_length
        edge = np.random.randint(edges[0], edges[1] + 1) if self.is_range else np.random.choice(edges)
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

    def get_transform(self, image: np.ndarray) -> Transform:
        """Draw the multiple."""
        size, scale = np.array(image.shape[:2]), np.random.uniform(self.min_scale, self.max_scale)
        target = np.multiply((self.target_height, self.target_width), scale)
        new_size = np.round(np.multiply(size, np.min(target / size))).astype(int)
        return ResizeTransform(*image.shape[:2], *new_size.tolist(), self.interp)


class RandomResize(Augmentation):
    """Resize to one of several (height, width)."""

    def __init__(self, shape_list: Sequence[tuple[int, int]], interp: int = Image.BILINEAR) -> None:
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        """Draw a shape."""
        height, width = self.shape_list[np.random.randint(low=0, high=len(self.shape_list))]
        return ResizeTransform(*image.shape[:2], height, width, self.interp)


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
