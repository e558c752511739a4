"""COCO annotation files (instances: boxes, polygons, RLE) as Detectron2 records."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.structures import BoxMode

from mvseg.vocabulary import Vocabulary

from ..card import DatasetCard, missing_message
from ..checks import LoadReport, check_box, check_segmentation, check_unique, complain
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
from .categories import CATEGORY_OPTIONS, without_supercategories, words_of_categories
from .image_paths import FIND_IMAGES, PATH_OPTIONS, leave_out_absent, locate_images, read_flag
from .tables import unique_names

ImageHook = Callable[[dict[str, Any], Mapping[str, Any], Mapping[int, int]], None]
# Part of the file -> what each of its entries must have.
COCO_PARTS = {"images": ("id",), "annotations": ("image_id", "category_id"), "categories": ("id", "name")}


ONLY_ANNOTATED = "only_annotated"
OPTIONS = {
    ONLY_ANNOTATED: "leave out images without an annotation that is kept, also from evaluation (true or false)",
    **CATEGORY_OPTIONS,
    **PATH_OPTIONS,
}


@register_format("coco", supervision=("boxes", "masks"), options=OPTIONS)
def load_coco(card: DatasetCard, vocabulary: Vocabulary | None) -> LoadedDataset:
    """Read a COCO instances file.

    Args:
        card: the dataset's card.
        vocabulary: the dataset's words; None: the categories of the file, in the order of their ids.

    Returns:
        Records with the class index in the vocabulary as category_id, and the report.

    Raises:
        FileNotFoundError: if the annotation file or the image folder does not exist.
        ValueError: if the file is not COCO JSON, or an annotation is wrong; the message names the annotation.
    """
    return load_coco_like(card, vocabulary, file_of_image=lambda image: str(image["file_name"]))


def load_coco_like(
    card: DatasetCard,
    vocabulary: Vocabulary | None,
    file_of_image: Callable[[Mapping[str, Any]], str],
    finish_image: ImageHook | None = None,
) -> LoadedDataset:
    """Read a file with the layout of COCO; formats built on it differ in the two hooks.

    Args:
        card: the dataset's card.
        vocabulary: the dataset's words; None: the categories of the file.
        file_of_image: gives the file name of an image entry, relative to the image folder.
        finish_image: called with the record, the image entry and category id -> class index.

    Returns:
        The dataset.

    Raises:
        FileNotFoundError: if the annotation file or the image folder does not exist.
        ValueError: if the file is not COCO JSON, or an annotation is wrong.
    """
    path = card.resolve(card.annotations)
    report = LoadReport(card.name)
    tree = without_supercategories(card, read_coco_json(card, path), report)
    root = check_folder(card, card.resolve(card.image_root), "image folder")
    vocabulary, classes = match_categories(card, tree, vocabulary, path, report)
    records = image_records(card, tree["images"], root, path, file_of_image, report)
    _add_annotations(card, records, tree["annotations"], classes, path, report)
    if finish_image is not None:
        for image in tree["images"]:
            if image["id"] in records:
                finish_image(records[image["id"]], image, classes)
    result = leave_out_absent(card, list(records.values()), root, report)
    if read_flag(card, FIND_IMAGES):
        locate_images(card, result, root, report)
    check_images(card, result)
    if read_flag(card, ONLY_ANNOTATED):
        result = [record for record in result if record["annotations"]]
        report.add("unannotated_images", len(records) - len(result))
    count_images(result, report)
    same_ids = {v: k for k, v in classes.items() if v >= 0} == dict(enumerate(vocabulary.ids))
    whole = len(classes) == len(vocabulary) and card.split is None and len(result) == len(tree["images"])
    whole = whole and not report.counts["supercategories"]
    usable = same_ids and whole and _has_fields_of_evaluation(card, tree["annotations"])
    return LoadedDataset(result, vocabulary, report, file_is_ground_truth=usable)


def read_coco_json(
    card: DatasetCard, path: Path, needed: Mapping[str, Sequence[str]] = COCO_PARTS, what: str = "COCO JSON"
) -> dict[str, Any]:
    """Read a file and check that it has the layout of COCO, or one like it.

    Args:
        card: the dataset's card.
        path: the annotation file.
        needed: list in the file -> what each of its entries must have.
        what: what the file is to be, for errors.

    Returns:
        The tree, with the lists asked for.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if it is not JSON or lacks a part of COCO's layout.
    """
    if not path.is_file():
        raise FileNotFoundError(missing_message(card, "annotation file", path))
    try:
        tree = json.loads(path.read_bytes())
    except ValueError as error:  # JSONDecodeError, or bytes that are no text
        raise ValueError(f"{card.where}: {path} is not JSON: {error}") from error
    if not isinstance(tree, dict):
        raise ValueError(f"{card.where}: {path} is not {what}: its top level is a {type(tree).__name__}")
    for part, keys in needed.items():
        if not isinstance(tree.get(part), list):
            raise ValueError(
                f"{card.where}: {path} is not {what}: it needs the lists {', '.join(needed)}, "
                f"but {part} is missing; it has: {', '.join(map(str, tree)) or 'nothing'}"
            )
        for number, entry in enumerate(tree[part]):
            if not isinstance(entry, dict) or any(key not in entry for key in keys):
                raise ValueError(f"{card.where}: {path}: {part}[{number}] needs {', '.join(keys)}: {entry!r:.120}")
    for part, name in (("images", "image"), ("categories", "category"), ("annotations", "annotation")):
        numbered = [entry["id"] for entry in tree.get(part, ()) if "id" in entry] if part in needed else []
        check_unique(numbered, f"{name} id", f"{card.where}: {path}")
    return tree


def _has_fields_of_evaluation(card: DatasetCard, annotations: list[dict[str, Any]]) -> bool:
    """Whether pycocotools can evaluate on these annotations; many exported files lack the area.

    An annotation with the id 0 (Roboflow's count from 0) is never found there: 0 also means "not matched".
    """
    if card.evaluator == "lvis":
        return all(key in annotation for annotation in annotations for key in ("id", "area"))
    complete = all(key in annotation for annotation in annotations for key in ("id", "area", "iscrowd"))
    return complete and all(annotation["id"] for annotation in annotations)


def match_categories(
    card: DatasetCard, tree: Mapping[str, Any], vocabulary: Vocabulary | None, path: Path, report: LoadReport
) -> tuple[Vocabulary, dict[int, int]]:
    """Find the class of every category of a file by its name; ids and order of a file mean nothing.

    Args:
        card: the dataset's card.
        tree: the file, with ``categories`` and ``annotations``. Where two have the same name, their id is put behind
            it, ``Mouse (12)``, so that ``aliases`` can tell them apart.
        vocabulary: the dataset's words; None: the categories of the file, in the order of their ids.
        path: the file, named in errors.
        report: is told how categories were found.

    Returns:
        The vocabulary, and category id -> class index, IGNORED or FILTERED.

    Raises:
        ValueError: if a category is not in the vocabulary, or an annotation has none of them.
    """
    categories = tree["categories"]
    if vocabulary is None:
        vocabulary = Vocabulary.from_categories(words_of_categories(card, categories), card.name)
    name_of = unique_names({c["id"]: str(c["name"]) for c in categories})
    examples: dict[str, str] = {}
    for annotation in tree["annotations"]:
        if annotation["category_id"] not in name_of:
            complain(
                f"{card.where}: {path}: annotation {annotation.get('id')} (image {annotation['image_id']}) has "
                f"category_id {annotation['category_id']!r}, which is not among the file's categories "
                f"{min(name_of)} to {max(name_of)}",
                "unknown_category",
            )
            continue
        name = name_of[annotation["category_id"]]
        if name not in examples:
            examples[name] = f"id {annotation['category_id']}, annotation {annotation.get('id')}"
    by_name = class_indices(card, list(name_of.values()), vocabulary, examples, str(path), report)
    classes = {category_id: by_name[name] for category_id, name in name_of.items()}
    report.add("other_ids", sum(index >= 0 and vocabulary.ids[index] != id_ for id_, index in classes.items()))
    return vocabulary, classes


def image_records(
    card: DatasetCard,
    images: list[dict[str, Any]],
    root: Path,
    path: Path,
    file_of_image: Callable[[Mapping[str, Any]], str],
    report: LoadReport,
) -> dict[Any, dict[str, Any]]:
    """Start the records of the image entries of a file.

    Args:
        card: the dataset's card.
        images: entries with ``id``, ``height`` and ``width``.
        root: the image folder.
        path: the file, named in errors.
        file_of_image: gives the file name of an entry, relative to the image folder.
        report: counts images outside the card's split.

    Returns:
        Image id to record.

    Raises:
        ValueError: if an entry has no file name or no size.
    """
    split = read_split(card)
    records = {}
    for image in images:
        try:
            name, height, width = file_of_image(image), int(image["height"]), int(image["width"])
        except (KeyError, TypeError, ValueError) as error:
            complain(f"{card.where}: {path}: image {image['id']} needs file_name, height and width: {error!r}")
            continue
        if height <= 0 or width <= 0:
            complain(f"{card.where}: {path}: image {image['id']} has size {height} x {width}")
            continue
        if split is not None and Path(name).stem not in split:
            report.add("unlisted_images")
            continue
        records[image["id"]] = new_record(card, root / name, height, width, image["id"])
    return records


def _add_annotations(
    card: DatasetCard,
    records: dict[Any, dict[str, Any]],
    annotations: list[dict[str, Any]],
    classes: Mapping[int, int],
    path: Path,
    report: LoadReport,
) -> None:
    masks = has_masks(card.supervision)
    place, crowd = f"{card.where}: {path}: annotation ", 0
    for number, annotation in enumerate(annotations):  # Objects365 has 25 million
        record = records.get(annotation["image_id"])
        where = f"{place}{annotation.get('id', number)}"
        if record is None:
            if card.split is None:
                complain(f"{where} belongs to image {annotation['image_id']!r}, which the file does not have")
            continue
        index = classes.get(annotation["category_id"], IGNORED)
        if index in (IGNORED, FILTERED):
            report.add("ignored" if index == IGNORED else "filtered")
            continue
        made = _make_annotation(annotation, record, masks, where, report)
        if made is not None:
            made["category_id"] = index
            record["annotations"].append(made)
            crowd += made["iscrowd"]
    report.add("crowd", crowd)
    report.add("instances", sum(len(record["annotations"]) for record in records.values()))


def _make_annotation(
    annotation: Mapping[str, Any], record: Mapping[str, Any], masks: bool, where: str, report: LoadReport
) -> dict[str, Any] | None:
    height, width = record["height"], record["width"]
    box = check_box(annotation.get("bbox"), height, width, where, report)
    if box is None:
        return None
    made: dict[str, Any] = {"bbox": box, "bbox_mode": BoxMode.XYWH_ABS, "iscrowd": int(annotation.get("iscrowd", 0))}
    if masks:
        if annotation.get("segmentation") is None:
            complain(f"{where} has no segmentation, but the card says supervision: masks", "bad_segmentation")
            return None
        segmentation = check_segmentation(annotation["segmentation"], height, width, where, report)
        if segmentation is None:
            return None
        made["segmentation"] = segmentation
    return made
