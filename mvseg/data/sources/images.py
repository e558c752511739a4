"""Image files on disk: which there are, and how large they are, without decoding them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from ..card import DatasetCard, missing_message
from ..checks import complain
from ..pixels import ORIENTATION
from ..threads import in_threads
from .tables import read_rows

ENDINGS = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm"))
_TURNED = (5, 6, 7, 8)  # EXIF orientations that turn the picture by a quarter
_THREADS = 8

Size = tuple[int, int]  # height, width


def find_files(root: Path) -> Iterator[str]:
    """List the files of a folder and its subfolders in a fixed order, hidden ones left out.

    Args:
        root: the folder.

    Yields:
        Paths relative to the folder.
    """
    for folder, subfolders, names in os.walk(root, followlinks=True):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        inner = os.path.relpath(folder, root)
        for name in sorted(names):
            if not name.startswith("."):
                yield name if inner == "." else os.path.join(inner, name)


def is_below(root: str | Path, name: str) -> bool:
    """Say whether a path that a file names stays in the folder that it is relative to.

    Args:
        root: the folder.
        name: the path, which may be absolute or have ``..`` in it.

    Returns:
        True if it does; links are not followed.
    """
    place = os.path.normpath(os.path.join(root, name))
    return os.path.commonpath([os.path.abspath(root), os.path.abspath(place)]) == os.path.abspath(root)


def is_image(name: str) -> bool:
    """Say whether a file has the ending of an image.

    Args:
        name: name or path of the file.

    Returns:
        True for .jpg, .png and the like, in any case.
    """
    return os.path.splitext(name)[1].lower() in ENDINGS


def image_size(path: str | Path) -> Size:
    """Read the size of an image from the head of its file, turned upright by its EXIF orientation.

    Args:
        path: the file.

    Returns:
        Height and width in pixels.

    Raises:
        OSError: if the file does not exist or is no image.
    """
    with Image.open(path) as image:
        width, height = image.size
        try:
            turned = image.getexif().get(ORIENTATION, 1) in _TURNED
        except Exception:  # damaged EXIF data: reading the pixels does not use them either
            turned = False
    return (width, height) if turned else (height, width)


def image_sizes(card: DatasetCard, paths: Sequence[Path]) -> list[Size | None]:
    """Read the sizes of many images, several files at a time.

    Args:
        card: the card named in errors.
        paths: the files.

    Returns:
        Height and width of each; None where a file could not be read while problems are collected.

    Raises:
        FileNotFoundError: if a file does not exist.
        ValueError: if a file is no image.
    """

    def one(path: Path) -> Size | Exception:
        try:
            return image_size(path)
        except Exception as error:
            return error

    sizes: list[Size | None] = []
    for path, found in zip(paths, in_threads(one, paths, _THREADS)):
        if isinstance(found, FileNotFoundError):
            complain(missing_message(card, "image", path), "missing_file", FileNotFoundError)
        elif isinstance(found, Exception):
            complain(f"{card.where}: image {path} cannot be read: {found}", "unreadable")
        sizes.append(None if isinstance(found, Exception) else found)
    return sizes


def read_size_table(card: DatasetCard, path: Path) -> dict[str, Size]:
    """Read a CSV file with the sizes of images.

    Args:
        card: the card named in errors.
        path: the file, with the columns ImageID, Width and Height.

    Returns:
        Image id to height and width.

    Raises:
        ValueError: if a column is missing or a size is not a whole number above 0; the message names the line.
    """
    sizes: dict[str, Size] = {}
    for line, (image, *cells) in read_rows(card, path, ("ImageID", "Height", "Width")):
        try:
            height, width = int(cells[0]), int(cells[1])
        except ValueError:
            height = width = 0
        if height <= 0 or width <= 0:
            complain(f"{card.where}: {path}, line {line}: {cells[1]} x {cells[0]} is no size")
            continue
        sizes[image] = (height, width)
    return sizes
