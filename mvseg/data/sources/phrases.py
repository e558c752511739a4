"""Referring expressions: sentences, each about one box of an image, in a JSON like that of RefCOCO.

The file is ``{"images": [{id, file_name, height, width}], "refs": [{ref_id, image_id, bbox, sentences}]}``, with boxes
(x, y, width, height) in pixels and sentences as texts or as ``{"sent": text}``; ``ann_id`` and the like may be there.
A plain list of refs that name file and size themselves is read as well.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detectron2.structures import BoxMode

from mvseg.vocabulary import Vocabulary

from ..card import DatasetCard, missing_message
from ..checks import LoadReport, check_box, check_unique, complain
from .base import LoadedDataset, check_folder, check_images, count_images, register_format
from .captions import check_sentence
from .coco import image_records, read_coco_json

_PARTS = {"images": ("id",), "refs": ("image_id", "bbox", "sentences")}
_TEXT_KEYS = ("sent", "raw", "sentence", "text")


@register_format("phrases", supervision=("phrases",))
def load_phrases(card: DatasetCard, vocabulary: Vocabulary | None) -> LoadedDataset:
    """Read a file of referring expressions.

    Args:
        card: the dataset's card.
        vocabulary: words that the dataset is to have; None: it has none.

    Returns:
        Records with ``phrases``, a list of ``{text, bbox, bbox_mode, ref_id}``, one for each sentence.

    Raises:
        FileNotFoundError: if the annotation file or the image folder does not exist.
        ValueError: if the file has another layout, or a ref is wrong; the message names the ref.
    """
    path = card.resolve(card.annotations)
    report = LoadReport(card.name)
    tree = _read(card, path, report)
    root = check_folder(card, card.resolve(card.image_root), "image folder")
    records = image_records(card, tree["images"], root, path, lambda image: str(image["file_name"]), report)
    for started in records.values():
        del started["annotations"]
        started["phrases"] = []
    check_unique([ref["ref_id"] for ref in tree["refs"] if "ref_id" in ref], "ref_id", f"{card.where}: {path}")
    for number, ref in enumerate(tree["refs"]):
        where = f"{card.where}: {path}: ref {ref.get('ref_id', f'number {number}')}"
        record = records.get(ref["image_id"])
        if record is None:
            if card.split is None:
                complain(f"{where} belongs to image {ref['image_id']!r}, which the file does not have")
            continue
        record["phrases"] += _phrases(ref, record, where, report)
    result = list(records.values())
    check_images(card, result)
    count_images(result, report)
    return LoadedDataset(result, vocabulary, report)


def _phrases(ref: Mapping[str, Any], record: Mapping[str, Any], where: str, report: LoadReport) -> list[dict[str, Any]]:
    box = check_box(ref["bbox"], record["height"], record["width"], where, report)
    sentences = ref["sentences"]
    if not isinstance(sentences, list):
        complain(f"{where}: sentences must be a list, found {sentences!r:.80}", "bad_sentence")
        return []
    if box is None:
        return []
    made = []
    for entry in sentences:
        found = next((entry[key] for key in _TEXT_KEYS if key in entry), entry) if isinstance(entry, dict) else entry
        text = check_sentence(found, where, report)
        if text:
            made.append({"text": text, "bbox": list(box), "bbox_mode": BoxMode.XYWH_ABS, "ref_id": ref.get("ref_id")})
    report.add("phrases", len(made))
    return made


def _read(card: DatasetCard, path: Path, report: LoadReport) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(missing_message(card, "annotation file", path))
    what = "a file of referring expressions"
    try:
        tree = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{card.where}: {path} is not JSON: {error}") from error
    if not isinstance(tree, list):
        return read_coco_json(card, path, _PARTS, what)
    images: dict[Any, dict[str, Any]] = {}
    refs = []
    for number, ref in enumerate(tree):
        lacking = [key for key in (*_PARTS["refs"], "file_name") if not isinstance(ref, dict) or key not in ref]
        if lacking:
            raise ValueError(
                f"{card.where}: {path} is not {what}: entry {number} lacks {', '.join(lacking)}: {ref!r:.120}"
            )
        if ref["file_name"] is None:
            report.add("no_picture")
            continue
        images.setdefault(ref["image_id"], {**ref, "id": ref["image_id"]})
        refs.append(ref)
    return {"images": list(images.values()), "refs": refs}
