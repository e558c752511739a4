"""LVIS json: COCO's form plus, for each image, the categories that are surely absent or not exhaustively marked."""

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

logger = logging.getLogger(__name__)


def register_lvis_instances(name: str, metadata: dict, json_file: str, image_root: str) -> None:
    """Register an LVIS file under a name; it is read when the dataset is asked for."""
    DatasetCatalog.register(name, lambda: load_lvis_json(json_file, image_root, name))
    MetadataCatalog.get(name).set(json_file=json_file, image_root=image_root, evaluator_type="lvis", **metadata)


def _image_path(image_root: str, image: dict) -> str:
    parts = image["coco_url"].split("/")[-2:] if image.get("coco_url") else [image["file_name"]]
    return os.path.join(image_root, *parts)


def _class_ids(dataset_name: str | None, content: dict) -> dict[int, int]:
    """Return the map from the file's category ids to 0..n-1, and complete the metadata of the dataset."""
    ordered = sorted(content["categories"], key=lambda category: category["id"])
    if dataset_name is None:
        return {category["id"]: category["id"] - 1 for category in ordered}
    meta = MetadataCatalog.get(dataset_name)
    if meta.get("thing_classes") is None:
        meta.thing_classes = [category["name"] for category in ordered]
        if [category["id"] for category in ordered] != list(range(1, len(ordered) + 1)):
            meta.thing_dataset_id_to_contiguous_id = {c["id"]: index for index, c in enumerate(ordered)}
        if all("image_count" in category for category in ordered):
            meta.class_image_count = [{key: c[key] for key in ("id", "image_count")} for c in ordered]
    id_map = meta.get("thing_dataset_id_to_contiguous_id")
    return id_map or {number: number - 1 for number in range(1, len(meta.thing_classes) + 1)}


def load_lvis_json(json_file, image_root, dataset_name=None, extra_annotation_keys=None) -> list[dict]:
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
    records = []
    for image in sorted(content["images"], key=lambda image: image["id"]):
        record = {"file_name": _image_path(image_root, image), "height": image["height"], "width": image["width"]}
        federated = {key: image.get(key, []) for key in ("not_exhaustive_category_ids", "neg_category_ids")}
        records.append({**record, **federated, "image_id": image["id"], "annotations": annotations[image["id"]]})
    logger.info("read %d images from %s", len(records), json_file)
    return records


def get_lvis_instances_meta(dataset_name: str) -> dict[str, Any]:
    """Return class names and image counts for a dataset name that contains "v1"; those of COCO for "cocofied"."""
    if "cocofied" in dataset_name:
        return _get_coco_instances_meta()
    if "v1" not in dataset_name:
        raise ValueError(f"no built-in LVIS metadata for {dataset_name!r}: the name must contain v1 or cocofied")
    names = [category["name"] for category in LVIS_CATEGORIES]
    return {"thing_classes": names, "class_image_count": LVIS_CATEGORY_IMAGE_COUNT} if names else {}
