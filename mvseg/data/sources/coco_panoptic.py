"""COCO panoptic: a JSON file that lists the segments of every image, and PNGs whose colours are the segments' ids."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mvseg.vocabulary import Vocabulary

from ..card import DatasetCard, missing_message
from ..checks import LoadReport, check_unique, collecting, complain
from .base import (
    FILTERED,
    IGNORED,
    LoadedDataset,
    check_folder,
    check_images,
    class_indices,
    count_images,
    register_format,
)
from .coco import image_records, read_coco_json
from .semantic import sample_label_maps

_PARTS = {"images": ("id",), "annotations": ("image_id", "file_name", "segments_info"), "categories": ("id", "name")}
LABEL_DIVISOR = 1000  # Detectron2's: category * 1000 + number of the instance, where a model answers with one map


@register_format(
    "coco_panoptic",
    supervision=("panoptic",),
    files={"panoptic": "folder of the PNGs; left out: the annotation file's name without its ending"},
)
def load_coco_panoptic(card: DatasetCard, vocabulary: Vocabulary | None) -> LoadedDataset:
    """Read a COCO panoptic file.

    Args:
        card: the dataset's card.
        vocabulary: the dataset's words; None: the categories of the file, in the order of their ids.

    Returns:
        Records with ``pan_seg_file_name`` and ``segments_info``, whose category_id is the class index.

    Raises:
        FileNotFoundError: if the annotation file, the image folder or the folder of PNGs does not exist.
        ValueError: if the file is not COCO panoptic, a segment is wrong, or one of the maps looked at does not fit.
    """
    path = card.resolve(card.annotations)
    tree = read_coco_json(card, path, _PARTS, "COCO panoptic JSON")
    root = check_folder(card, card.resolve(card.image_root), "image folder")
    folder = check_folder(card, card.file("panoptic") or path.with_suffix(""), "folder of panoptic PNGs")
    report = LoadReport(card.name)
    vocabulary, classes = _match_categories(card, tree, vocabulary, path)
    things = {category["id"]: bool(category.get("isthing", 1)) for category in tree["categories"]}
    records = image_records(card, tree["images"], root, path, lambda image: str(image["file_name"]), report)
    annotated = set()
    for annotation in tree["annotations"]:
        where = f"{card.where}: {path}: image {annotation['image_id']!r}"
        record = records.get(annotation["image_id"])
        if record is None:
            if card.split is None:
                complain(f"{where} has segments, but the file does not list it")
            continue
        if record["image_id"] in annotated:
            complain(f"{where} has two annotations", "duplicate_id")
            continue
        annotated.add(record["image_id"])
        record.update(_segments(annotation["segments_info"], classes, things, where, report))
        record["pan_seg_file_name"] = str(folder / str(annotation["file_name"]))
    result = [record for image_id, record in records.items() if image_id in annotated]
    report.add("unlabelled_images", len(records) - len(result))
    for record in result:
        del record["annotations"]
    check_images(card, result)
    _check_maps(card, result)
    count_images(result, report)
    metadata = _metadata(card, classes, things, path, folder)
    return LoadedDataset(result, _with_things(vocabulary, classes, things), report, metadata=metadata)


def _match_categories(
    card: DatasetCard, tree: Mapping[str, Any], vocabulary: Vocabulary | None, path: Path
) -> tuple[Vocabulary, dict[int, int]]:
    categories = tree["categories"]
    if vocabulary is None:
        kept = [c for c in categories if c["name"] not in card.ignore and c["name"] not in card.aliases]
        vocabulary = Vocabulary.from_categories(kept, card.name)
    names = {category["id"]: str(category["name"]) for category in categories}
    examples = {name: f"id {id_}" for id_, name in names.items()}
    by_name = class_indices(card, list(names.values()), vocabulary, examples, str(path))
    return vocabulary, {id_: by_name[name] for id_, name in names.items()}


def _segments(
    segments: Any, classes: Mapping[int, int], things: Mapping[int, bool], where: str, report: LoadReport
) -> dict[str, Any]:
    kept: list[dict[str, Any]] = []
    left_out: list[int] = []
    if not isinstance(segments, list):
        complain(f"{where}: segments_info must be a list, found {segments!r:.80}")
        segments = []
    good = []
    for segment in segments:
        if isinstance(segment, dict) and isinstance(segment.get("id"), int) and "category_id" in segment:
            good.append(segment)
        else:
            complain(f"{where}: a segment needs id and category_id: {segment!r:.120}")
    check_unique([segment["id"] for segment in good], "segment id", where)
    for segment in good:
        index = classes.get(segment["category_id"])
        if index is None:
            complain(
                f"{where}: segment {segment['id']} has category_id {segment['category_id']!r}, which is not among the "
                f"file's categories {min(classes)} to {max(classes)}",
                "unknown_category",
            )
        elif index in (IGNORED, FILTERED):
            report.add("ignored" if index == IGNORED else "filtered")
            left_out.append(segment["id"])
        else:
            extra = {"category_id": index, "isthing": things[segment["category_id"]]}
            kept.append({**segment, **extra, "iscrowd": int(segment.get("iscrowd", 0))})
            report.add("segments")
            report.add("crowd", kept[-1]["iscrowd"])
    return {"segments_info": kept, **({"left_out_segments": left_out} if left_out else {})}


def _check_maps(card: DatasetCard, records: Sequence[Mapping[str, Any]]) -> None:
    paths = [Path(record["pan_seg_file_name"]) for record in records]
    if paths and not collecting() and not any(path.is_file() for path in paths[:: max(1, len(paths) // 8)]):
        raise FileNotFoundError(missing_message(card, "panoptic PNG", paths[0]))
    sample_label_maps(records)


def _with_things(vocabulary: Vocabulary, classes: Mapping[int, int], things: Mapping[int, bool]) -> Vocabulary:
    """Let the vocabulary say which of its words are things, if it does not."""
    if vocabulary.is_thing is not None:
        return vocabulary
    named = {index for category, index in classes.items() if index >= 0 and things[category]}
    return dataclasses.replace(vocabulary, is_thing=tuple(index in named for index in range(len(vocabulary))))


def _metadata(
    card: DatasetCard, classes: Mapping[int, int], things: Mapping[int, bool], path: Path, folder: Path
) -> dict[str, Any]:
    """What Detectron2's panoptic evaluator and drawing read; the file only where it is the truth as it is."""
    known = {category: index for category, index in classes.items() if index >= 0}
    metadata: dict[str, Any] = {
        "thing_dataset_id_to_contiguous_id": {c: index for c, index in known.items() if things[c]},
        "stuff_dataset_id_to_contiguous_id": {c: index for c, index in known.items() if not things[c]},
        "label_divisor": LABEL_DIVISOR,
    }
    whole = len(known) == len(classes) and len(set(known.values())) == len(known)
    if whole and card.split is None:
        metadata.update(panoptic_json=str(path), panoptic_root=str(folder))
    return metadata
