"""Cityscapes panoptic: the json and id images that cityscapesscripts makes (csCreatePanopticImgs)."""

from __future__ import annotations

import json
import os
from typing import Any

from detectron2.utils.file_io import PathManager

from ..catalog import DatasetCatalog, MetadataCatalog
from .builtin_meta import CITYSCAPES_CATEGORIES, panoptic_meta
from .cityscapes import list_images
from .coco_panoptic import contiguous_segment

_RAW_CITYSCAPES_PANOPTIC_SPLITS = {
    f"cityscapes_fine_panoptic_{split}": (
        f"cityscapes/leftImg8bit/{split}",
        f"cityscapes/gtFine/cityscapes_panoptic_{split}",
        f"cityscapes/gtFine/cityscapes_panoptic_{split}.json",
    )
    for split in ("train", "val")
}


def get_cityscapes_panoptic_files(image_dir: str, gt_dir: str, json_info: dict) -> list[tuple[str, str, list[dict]]]:
    """Return (image, id image, segments) of a split."""
    by_image = {annotation["image_id"]: annotation for annotation in json_info["annotations"]}
    files = []
    for _, stem, path in list_images(image_dir):
        annotation = by_image.get(stem.rstrip("_"))
        if annotation is None:
            raise AssertionError(f"the panoptic json has no annotation for {path}")
        files.append((path, os.path.join(gt_dir, annotation["file_name"]), annotation["segments_info"]))
    return files


def load_cityscapes_panoptic(image_dir: str, gt_dir: str, gt_json: str, meta: dict[str, Any]) -> list[dict]:
    """Read a split into records with pan_seg_file_name, sem_seg_file_name and segments_info."""
    if not os.path.exists(gt_json):
        raise AssertionError(f"{gt_json} is missing; create it with csCreatePanopticImgs of cityscapesscripts")
    with PathManager.open(gt_json) as file:
        content = json.load(file)
    return [
        {
            "file_name": path,
            "image_id": "_".join(os.path.splitext(os.path.basename(path))[0].split("_")[:3]),
            "sem_seg_file_name": path.replace("leftImg8bit", "gtFine").split(".")[0] + "_labelTrainIds.png",
            "pan_seg_file_name": label,
            "segments_info": [contiguous_segment(segment, meta, gt_json) for segment in segments],
        }
        for path, label, segments in get_cityscapes_panoptic_files(image_dir, gt_dir, content)
    ]


def _register(name: str, image_dir: str, gt_dir: str, gt_json: str, meta: dict[str, Any]) -> None:
    DatasetCatalog.register(name, lambda: load_cityscapes_panoptic(image_dir, gt_dir, gt_json, meta))
    MetadataCatalog.get(name).set(
        panoptic_root=gt_dir,
        image_root=image_dir,
        panoptic_json=gt_json,
        gt_dir=gt_dir.replace("cityscapes_panoptic_", ""),
        evaluator_type="cityscapes_panoptic_seg",
        ignore_label=255,
        label_divisor=1000,
        **meta,
    )


def register_all_cityscapes_panoptic(root: str) -> None:
    """Register train and val below a root folder. Things and stuff share one list of names, ids are the trainIds."""
    meta = panoptic_meta(CITYSCAPES_CATEGORIES, "trainId")
    by_label = panoptic_meta(CITYSCAPES_CATEGORIES, "id")
    for key in ("thing_dataset_id_to_contiguous_id", "stuff_dataset_id_to_contiguous_id"):
        meta[key] = {
            label: meta[key][CITYSCAPES_CATEGORIES[place]["trainId"]] for label, place in by_label[key].items()
        }
    for name, paths in _RAW_CITYSCAPES_PANOPTIC_SPLITS.items():
        _register(name, *(os.path.join(root, path) for path in paths), meta)
