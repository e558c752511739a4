"""Augmentation recipes: sizes, boxes that move with the pixels, seeds, and errors."""

from __future__ import annotations

import random

import numpy as np
import pytest
from detectron2.data import transforms as T

from mvseg.data.augmentation import (
    RECIPES,
    AugmentationSettings,
    build_augmentations,
    build_test_augmentations,
    with_image_size,
)


def apply(augmentations, shape=(60, 100), box=(20, 10, 50, 40)):
    """Augment a black image with one white box; returns the image and the moved box."""
    image = np.zeros((*shape, 3), dtype=np.uint8)
    x0, y0, x1, y1 = box
    image[y0:y1, x0:x1] = 255
    aug_input = T.AugInput(image)
    transforms = T.AugmentationList(augmentations)(aug_input)
    moved = transforms.apply_box(np.array([box], dtype=np.float64))[0]
    height, width = aug_input.image.shape[:2]
    return aug_input.image, np.clip(moved, 0, [width, height, width, height])


@pytest.mark.parametrize("recipe", RECIPES)
def test_boxes_move_with_the_pixels(recipe: str):
    settings = AugmentationSettings(
        short_edge=(48, 96), short_edge_style="range", max_long_edge=150, crop_size=64, scale_range=(0.5, 2.0)
    )
    checked = 0
    for seed in range(40):
        np.random.seed(seed)
        image, (x0, y0, x1, y1) = apply(build_augmentations(recipe, settings))
        if x1 - x0 < 4 or y1 - y0 < 4:
            continue
        rows, columns = np.nonzero(image[..., 0] == 255)
        found = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        assert np.abs(np.array(found) - (x0, y0, x1, y1)).max() <= 2
        checked += 1
    assert checked > 15


def test_resize_shortest_edge_chooses_and_caps():
    settings = AugmentationSettings(short_edge=(30, 45), short_edge_style="choice", max_long_edge=70, flip="none")
    shapes = {apply(build_augmentations("resize_shortest_edge", settings))[0].shape[:2] for _ in range(40)}
    assert shapes == {(30, 50), (42, 70)}  # 45 x 75 would exceed the long side


def test_random_crop_comes_before_resizing():
    settings = AugmentationSettings(
        short_edge=(30,), max_long_edge=1000, flip="none", random_crop=("relative", (0.5, 0.5))
    )
    image, _ = apply(build_augmentations("resize_shortest_edge", settings))
    assert image.shape[:2] == (30, 50)


def test_resize_crop_keeps_proportions_and_does_not_pad():
    # Scale u in (0.1, 2): the image is u * 64 wide (its longer side), cropped to 64 at most, never padded.
    settings = AugmentationSettings(crop_size=64, scale_range=(0.1, 2.0), flip="none")
    shapes = []
    for seed in range(200):
        np.random.seed(seed)
        shapes.append(apply(build_augmentations("resize_crop", settings))[0].shape[:2])
    heights, widths = np.array(shapes).T
    assert widths.max() == 64 and heights.max() == 64
    small = widths < 64
    assert np.abs(heights[small] - widths[small] * 0.6).max() <= 1
    assert 0.35 < small.mean() < 0.6  # u < 1 has probability 0.47
    assert widths.min() < 15


def test_resize_crop_crops_everywhere():
    settings = AugmentationSettings(crop_size=50, scale_range=(2.0, 2.0), flip="none")
    corners = []
    for seed in range(60):
        np.random.seed(seed)
        _, box = apply(build_augmentations("resize_crop", settings), shape=(60, 100), box=(49, 29, 51, 31))
        corners.append(box[:2] if (box[2:] - box[:2]).min() > 0 else [np.nan, np.nan])
    corners = np.array(corners)
    # 100 x 60 becomes 100 x 60, of which 50 x 50 is kept: the middle point lands between 0 and 50.
    assert np.nanmin(corners[:, 0]) < 8 and np.nanmax(corners[:, 0]) > 42


@pytest.mark.parametrize("recipe", ["fixed_size", "lsj"])
def test_fixed_size_is_fixed(recipe: str):
    settings = AugmentationSettings(crop_size=64, scale_range=(0.1, 2.0))
    assert {apply(build_augmentations(recipe, settings))[0].shape for _ in range(30)} == {(64, 64, 3)}


@pytest.mark.parametrize(("flip", "axis"), [("horizontal", 1), ("vertical", 0)])
def test_flip_happens_half_of_the_time(flip: str, axis: int):
    settings = AugmentationSettings(short_edge=(60,), max_long_edge=100, flip=flip)
    flipped = 0
    for seed in range(200):
        np.random.seed(seed)
        image, _ = apply(build_augmentations("resize_shortest_edge", settings))
        plain = np.zeros_like(image)
        plain[10:40, 20:50] = 255
        flipped += not np.array_equal(image, plain)
        assert np.array_equal(image, plain) or np.array_equal(np.flip(image, axis), plain)
    assert 70 < flipped < 130


def test_unknown_names():
    with pytest.raises(ValueError, match="'resize_crops' does not exist; nearest: resize_crop"):
        build_augmentations("resize_crops", AugmentationSettings())
    with pytest.raises(ValueError, match=r"INPUT\.RANDOM_FLIP 'horisontal' does not exist; nearest: horizontal"):
        build_augmentations("resize_crop", AugmentationSettings(flip="horisontal"))


def test_own_image_size_of_a_dataset():
    settings = AugmentationSettings(short_edge=(640, 800), max_long_edge=1333, flip="vertical")
    small = with_image_size(settings, 400, (0.5, 1.5))
    assert (small.short_edge, small.max_long_edge, small.crop_size) == ((400,), 666, 400)
    assert small.scale_range == (0.5, 1.5) and small.flip == "vertical"
    ranged = with_image_size(settings, (320, 400))
    assert (ranged.short_edge, ranged.short_edge_style, ranged.crop_size) == ((320, 400), "range", 400)
    assert with_image_size(settings) == settings


def test_test_augmentations():
    assert apply(build_test_augmentations(30, 1000))[0].shape == (30, 50, 3)
    assert apply(build_test_augmentations(30, 40))[0].shape == (24, 40, 3)
    assert build_test_augmentations(0, 1000) == []


def test_recipes_draw_from_numpy_only():
    # The loader seeds numpy, random and torch for every image; a recipe must not bring a generator of its own.
    settings = AugmentationSettings(crop_size=64)
    images = []
    for _ in range(2):
        np.random.seed(5)
        random.seed(5)
        images.append(apply(build_augmentations("resize_crop", settings))[0])
    assert np.array_equal(*images)
