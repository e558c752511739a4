"""Augmentation recipes by name, each a list of Detectron2 augmentations; the mixture picks one per dataset."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from detectron2.data import transforms as T

from mvseg.vocabulary.suggestions import did_you_mean

# Where a recipe is given a side of its own, the cap on the long side keeps Detectron2's proportion of 1333 to 800.
LONG_TO_SHORT = 1333 / 800


def _at_least_one_pixel(resize: T.Transform) -> T.Transform:
    if not isinstance(resize, T.ResizeTransform) or min(resize.new_h, resize.new_w) > 0:
        return resize
    return T.ResizeTransform(resize.h, resize.w, max(resize.new_h, 1), max(resize.new_w, 1), resize.interp)


class ResizeShortestEdge(T.ResizeShortestEdge):
    """Detectron2's, but an image that is a thousand times as long as wide keeps at least one pixel of width."""

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """Draw a size and make the transform.

        Args:
            image: pixels of shape ``(H, W, C)``.

        Returns:
            The transform.
        """
        return _at_least_one_pixel(super().get_transform(image))


class ResizeScale(T.ResizeScale):
    """Detectron2's, but an image that is a thousand times as long as wide keeps at least one pixel of width."""

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """Draw a scale and make the transform.

        Args:
            image: pixels of shape ``(H, W, C)``.

        Returns:
            The transform.
        """
        return _at_least_one_pixel(super().get_transform(image))


@dataclass(frozen=True)
class AugmentationSettings:
    """The numbers that the recipes take; each recipe uses those that concern it.

    Args:
        short_edge: short side after resizing in pixels: choices, or the two ends of a range.
        short_edge_style: "choice" or "range", how ``short_edge`` is read.
        max_long_edge: cap on the long side in pixels.
        crop_size: side of the square of the crop recipes in pixels.
        scale_range: smallest and largest random scale relative to ``crop_size``.
        flip: "horizontal", "vertical" or "none".
        random_crop: (type, size) of a crop before the resizing of resize_shortest_edge, None for none.
    """

    short_edge: tuple[int, ...] = (640, 672, 704, 736, 768, 800)
    short_edge_style: str = "choice"
    max_long_edge: int = 1333
    crop_size: int = 640
    scale_range: tuple[float, float] = (0.1, 2.0)
    flip: str = "horizontal"
    random_crop: tuple[str, tuple[float, float]] | None = None


def resize_shortest_edge(settings: AugmentationSettings) -> list[T.Augmentation]:
    """Resize the short side to one of the given lengths, the long side capped; crop before it if asked.

    Args:
        settings: uses ``short_edge``, ``short_edge_style``, ``max_long_edge`` and ``random_crop``.

    Returns:
        The augmentations in the order of their application.
    """
    crop = [T.RandomCrop(settings.random_crop[0], settings.random_crop[1])] if settings.random_crop else []
    return [*crop, ResizeShortestEdge(settings.short_edge, settings.max_long_edge, settings.short_edge_style)]


def resize_crop(settings: AugmentationSettings) -> list[T.Augmentation]:
    """Scale the image at random into a square, keeping its proportions, and crop what exceeds it; nothing is padded.

    Args:
        settings: uses ``crop_size`` and ``scale_range``.

    Returns:
        The augmentations in the order of their application.

    Source:
        Tan, Pang and Le 2020, EfficientDet (arXiv 1911.09070), section 5.1, as used by Detic with scales 0.1 to 2.
    """
    size, (low, high) = settings.crop_size, settings.scale_range
    return [ResizeScale(low, high, size, size), T.FixedSizeCrop((size, size), pad=False)]


def fixed_size(settings: AugmentationSettings) -> list[T.Augmentation]:
    """Large-scale jitter: as :func:`resize_crop`, then padded so that every image has the same size.

    Args:
        settings: uses ``crop_size`` and ``scale_range``.

    Returns:
        The augmentations in the order of their application.

    Source:
        Ghiasi et al. 2021, Simple Copy-Paste (arXiv 2012.07177), section 3, "large scale jittering (LSJ)".
    """
    size, (low, high) = settings.crop_size, settings.scale_range
    return [ResizeScale(low, high, size, size), T.FixedSizeCrop((size, size), pad=True)]


Recipe = Callable[[AugmentationSettings], list[T.Augmentation]]
RECIPES: dict[str, Recipe] = {
    "resize_shortest_edge": resize_shortest_edge,
    "resize_crop": resize_crop,
    "fixed_size": fixed_size,
    "lsj": fixed_size,
}


def build_augmentations(recipe: str, settings: AugmentationSettings) -> list[T.Augmentation]:
    """Build the training augmentations of a recipe, with the random flip after it.

    Args:
        recipe: a name of :data:`RECIPES`.
        settings: the recipe's numbers.

    Returns:
        The augmentations in the order of their application.

    Raises:
        ValueError: if there is no such recipe, or no such flip.
    """
    if recipe not in RECIPES:
        raise ValueError(f"augmentation recipe {recipe!r} does not exist{did_you_mean(recipe, RECIPES)}")
    flips = {
        "none": [],
        "horizontal": [T.RandomFlip(horizontal=True, vertical=False)],
        "vertical": [T.RandomFlip(horizontal=False, vertical=True)],
    }
    if settings.flip not in flips:
        raise ValueError(f"INPUT.RANDOM_FLIP {settings.flip!r} does not exist{did_you_mean(settings.flip, flips)}")
    return [*RECIPES[recipe](settings), *flips[settings.flip]]


def with_image_size(
    settings: AugmentationSettings,
    image_size: int | tuple[int, int] | None = None,
    scale_range: tuple[float, float] | None = None,
) -> AugmentationSettings:
    """Give one dataset an image size, and a range of scales, of its own.

    Args:
        settings: the common numbers.
        image_size: side in pixels, or a range of the short side (the crop recipes use its upper end); None: as it is.
        scale_range: range of the random scale of the crop recipes; None: as it is.

    Returns:
        The changed settings; the cap on the long side scales along with the size.
    """
    if scale_range is not None:
        settings = replace(settings, scale_range=scale_range)
    if image_size is None:
        return settings
    sides = image_size if isinstance(image_size, tuple) else (image_size,)
    return replace(
        settings,
        short_edge=sides,
        short_edge_style="range" if len(sides) == 2 else "choice",
        max_long_edge=round(max(sides) * LONG_TO_SHORT),
        crop_size=max(sides),
    )


def build_test_augmentations(short_edge: int, max_long_edge: int) -> list[T.Augmentation]:
    """Build the resizing at test time.

    Args:
        short_edge: short side in pixels; 0 leaves the images as they are.
        max_long_edge: cap on the long side in pixels.

    Returns:
        The augmentations; empty for ``short_edge`` 0.
    """
    return [ResizeShortestEdge((short_edge, short_edge), max_long_edge, "choice")] if short_edge else []
