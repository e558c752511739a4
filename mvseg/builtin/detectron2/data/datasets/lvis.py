"""LVIS json: COCO's form plus, for each image, the categories that are surely absent or not exhaustively marked."""

from __future__ import annotations

import json
import logging
import os
from typing import Any

from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager

from ..catalog import DatasetCatalog, MetadataCatalog
from .builtin_meta import _get_coco_instances_meta
from .coco import usable_segmentation
from .lvis_v1_categories import LVIS_CATEGORIES
from .lvis_v1_category_image_count import LVIS_CATEGORY_IMAGE_COUNT

__all__ = ["get_lvis_instances_meta", "load_lvis_json", "register_lvis_instances"]

logger = logging.getLogger(__name__)


def register_lvis_instances(name: str, metadata: dict, json_file: str, image_root: str) -> None:
    """Register an LVIS file under a name; it is read when the dataset is asked for."""
    DatasetCatalog.register(name, lambda: load_lvis_json(json_file, image_root, name))
    MetadataCatalog.get(name).set(json_file=json_file, image_root=image_root, evaluator_type="lvis", **metadata)


def _category_meta(categories: list[dict]) -> dict[str, Any]:
    """Make metadata from the categories that an annotation file brings along."""
    ordered = sorted(categories, key=lambda category: category["id"])
    meta: dict[str, Any] = {"thing_classes": [category["name"] for category in ordered]}
    if [category["id"] for category in ordered] != list(range(1, len(ordered) + 1)):
        meta["thing_dataset_id_to_contiguous_id"] = {category["id"]: index for index, category in enumerate(ordered)}
    if all("image_count" in category for category in ordered):
        meta["class_image_count"] = [{key: category[key] for key in ("id", "image_count")} for category in ordered]
    return meta


def _image_path(image_root: str, image: dict) -> str:
    if image.get("coco_url"):
        return os.path.join(image_root, *image["coco_url"].split("/")[-2:])
    return os.path.join(image_root, image["file_name"])


def _class_ids(dataset_name: str | None, content: dict) -> dict[int, int]:
    """Return the map from the file's category ids to 0..n-1, and complete the metadata of the dataset."""
    if dataset_name is None:
        return {category["id"]: category["id"] - 1 for category in content["categories"]}
    meta = MetadataCatalog.get(dataset_name)
    if meta.get("thing_classes") is None:
        meta.set(**(_builtin_meta(dataset_name) or _category_meta(content["categories"])))
    id_map = meta.get("thing_dataset_id_to_contiguous_id")
    return id_map or {number: number - 1 for number in range(1, len(meta.thing_classes) + 1)}


def load_lvis_json(
    json_file: str,
    image_root: str,
    dataset_name: str | None = None,
    extra_annotation_keys: list[str] | None = None,
) -> list[dict]:
    """Read an LVIS file.

    Args:
        json_file: the annotation file.
        image_root: folder that holds train2017 and val2017.
        dataset_name: if given, its metadata supplies (or receives) the class names.
        extra_annotation_keys: further keys of each annotation to keep.

    Returns:
        Records in Detectron2's standard form plus not_exhaustive_category_ids and neg_category_ids (ids of the file).
    """
    with PathManager.open(json_file) as file:
        content = json.load(file)
    id_map = _class_ids(dataset_name, content)
    annotations: dict[int, list[dict]] = {image["id"]: [] for image in content["images"]}
    for anno in content.get("annotations", []):
        where = f"{json_file}, image {anno['image_id']}, annotation {anno.get('id')}"
        if anno["category_id"] not in id_map:
            raise KeyError(f"{where}: category_id {anno['category_id']} is unknown; is this another version of LVIS?")
        obj = {"bbox": anno["bbox"], "bbox_mode": BoxMode.XYWH_ABS, "category_id": id_map[anno["category_id"]]}
        obj["segmentation"] = usable_segmentation(anno["segmentation"])
        if not obj["segmentation"]:
            raise AssertionError(f"{where}: there is no polygon of three or more points")
        obj |= {key: anno[key] for key in extra_annotation_keys or []}
        annotations[anno["image_id"]].append(obj)
    records = [
        {
            "file_name": _image_path(image_root, image),
            "height": image["height"],
            "width": image["width"],
            "not_exhaustive_category_ids": image.get("not_exhaustive_category_ids", []),
            "neg_category_ids": image.get("neg_category_ids", []),
            "image_id": image["id"],
            "annotations": annotations[image["id"]],
        }
        for image in sorted(content["images"], key=lambda image: image["id"])
    ]
    logger.info("read %d images from %s", len(records), json_file)
    return records


def _get_lvis_instances_meta_v1() -> dict[str, Any]:
    if not LVIS_CATEGORIES:
        return {}
    return {
        "thing_classes": [category["name"] for category in LVIS_CATEGORIES],
        "class_image_count": LVIS_CATEGORY_IMAGE_COUNT,
    }


def _builtin_meta(dataset_name: str) -> dict[str, Any]:
    if "cocofied" in dataset_name:
        return _get_coco_instances_meta()
    return _get_lvis_instances_meta_v1() if "v1" in dataset_name else {}


def get_lvis_instances_meta(dataset_name: str) -> dict[str, Any]:
    """Return class names and image counts for a dataset name that contains "v1" (or "cocofied": those of COCO).

    For "v0.5" the result is empty: its names are read from the annotation file when that is loaded.
    """
    meta = _builtin_meta(dataset_name)
    if not meta and "v0.5" not in dataset_name:
        raise ValueError(f"no built-in LVIS metadata for {dataset_name!r}: the name must contain v1 or cocofied")
    return meta
