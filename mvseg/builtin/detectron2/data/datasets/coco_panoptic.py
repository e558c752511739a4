"""COCO panoptic: one json of segments plus id images, alone or joined with instances and semantic labels."""

import json
import os
from typing import Any

from detectron2.utils.file_io import PathManager

from ..catalog import DatasetCatalog, MetadataCatalog


def _contiguous_segment(segment: dict, meta: Any, json_file: str) -> dict:
    """Return the segment with a contiguous category id and the flag isthing."""
    category = segment["category_id"]
    for kind in ("thing", "stuff"):
        id_map = meta[f"{kind}_dataset_id_to_contiguous_id"]
        if category in id_map:
            return {**segment, "category_id": id_map[category], "isthing": kind == "thing"}
    raise KeyError(f"{json_file}: category_id {category} is neither a thing nor a stuff class of the metadata")


def load_coco_panoptic_json(json_file: str, image_dir: str, gt_dir: str, meta: dict[str, Any]) -> list[dict]:
    """Read a COCO panoptic file.

    Returns:
        Records with file_name, image_id, pan_seg_file_name and segments_info (contiguous category ids).
    """
    with PathManager.open(json_file) as file:
        content = json.load(file)
    records = []
    for annotation in content["annotations"]:
        stem = os.path.splitext(annotation["file_name"])[0]
        record = {"file_name": os.path.join(image_dir, stem + ".jpg"), "image_id": int(annotation["image_id"])}
        record["pan_seg_file_name"] = os.path.join(gt_dir, annotation["file_name"])
        segments = annotation["segments_info"]
        record["segments_info"] = [_contiguous_segment(segment, meta, json_file) for segment in segments]
        records.append(record)
    if not records:
        raise AssertionError(f"{json_file} has no annotations")
    for key in ("file_name", "pan_seg_file_name"):
        if not PathManager.isfile(records[0][key]):
            raise AssertionError(f"{records[0][key]} (first image of {json_file}) does not exist; check the folders")
    return records


def register_coco_panoptic(name, metadata, image_root, panoptic_root, panoptic_json, instances_json=None) -> None:
    """Register a COCO panoptic dataset whose records are whole panoptic segmentations."""
    DatasetCatalog.register(name, lambda: load_coco_panoptic_json(panoptic_json, image_root, panoptic_root, metadata))
    files = {"panoptic_root": panoptic_root, "image_root": image_root, "panoptic_json": panoptic_json}
    labels = {"json_file": instances_json, "ignore_label": 255, "label_divisor": 1000}
    MetadataCatalog.get(name).set(evaluator_type="coco_panoptic_seg", **files, **labels, **metadata)
