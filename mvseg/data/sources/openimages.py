"""Open Images: CSV files of boxes and of labels that people verified for whole images, class names, and a hierarchy."""

from __future__ import annotations

import math
import os
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.structures import BoxMode

from mvseg.vocabulary import Vocabulary, did_you_mean

from ..card import DatasetCard, missing_message
from ..checks import LoadReport, check_box, collecting, complain
from .base import (
    FILTERED,
    IGNORED,
    LoadedDataset,
    check_folder,
    check_images,
    count_images,
    new_record,
    read_split,
    register_format,
)
from .hierarchy import ancestors_of
from .images import find_files, image_sizes, is_image, read_size_table
from .openimages_tags import load_openimages_tags
from .openimages_words import make_vocabulary, match_labels, read_classes
from .tables import read_rows

_BOX_COLUMNS = ("ImageID", "LabelName", "XMin", "XMax", "YMin", "YMax")
_FLAGS = {
    "IsGroupOf": "is_group_of",
    "IsOccluded": "is_occluded",
    "IsTruncated": "is_truncated",
    "IsDepiction": "is_depiction",
    "IsInside": "is_inside",
}
_FAR_OUTSIDE = 2.0  # normalised coordinates beyond this are pixels


@dataclass
class _Boxes:
    """The lines of a box file in columns: the training set has 14 million of them."""

    images: dict[str, int] = field(default_factory=dict)  # image id -> number
    labels: dict[str, int] = field(default_factory=dict)  # label -> number
    first_line: list[int] = field(default_factory=list)  # of each label
    image: array[int] = field(default_factory=lambda: array("q"))
    label: array[int] = field(default_factory=lambda: array("q"))
    line: array[int] = field(default_factory=lambda: array("q"))
    flags: array[int] = field(default_factory=lambda: array("B"))
    corners: tuple[array[float], ...] = field(default_factory=lambda: tuple(array("d") for _ in range(4)))


@register_format(
    "openimages",
    supervision=("boxes", "tags"),
    files={
        "classes": "class descriptions, CSV of label (MID) and name",
        "image_labels": "labels verified by people, CSV of ImageID, LabelName, Confidence (1: is there, 0: is not)",
        "hierarchy": "hierarchy of the labels, JSON of LabelName and Subcategory",
        "sizes": "sizes of the images, CSV of ImageID, Width, Height; left out: they are read from the images",
    },
    options={
        "min_confidence": "supervision tags: a label is believed from this confidence on, above 0 up to 1 (1)",
        "group_of": "boxes around a group: crowd (not trained on) or object; left out: crowd",
        "expand_hierarchy": "evaluation: boxes and verified labels count for the ancestors of their class too (true)",
        "expand_detections": "evaluation: detections count for the ancestors of their class too (false)",
    },
)
def load_openimages(card: DatasetCard, vocabulary: Vocabulary | None) -> LoadedDataset:
    """Read Open Images' files; every image that has a box or a verified label becomes a record.

    Args:
        card: the dataset's card; ``annotations`` is the CSV of boxes, with coordinates from 0 to 1; with supervision
            "tags" that of image labels (:func:`.openimages_tags.load_openimages_tags`).
        vocabulary: the dataset's words, found by their keys (MIDs), by name or by spelling; None: the class
            descriptions, in their order, with the parents of the hierarchy.

    Returns:
        Records whose annotations say ``is_group_of``, with the class indices verified to be in the image
        (``verified_category_ids``, the classes of the boxes among them) and not to be (``neg_category_ids``), and of
        the first those without a box (``not_exhaustive_category_ids``). Metadata ``ancestors``: those of every class.

    Raises:
        FileNotFoundError: if a file, the image folder or an image does not exist.
        ValueError: if a column is missing, a line wrong, or a label unknown; the message names file and line.
    """
    check_options(card)
    if card.supervision == "tags":
        return load_openimages_tags(card, vocabulary)
    path = card.resolve(card.annotations)
    root = check_folder(card, card.resolve(card.image_root), "image folder")
    report = LoadReport(card.name)
    split = read_split(card)
    boxes = _read_boxes(card, path, split, report)
    names, parents = read_classes(card)
    vocabulary = vocabulary or make_vocabulary(card, names or {label: label for label in sorted(boxes.labels)}, parents)
    classes = match_labels(card, names, dict(zip(boxes.labels, boxes.first_line)), vocabulary, path)
    verified = _read_labels(card, classes, split, report)
    records = _records(card, root, [*boxes.images, *(i for i in verified if i not in boxes.images)], report)
    _add_boxes(card, records, boxes, classes, path, report)
    ancestors = ancestors_of(vocabulary, classes, parents, report)
    for image, record in records.items():
        _add_verified(record, verified.get(image, {}), ancestors, report)
    result = list(records.values())
    check_images(card, result)
    count_images(result, report)
    return LoadedDataset(result, vocabulary, report, metadata={"ancestors": ancestors})


def check_options(card: DatasetCard) -> None:
    """Check the options and the evaluator of a card of Open Images.

    Args:
        card: the card.

    Raises:
        ValueError: if one has a value that does not exist.
    """
    group = card.options.get("group_of", "crowd")
    if group not in ("crowd", "object"):
        raise ValueError(f"{card.where}: options.group_of {group!r}{did_you_mean(str(group), ('crowd', 'object'))}")
    for key in ("expand_hierarchy", "expand_detections"):
        if not isinstance(card.options.get(key, True), bool):
            raise ValueError(f"{card.where}: options.{key} must be true or false, not {card.options[key]!r}")
    if card.evaluator in ("coco", "lvis"):
        raise ValueError(
            f"{card.where}: Open Images verifies few classes in each image, which the evaluator {card.evaluator} does "
            "not know; say evaluator: openimages"
        )


def _read_boxes(card: DatasetCard, path: Path, split: set[str] | None, report: LoadReport) -> _Boxes:
    boxes = _Boxes()
    for line, (image, label, *cells) in read_rows(card, path, _BOX_COLUMNS, tuple(_FLAGS)):
        if split is not None and os.path.splitext(image)[0] not in split:
            continue
        corners = _corners(card, cells[:4], path, line)
        flags = _flags(card, cells[4:], path, line)
        if corners is None or flags is None:
            continue
        if label not in boxes.labels:
            boxes.labels[label] = len(boxes.labels)
            boxes.first_line.append(line)
        boxes.image.append(boxes.images.setdefault(image, len(boxes.images)))
        boxes.label.append(boxes.labels[label])
        boxes.line.append(line)
        boxes.flags.append(flags)
        for column, value in zip(boxes.corners, corners):
            column.append(value)
    return boxes


def _corners(card: DatasetCard, cells: Sequence[str], path: Path, line: int) -> list[float] | None:
    """XMin, XMax, YMin, YMax of a line as numbers."""
    try:
        corners = [float(cell) for cell in cells]
    except ValueError:
        comma = " (decimal comma?)" if any("," in cell for cell in cells) else ""
        found = ", ".join(f"{name}={cell!r}" for name, cell in zip(_BOX_COLUMNS[2:], cells))
        complain(f"{card.where}: {path}, line {line}: the box must be four numbers{comma}, found {found}", "bad_box")
        return None
    if not all(math.isfinite(value) and abs(value) <= _FAR_OUTSIDE for value in corners):
        complain(
            f"{card.where}: {path}, line {line}: coordinates must be shares of the image from 0 to 1, not pixels; "
            f"found {', '.join(cells)}",
            "bad_box",
        )
        return None
    return corners


def _flags(card: DatasetCard, cells: Sequence[str], path: Path, line: int) -> int | None:
    """One bit for every flag; unknown (empty or -1) counts as not set."""
    bits = 0
    for place, cell in enumerate(cells):
        if cell not in ("", "0", "1", "-1"):
            complain(f"{card.where}: {path}, line {line}: {list(_FLAGS)[place]} must be 0 or 1, found {cell!r}")
            return None
        bits |= (cell == "1") << place
    return bits


def _read_labels(
    card: DatasetCard, classes: Mapping[str, int], split: set[str] | None, report: LoadReport
) -> dict[str, dict[int, bool]]:
    """Image id -> class index -> whether it was found to be there; empty without the file."""
    path = card.file("image_labels")
    verified: dict[str, dict[int, bool]] = {}
    if path is None:
        return verified
    for line, (image, label, confidence) in read_rows(card, path, ("ImageID", "LabelName", "Confidence")):
        if split is not None and os.path.splitext(image)[0] not in split:
            continue
        try:
            there = {0.0: False, 1.0: True}[float(confidence)]
        except (ValueError, KeyError):
            complain(
                f"{card.where}: {path}, line {line}: Confidence {confidence!r} is neither 0 nor 1; labels that a "
                "machine gave verify nothing: take the file of human labels"
            )
            continue
        index = classes.get(label)
        if index is None:
            report.add("foreign_labels")
            continue
        found = verified.setdefault(image, {})
        if index >= 0:  # ignored and filtered classes are as if nobody had looked for them
            found[index] = found.get(index, False) or there
    return verified


def _records(card: DatasetCard, root: Path, images: Sequence[str], report: LoadReport) -> dict[str, dict[str, Any]]:
    """Start the record of every image, with its file and size."""
    files: dict[str, str] = {}
    for name in find_files(root):
        if is_image(name):
            base = os.path.basename(name)
            files[base] = files[os.path.splitext(base)[0]] = name
    missing = [image for image in images if image not in files]
    first = f"{len(missing)} of {len(images)} images are missing; the first,"
    for image in missing:  # the first one ends it, but while problems are collected
        message = missing_message(card, "image" if collecting() else first, root / f"{image}.jpg")
        advice = " To use those that are there, list them in a file (split: in the card)."
        complain(message + advice, "missing_file", FileNotFoundError)
    there = [image for image in images if image in files]
    table = card.file("sizes")
    known = read_size_table(card, table) if table is not None else {}
    unknown = [image for image in there if image not in known and os.path.splitext(image)[0] not in known]
    read = image_sizes(card, [root / files[image] for image in unknown])
    report.add("sizes_read", len(read))
    sizes = {**known, **{image: size for image, size in zip(unknown, read, strict=True) if size is not None}}
    found = {image: sizes.get(image) or sizes.get(os.path.splitext(image)[0]) for image in there}
    return {image: new_record(card, root / files[image], *size, image) for image, size in found.items() if size}


def _add_boxes(
    card: DatasetCard,
    records: Mapping[str, dict[str, Any]],
    boxes: _Boxes,
    classes: Mapping[str, int],
    path: Path,
    report: LoadReport,
) -> None:
    images = [records.get(image) for image in boxes.images]
    indices = [classes.get(label, IGNORED) for label in boxes.labels]
    group_is_crowd = card.options.get("group_of", "crowd") == "crowd"
    flags = [_named_flags(bits) for bits in range(1 << len(_FLAGS))]
    place = f"{card.where}: {path}, line "
    sizes = np.array([(r["width"], r["height"]) if r else (1, 1) for r in images], dtype=np.float64).reshape(-1, 2)
    boxes_xywh, inside = _to_pixels(boxes, sizes)
    rows = zip(boxes_xywh, inside, boxes.image, boxes.label, boxes.flags, boxes.line, strict=True)
    for found, whole, image, label, bits, line in rows:
        record, index = images[image], indices[label]
        if record is None:
            continue
        if index in (IGNORED, FILTERED):
            report.add("ignored" if index == IGNORED else "filtered")
            continue
        box = found if whole else check_box(found, record["height"], record["width"], f"{place}{line}", report)
        if box is None:
            continue
        crowd = int(group_is_crowd and bool(flags[bits]["is_group_of"]))
        annotation = {"bbox": box, "bbox_mode": BoxMode.XYWH_ABS, "category_id": index, "iscrowd": crowd}
        annotation.update(flags[bits])
        record["annotations"].append(annotation)
        report.counts["instances"] += 1
        report.counts["crowd"] += crowd


def _named_flags(bits: int) -> dict[str, int]:
    """The flags of an annotation: those that are set, and whether it is a group in any case."""
    return {
        name: bits >> place & 1
        for place, name in enumerate(_FLAGS.values())
        if bits >> place & 1 or name == "is_group_of"
    }


def _to_pixels(boxes: _Boxes, sizes: np.ndarray) -> tuple[list[list[float]], list[bool]]:
    """Boxes (x, y, width, height) in pixels, and whether each has an area and lies inside its image."""
    left, right, top, bottom = (np.frombuffer(column, dtype=np.float64) for column in boxes.corners)
    width, height = sizes[np.frombuffer(boxes.image, dtype=np.int64)].T
    x, y, w, h = left * width, top * height, (right - left) * width, (bottom - top) * height
    inside = (x >= 0) & (y >= 0) & (w > 0) & (h > 0) & (x + w <= width) & (y + h <= height)
    return np.stack([x, y, w, h], axis=1).tolist(), inside.tolist()


def _add_verified(
    record: dict[str, Any], labels: Mapping[int, bool], ancestors: Sequence[Sequence[int]], report: LoadReport
) -> None:
    boxed = {annotation["category_id"] for annotation in record["annotations"]}
    there = boxed | {index for index, found in labels.items() if found}
    covered = boxed.union(*(ancestors[index] for index in boxed))
    record["verified_category_ids"] = sorted(there)
    record["neg_category_ids"] = sorted(index for index in labels if index not in there)
    record["not_exhaustive_category_ids"] = sorted(there - covered)
    report.add("verified", len(there))
    report.add("refuted", len(record["neg_category_ids"]))
