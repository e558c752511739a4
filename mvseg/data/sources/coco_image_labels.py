"""Detic's files of image labels: COCO's layout without annotations, each image with the categories that it shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mvseg.vocabulary import Vocabulary

from ..card import DatasetCard
from ..checks import LoadReport, complain
from .base import FILTERED, IGNORED, LoadedDataset, check_folder, check_images, count_images, register_format
from .captions import check_sentence
from .coco import image_records, match_categories, read_coco_json

LABELS = "pos_category_ids"


@register_format("coco_image_labels", supervision=("tags", "captions"))
def load_coco_image_labels(card: DatasetCard, vocabulary: Vocabulary | None) -> LoadedDataset:
    """Read a file of image labels as Detic has them.

    Args:
        card: the dataset's card.
        vocabulary: the dataset's words; None: the categories of the file, in the order of their ids.

    Returns:
        Records with ``image_labels`` from the images' ``pos_category_ids``, and ``captions`` where images have them.

    Raises:
        FileNotFoundError: if the file or the image folder does not exist.
        ValueError: if the file has another layout, or a label is not among its categories; the message names the image.
    """
    path = card.resolve(card.annotations)
    tree = read_coco_json(card, path, {"images": ("id",), "categories": ("id", "name")}, "a file of image labels")
    root = check_folder(card, card.resolve(card.image_root), "image folder")
    report = LoadReport(card.name)
    vocabulary, classes = match_categories(card, {**tree, "annotations": []}, vocabulary, path, report)
    records = image_records(card, tree["images"], root, path, lambda image: str(image["file_name"]), report)
    for image in tree["images"]:
        record = records.get(image["id"])
        if record is None:
            continue
        where = f"{card.where}: {path}: image {image['id']}"
        record["image_labels"] = _labels(image.get(LABELS, []), classes, where, report)
        if "captions" in image or card.supervision == "captions":
            record["captions"] = _sentences(image.get("captions", []), where, report)
    result = list(records.values())
    check_images(card, result)
    count_images(result, report)
    return LoadedDataset(result, vocabulary, report)


def _labels(ids: Any, classes: Mapping[int, int], where: str, report: LoadReport) -> list[int]:
    if not isinstance(ids, list):
        complain(f"{where}: {LABELS} must be a list of category ids, found {ids!r:.80}")
        return []
    found = set()
    for id_ in ids:
        if not isinstance(id_, int) or id_ not in classes:
            known = f"{min(classes)} to {max(classes)}" if classes else "none"
            text = f"{where}: {LABELS} has {id_!r:.80}, which is not among the file's categories {known}"
            complain(text, "unknown_category")
            continue
        found.add(classes[id_])
    report.add("ignored", IGNORED in found)
    report.add("filtered", FILTERED in found)
    kept = sorted(found - {IGNORED, FILTERED})
    report.add("tags", len(kept))
    return kept


def _sentences(texts: Any, where: str, report: LoadReport) -> list[str]:
    if not isinstance(texts, list):
        complain(f"{where}: captions must be a list of sentences, found {texts!r:.80}", "bad_sentence")
        return []
    kept = [text for found in texts if (text := check_sentence(found, where, report))]
    report.add("captions", len(kept))
    return kept
