"""Image tags: a folder for every class, as ImageNet has them, or a file that lists images with their classes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from mvseg.vocabulary import Vocabulary

from ..card import DatasetCard, missing_message
from ..checks import LoadReport, complain
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


@register_format(
    "image_folder",
    supervision=("tags",),
    files={"classes": "table of two columns: label or folder name, word (such as n02084071, dog)"},
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
    tagged = list(_listed(card) if card.annotations else _foldered(card, root, report))
    split = read_split(card)
    if split is not None:
        kept = [image for image in tagged if Path(image[0]).stem in split]
        report.add("unlisted_images", len(tagged) - len(kept))
        tagged = kept
    table = card.file("classes")
    words = read_class_names(card, table) if table is not None else {}
    vocabulary, classes = _match_labels(card, tagged, words, vocabulary)
    records = []
    for number, (name, labels, _) in enumerate(tagged, start=1):
        found = {classes[label] for label in labels}
        report.add("ignored", IGNORED in found)
        report.add("filtered", FILTERED in found)
        indices = sorted(found - {IGNORED, FILTERED})
        report.add("tags", len(indices))
        records.append(
            {
                "file_name": os.path.join(root, name),
                "image_id": number,
                "dataset": card.name,
                "supervision": card.supervision,
                "annotations": [],
                "image_labels": indices,
            }
        )
    check_images(card, records)
    count_images(records, report)
    return LoadedDataset(records, vocabulary, report)


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


def _match_labels(
    card: DatasetCard, tagged: Sequence[Tagged], words: dict[str, str], vocabulary: Vocabulary | None
) -> tuple[Vocabulary, dict[str, int]]:
    """Return the vocabulary and label -> class index."""
    examples: dict[str, str] = {}
    for name, labels, place in tagged:
        for label in labels:
            examples.setdefault(label, f"{place}, {name}")
    where = card.annotations or f"image folder {card.resolve(card.image_root)}"
    if vocabulary is not None and not words and examples and all(label.isdecimal() for label in examples):
        wrong = {label for label in examples if int(label) >= len(vocabulary)}
        for label in sorted(wrong):
            complain(
                f"{card.where}: {examples[label]} of {where}: label {label} is no class index of vocabulary "
                f"{vocabulary.name!r}, whose {len(vocabulary)} words have 0 to {len(vocabulary) - 1}",
                "unknown_category",
            )
        return vocabulary, {label: IGNORED if label in wrong else int(label) for label in examples}
    names = {label: words.get(label, label) for label in examples}
    if vocabulary is None:
        names = unique_names(names)
    known = sorted(set(names.values()))
    if vocabulary is None:
        kept = [name for name in known if name not in card.ignore and name not in card.aliases]
        vocabulary = Vocabulary.from_names(kept, card.name)
    shown = {names[label]: place for label, place in examples.items()}
    by_name = class_indices(card, known, vocabulary, shown, where)
    return vocabulary, {label: by_name[name] for label, name in names.items()}
