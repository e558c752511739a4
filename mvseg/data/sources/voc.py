"""PASCAL VOC annotations: a folder with one XML file for each image, also in subfolders as ImageNet has them."""

from __future__ import annotations

import os
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

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
from .image_paths import read_flag
from .images import find_files, is_below, is_image
from .tables import read_class_names, unique_names

_ENDINGS = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG", ".bmp")
_SIDES = ("xmin", "ymin", "xmax", "ymax")
TRAIN_DIFFICULT = "train_difficult"
ONE_CLASS = "only_shown_classes"
FILES = {"classes": "table of two columns: name in the XML files, word (such as n02084071, dog)"}
OPTIONS = {
    TRAIN_DIFFICULT: "objects marked difficult are trained on like the others (true or false); left out: they are not",
    ONE_CLASS: "nobody looked for other classes than those of an image's boxes: records list these as verified, and "
    "the scope verified leaves out the others (true or false)",
}


class _Object(NamedTuple):
    name: str
    box: tuple[str | None, ...]  # texts of xmin, ymin, xmax, ymax
    difficult: bool


class _File(NamedTuple):
    """What counts of an XML file; the trees of half a million files would need gigabytes."""

    path: Path
    folder: str  # below the annotation folder
    image: str  # what the file calls its image
    size: tuple[str, str]  # height and width
    objects: tuple[_Object, ...]


@register_format("voc", files=FILES, options=OPTIONS)
def load_voc(card: DatasetCard, vocabulary: Vocabulary | None) -> LoadedDataset:
    """Read a folder of VOC XML files.

    VOC counts pixels from 1 and includes the last one, so a box covers (xmin - 1, ymin - 1) to (xmax, ymax).
    Annotations say whether they are ``difficult``; these are also crowd regions, which are not trained on, unless the
    option ``train_difficult`` says so.

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
    train_difficult, one_class = read_flag(card, TRAIN_DIFFICULT), read_flag(card, ONE_CLASS)
    report = LoadReport(card.name)
    files = [_read(card, folder, name) for name in _xml_files(card, folder, report)]
    vocabulary, classes = _match_names(card, files, vocabulary, folder, report)
    records = []
    images = _Images(root)
    for number, file in enumerate(files, start=1):
        record = _image_record(card, file, images, number, report)
        for place, thing in enumerate(file.objects, start=1):
            where = f"{card.where}: {file.path}: object {place}"
            annotation = _annotation(thing, classes.get(thing.name, IGNORED), record, where, report)
            if annotation is not None:
                annotation["iscrowd"] = int(annotation["difficult"] and not train_difficult)
                report.add("crowd", annotation["iscrowd"])
                record["annotations"].append(annotation)
        if one_class:
            record["verified_category_ids"] = sorted({a["category_id"] for a in record["annotations"]})
        records.append(record)
    check_images(card, records)
    count_images(records, report)
    if card.split is None:
        report.add("images_without_xml", _count_others(root, records))
    return LoadedDataset(records, vocabulary, report)


def _xml_files(card: DatasetCard, folder: Path, report: LoadReport) -> list[str]:
    """Paths of the XML files below the folder, in a fixed order."""
    files = [name for name in find_files(folder) if name.endswith(".xml")]
    if not files:
        raise FileNotFoundError(f"{card.where}: annotation folder {folder} holds no XML file")
    split = read_split(card)
    if split is None:
        return files
    kept = [name for name in files if Path(name).stem in split]
    missing = sorted(split - {Path(name).stem for name in kept})
    if missing:
        raise FileNotFoundError(
            f"{card.where}: {len(missing)} images of split {card.split} have no XML file in {folder}, e.g. {missing[0]}"
        )
    report.add("unlisted_images", len(files) - len(kept))
    return kept


def _read(card: DatasetCard, folder: Path, name: str) -> _File:
    path = folder / name
    try:
        tree = ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise ValueError(f"{card.where}: {path} is not XML: {error}") from error
    if tree.tag != "annotation":
        raise ValueError(f"{card.where}: {path} is not a VOC annotation: its root is <{tree.tag}>")
    objects = []
    for number, element in enumerate(tree.iter("object"), start=1):
        word = (element.findtext("name") or "").strip()
        if not word:
            complain(f"{card.where}: {path}: object {number} has no name")
            continue
        box = tuple(element.findtext(f"bndbox/{side}") for side in _SIDES)
        difficult = (element.findtext("difficult") or "0").strip().lower() in ("1", "true")
        objects.append(_Object(sys.intern(word), box, difficult))
    size = (tree.findtext("size/height") or "0", tree.findtext("size/width") or "0")
    image = (tree.findtext("filename") or "").strip()
    parent = sys.intern(str(Path(name).parent))
    return _File(path, parent, image, size, tuple(objects))


def _match_names(
    card: DatasetCard, files: Sequence[_File], vocabulary: Vocabulary | None, folder: Path, report: LoadReport
) -> tuple[Vocabulary, Mapping[str, int]]:
    """The vocabulary, and name in the files -> class index, IGNORED or FILTERED."""
    examples: dict[str, str] = {}
    for file in files:
        for number, thing in enumerate(file.objects, start=1):
            examples.setdefault(thing.name, f"{file.path.name}, object {number}")
    table = card.file("classes")
    words = read_class_names(card, table) if table is not None else {}
    names = {name: words.get(name, name) for name in sorted(examples)}
    if vocabulary is None:
        names = unique_names(names)
    known = sorted(set(names.values()))
    if vocabulary is None:
        kept = [name for name in known if name not in card.ignore and name not in card.aliases]
        if not kept:
            raise ValueError(f"{card.where}: no usable image: {len(files)} XML files in {folder}, none with an object")
        vocabulary = Vocabulary.from_names(kept, card.name)
    shown = {names[name]: example for name, example in examples.items()}
    by_word = class_indices(card, known, vocabulary, shown, str(folder), report)
    return vocabulary, {name: by_word[word] for name, word in names.items()}


class _Images:
    """Finds the images of XML files, which often name them without an ending, or by the name of another folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.endings = list(_ENDINGS)

    def find(self, file: _File) -> Path:
        candidates = self._candidates(file)
        for candidate in candidates:
            if os.path.isfile(candidate):
                ending = os.path.splitext(candidate)[1]
                if ending in self.endings:  # the next image has probably the same: one look instead of seven
                    self.endings.remove(ending)
                    self.endings.insert(0, ending)
                return Path(candidate)
        return Path(candidates[0])

    def _candidates(self, file: _File) -> list[str]:
        folder = os.path.normpath(os.path.join(self.root, file.folder))
        named = [os.path.join(folder, file.image)] if is_image(file.image) else []
        usual = [os.path.join(folder, file.path.stem + ending) for ending in self.endings]
        places = named + usual + ([os.path.join(self.root, file.image)] if file.image else [])
        if "/" not in file.image and os.sep not in file.image:
            return places
        return [place for place in places if is_below(self.root, place)]  # paths of the annotator's machine


def _image_record(card: DatasetCard, file: _File, images: _Images, number: int, report: LoadReport) -> dict[str, Any]:
    path = images.find(file)
    try:
        height, width = (int(text) for text in file.size)
    except ValueError as error:
        raise ValueError(f"{card.where}: {file.path}: size is not an integer: {error}") from error
    if height <= 0 or width <= 0:
        if not path.is_file():
            raise FileNotFoundError(f"{card.where}: {file.path} gives no size, and its image {path} does not exist")
        with Image.open(path) as image:
            width, height = image.size
        report.add("sizes_read")
    return new_record(card, path, height, width, number)


def _annotation(
    thing: _Object, index: int, record: dict[str, Any], where: str, report: LoadReport
) -> dict[str, Any] | None:
    if index in (IGNORED, FILTERED):
        report.add("ignored" if index == IGNORED else "filtered")
        return None
    try:
        left, top, right, bottom = (float(text or "") for text in thing.box)
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
    report.add("instances")
    report.add("difficult", int(thing.difficult))
    return {"bbox": box, "bbox_mode": BoxMode.XYWH_ABS, "category_id": index, "difficult": int(thing.difficult)}


def _count_others(root: Path, records: Sequence[Mapping[str, Any]]) -> int:
    """Count the images in the folder that no XML file belongs to: of them at most tags are known."""
    annotated = {record["file_name"] for record in records}
    return sum(is_image(name) and str(root / name) not in annotated for name in find_files(root))
