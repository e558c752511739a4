"""COCO panoptic: one json of segments plus id images, alone or joined with instances and semantic labels."""

from __future__ import annotations

import json
import os
from typing import Any

from detectron2.utils.file_io import PathManager

from ..catalog import DatasetCatalog, MetadataCatalog
from .coco import load_coco_json, load_sem_seg

__all__ = ["register_coco_panoptic", "register_coco_panoptic_separated"]


def contiguous_segment(segment: dict, meta: Any, where: str) -> dict:
    """Return the segment with a contiguous category id and the flag isthing."""
    category = segment["category_id"]
    maps = {True: meta["thing_dataset_id_to_contiguous_id"], False: meta["stuff_dataset_id_to_contiguous_id"]}
    for is_thing, id_map in maps.items():
        if category in id_map:
            return {**segment, "category_id": id_map[category], "isthing": is_thing}
    raise KeyError(f"{where}: category_id {category} is neither a thing nor a stuff class of the metadata")


def load_coco_panoptic_json(json_file: str, image_dir: str, gt_dir: str, meta: dict[str, Any]) -> list[dict]:
    """Read a COCO panoptic file.

    Returns:
        Records with file_name, image_id, pan_seg_file_name and segments_info (contiguous category ids).
    """
    with PathManager.open(json_file) as file:
        content = json.load(file)
    records = []
    for annotation in content["annotations"]:
        image_id = int(annotation["image_id"])
        stem = os.path.splitext(annotation["file_name"])[0]
        records.append(
            {
                "file_name": os.path.join(image_dir, stem + ".jpg"),
                "image_id": image_id,
                "pan_seg_file_name": os.path.join(gt_dir, annotation["file_name"]),
                "segments_info": [
                    contiguous_segment(segment, meta, f"{json_file}, image {image_id}")
                    for segment in annotation["segments_info"]
                ],
            }
        )
    if not records:
        raise AssertionError(f"{json_file} has no annotations")
    for key in ("file_name", "pan_seg_file_name"):
        if not PathManager.isfile(records[0][key]):
            raise AssertionError(f"{records[0][key]} (first image of {json_file}) does not exist; check the folders")
    return records


def register_coco_panoptic(
    name: str,
    metadata: dict,
    image_root: str,
    panoptic_root: str,
    panoptic_json: str,
    instances_json: str | None = None,
) -> None:
    """Register a COCO panoptic dataset whose records are whole panoptic segmentations."""
    DatasetCatalog.register(name, lambda: load_coco_panoptic_json(panoptic_json, image_root, panoptic_root, metadata))
    MetadataCatalog.get(name).set(
        panoptic_root=panoptic_root,
        image_root=image_root,
        panoptic_json=panoptic_json,
        json_file=instances_json,
        evaluator_type="coco_panoptic_seg",
        ignore_label=255,
        label_divisor=1000,
        **metadata,
    )


def register_coco_panoptic_separated(
    name: str,
    metadata: dict,
    image_root: str,
    panoptic_root: str,
    panoptic_json: str,
    sem_seg_root: str,
    instances_json: str,
) -> None:
    """Register "<name>_separated" (instances and semantic labels) and "<name>_stuffonly" (labels only)."""
    joined, stuff_only = f"{name}_separated", f"{name}_stuffonly"
    DatasetCatalog.register(
        joined,
        lambda: merge_to_panoptic(
            load_coco_json(instances_json, image_root, joined), load_sem_seg(sem_seg_root, image_root)
        ),
    )
    MetadataCatalog.get(joined).set(
        panoptic_root=panoptic_root,
        image_root=image_root,
        panoptic_json=panoptic_json,
        sem_seg_root=sem_seg_root,
        json_file=instances_json,
        evaluator_type="coco_panoptic_seg",
        ignore_label=255,
        **metadata,
    )
    DatasetCatalog.register(stuff_only, lambda: load_sem_seg(sem_seg_root, image_root))
    MetadataCatalog.get(stuff_only).set(
        sem_seg_root=sem_seg_root, image_root=image_root, evaluator_type="sem_seg", ignore_label=255, **metadata
    )


def merge_to_panoptic(detection_dicts: list[dict], sem_seg_dicts: list[dict]) -> list[dict]:
    """Join the two kinds of records by file name; every detection record must have its partner."""
    labels = {record["file_name"]: record for record in sem_seg_dicts}
    if not labels:
        raise AssertionError("there are no semantic label images to join with")
    alone = [record["file_name"] for record in detection_dicts if record["file_name"] not in labels]
    if alone:
        raise KeyError(f"{len(alone)} images have no semantic label image, the first is {alone[0]}")
    return [{**record, **labels[record["file_name"]]} for record in detection_dicts]
