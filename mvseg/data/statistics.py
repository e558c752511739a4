"""Statistics of a dataset's records: objects and their sizes, objects per image, classes and their long tail."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.structures import BoxMode
from numpy.typing import NDArray
from tabulate import tabulate

from mvseg.data.label_maps import read_semantic

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Record = Mapping[str, Any]

# COCO's limits between small, medium and large: 32 and 96 pixels, squared.
SIZES = (("small (< 32²)", 0.0, 32.0**2), ("medium", 32.0**2, 96.0**2), ("large (> 96²)", 96.0**2, np.inf))
RELATIVE = ((0.0, 0.05), (0.05, 0.1), (0.1, 0.2), (0.2, 0.5), (0.5, np.inf))  # side of the object : side of the image
ASPECTS = ((0.0, 0.25), (0.25, 0.5), (0.5, 0.8), (0.8, 1.25), (1.25, 2.0), (2.0, 4.0), (4.0, np.inf))  # width : height
PER_IMAGE = ((0, 0), (1, 1), (2, 5), (6, 10), (11, 20), (21, 50), (51, None))
LONG_TAIL = ((0, 0), (1, 10), (11, 100), (101, None))  # images that show a class


@dataclass(frozen=True)
class DatasetStatistics:
    """What the records of one dataset hold; crowd regions are not counted.

    Args:
        name: name of the dataset.
        supervision: its kind of supervision.
        class_names: names of the classes.
        objects_per_image: objects, segments or phrases of each image, shape ``(images,)``.
        areas: area of each object with a box, in pixels of the image file: of the mask if there is one, else of the
            box; shape ``(objects,)``.
        relative: side of each box relative to the image's, the root of their areas' ratio, ``(objects,)``.
        aspects: width : height of each box, ``(objects,)``.
        class_images: images that show each class, ``(classes,)``.
        class_objects: objects of each class, ``(classes,)``.
        facts: further lines for the first table, such as the number of captions.
    """

    name: str
    supervision: str
    class_names: tuple[str, ...]
    objects_per_image: Integers
    areas: Floats
    relative: Floats
    aspects: Floats
    class_images: Integers
    class_objects: Integers
    facts: tuple[tuple[str, str], ...] = ()

    def tables(self, top: int = 10) -> str:
        """Write everything as text.

        Args:
            top: number of most and of least frequent classes listed.

        Returns:
            Several tables.
        """
        images = len(self.objects_per_image)
        head = [["images", f"{images:,}"], ["objects", f"{self.objects_per_image.sum():,}"], *map(list, self.facts)]
        parts = [_table(head, [f"dataset {self.name}", f"supervision {self.supervision}"])]
        spread = [(_range_name(low, high), _within(self.objects_per_image, low, high)) for low, high in PER_IMAGE]
        parts.append(_histogram(spread, "objects per image", "images"))
        if len(self.areas):
            found = [(text, int(((self.areas >= a) & (self.areas < b)).sum())) for text, a, b in SIZES]
            parts.append(_histogram(found, "size in pixels", "objects"))
            found = [(_percent_range(a, b), _between(self.relative, a, b)) for a, b in RELATIVE]
            parts.append(_histogram(found, "side relative to the image", "objects"))
            found = [(_ratio_range(a, b), _between(self.aspects, a, b)) for a, b in ASPECTS]
            parts.append(_histogram(found, "width : height", "objects"))
        if self.class_names and self.class_images.any():
            parts += self._class_tables(top)
        return "\n\n".join(parts)

    def _class_tables(self, top: int) -> list[str]:
        tail = [(_range_name(low, high), _within(self.class_images, low, high)) for low, high in LONG_TAIL]
        order = np.argsort(-self.class_images, kind="stable")
        rows = [[self.class_names[i], f"{self.class_images[i]:,}", f"{self.class_objects[i]:,}"] for i in order]
        if len(rows) > 2 * top:
            rows = [*rows[:top], [f"... {len(rows) - 2 * top} more", "", ""], *rows[len(rows) - top :]]
        return [
            _histogram(tail, "images that show the class", "classes"),
            _table(rows, ["class", "images", "objects"]),
        ]


def dataset_statistics(
    name: str, records: Sequence[Record], class_names: Sequence[str], supervision: str = "", max_maps: int = 500
) -> DatasetStatistics:
    """Count what the records of a dataset hold.

    Args:
        name: name of the dataset.
        records: its records in Detectron2's standard form.
        class_names: names of the classes, in the order of the class indices.
        supervision: its kind of supervision; empty: that of the first record.
        max_maps: of semantic maps, which have to be read, at most so many are, evenly spread.

    Returns:
        The statistics.
    """
    counter = _Counter(len(class_names))
    for record in records:
        counter.add(record)
    facts = counter.facts()
    maps = [record for record in records if record.get("sem_seg_file_name")]
    if maps:
        chosen = np.unique(np.linspace(0, len(maps) - 1, min(max_maps, len(maps))).astype(int))
        facts += counter.add_maps([maps[i] for i in chosen], len(maps))
    return DatasetStatistics(
        name=name,
        supervision=supervision or str(records[0].get("supervision", "boxes") if records else ""),
        class_names=tuple(class_names),
        objects_per_image=np.array(counter.per_image, dtype=np.int64),
        areas=np.array(counter.areas, dtype=np.float64),
        relative=np.array(counter.relative, dtype=np.float64),
        aspects=np.array(counter.aspects, dtype=np.float64),
        class_images=counter.class_images,
        class_objects=counter.class_objects,
        facts=tuple(facts),
    )


def write_class_csv(path: str | Path, statistics: Iterable[DatasetStatistics]) -> None:
    """Write the counts of every class of several datasets as CSV; the folder is made.

    Args:
        path: the file.
        statistics: of the datasets.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["dataset", "class", "images", "objects"])
        for found in statistics:
            for row in zip(found.class_names, found.class_images, found.class_objects, strict=True):
                writer.writerow([found.name, *row])


class _Counter:
    """Adds up the records; one object is an annotation, a segment, a phrase or a tag."""

    def __init__(self, classes: int) -> None:
        self.per_image: list[int] = []
        self.areas: list[float] = []
        self.relative: list[float] = []
        self.aspects: list[float] = []
        self.class_images = np.zeros(classes, dtype=np.int64)
        self.class_objects = np.zeros(classes, dtype=np.int64)
        self.crowd = self.captions = self.phrases = self.empty = 0
        self.words: list[int] = []

    def add(self, record: Record) -> None:
        objects = [*record.get("annotations", ()), *record.get("segments_info", ())]
        single = [o for o in objects if not o.get("iscrowd", 0)]
        phrases = list(record.get("phrases", ()))
        labels = list(record.get("image_labels", ()))
        captions = list(record.get("captions", ()))
        self.crowd += len(objects) - len(single)
        self.phrases += len(phrases)
        self.captions += len(captions)
        self.words += [len(text.split()) for text in [*captions, *(str(p["text"]) for p in phrases)]]
        self.per_image.append(len(single) + len(phrases) + len(labels))
        self.empty += not (objects or phrases or labels or captions or record.get("sem_seg_file_name"))
        classes = [o["category_id"] for o in single] + labels
        if classes:
            np.add.at(self.class_objects, classes, 1)
            self.class_images[sorted(set(classes))] += 1
        for item in [*single, *phrases]:
            if item.get("bbox") is not None:
                self._add_box(item, record)

    def _add_box(self, item: Mapping[str, Any], record: Record) -> None:
        _, _, width, height = BoxMode.convert(
            list(item["bbox"]), item.get("bbox_mode", BoxMode.XYWH_ABS), BoxMode.XYWH_ABS
        )
        area = item.get("area") or mask_area(item.get("segmentation"), record)
        self.areas.append(float(width * height if area is None else area))
        self.relative.append(float(np.sqrt(width * height / (record["width"] * record["height"]))))
        self.aspects.append(float(width / height) if height > 0 else np.inf)

    def facts(self) -> list[tuple[str, str]]:
        known = [("images without annotations", self.empty), ("crowd regions", self.crowd), ("captions", self.captions)]
        known.append(("phrases with a box", self.phrases))
        facts = [(text, f"{count:,}") for text, count in known if count]
        if self.words:
            low, high = min(self.words), max(self.words)
            facts.append(("words in a caption or phrase", f"{np.mean(self.words):.1f} ({low} to {high})"))
        return facts

    def add_maps(self, records: Sequence[Record], total: int) -> list[tuple[str, str]]:
        """Count the classes of semantic maps; a region is one object of its class."""
        unlabelled = pixels = 0
        for record in records:
            values, counts = np.unique(read_semantic(record), return_counts=True)
            inside = values < len(self.class_images)
            self.class_images[values[inside]] += 1
            self.class_objects[values[inside]] += 1
            pixels += int(counts.sum())
            unlabelled += int(counts[~inside].sum())
        facts = [("semantic maps read", f"{len(records):,} of {total:,}")]
        return [*facts, ("pixels without a label", f"{unlabelled / max(pixels, 1):.1%}")]


def mask_area(segmentation: Any, record: Record) -> float | None:
    """Measure a mask.

    Args:
        segmentation: polygons or RLE, or None.
        record: the image's record, with height and width.

    Returns:
        Its area in pixels; None without a mask.
    """
    if not segmentation:
        return None
    from pycocotools import mask as mask_util

    if isinstance(segmentation, list):
        segmentation = mask_util.merge(mask_util.frPyObjects(segmentation, record["height"], record["width"]))
    return float(mask_util.area(segmentation))


def _within(values: Integers, low: int, high: int | None) -> int:
    return int(((values >= low) & (values <= (np.inf if high is None else high))).sum())


def _between(values: Floats, low: float, high: float) -> int:
    return int(((values >= low) & (values < high)).sum())


def _range_name(low: int, high: int | None) -> str:
    if high is None:
        return f"> {low - 1}"
    return str(low) if low == high else f"{low} to {high}"


def _percent_range(low: float, high: float) -> str:
    return f"> {low:.0%}" if np.isinf(high) else f"{low:.0%} to {high:.0%}"


def _ratio_range(low: float, high: float) -> str:
    if low == 0:
        return f"< {high:g}"
    return f"> {low:g}" if np.isinf(high) else f"{low:g} to {high:g}"


def _histogram(rows: Sequence[tuple[str, int]], title: str, what: str) -> str:
    total = max(sum(count for _, count in rows), 1)
    body = [[text, f"{count:,}", f"{count / total:.1%}", "█" * round(30 * count / total)] for text, count in rows]
    return _table(body, [title, what, "share", ""])


def _table(rows: Sequence[Sequence[str]], headers: Sequence[str]) -> str:
    align = ("left", *("right",) * (min(len(headers), 3) - 1), *("left",) * max(len(headers) - 3, 0))
    return tabulate(rows, headers=headers, tablefmt="simple", disable_numparse=True, colalign=align)
