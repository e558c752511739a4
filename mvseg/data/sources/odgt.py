"""ODGT: one JSON object for each image on a line of its own, with several boxes of every person (CrowdHuman)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from detectron2.structures import BoxMode

from mvseg.vocabulary import Vocabulary, did_you_mean

from ..card import DatasetCard, missing_message
from ..checks import LoadReport, check_box, check_unique, complain
from .base import (
    FILTERED,
    IGNORED,
    LoadedDataset,
    check_folder,
    check_images,
    class_indices,
    count_images,
    new_record,
    read_split,
    register_format,
)
from .images import find_files, image_sizes, is_below, is_image

_KINDS = {"full": "fbox", "visible": "vbox", "head": "hbox"}
_TAG_OF_GROUPS = "mask"


@register_format(
    "odgt",
    supervision=("boxes",),
    options={"box": "which box of a person: full (body, hidden parts guessed), visible (its seen part) or head"},
)
def load_odgt(card: DatasetCard, vocabulary: Vocabulary | None) -> LoadedDataset:
    """Read a file of one JSON object a line.

    Boxes with ``extra.ignore``, those of the tag ``mask`` (crowds, reflections, pictures of people), and heads with
    ``head_attr.ignore`` become crowd regions: not trained on, and neither right nor wrong in the evaluation. Full boxes
    often reach outside the image; they are clipped to it and counted.

    Args:
        card: the dataset's card; ``options.box`` must say which box is meant.
        vocabulary: the dataset's words; None: the tags of the file, sorted, without ``mask``. Boxes of the tag ``mask``
            belong to the first word.

    Returns:
        Records with the image's name as id, its size read from the image.

    Raises:
        FileNotFoundError: if the file, the image folder or an image does not exist.
        ValueError: if the option is missing, a line is wrong, or an ID fits several images or leads out of the folder;
            the message names file, line and box.
    """
    kind = card.options.get("box")
    if kind not in _KINDS:
        raise ValueError(
            f"{card.where}: options.box must say which boxes are meant: {', '.join(_KINDS)}"
            + (f", not {kind!r}{did_you_mean(str(kind), _KINDS)}" if kind is not None else "")
        )
    path = card.resolve(card.annotations)
    root = check_folder(card, card.resolve(card.image_root), "image folder")
    report = LoadReport(card.name)
    split = read_split(card)
    lines = []
    for number, line in _read_lines(card, path):
        if split is None or os.path.splitext(str(line["ID"]))[0] in split:
            lines.append((number, line))
        else:
            report.add("unlisted_images")
    check_unique([line["ID"] for _, line in lines], "image ID", f"{card.where}: {path}")
    vocabulary, classes = _classes(card, lines, vocabulary, path, report)
    result = []
    for (number, line), record in zip(lines, _records(card, lines, root), strict=True):
        if record is not None:
            _add_boxes(
                record, line["gtboxes"], _KINDS[str(kind)], classes, f"{card.where}: {path}, line {number}", report
            )
            result.append(record)
    report.add("sizes_read", len(result))
    check_images(card, result)
    count_images(result, report)
    return LoadedDataset(result, vocabulary, report)


def _read_lines(card: DatasetCard, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    if not path.is_file():
        raise FileNotFoundError(missing_message(card, "annotation file", path))
    with path.open(encoding="utf-8") as file:
        for number, text in enumerate(file, start=1):
            if not text.strip():
                continue
            try:
                line = json.loads(text)
            except ValueError as error:
                complain(f"{card.where}: {path}, line {number} is not JSON: {error}")
                continue
            boxes = line.get("gtboxes") if isinstance(line, dict) else None
            if not isinstance(boxes, list) or not line.get("ID"):
                complain(f"{card.where}: {path}, line {number} needs ID and the list gtboxes: {text.strip():.120}")
                continue
            untagged = [place for place, box in enumerate(boxes) if not isinstance(box, dict) or not box.get("tag")]
            if untagged:
                complain(f"{card.where}: {path}, line {number}, box {untagged[0] + 1} has no tag")
                continue
            yield number, line


def _classes(
    card: DatasetCard, lines: list[tuple[int, dict[str, Any]]], vocabulary: Vocabulary | None, path: Path, report: Any
) -> tuple[Vocabulary, dict[str, int]]:
    examples: dict[str, str] = {}
    for number, line in lines:
        for box in line["gtboxes"]:
            examples.setdefault(str(box["tag"]), f"line {number}")
    tags = sorted(set(examples) - {_TAG_OF_GROUPS})
    if vocabulary is None:
        kept = [tag for tag in tags if tag not in card.ignore and tag not in card.aliases]
        vocabulary = Vocabulary.from_names(kept, card.name)
    return vocabulary, {_TAG_OF_GROUPS: 0, **class_indices(card, tags, vocabulary, examples, str(path), report)}


def _records(card: DatasetCard, lines: list[tuple[int, dict[str, Any]]], root: Path) -> list[dict[str, Any] | None]:
    files: dict[str, list[str]] = {}
    for name in find_files(root):
        if is_image(name):
            files.setdefault(os.path.splitext(os.path.basename(name))[0], []).append(name)
    images = [str(line["ID"]) for _, line in lines]
    paths = []
    for (number, _), image in zip(lines, images, strict=True):
        named = files.get(image, [f"{image}.jpg"])
        if len(named) > 1:
            complain(
                f"{card.where}: {card.annotations}, line {number}: {len(named)} images of {root} are called {image}: "
                f"{', '.join(named[:3])}; which one is meant?"
            )
        if not is_below(root, named[0]):
            raise ValueError(
                f"{card.where}: {card.annotations}, line {number}: ID {image!r} leads out of the image folder {root}"
            )
        paths.append(root / named[0])
    sizes = image_sizes(card, paths)
    found = zip(images, paths, sizes, strict=True)
    return [new_record(card, path, *size, image) if size is not None else None for image, path, size in found]


def _add_boxes(
    record: dict[str, Any],
    boxes: list[dict[str, Any]],
    key: str,
    classes: Mapping[str, int],
    where: str,
    report: LoadReport,
) -> None:
    for number, box in enumerate(boxes, start=1):
        index = classes[str(box["tag"])]
        if index in (IGNORED, FILTERED):
            report.add("ignored" if index == IGNORED else "filtered")
            continue
        found = check_box(box.get(key), record["height"], record["width"], f"{where}, {key} of box {number}", report)
        if found is None:
            continue
        attributes = [box.get("extra"), box.get("head_attr") if key == _KINDS["head"] else None]
        ignored = any(isinstance(a, Mapping) and a.get("ignore") for a in attributes)
        crowd = int(ignored or box["tag"] == _TAG_OF_GROUPS)
        record["annotations"].append(
            {"bbox": found, "bbox_mode": BoxMode.XYWH_ABS, "category_id": index, "iscrowd": crowd}
        )
        report.add("instances")
        report.add("crowd", crowd)
