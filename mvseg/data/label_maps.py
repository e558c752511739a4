"""Label maps of semantic and panoptic datasets: PNG to class or segment of every pixel, checked, and augmented."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from .reading import ImageReadError

IntMap = npt.NDArray[np.int64]
VOID = 0  # id of the pixels of a panoptic map that belong to no segment
_INDEX_MODES = ("L", "P", "1", "I", "I;16")
_LARGE = 65535  # ignored pixels where 255 is a class; also what padding becomes in transform_labels


class LabelMapError(ValueError):
    """A label map does not fit its image or its dataset."""


def ignore_label(classes: int) -> int:
    """Give the value of pixels without a class.

    Args:
        classes: number of classes of the dataset.

    Returns:
        255, or 65535 if 255 is a class (ADE20K with 847 classes).
    """
    return 255 if classes <= 255 else _LARGE


def read_semantic(record: Mapping[str, Any]) -> IntMap:
    """Read the semantic map of a record.

    Args:
        record: dataset record with ``sem_seg_file_name``. Its ``sem_seg_values`` says what the pixel values mean:
            ``classes``, the number n of classes; ``ignore``, the values without a class; and ``offset``, the value of
            class 0, or ``values``, the value of every class. Without it the values are classes already.

    Returns:
        Class indices of the dataset's own vocabulary, or :func:`ignore_label`, (H, W), int64.

    Raises:
        ImageReadError: if the file cannot be read.
        LabelMapError: if it is no index image, has another size than the record, or a value that is no class.
    """
    pixels = _open(record, record["sem_seg_file_name"], _INDEX_MODES, "an index image (one number for each pixel)")
    values = record.get("sem_seg_values")
    if values is None:
        return pixels.astype(np.int64)
    table = class_table(values, int(pixels.max(initial=0)) + 1)
    classes = table[pixels]
    if classes.min(initial=0) < 0:
        wrong = np.unique(pixels[classes < 0])
        raise LabelMapError(
            f"{_where(record, 'sem_seg_file_name')}: the values {_listed(wrong)} are no classes: "
            f"{describe_values(values)}; correct label_offset, label_values or ignore_label in the card's options"
        )
    return classes


def read_index_map(record: Mapping[str, Any], file_name: str) -> npt.NDArray[Any]:
    """Read an index image as it is, such as a map of the instances of a record's image.

    Args:
        record: dataset record with ``height`` and ``width``.
        file_name: the PNG.

    Returns:
        Pixel values, (H, W), of the file's integer type: a map of 20 million pixels in int64 has 160 MB.

    Raises:
        ImageReadError: if the file cannot be read.
        LabelMapError: if it is no index image, or has another size than the record.
    """
    return _open(record, file_name, _INDEX_MODES, "an index image (one number for each pixel)")


def class_table(values: Mapping[str, Any], size: int) -> IntMap:
    """Make the table that turns pixel values into classes.

    Args:
        values: as in a record's ``sem_seg_values``.
        size: number of pixel values.

    Returns:
        Class index, ignore label, or -1 for values that mean nothing, (size,), int64.
    """
    n = values["classes"]
    meant = values.get("values") or range(values.get("offset", 0), values.get("offset", 0) + n)
    table = np.full(size, -1, dtype=np.int64)
    for index, value in enumerate(meant):
        if value < size:
            table[value] = index
    for value in values.get("ignore", ()):
        if value < size:
            table[value] = ignore_label(n)
    return table


def describe_values(values: Mapping[str, Any]) -> str:
    """Say what the pixel values of a dataset mean.

    Args:
        values: as in a record's ``sem_seg_values``.

    Returns:
        One phrase.
    """
    n, offset = values["classes"], values.get("offset", 0)
    listed = _listed(values["values"]) if values.get("values") else f"{offset} to {offset + n - 1}"
    return f"{listed} are the {n} classes, {_listed(values.get('ignore', ())) or 'no value'} is ignored"


def read_panoptic(record: Mapping[str, Any]) -> IntMap:
    """Read the panoptic map of a record: its colours are the numbers R + 256 G + 65536 B.

    Args:
        record: dataset record with ``pan_seg_file_name`` and ``segments_info``.

    Returns:
        Segment ids, 0 where there is none, (H, W), int64.

    Raises:
        ImageReadError: if the file cannot be read.
        LabelMapError: if it is no RGB image, has another size than the record, or its ids are not those of the
            segments.
    """
    pixels = _open(record, record["pan_seg_file_name"], ("RGB", "RGBA"), "an RGB image whose colours are segment ids")
    red, green, blue = (pixels[:, :, i].astype(np.int64) for i in range(3))
    ids = red + 256 * green + 65536 * blue
    # Left out segments (of ignored categories) are listed as unlabelled.
    known = {segment["id"] for segment in record["segments_info"]} | set(record.get("left_out_segments", ()))
    found = set(np.unique(ids).tolist()) - {VOID}
    where = _where(record, "pan_seg_file_name")
    if known - found:
        raise LabelMapError(f"{where}: no pixel has the segment id {_listed(sorted(known - found))} of segments_info")
    if found - known:
        raise LabelMapError(f"{where}: segments_info does not list the id {_listed(sorted(found - known))} of the map")
    left_out = record.get("left_out_segments")
    return np.where(np.isin(ids, left_out), VOID, ids) if left_out else ids


def check_label_maps(record: Mapping[str, Any]) -> None:
    """Read the label map of a record, if it has one, to see that it is right.

    Args:
        record: dataset record.

    Raises:
        ImageReadError: if the file cannot be read.
        LabelMapError: if it does not fit the record; the message names dataset, image and file.
    """
    if record.get("sem_seg_file_name"):
        read_semantic(record)
    if record.get("pan_seg_file_name"):
        read_panoptic(record)


def transform_labels(labels: IntMap, transforms: Any, fill: int) -> IntMap:
    """Move the labels of all pixels along with an augmentation, without mixing any.

    Detectron2's transforms resize numbers of one byte exactly as they do images, and pad with 255; larger labels go
    through them as two bytes each.

    Args:
        labels: labels from 0 to 65534, or ``fill``, (H, W), int64.
        transforms: Detectron2's transforms.
        fill: label of pixels outside the image.

    Returns:
        Labels, (H', W'), int64.
    """
    known = labels != fill
    if int(np.max(labels, where=known, initial=0)) < 255:
        low = transforms.apply_segmentation(np.where(known, labels, 255).astype(np.uint8)).astype(np.int64)
        return np.where(low == 255, fill, low)
    codes = np.where(known, labels, _LARGE)
    low, high = (transforms.apply_segmentation((codes >> shift & 255).astype(np.uint8)) for shift in (0, 8))
    result = low.astype(np.int64) + 256 * high.astype(np.int64)
    return np.where(result == _LARGE, fill, result)


def transform_panoptic(
    ids: IntMap, segments: list[dict[str, Any]], transforms: Any
) -> tuple[IntMap, list[dict[str, Any]]]:
    """Move a panoptic map along with an augmentation.

    Args:
        ids: segment ids, 0 for none, (H, W), int64.
        segments: the segments, each with ``id``.
        transforms: Detectron2's transforms.

    Returns:
        Segment ids (H', W'), int64, and copies of the segments that are left, with their area in pixels of the new map
        and without their box, which no longer holds.
    """
    numbers = np.array([VOID, *(segment["id"] for segment in segments)], dtype=np.int64)
    order = np.argsort(numbers)
    places = order[np.searchsorted(numbers, ids, sorter=order)]
    moved = transform_labels(places, transforms, fill=0)
    areas = np.bincount(moved.reshape(-1), minlength=len(numbers))
    kept = [
        {**{key: value for key, value in segment.items() if key != "bbox"}, "area": int(area)}
        for segment, area in zip(segments, areas[1:], strict=True)
        if area
    ]
    return numbers[moved], kept


def _open(record: Mapping[str, Any], file_name: str, modes: tuple[str, ...], wanted: str) -> npt.NDArray[Any]:
    try:
        with Image.open(file_name) as image:
            mode = image.mode
            pixels = np.asarray(image)
    except Exception as error:  # as for images: broken bytes can raise anything
        reason = "the file does not exist" if not Path(file_name).is_file() else f"{type(error).__name__}: {error}"
        raise ImageReadError(f"label map {file_name}: {reason}") from error
    where = f"dataset {record.get('dataset')!r}, image {record.get('image_id')!r}, {file_name}"
    if mode not in modes:
        raise LabelMapError(f"{where}: a picture of mode {mode}, not {wanted}")
    height, width = record.get("height", pixels.shape[0]), record.get("width", pixels.shape[1])
    if pixels.shape[:2] != (height, width):
        raise LabelMapError(
            f"{where}: the label map has {pixels.shape[1]} x {pixels.shape[0]} pixels, its image {width} x {height}"
        )
    return pixels.astype(np.uint8) if mode == "1" else pixels


def _where(record: Mapping[str, Any], field: str) -> str:
    return f"dataset {record.get('dataset')!r}, image {record.get('image_id')!r}, {record[field]}"


def _listed(values: Any, shown: int = 5) -> str:
    values = list(values)
    more = f" and {len(values) - shown} more" if len(values) > shown else ""
    return ", ".join(str(value) for value in values[:shown]) + more
