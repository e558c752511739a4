"""Reading image files: upright 8-bit pixels, wrong sizes and unreadable files, the last counted and limited."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from detectron2.data import detection_utils
from detectron2.utils.file_io import PathManager
from PIL import Image, UnidentifiedImageError

from mvseg.data.pixels import to_rgb, upright
from mvseg.data.tar_files import is_there

logger = logging.getLogger(__name__)

# The first failures are logged one by one, then every power of two, so that a broken disk does not flood the log.
LOGGED_ONE_BY_ONE = 10
LISTED_IN_ERRORS = 20


class ImageReadError(OSError):
    """An image file is missing, truncated or no image."""


class ImageSizeError(ValueError):
    """An image file has another size than its record says."""


class BadImage(NamedTuple):
    """A file that could not be read: index of its dataset in the mixture, path, reason."""

    dataset: int
    file_name: str
    reason: str


def read_image(file_name: str, image_format: str = "BGR") -> np.ndarray:
    """Read an image file, turned upright by its EXIF orientation; see :mod:`mvseg.data.pixels` for unusual files.

    Args:
        file_name: path of the file.
        image_format: "BGR", "RGB", "L", or what else Detectron2's ``convert_PIL_to_numpy`` takes.

    Returns:
        Pixels of shape ``(H, W, 3)``, or ``(H, W, 1)`` for "L", uint8.

    Raises:
        ImageReadError: if the file is missing, truncated or no image.
    """
    try:
        with PathManager.open(file_name, "rb") as file:
            return detection_utils.convert_PIL_to_numpy(to_rgb(upright(Image.open(file))), image_format)
    # Pillow's decoders answer broken bytes with whatever went wrong inside them (OSError, SyntaxError, ValueError,
    # struct.error, zlib.error, IndexError, DecompressionBombError ...): all of it means that this file is unreadable.
    except Exception as error:
        reason = "the file does not exist" if not is_there(file_name) else f"{type(error).__name__}: {error}"
        if isinstance(error, UnidentifiedImageError):
            reason = "no image, or of a format that Pillow does not know"  # its own text names an object in memory
        raise ImageReadError(f"{file_name}: {reason}") from error


def check_image_size(record: Mapping[str, Any], image: np.ndarray) -> None:
    """Compare the size of an image with its record.

    Args:
        record: dataset record; ``height`` and ``width`` in pixels are compared where present.
        image: pixels of shape ``(H, W, 3)``.

    Raises:
        ImageSizeError: if they differ.
    """
    height, width = image.shape[:2]
    said = (record.get("width", width), record.get("height", height))
    if said == (width, height):
        return
    turned = " (width and height are exchanged: the annotations ignore the EXIF orientation)"
    raise ImageSizeError(
        f"dataset {record.get('dataset')!r}, image {record.get('image_id')!r}, {record.get('file_name')}: "
        f"the file has {width} x {height} pixels, the annotations say {said[0]} x {said[1]}"
        f"{turned if said == (height, width) else ''}; correct the annotation file or replace the image"
    )


class BadImages:
    """Count of the unreadable files of each dataset, with a limit.

    Args:
        names: dataset names.
        sizes: images per dataset.
        limit: share of a dataset's images, 0 to 1, that may be unreadable.

    Raises:
        ValueError: if the limit is no share.
    """

    def __init__(self, names: Sequence[str], sizes: Sequence[int], limit: float) -> None:
        if not 0 <= limit <= 1:
            raise ValueError(f"DATALOADER.MAX_BAD_IMAGES must be a share from 0 to 1, got {limit!r}")
        self.names, self.sizes, self.limit = tuple(names), tuple(sizes), limit
        self._reasons: list[dict[str, str]] = [{} for _ in names]

    def __len__(self) -> int:
        return sum(len(reasons) for reasons in self._reasons)

    def add(self, bad: BadImage) -> None:
        """Count a file; one that is counted already does not count again.

        Args:
            bad: the file.

        Raises:
            ImageReadError: if more than the allowed share of its dataset is unreadable; the message lists the files.
        """
        reasons = self._reasons[bad.dataset]
        if bad.file_name in reasons:
            return
        reasons[bad.file_name] = bad.reason
        count = len(self)
        if count <= LOGGED_ONE_BY_ONE or count & (count - 1) == 0:
            logger.warning(
                "dataset %r: unreadable image replaced by another one (%d so far): %s",
                self.names[bad.dataset],
                count,
                bad.reason,
            )
        if len(reasons) > self.limit * self.sizes[bad.dataset]:
            raise ImageReadError(
                f"dataset {self.names[bad.dataset]!r}: {len(reasons)} of {self.sizes[bad.dataset]} images are "
                f"unreadable, more than DATALOADER.MAX_BAD_IMAGES = {self.limit:g} allows. Repair or remove them, "
                f"or raise the limit:\n{list_files(list(reasons.values()))}"
            )

    def summary(self) -> str:
        """Write the count of each dataset.

        Returns:
            One line per dataset with unreadable files, and the files; "no unreadable images" if there are none.
        """
        lines = [
            f"dataset {name!r}: {len(reasons)} of {size} images unreadable:\n{list_files(list(reasons.values()))}"
            for name, size, reasons in zip(self.names, self.sizes, self._reasons)
            if reasons
        ]
        return "\n".join(lines) or "no unreadable images"

    def state_dict(self) -> list[list[Any]]:
        """Write down the files counted.

        Returns:
            One ``[dataset name, path, reason]`` per file.
        """
        return [[name, f, r] for name, reasons in zip(self.names, self._reasons) for f, r in reasons.items()]

    def load_state_dict(self, state: Sequence[Sequence[Any]]) -> None:
        """Take over the files counted by an earlier run, without logging them again.

        Args:
            state: from :meth:`state_dict`; datasets that are not here are skipped.
        """
        self._reasons = [{} for _ in self.names]
        for name, file_name, reason in state:
            if name in self.names:
                self._reasons[self.names.index(name)][file_name] = reason


def list_files(reasons: Sequence[str]) -> str:
    """Write a list of unreadable files.

    Args:
        reasons: one "path: reason" per file.

    Returns:
        One indented line per file, at most 20 and the number of the rest.
    """
    lines = [f"  {reason}" for reason in reasons[:LISTED_IN_ERRORS]]
    if len(reasons) > LISTED_IN_ERRORS:
        lines.append(f"  and {len(reasons) - LISTED_IN_ERRORS} more")
    return "\n".join(lines)
