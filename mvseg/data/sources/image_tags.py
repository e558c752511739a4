"""Image tags: a folder for every class, as ImageNet has them, or a file that lists images with their classes."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from mvseg.vocabulary import Vocabulary, did_you_mean
from mvseg.vocabulary.suggestions import normalize

from ..card import DatasetCard, missing_message
from ..checks import LoadReport, complain
from ..columns import ColumnRecords, Columns, ListColumn, text_column
from .base import (
    FILTERED,
    IGNORED,
    LoadedDataset,
    check_folder,
    check_images,
    class_indices,
    count_images,
    read_split,
    register_format,
)
from .images import find_files, is_image
from .tables import read_class_names, unique_names

Tagged = tuple[str, tuple[str, ...], str]  # image relative to the folder, labels, place for errors
CLASSES_FILE = "table of two columns: label or folder name, word (such as n02084071, dog)"
OTHER_LABELS = "labels that are no word of the vocabulary: error or drop; left out: error"


@register_format(
    "image_folder",
    supervision=("tags",),
    files={"classes": CLASSES_FILE},
    options={"other_labels": OTHER_LABELS},
)
def load_image_folder(card: DatasetCard, vocabulary: Vocabulary | None) -> LoadedDataset:
    """Read images with tags.

    Without ``annotations``, every folder in the image folder is a class and all images in it and below have its tag.
    With ``annotations``, that file has one image on each line: its path, a tab (or the last space), and its labels,
    several divided by "|". Labels that are all whole numbers are class indices from 0.

    Args:
        card: the dataset's card.
        vocabulary: the dataset's words; None: the labels or their words, sorted; of equal words with the label.

    Returns:
        Records with ``image_labels``, image ids 1..n in the order of the files, and no ``height`` and ``width``: to
        open millions of files for them would take hours, and nobody needs them before the image is read.

    Raises:
        FileNotFoundError: if the image folder or the list does not exist, or there is no image.
        ValueError: if a label is not in the vocabulary, or a line of the list is wrong.
    """
    root = check_folder(card, card.resolve(card.image_root), "image folder")
    report = LoadReport(card.name)
    split = read_split(card)
    examples: dict[str, str] = {}
    numbers: dict[str, int] = {}
    values, starts = array("i"), array("q", [0])

    def names() -> Iterator[str]:
        for name, labels, place in _listed(card) if card.annotations else _foldered(card, root, report):
            if split is not None and Path(name).stem not in split:
                report.add("unlisted_images")
                continue
            for label in dict.fromkeys(labels):
                if label not in examples:
                    examples[label] = f"{place}, {name}"
                values.append(numbers.setdefault(label, len(numbers)))
            starts.append(len(values))
            yield name

    column = text_column(names())
    where = card.annotations or f"image folder {root}"
    vocabulary, classes = match_labels(card, examples, where, vocabulary, report)
    column_of_labels = ListColumn(np.array(values, np.int32), np.array(starts, np.int64))
    columns = Columns(column, str(root), labels=column_of_labels, classes=class_table(numbers, classes))
    records = ColumnRecords(card.name, card.supervision, columns)
    count_tags(records, report)
    check_images(card, records)
    count_images(records, report)
    return LoadedDataset(records, vocabulary, report)


def class_table(labels: Iterable[str], classes: Mapping[str, int]) -> np.ndarray:
    """Put the classes of labels in the order of the labels' numbers.

    Args:
        labels: the labels.
        classes: label to class index, IGNORED or FILTERED.

    Returns:
        Shape ``(labels,)``, int32.
    """
    return np.array([classes[label] for label in labels], np.int32)


def count_tags(records: ColumnRecords, report: LoadReport) -> None:
    """Count the tags that are kept, and the images that have left out ones.

    Args:
        records: the dataset's records.
        report: gets the counts.
    """
    report.add("tags", int(records.label_counts().sum()))
    labels, classes = records.columns.labels, records.columns.classes
    if labels is None or classes is None:
        return
    for what, number in (("ignored", IGNORED), ("filtered", FILTERED)):
        if (classes == number).any():
            only = records.with_columns(classes=np.where(classes == number, 0, -1).astype(np.int32))
            report.add(what, int((only.label_counts() > 0).sum()))


def _foldered(card: DatasetCard, root: Path, report: LoadReport) -> Iterator[Tagged]:
    folders = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))
    if not folders:
        raise FileNotFoundError(
            f"{card.where}: image folder {root} has no folders of classes; put the images of every class into a folder "
            "of its name, or list them in a file (annotations: in the card)"
        )
    for folder in folders:
        names = list(find_files(root / folder))
        images = [name for name in names if is_image(name)]
        report.add("other_files", len(names) - len(images))
        report.add("empty_folders", not images, where=f"{card.where}: {root / folder}")
        for name in images:
            yield os.path.join(folder, name), (folder,), f"folder {folder}"


def _listed(card: DatasetCard) -> Iterator[Tagged]:
    path = card.resolve(card.annotations)
    if not path.is_file():
        raise FileNotFoundError(missing_message(card, "list of images", path))
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            line = line.rstrip("\r\n")
            if not line.strip():
                continue
            name, _, labels = line.partition("\t") if "\t" in line else line.strip().rpartition(" ")
            kept = tuple(label.strip() for label in labels.split("|") if label.strip())
            if not name.strip() or not kept:
                complain(f"{card.where}: {path}, line {number}: needs an image, a tab and its labels, found {line!r}")
                continue
            yield name.strip(), kept, f"line {number}"


def match_labels(
    card: DatasetCard, examples: Mapping[str, str], where: str, vocabulary: Vocabulary | None, report: LoadReport
) -> tuple[Vocabulary, dict[str, int]]:
    """Find the class of every label.

    Args:
        card: gives the table of classes, aliases, what is ignored and what happens to other labels.
        examples: label -> an image that has it, for errors.
        where: the file of the labels, for errors.
        vocabulary: the dataset's words; None: the labels or their words, sorted; of equal words with the label.
        report: counts the labels that are dropped.

    Returns:
        The vocabulary, and label -> class index, IGNORED or FILTERED.

    Raises:
        ValueError: if a label is not in the vocabulary; the message lists such labels with an image of each.
    """
    other = card.options.get("other_labels", "error")
    if other not in ("error", "drop"):
        raise ValueError(f"{card.where}: options.other_labels {other!r}{did_you_mean(str(other), ('error', 'drop'))}")
    table = card.file("classes")
    words = read_class_names(card, table) if table is not None else {}
    if vocabulary is not None and not words and examples and all(label.isdecimal() for label in examples):
        wrong = {label for label in examples if int(label) >= len(vocabulary)}
        for label in sorted(wrong):
            complain(
                f"{card.where}: {examples[label]} of {where}: label {label} is no class index of vocabulary "
                f"{vocabulary.name!r}, whose {len(vocabulary)} words have 0 to {len(vocabulary) - 1}",
                "unknown_category",
            )
        return vocabulary, {label: IGNORED if label in wrong else int(label) for label in examples}
    dropped: set[str] = set()
    if other == "drop":
        dropped = _without_word(card, examples, words, vocabulary)
        report.add("dropped_labels", len(dropped))
    names = {label: words.get(label, label) for label in examples if label not in dropped}
    if vocabulary is None:
        names = unique_names(names)
    known = sorted(set(names.values()))
    if vocabulary is None:
        kept = [name for name in known if name not in card.ignore and name not in card.aliases]
        vocabulary = Vocabulary.from_names(kept, card.name)
    shown = {names[label]: examples[label] for label in names}
    by_name = class_indices(card, known, vocabulary, shown, where)
    return vocabulary, {label: by_name[names[label]] if label in names else IGNORED for label in examples}


def _without_word(
    card: DatasetCard, labels: Iterable[str], words: Mapping[str, str], vocabulary: Vocabulary | None
) -> set[str]:
    """Labels that neither the table of classes nor the vocabulary knows."""
    if vocabulary is None:
        return {label for label in labels if words and label not in words}
    known = set(vocabulary.positions) | {normalize(key) for key in vocabulary.keys or ()}
    named = {*card.aliases, *card.ignore}
    return {
        label
        for label in labels
        if words.get(label, label) not in named and normalize(words.get(label, label)) not in known
    }
