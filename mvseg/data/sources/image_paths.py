"""Where images lie when annotation files and unpacked archives disagree about folders."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..card import DatasetCard
from ..checks import LoadReport, check_unique, complain
from .images import find_files, is_image

FIND_IMAGES = "find_images"
ABSENT_IMAGES = "absent_images"
PATH_OPTIONS = {
    FIND_IMAGES: "where no image lies under its file_name, look for the end of that path, then for the file in all "
    "folders (true or false)",
    ABSENT_IMAGES: "list of images that the file lists, but that were never published; left out",
}
_SAMPLES = 16  # images looked up to find out which folders of file_name exist


def read_flag(card: DatasetCard, option: str) -> bool:
    """Read an option that is true or false.

    Args:
        card: the card.
        option: key of its ``options``.

    Returns:
        Its value; False if it is left out.

    Raises:
        ValueError: if it is neither.
    """
    value = card.options.get(option, False)
    if not isinstance(value, bool):
        raise ValueError(f"{card.where}: options.{option} is true or false, not {value!r}")
    return value


def leave_out_absent(
    card: DatasetCard, records: list[dict[str, Any]], root: Path, report: LoadReport
) -> list[dict[str, Any]]:
    """Leave out the images that the card calls absent from the published archives.

    Args:
        card: the card; its option ``absent_images`` lists ends of paths, such as ``patch6/a.jpg``.
        records: the dataset's records.
        root: the image folder.
        report: counts them.

    Returns:
        The records of the other images.

    Raises:
        ValueError: if the option is no list of texts.
    """
    absent = card.options.get(ABSENT_IMAGES, [])
    if not isinstance(absent, list | tuple) or not all(isinstance(name, str) and name for name in absent):
        raise ValueError(f"{card.where}: options.{ABSENT_IMAGES} must be a list of image paths, found {absent!r}")
    if not absent:
        return records
    ends = tuple("/" + name.lstrip("/") for name in absent)
    kept = [record for record in records if not f"/{_below(record, root)}".endswith(ends)]
    report.add("absent_images", len(records) - len(kept))
    return kept


def locate_images(card: DatasetCard, records: Sequence[dict[str, Any]], root: Path, report: LoadReport) -> None:
    """Point records to where their images lie, if not one is where the annotation file says.

    Tried in this order, on a few images: the path as it is; its end, the longest first (``images/v1/patch8/a.jpg``,
    ``v1/patch8/a.jpg``, ``patch8/a.jpg``, ``a.jpg``); the file's name in any folder below the image folder.

    Args:
        card: the card named in errors.
        records: the dataset's records; ``file_name`` is changed.
        root: the image folder.
        report: counts the images that were found elsewhere.

    Raises:
        ValueError: if two images would be the same file, or an image lies in several folders.
    """
    paths = [_below(record, root).split("/") for record in records]
    samples = paths[:: max(1, len(paths) // _SAMPLES)]
    for dropped in range(max(map(len, samples), default=0)):
        if any(root.joinpath(*_end(path, dropped)).is_file() for path in samples):
            break
    else:
        _search(card, records, paths, root, report)
        return
    if not dropped:
        return
    places = ["/".join(_end(path, dropped)) for path in paths]
    check_unique(places, f"image file (without the first {dropped} folders of file_name)", card.where)
    for record, place in zip(records, places, strict=True):
        record["file_name"] = str(root / place)
    report.add("moved_images", len(records))


def _search(
    card: DatasetCard, records: Sequence[dict[str, Any]], paths: Sequence[list[str]], root: Path, report: LoadReport
) -> None:
    places: dict[str, list[str]] = {}
    for name in find_files(root):
        if is_image(name):
            places.setdefault(os.path.basename(name), []).append(name)
    for record, path in zip(records, paths, strict=True):
        found = places.get(path[-1], [])
        if len(found) > 1:
            complain(
                f"{card.where}: image {record['image_id']}: {path[-1]} lies in {len(found)} folders of {root}: "
                f"{', '.join(sorted(found)[:3])}; which one is meant?"
            )
        elif found:
            record["file_name"] = str(root / found[0])
            report.add("moved_images")


def _below(record: dict[str, Any], root: Path) -> str:
    """The path as the annotation file has it."""
    return str(record["file_name"]).removeprefix(f"{root}{os.sep}").replace(os.sep, "/")


def _end(path: list[str], dropped: int) -> list[str]:
    """The path without its first folders, but always with the file's name."""
    return path[min(dropped, len(path) - 1) :]
