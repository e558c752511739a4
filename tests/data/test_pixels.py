"""Unusual image files, each against pixels computed here without mvseg: what a person sees is what the model gets."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from detectron2.data import transforms as T
from PIL import Image

from mvseg.data.augmentation import RECIPES, AugmentationSettings, build_augmentations, build_test_augmentations
from mvseg.data.mappers import MultiDatasetMapper
from mvseg.data.reading import ImageReadError, read_image

RANDOM = np.random.default_rng(5)
PIXELS = RANDOM.integers(0, 256, (6, 9, 3), dtype=np.uint8)  # not square: a wrong turn changes the shape
DEEP = RANDOM.integers(0, 2**16, (6, 9, 3), dtype=np.uint16)


def seen(path) -> np.ndarray:
    pixels = read_image(str(path), "RGB")
    assert pixels.dtype == np.uint8 and pixels.ndim == 3
    assert (read_image(str(path), "BGR")[:, :, ::-1] == pixels).all()
    return pixels


def grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[:, :, None], 3, axis=2)


@pytest.mark.parametrize("ending", ["png", "tif", "pgm"])
def test_16_bit_grey_is_scaled_and_not_clipped_to_white(tmp_path, ending: str):
    cv2.imwrite(str(tmp_path / f"a.{ending}"), DEEP[..., 0])
    assert (seen(tmp_path / f"a.{ending}") == grey(DEEP[..., 0] // 256)).all()


@pytest.mark.parametrize("channels", [3, 4])
def test_16_bit_colour_keeps_its_upper_bits(tmp_path, channels: int):
    opaque = np.full((6, 9, 1), 2**16 - 1, dtype=np.uint16)
    cv2.imwrite(str(tmp_path / "a.png"), np.concatenate([DEEP[..., ::-1], opaque], axis=2)[..., :channels])
    assert (seen(tmp_path / "a.png") == DEEP // 256).all()


def test_small_values_in_a_32_bit_file_are_8_bits(tmp_path):
    Image.fromarray(PIXELS[..., 0].astype(np.int32)).save(tmp_path / "a.tif")
    assert (seen(tmp_path / "a.tif") == grey(PIXELS[..., 0])).all()


@pytest.mark.parametrize("values", [DEEP[..., 0].astype(np.int32) * 70000, DEEP[..., 0] / np.float32(2**16)])
def test_pixels_without_a_known_white_are_an_error(tmp_path, values: np.ndarray):
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(ImageReadError, match=r"a\.tif: ValueError: pixels of mode '[IF]' .*convert the file to 8 or"):
        read_image(str(tmp_path / "a.tif"))


def over_white(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return pixels * (alpha / 255) + 255 * (1 - alpha / 255)


def test_transparent_pixels_lie_over_white(tmp_path):
    alpha = RANDOM.integers(0, 256, (6, 9, 1), dtype=np.uint8)
    alpha[:, :3], alpha[:, 3:6] = 0, 255
    Image.fromarray(np.concatenate([PIXELS, alpha], axis=2)).save(tmp_path / "a.png")
    pixels = seen(tmp_path / "a.png")
    assert np.abs(pixels - over_white(PIXELS, alpha)).max() <= 1
    assert (pixels[:, :3] == 255).all() and (pixels[:, 3:6] == PIXELS[:, 3:6]).all()
    Image.fromarray(np.concatenate([PIXELS[..., :1], alpha], axis=2), mode="LA").save(tmp_path / "b.png")
    assert np.abs(seen(tmp_path / "b.png") - over_white(grey(PIXELS[..., 0]), alpha)).max() <= 1


def test_palettes_with_and_without_a_transparent_colour(tmp_path):
    colours = RANDOM.integers(0, 256, (4, 3), dtype=np.uint8)
    index = RANDOM.integers(0, 4, (6, 9), dtype=np.uint8)
    picture = Image.fromarray(index, mode="P")
    picture.putpalette(colours.ravel().tolist())
    picture.save(tmp_path / "a.png")
    assert (seen(tmp_path / "a.png") == colours[index]).all()
    picture.save(tmp_path / "b.png", transparency=2)
    assert (seen(tmp_path / "b.png") == np.where((index == 2)[..., None], 255, colours[index])).all()


def test_cmyk(tmp_path):
    ink = RANDOM.integers(0, 256, (6, 9, 4), dtype=np.uint8)
    Image.fromarray(ink, mode="CMYK").save(tmp_path / "a.tif")
    expected = (255.0 - ink[..., :3]) * (255.0 - ink[..., 3:]) / 255
    assert np.abs(seen(tmp_path / "a.tif") - expected).max() <= 1
    flat = np.broadcast_to(np.array([200, 30, 90, 60], dtype=np.uint8), (16, 16, 4))
    Image.fromarray(flat, mode="CMYK").save(tmp_path / "b.jpg", quality=100)  # Adobe's: ink stored inverted
    assert np.abs(seen(tmp_path / "b.jpg") - np.array([55, 225, 165]) * 195 / 255).max() <= 4


def test_grey_and_one_bit(tmp_path):
    Image.fromarray(PIXELS[..., 0]).save(tmp_path / "a.png")
    assert (seen(tmp_path / "a.png") == grey(PIXELS[..., 0])).all()
    assert (read_image(str(tmp_path / "a.png"), "L")[..., 0] == PIXELS[..., 0]).all()
    Image.fromarray(PIXELS[..., 0] > 127).save(tmp_path / "b.png")
    assert (seen(tmp_path / "b.png") == grey(np.uint8(255) * (PIXELS[..., 0] > 127))).all()


@pytest.mark.parametrize(
    ("orientation", "corner"),
    # Where the corner stored first is seen: (row, column), -1 the last; from the definition of the tag.
    [(1, (0, 0)), (2, (0, -1)), (3, (-1, -1)), (4, (-1, 0)), (5, (0, 0)), (6, (0, -1)), (7, (-1, -1)), (8, (-1, 0))],
)
@pytest.mark.parametrize("mode", ["RGB", "I;16"])
def test_exif_orientation(tmp_path, orientation: int, corner: tuple[int, int], mode: str):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(PIXELS if mode == "RGB" else DEEP[..., 0]).save(tmp_path / "a.png", exif=exif)
    pixels = seen(tmp_path / "a.png")
    stored = PIXELS if mode == "RGB" else grey((DEEP[..., 0] // 256).astype(np.uint8))
    turned = orientation >= 5  # rows are shown as columns
    assert pixels.shape == ((9, 6, 3) if turned else (6, 9, 3))
    upright = stored.transpose(1, 0, 2) if turned else stored
    rows, columns = (slice(None, None, -1 if side == -1 else 1) for side in corner)
    assert (pixels == upright[rows, columns]).all()


def test_broken_exif_data_do_not_lose_the_image(tmp_path, caplog):
    Image.fromarray(PIXELS).save(tmp_path / "a.png", exif=b"Exif\x00\x00no EXIF at all")
    assert (seen(tmp_path / "a.png") == PIXELS).all()
    assert f"{tmp_path}/a.png: broken EXIF data" in caplog.text


@pytest.mark.parametrize("shape", [(500, 1), (1, 500), (1, 1), (30000, 1)])
def test_images_one_pixel_wide_keep_a_pixel(shape: tuple[int, int]):
    image = np.full((*shape, 3), 77, dtype=np.uint8)
    settings = AugmentationSettings(short_edge=(64,), max_long_edge=128, crop_size=64, scale_range=(0.5, 2.0))
    for augmentations in (
        build_test_augmentations(64, 128),
        *(build_augmentations(recipe, settings) for recipe in RECIPES),
    ):
        given = T.AugInput(image)
        T.AugmentationList(augmentations)(given)
        assert min(given.image.shape[:2]) >= 1 and max(given.image.shape[:2]) <= 130
        assert (given.image == 77).any()


def test_the_mapper_of_training_reads_them_too(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), DEEP[:, :1, 0])
    mapper = MultiDatasetMapper(False, augmentations={}, image_format="RGB")
    image = mapper({"file_name": str(tmp_path / "a.png"), "height": 6, "width": 1})["image"]
    assert image.shape == (3, 6, 1) and (image[0, :, 0].numpy() == DEEP[:, 0, 0] // 256).all()
