"""Open Images' image labels as tags: what people or a machine saw in the image, and what people saw is not there."""

from __future__ import annotations

import os
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mvseg.vocabulary import Vocabulary

from ..card import DatasetCard, missing_message
from ..checks import LoadReport, complain
from ..columns import ColumnRecords, Columns, ListColumn, text_column
from .base import FILTERED, IGNORED, LoadedDataset, check_folder, check_images, count_images, read_split
from .hierarchy import ancestors_of
from .images import find_files, is_image
from .openimages_words import make_vocabulary, match_labels, read_classes
from .tables import read_rows

_THERE, _NOT_THERE = 1, 0


@dataclass
class _Labels:
    """The lines of a label file in columns: the training set has 60 million of them."""

    images: dict[str, int] = field(default_factory=dict)  # image id -> number
    labels: dict[str, int] = field(default_factory=dict)  # label -> number
    first_line: list[int] = field(default_factory=list)  # of each label
    image: array[int] = field(default_factory=lambda: array("i"))
    label: array[int] = field(default_factory=lambda: array("i"))
    there: array[int] = field(default_factory=lambda: array("b"))


def load_openimages_tags(card: DatasetCard, vocabulary: Vocabulary | None) -> LoadedDataset:
    """Read Open Images' image labels.

    Args:
        card: the dataset's card; ``annotations`` is the CSV of ImageID, LabelName and Confidence. Images lie in
            ``image_root`` as ``<ImageID>.jpg``, or are looked for in its subfolders.
        vocabulary: the dataset's words, found by their keys (MIDs), by name or by spelling; labels of other classes
            are left out and counted. None: the class descriptions with the parents of the hierarchy.

    Returns:
        Records with ``image_labels``, the same as ``verified_category_ids``, and ``neg_category_ids``, what is not
        there.

    Raises:
        FileNotFoundError: if a file, the image folder or an image does not exist.
        ValueError: if a column is missing, a line wrong, or a label unknown; the message names file and line.
    """
    path = card.resolve(card.annotations)
    if "image_labels" in card.files:
        raise ValueError(f"{card.where}: with supervision tags the image labels are named under annotations")
    root = check_folder(card, card.resolve(card.image_root), "image folder")
    report = LoadReport(card.name)
    found = _read(card, path, _least_confidence(card), report)
    names, parents = read_classes(card)
    lines = dict(zip(found.labels, found.first_line))
    if vocabulary is not None:
        known = {*(vocabulary.keys or ()), *vocabulary.names, *card.aliases, *card.ignore}
        lines = {label: line for label, line in lines.items() if label in known or names.get(label, "") in known}
    vocabulary = vocabulary or make_vocabulary(card, names or {label: label for label in sorted(lines)}, parents)
    classes = match_labels(card, names, lines, vocabulary, path)
    foreign = FILTERED - 1
    table = np.array([classes.get(label, foreign) for label in found.labels], np.int32)
    indices = table[np.frombuffer(found.label, np.int32)] if len(found.label) else np.zeros(0, np.int32)
    for what, number in (("ignored", IGNORED), ("filtered", FILTERED), ("foreign_labels", foreign)):
        report.add(what, int((indices == number).sum()))
    positive, negative = _lists(found, indices, len(vocabulary))
    files = _files(card, root, list(found.images))
    columns = Columns(text_column(files), str(root), labels=positive, negatives=negative, named_ids=True)
    records = ColumnRecords(card.name, "tags", columns)
    report.add("tags", len(positive.values))
    report.add("refuted", len(negative.values))
    check_images(card, records)
    count_images(records, report)
    metadata = {"ancestors": ancestors_of(vocabulary, classes, parents, report)}
    return LoadedDataset(records, vocabulary, report, metadata=metadata)


def _least_confidence(card: DatasetCard) -> float:
    least = card.options.get("min_confidence", 1.0)
    if isinstance(least, bool) or not isinstance(least, int | float) or not 0 < least <= 1:
        raise ValueError(f"{card.where}: options.min_confidence must be a number above 0 up to 1, not {least!r}")
    return float(least)


def _read(card: DatasetCard, path: Path, least: float, report: LoadReport) -> _Labels:
    split = read_split(card)
    found = _Labels()
    for line, (image, label, confidence) in read_rows(card, path, ("ImageID", "LabelName", "Confidence")):
        if split is not None and os.path.splitext(image)[0] not in split:
            continue
        try:
            value = float(confidence)
        except ValueError:
            value = -1.0
        if not 0 <= value <= 1:
            complain(f"{card.where}: {path}, line {line}: Confidence {confidence!r} is no number from 0 to 1")
            continue
        if 0 < value < least:
            report.counts["unsure_labels"] += 1
            continue
        if label not in found.labels:
            found.labels[label] = len(found.labels)
            found.first_line.append(line)
        found.image.append(found.images.setdefault(image, len(found.images)))
        found.label.append(found.labels[label])
        found.there.append(_THERE if value >= least else _NOT_THERE)
    return found


def _lists(found: _Labels, indices: np.ndarray, classes: int) -> tuple[ListColumn, ListColumn]:
    """The classes that are in each image, and those that are not; who saw a class overrules who did not."""
    images = np.frombuffer(found.image, np.int32).astype(np.int64) if len(found.image) else np.zeros(0, np.int64)
    there = np.frombuffer(found.there, np.int8) if len(found.there) else np.zeros(0, np.int8)
    pairs = images * classes + indices
    positive = np.unique(pairs[(there == _THERE) & (indices >= 0)])
    negative = np.setdiff1d(pairs[(there == _NOT_THERE) & (indices >= 0)], positive)

    def column(chosen: np.ndarray) -> ListColumn:
        rows, values = np.divmod(chosen, classes)
        starts = np.searchsorted(rows, np.arange(len(found.images) + 1))
        return ListColumn(values.astype(np.int32), starts.astype(np.int64))

    return column(positive), column(negative)


def _files(card: DatasetCard, root: Path, images: Sequence[str]) -> list[str]:
    """Find the file of every image: beside one another under their id, or anywhere below the folder."""
    if not images or (root / f"{images[0]}.jpg").is_file():
        return [f"{image}.jpg" for image in images]
    wanted, files = set(images), {}
    for name in find_files(root):
        image = os.path.splitext(os.path.basename(name))[0]
        if image in wanted and is_image(name):
            files[image] = name
    missing = [image for image in images if image not in files]
    if missing:
        what = f"{len(missing)} of {len(images)} images are missing; the first,"
        message = missing_message(card, what, root / f"{missing[0]}.jpg")
        advice = " To use those that are there, list them in a file (split: in the card)."
        complain(message + advice, "missing_file", FileNotFoundError)
    return [files.get(image, f"{image}.jpg") for image in images]
