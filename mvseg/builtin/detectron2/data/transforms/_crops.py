"""The random crops."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from fvcore.transforms.transform import CropTransform, NoOpTransform, PadTransform, Transform, TransformList

from .augmentation import Augmentation


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

    def _get_crop(self, image: np.ndarray) -> Transform:
        size = np.array(image.shape[:2])
        slack = np.maximum(size - self.crop_size, 0)
        # One draw for both axes, as everywhere this policy is used for published numbers.
        top, left = np.round(slack * np.random.uniform(0.0, 1.0)).astype(int)
        height, width = np.minimum(self.crop_size, size)
        return CropTransform(int(left), int(top), int(width), int(height), int(size[1]), int(size[0]))

    def _get_pad(self, image: np.ndarray) -> Transform:
        size = np.array(image.shape[:2])
        below, right = np.maximum(np.subtract(self.crop_size, size), 0)
        kept = np.minimum(self.crop_size, size)
        return PadTransform(0, 0, right, below, kept[1], kept[0], self.pad_value, self.seg_pad_value)

    def get_transform(self, image: np.ndarray) -> TransformList:
        """Draw the place of the crop."""
        steps = [self._get_crop(image)]
        if self.pad:
            steps.append(self._get_pad(image))
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

    def __init__(
        self,
        crop_type: str,
        crop_size: tuple[float, float],
        single_category_max_area: float = 1.0,
        ignored_category: int | None = None,
    ) -> None:
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


class MinIoURandomCrop(Augmentation):
    """The crop of SSD: every box overlaps the crop by at least a randomly chosen IoU, and one box centre lies inside.

    Source: Liu et al., SSD, ECCV 2016, section 2.2 (data augmentation).
    """

    def __init__(
        self,
        min_ious: Sequence[float] = (0.1, 0.3, 0.5, 0.7, 0.9),
        min_crop_size: float = 0.3,
        mode_trials: int = 1000,
        crop_trials: int = 50,
    ) -> None:
        self.min_ious = min_ious
        self.sample_mode = (1, *min_ious, 0)  # 1: the whole image, 0: any overlap
        self.min_crop_size = min_crop_size
        self.mode_trials = mode_trials
        self.crop_trials = crop_trials

    def get_transform(self, image: np.ndarray, boxes: np.ndarray | None) -> Transform:
        """Draw an overlap and try crops for it; another overlap if none fits."""
        if boxes is None:
            return NoOpTransform()
        for _ in range(self.mode_trials):
            min_iou = np.random.choice(self.sample_mode)
            if min_iou == 1:
                return NoOpTransform()
            for _ in range(self.crop_trials):
                crop = self._try_crop(image.shape[:2], np.asarray(boxes), min_iou)
                if crop is not None:
                    return crop
        return NoOpTransform()

    def _try_crop(self, size: tuple[int, int], boxes: np.ndarray, min_iou: float) -> Transform | None:
        height, width = size
        crop_w = np.random.uniform(self.min_crop_size * width, width)
        crop_h = np.random.uniform(self.min_crop_size * height, height)
        if not 0.5 <= crop_h / crop_w <= 2:
            return None
        left, top = np.random.uniform(width - crop_w), np.random.uniform(height - crop_h)
        patch = np.array((int(left), int(top), int(left + crop_w), int(top + crop_h)))
        if patch[2] == patch[0] or patch[3] == patch[1]:
            return None
        if len(boxes):
            if _iou_with(patch, boxes).min() < min_iou:
                return None
            centers = (boxes[:, :2] + boxes[:, 2:]) / 2
            if not ((centers > patch[:2]) & (centers < patch[2:])).all(axis=1).any():
                return None
        return CropTransform(int(left), int(top), int(crop_w), int(crop_h))


def _iou_with(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    overlap = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    inter = overlap.clip(min=0).prod(axis=1)
    return inter / (np.prod(box[2:] - box[:2]) + (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) - inter)
