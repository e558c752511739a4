"""PASCAL VOC annotations: a folder with one XML file for each image."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from detectron2.structures import BoxMode
from PIL import Image

from mvseg.vocabulary import Vocabulary

from ..card import DatasetCard
from ..checks import LoadReport, check_box, complain
from ..supervision import has_masks
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

_ENDINGS = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG", ".bmp")


@register_format("voc")
def load_voc(card: DatasetCard, vocabulary: Vocabulary | None) -> LoadedDataset:
    """Read a folder of VOC XML files.

    VOC counts pixels from 1 and includes the last one, so a box covers (xmin - 1, ymin - 1) to (xmax, ymax).
    Objects marked difficult become crowd regions: not trained on, and neither right nor wrong in the evaluation.

    Args:
        card: the dataset's card; ``annotations`` is the folder of the XML files, ``split`` a list of images.
        vocabulary: the dataset's words; None: the names in the files, sorted.

    Returns:
        Records with image ids 1..n in the order of the file names.

    Raises:
        FileNotFoundError: if a folder does not exist or holds no XML file.
        ValueError: if a file cannot be read, or an object is wrong; the message names file and object.
    """
    if has_masks(card.supervision):
        raise ValueError(f"{card.where}: the format voc has boxes only; say supervision: boxes")
    folder = check_folder(card, card.resolve(card.annotations), "annotation folder")
    root = check_folder(card, card.resolve(card.image_root), "image folder")
    report = LoadReport(card.name)
    files = _xml_files(card, folder, report)
    trees = [(path, _parse(card, path)) for path in files]
    names, examples = _names(card, trees)
    if vocabulary is None:
        kept = [name for name in names if name not in card.ignore and name not in card.aliases]
        vocabulary = Vocabulary.from_names(kept, card.name)
    classes = class_indices(card, names, vocabulary, examples, str(folder))
    records = []
    for number, (path, tree) in enumerate(trees, start=1):
        record = _image_record(card, tree, path, root, number, report)
        for where, name, element in _objects(card, path, tree):
            annotation = _annotation(element, classes[name], record, where, report)
            if annotation is not None:
                record["annotations"].append(annotation)
        records.append(record)
    check_images(card, records)
    count_images(records, report)
    return LoadedDataset(records, vocabulary, report)


def _xml_files(card: DatasetCard, folder: Path, report: LoadReport) -> list[Path]:
    files = sorted(folder.glob("*.xml"))
    if not files:
        raise FileNotFoundError(f"{card.where}: annotation folder {folder} holds no XML file")
    split = read_split(card)
    if split is None:
        return files
    kept = [path for path in files if path.stem in split]
    missing = sorted(split - {path.stem for path in kept})
    if missing:
        raise FileNotFoundError(
            f"{card.where}: {len(missing)} images of split {card.split} have no XML file in {folder}, e.g. {missing[0]}"
        )
    report.add("unlisted_images", len(files) - len(kept))
    return kept


def _parse(card: DatasetCard, path: Path) -> ElementTree.Element:
    try:
        tree = ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise ValueError(f"{card.where}: {path} is not XML: {error}") from error
    if tree.tag != "annotation":
        raise ValueError(f"{card.where}: {path} is not a VOC annotation: its root is <{tree.tag}>")
    return tree


def _objects(
    card: DatasetCard, path: Path, tree: ElementTree.Element
) -> Iterator[tuple[str, str, ElementTree.Element]]:
    for number, element in enumerate(tree.iter("object"), start=1):
        where = f"{card.where}: {path}: object {number}"
        name = (element.findtext("name") or "").strip()
        if not name:
            complain(f"{where} has no name")
            continue
        yield where, name, element


def _names(card: DatasetCard, trees: list[tuple[Path, ElementTree.Element]]) -> tuple[list[str], dict[str, str]]:
    examples: dict[str, str] = {}
    for path, tree in trees:
        for number, (_, name, _) in enumerate(_objects(card, path, tree), start=1):
            examples.setdefault(name, f"{path.name}, object {number}")
    return sorted(examples), examples


def _image_record(
    card: DatasetCard, tree: ElementTree.Element, path: Path, root: Path, number: int, report: LoadReport
) -> dict[str, Any]:
    named = (tree.findtext("filename") or "").strip()
    candidates = [root / named] if named else []
    candidates += [root / (path.stem + ending) for ending in _ENDINGS]
    file = next((candidate for candidate in candidates if candidate.is_file()), candidates[0])
    try:
        height, width = int(tree.findtext("size/height") or 0), int(tree.findtext("size/width") or 0)
    except ValueError as error:
        raise ValueError(f"{card.where}: {path}: size is not an integer: {error}") from error
    if height <= 0 or width <= 0:
        if not file.is_file():
            raise FileNotFoundError(f"{card.where}: {path} gives no size, and its image {file} does not exist")
        with Image.open(file) as image:
            width, height = image.size
        report.add("sizes_read")
    return new_record(card, file, height, width, number)


def _annotation(
    element: ElementTree.Element, index: int, record: dict[str, Any], where: str, report: LoadReport
) -> dict[str, Any] | None:
    if index in (IGNORED, FILTERED):
        report.add("ignored" if index == IGNORED else "filtered")
        return None
    try:
        left, top, right, bottom = (
            float(element.findtext(f"bndbox/{k}") or "") for k in ("xmin", "ymin", "xmax", "ymax")
        )
    except ValueError as error:
        complain(f"{where}: bndbox needs xmin, ymin, xmax, ymax: {error}", "bad_box")
        return None
    if right <= left or bottom <= top:  # one pixel would still be a box, but such files mean a slip of the mouse
        report.add("zero_area", where=where)
        return None
    box = check_box(
        [left - 1, top - 1, right - left + 1, bottom - top + 1], record["height"], record["width"], where, report
    )
    if box is None:
        return None
    difficult = int((element.findtext("difficult") or "0").strip() in ("1", "true", "True"))
    report.add("instances")
    report.add("crowd", difficult)
    return {"bbox": box, "bbox_mode": BoxMode.XYWH_ABS, "category_id": index, "iscrowd": difficult}
