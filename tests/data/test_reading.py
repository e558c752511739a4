"""Reading images: orientation, modes, sizes, broken files and their count."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from PIL import Image

from mvseg.data.reading import BadImage, BadImages, ImageReadError, ImageSizeError, check_image_size, read_image


@pytest.fixture
def picture() -> Image.Image:
    pixels = np.zeros((20, 30, 3), dtype=np.uint8)
    pixels[:10, :15] = (255, 0, 0)  # upper left red
    return Image.fromarray(pixels)


def test_channel_order(tmp_path, picture):
    picture.save(tmp_path / "a.png")
    assert read_image(str(tmp_path / "a.png"), "RGB")[0, 0].tolist() == [255, 0, 0]
    assert read_image(str(tmp_path / "a.png"), "BGR")[0, 0].tolist() == [0, 0, 255]


def test_exif_orientation_turns_the_image_upright(tmp_path, picture):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise
    picture.save(tmp_path / "a.jpg", exif=exif, quality=95)
    image = read_image(str(tmp_path / "a.jpg"), "RGB")
    assert image.shape == (30, 20, 3)
    assert image[2, -3, 0] > 200 and image[2, 2, 0] < 50  # the upper left corner is now the upper right one


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK", "LA"])
def test_other_modes_become_three_channels(tmp_path, picture, mode):
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    picture.convert(mode).save(path)
    image = read_image(str(path), "BGR")
    assert image.shape == (20, 30, 3) and image.dtype == np.uint8


def broken(tmp_path, picture, kind: str) -> str:
    path = tmp_path / f"{kind}.jpg"
    if kind == "missing":
        return str(path)
    big = picture.resize((300, 200))
    big.save(tmp_path / "whole.jpg")
    whole = (tmp_path / "whole.jpg").read_bytes()
    if kind == "truncated png":
        big.save(tmp_path / "whole.png")
        whole = (tmp_path / "whole.png").read_bytes()
    path.write_bytes({"empty": b"", "text": b"<html>404</html>"}.get(kind, whole[: len(whole) // 2]))
    return str(path)


@pytest.mark.parametrize("kind", ["truncated jpg", "truncated png", "empty", "text", "missing"])
def test_broken_files_are_named(tmp_path, picture, kind):
    path = broken(tmp_path, picture, kind)
    with pytest.raises(ImageReadError) as error:
        read_image(path)
    assert path in str(error.value)
    assert ("does not exist" in str(error.value)) == (kind == "missing")


def test_wrong_size_names_everything():
    record = {"dataset": "d", "file_name": "x/1.jpg", "image_id": 17, "height": 21, "width": 30}
    with pytest.raises(ImageSizeError, match=r"dataset 'd', image 17, x/1.jpg: the file has 30 x 20 .* say 30 x 21;"):
        check_image_size(record, np.zeros((20, 30, 3)))
    with pytest.raises(ImageSizeError, match="EXIF"):
        check_image_size({**record, "height": 30, "width": 20}, np.zeros((20, 30, 3)))
    check_image_size({**record, "height": 20}, np.zeros((20, 30, 3)))
    check_image_size({"file_name": "x"}, np.zeros((20, 30, 3)))


def test_count_of_bad_images(caplog):
    bad = BadImages(["a", "b"], [100, 10], limit=0.1)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            bad.add(BadImage(1, "b/1.jpg", "b/1.jpg: truncated"))
        for number in range(10):
            bad.add(BadImage(0, f"a/{number}.jpg", f"a/{number}.jpg: truncated"))
    assert len(bad) == 11
    assert sum("b/1.jpg" in message for message in caplog.messages) == 1
    assert "dataset 'b': 1 of 10 images unreadable" in bad.summary() and "a/7.jpg: truncated" in bad.summary()
    with pytest.raises(ImageReadError, match=r"(?s)dataset 'b': 2 of 10 .*MAX_BAD_IMAGES = 0.1 .*b/1.jpg.*b/2.jpg"):
        bad.add(BadImage(1, "b/2.jpg", "b/2.jpg: truncated"))
    with pytest.raises(ImageReadError, match=r"dataset 'a': 11 of 100"):
        bad.add(BadImage(0, "a/10.jpg", "a/10.jpg: truncated"))


def test_many_bad_images_do_not_flood_the_log(caplog):
    bad = BadImages(["a"], [1000], limit=1.0)
    with caplog.at_level(logging.WARNING):
        for number in range(600):
            bad.add(BadImage(0, f"{number}.jpg", f"{number}.jpg: truncated"))
    assert len(caplog.messages) == 10 + 6  # 16, 32, 64, 128, 256, 512
    assert "and 580 more" in bad.summary()


def test_count_survives_a_resume():
    bad = BadImages(["a", "b"], [10, 10], limit=0.1)
    bad.add(BadImage(0, "1.jpg", "1.jpg: empty"))
    other = BadImages(["b", "a"], [10, 10], limit=0.1)
    other.load_state_dict(bad.state_dict())
    assert other.summary() == bad.summary()
    with pytest.raises(ImageReadError, match="2 of 10"):
        other.add(BadImage(1, "2.jpg", "2.jpg: empty"))


def test_limit_is_a_share():
    with pytest.raises(ValueError, match="from 0 to 1, got 5"):
        BadImages(["a"], [1], limit=5)
    assert BadImages(["a"], [1], limit=0.0).summary() == "no unreadable images"
