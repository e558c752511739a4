"""What is found in folders and patterns, videos that are written and read back, and broken ones."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from mvseg.inference.media import VideoError, VideoReader, VideoWriter, find_images


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def found(folder: Path, *places: str, recursive: bool = False) -> list[str]:
    return [p.relative_to(folder).as_posix() for p in find_images([folder / p for p in places], recursive)]


def test_folders_patterns_and_files(tmp_path: Path):
    touch(tmp_path, "10.jpg", "9.JPG", "b.webp", "notes.txt", ".hidden.png", "in/1.png", "in/deep/2.tif", "x[1].png")
    assert found(tmp_path, ".") == ["9.JPG", "10.jpg", "b.webp", "x[1].png"]
    assert found(tmp_path, ".", recursive=True) == [
        "9.JPG",
        "10.jpg",
        "b.webp",
        "in/1.png",
        "in/deep/2.tif",
        "x[1].png",
    ]
    assert found(tmp_path, "*.jpg", "in/*") == ["10.jpg", "in/1.png"]
    assert found(tmp_path, "in/**/*.tif") == ["in/deep/2.tif"]
    assert found(tmp_path, "10.jpg", "*.[jJ]*") == ["10.jpg", "9.JPG"]  # each once
    assert found(tmp_path, "x[1].png", "notes.txt", "absent.jpg") == ["x[1].png", "notes.txt", "absent.jpg"]
    with pytest.raises(FileNotFoundError, match=r"no file fits the pattern .*\*\.gif"):
        find_images([tmp_path / "*.gif"])
    (tmp_path / "empty" / "below").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="has no image; --recursive looks into its folders"):
        find_images([tmp_path / "empty"])


def frames(count: int, height: int, width: int) -> list[np.ndarray]:
    """Frames of one colour each: red rises, blue falls."""
    return [np.full((height, width, 3), (20 * i, 50, 200 - 20 * i), dtype=np.uint8) for i in range(count)]


@pytest.mark.parametrize("rate", [29.97, 12.0])
@pytest.mark.parametrize("ending", ["mp4", "avi", "mkv"])
def test_a_video_is_read_back_with_its_rate_size_and_colours(tmp_path: Path, ending: str, rate: float):
    path = tmp_path / "new" / f"a.{ending}"
    with VideoWriter(path, rate) as writer:
        for frame in frames(8, 49, 63):  # odd: a column and a row are added
            writer.write(frame)
    capture = cv2.VideoCapture(str(path))
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(rate, rel=1e-3)
    assert (capture.get(cv2.CAP_PROP_FRAME_HEIGHT), capture.get(cv2.CAP_PROP_FRAME_WIDTH)) == (50, 64)
    reader = VideoReader(path)
    assert reader.rate == pytest.approx(rate, rel=1e-3)
    read = list(reader)
    assert len(read) == reader.read == 8 and reader.missing == 0
    for got, sent in zip(read, frames(8, 50, 64), strict=True):
        assert got.shape == sent.shape and np.abs(got.astype(int) - sent).mean() < 6


def test_videos_that_cannot_be_read_or_written(tmp_path: Path):
    with pytest.raises(VideoError, match=r"absent\.mp4 does not exist"):
        VideoReader(tmp_path / "absent.mp4")
    (tmp_path / "broken.mp4").write_bytes(b"no video" * 100)
    with pytest.raises(VideoError, match=r"broken\.mp4 gives no picture: it is damaged, empty, or no video"):
        VideoReader(tmp_path / "broken.mp4")
    with pytest.raises(VideoError, match="camera 97 gives no picture: is there one"):
        VideoReader(97)
    with pytest.raises(ValueError, match=r"must end in \.mp4"):
        VideoWriter(tmp_path / "a.gif", 5)


def test_frames_that_a_video_announces_but_lacks_are_counted(tmp_path: Path):
    with VideoWriter(tmp_path / "a.avi", 10) as writer:
        for frame in frames(10, 48, 64):
            writer.write(frame)
    reader = VideoReader(tmp_path / "a.avi")
    iterator = iter(reader)
    for _ in range(4):
        next(iterator)
    assert reader.missing == 6
