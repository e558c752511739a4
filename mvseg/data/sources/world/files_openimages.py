"""The world's OpenImages-like dataset: CSV files of boxes and verified labels, class descriptions, hierarchy."""

from __future__ import annotations

import csv
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .datasets import WorldDataset, WorldSettings, picture_chance
from .facts import ImageFacts
from .federation import OpenBox, verify
from .files_coco import write_json
from .words import open_names, parents_of_open

OPEN_SPLITS = {"train": "train", "val": "validation"}

_BOX_COLUMNS = (
    "ImageID", "Source", "LabelName", "Confidence", "XMin", "XMax", "YMin", "YMax",
    "IsOccluded", "IsTruncated", "IsGroupOf", "IsDepiction", "IsInside",
)  # fmt: skip
_TOP = "/m/0bl9f"  # OpenImages calls the root of its hierarchy so; it is no class


def open_image_id(split: str, number: int) -> str:
    """Name a picture as OpenImages does.

    Args:
        split: "train" or "val".
        number: 1-based number of the picture.

    Returns:
        16 hexadecimal digits.
    """
    return f"{zlib.crc32(split.encode()):08x}{number:08x}"


def label_name(word: str) -> str:
    """Give the machine name of a class, which the CSV files use instead of the word.

    Args:
        word: a class of the dataset.

    Returns:
        Such as "/m/w007".
    """
    return f"/m/w{open_names().index(word):03d}"


def write_openimages(
    dataset: WorldDataset, folder: Path, facts: Mapping[str, Sequence[ImageFacts]], settings: WorldSettings
) -> None:
    """Write the CSV files of boxes and labels of every split, class descriptions and hierarchy.

    Args:
        dataset: the dataset.
        folder: its folder.
        facts: split to its pictures.
        settings: options of the world.
    """
    labels = {word: label_name(word) for word in open_names()}
    _write_rows(folder / "class-descriptions-boxable.csv", ((label, word) for word, label in labels.items()))
    write_json(folder / "bbox_labels_600_hierarchy.json", hierarchy_tree())
    for split, pictures in facts.items():
        boxes: list[tuple[Any, ...]] = []
        checked: list[tuple[Any, ...]] = []
        for picture in pictures:
            name = Path(picture.file).stem
            chance = picture_chance(dataset, split, picture.number, "verification", settings.seed)
            made = verify(picture.objects, picture.size, chance)
            boxes += [_box_row(name, labels[box.word], box, picture.size) for box in made.boxes]
            checked += [(name, "verification", labels[word], 1) for word in made.positive]
            checked += [(name, "verification", labels[word], 0) for word in made.negative]
        stem = OPEN_SPLITS[split]
        _write_rows(folder / f"{stem}-annotations-bbox.csv", [_BOX_COLUMNS, *boxes])
        header = ("ImageID", "Source", "LabelName", "Confidence")
        _write_rows(folder / f"{stem}-annotations-human-imagelabels-boxable.csv", [header, *checked])


def hierarchy_tree() -> dict[str, Any]:
    """Write the hierarchy as OpenImages does.

    Returns:
        The root, with the classes below it under ``Subcategory``.
    """

    def node(word: str) -> dict[str, Any]:
        below = [node(child) for child in open_names() if parents_of_open().get(child) == word]
        return {"LabelName": label_name(word), **({"Subcategory": below} if below else {})}

    tops = [word for word in open_names() if word not in parents_of_open()]
    return {"LabelName": _TOP, "Subcategory": [node(word) for word in tops]}


def _box_row(name: str, label: str, box: OpenBox, size: int) -> tuple[Any, ...]:
    x, y, w, h = box.box
    sides = (f"{value / size:.6f}" for value in (x, x + w, y, y + h))
    return (name, "xclick", label, 1, *sides, int(box.occluded), int(box.truncated), int(box.group), 0, 0)


def _write_rows(path: Path, rows: Iterable[Sequence[Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
