"""Images of folders and patterns, and videos: what to read, in which order, and writing a video of the same rate."""

from __future__ import annotations

import glob
import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np
from PIL import Image

logger = logging.getLogger(__name__)

FALLBACK_RATE = 30.0  # frames a second of webcams and files that do not say it
CODECS = {".mp4": "mp4v", ".m4v": "mp4v", ".mov": "mp4v", ".mkv": "mp4v", ".avi": "MJPG"}


class VideoError(OSError):
    """A video or camera cannot be read or written."""


def image_endings() -> frozenset[str]:
    """List the endings of image files.

    Returns:
        Endings in lower case, such as ".jpg".
    """
    formats = Image.registered_extensions()
    return frozenset(ending for ending, kind in formats.items() if kind in Image.OPEN and kind not in ("PDF", "MPEG"))


def find_images(places: Sequence[str | Path], recursive: bool = False) -> list[Path]:
    """Find the images that a command line names.

    Args:
        places: files, patterns such as ``photos/*.jpg`` (``**`` goes into folders), and folders. A file that is named
            is kept whatever its ending, even if it does not exist: reading it then says so.
        recursive: look into the folders of folders.

    Returns:
        The images, each once; those of a pattern or a folder in natural order (2.jpg before 10.jpg).

    Raises:
        FileNotFoundError: if a pattern or a folder has no image.
    """
    found: dict[Path, None] = {}
    for place in map(str, places):
        path = Path(place)
        if path.is_dir():
            files = [f for f in path.glob("**/*" if recursive else "*") if f.suffix.lower() in image_endings()]
            files = [f for f in files if f.is_file() and not f.name.startswith(".")]
            hint = "" if recursive else "; --recursive looks into its folders"
            what = f"folder {place} has no image{hint}"
        elif path.exists() or not glob.has_magic(place):
            files, what = [path], ""
        else:
            files = [Path(f) for f in glob.glob(place, recursive=True) if Path(f).is_file()]
            what = f"no file fits the pattern {place}"
        if not files:
            raise FileNotFoundError(what)
        found.update(dict.fromkeys(sorted(files, key=_natural)))
    return list(found)


def _natural(path: Path) -> list[tuple[int, int, str]]:
    parts = re.split(r"(\d+)", path.as_posix())
    return [(0, int(part), "") if part.isdigit() and part.isascii() else (1, 0, part.casefold()) for part in parts]


class VideoReader:
    """The frames of a video file or a camera, upright, as RGB.

    Args:
        source: a file, or the number of a camera.

    Raises:
        VideoError: if it cannot be opened, or gives no frame.
    """

    def __init__(self, source: str | Path | int) -> None:
        camera = isinstance(source, int)
        self.name = f"camera {source}" if camera else str(source)
        if not isinstance(source, int) and not Path(source).is_file():
            raise VideoError(f"video {source} does not exist")
        self._capture = cv2.VideoCapture(source if isinstance(source, int) else str(source))
        opened, first = self._capture.read() if self._capture.isOpened() else (False, None)
        if not opened or first is None:
            self._capture.release()
            why = "is there one, and may this program use it?" if camera else "it is damaged, empty, or no video"
            raise VideoError(f"{self.name} gives no picture: {why}")
        self._first: np.ndarray | None = first
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        if not 0 < rate < 1000:
            if not camera:
                logger.warning("%s does not say its frame rate: taking %g frames a second", self.name, FALLBACK_RATE)
            rate = FALLBACK_RATE
        self.rate = float(rate)
        self.count = 0 if camera else max(int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0)
        self.read = 0

    def __iter__(self) -> Iterator[np.ndarray]:
        try:
            frame = self._first
            while frame is not None:
                self.read += 1
                yield frame[:, :, ::-1]
                more, frame = self._capture.read()
                frame = frame if more else None
        finally:
            self._capture.release()

    @property
    def missing(self) -> int:
        """Frames that the file announces but that could not be read; known after the last one.

        Returns:
            Their number; 0 where the file announces nothing.
        """
        return max(self.count - self.read, 0) if self.count else 0


class VideoWriter:
    """Write frames to a video file; the size is that of the first frame, made even by a copied edge.

    Args:
        path: the file; its ending (.mp4, .mov, .mkv, .avi) chooses the format.
        rate: frames a second.

    Raises:
        ValueError: if the ending is another one.
    """

    def __init__(self, path: str | Path, rate: float) -> None:
        self.path, self.rate = Path(path), rate
        if self.path.suffix.lower() not in CODECS:
            raise ValueError(f"video {path}: its name must end in {', '.join(CODECS)}")
        self._writer: cv2.VideoWriter | None = None

    def write(self, frame: np.ndarray) -> None:
        """Add a frame.

        Args:
            frame: uint8 RGB, (H, W, 3), of the same size every time.

        Raises:
            VideoError: if the file cannot be written.
        """
        height, width = frame.shape[:2]
        if self._writer is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            code = cv2.VideoWriter.fourcc(*CODECS[self.path.suffix.lower()])
            self._writer = cv2.VideoWriter(str(self.path), code, self.rate, (width + width % 2, height + height % 2))
            if not self._writer.isOpened():
                raise VideoError(f"video {self.path} cannot be written")
        even = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        self._writer.write(np.ascontiguousarray(even[:, :, ::-1]))

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.release()
