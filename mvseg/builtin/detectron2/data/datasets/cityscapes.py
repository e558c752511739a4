"""Cityscapes folders: instances and semantic labels from the official label images."""

from __future__ import annotations

import logging
import os
from typing import Any

import cv2
import numpy as np
import pycocotools.mask as mask_util
from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager
from PIL import Image

from .builtin_meta import CITYSCAPES_CATEGORIES

logger = logging.getLogger(__name__)

_SUFFIX = "leftImg8bit.png"
_THING_IDS = {category["id"]: index for index, category in enumerate(c for c in CITYSCAPES_CATEGORIES if c["isthing"])}


def list_images(image_dir: str) -> list[tuple[str, str, str]]:
    """Return (city, name without suffix, path) of every photograph below a split folder, in order."""
    found = []
    for city in sorted(PathManager.ls(image_dir)):
        for name in sorted(PathManager.ls(os.path.join(image_dir, city))):
            if not name.endswith(_SUFFIX):
                raise AssertionError(f"{os.path.join(image_dir, city, name)} does not end with {_SUFFIX}")
            found.append((city, name[: -len(_SUFFIX)], os.path.join(image_dir, city, name)))
    if not found:
        raise AssertionError(f"no images below {image_dir}")
    return found


def _get_cityscapes_files(image_dir: str, gt_dir: str) -> list[tuple[str, str, str, str]]:
    """Return (image, instance ids, label ids, polygons) paths; only the image is known to exist."""
    kinds = ("instanceIds.png", "labelIds.png", "polygons.json")
    return [
        (path, *(os.path.join(gt_dir, city, f"{stem}gtFine_{kind}") for kind in kinds))
        for city, stem, path in list_images(image_dir)
    ]


def _size(path: str) -> dict[str, int]:
    with PathManager.open(path, "rb") as file:
        width, height = Image.open(file).size
    return {"height": height, "width": width}


def load_cityscapes_instances(
    image_dir: str, gt_dir: str, from_json: bool = True, to_polygons: bool = True
) -> list[dict]:
    """Read the instances of a split.

    Args:
        image_dir: for example leftImg8bit/train.
        gt_dir: for example gtFine/train.
        from_json: has no effect here: the instance id images, which Cityscapes draws from the json files with
            occlusion resolved, are read in both cases.
        to_polygons: outlines as polygons, else RLE.

    Returns:
        Records in Detectron2's standard form.
    """
    return [
        _cityscapes_files_to_dict(files, from_json, to_polygons) for files in _get_cityscapes_files(image_dir, gt_dir)
    ]


def _outline(mask: np.ndarray, to_polygons: bool) -> Any:
    if not to_polygons:
        return mask_util.encode(np.asfortranarray(mask))
    contours, _ = cv2.findContours(mask.copy(), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return [contour.reshape(-1).tolist() for contour in contours if len(contour) >= 3]


def _cityscapes_files_to_dict(files: tuple[str, str, str, str], from_json: bool, to_polygons: bool) -> dict:
    image_file, instance_file, _, _ = files
    with PathManager.open(instance_file, "rb") as file:
        ids = np.asarray(Image.open(file), order="F")
    annotations = []
    for instance_id in np.unique(ids):
        # Single objects are class * 1000 + number; groups that could not be told apart carry the plain class.
        is_group = instance_id < 1000
        label = int(instance_id if is_group else instance_id // 1000)
        if label not in _THING_IDS:
            continue
        mask = (ids == instance_id).astype(np.uint8, order="F")
        rows, columns = np.nonzero(mask)
        box = [int(columns.min()), int(rows.min()), int(columns.max()), int(rows.max())]
        segmentation = _outline(mask, to_polygons)
        if box[2] <= box[0] or box[3] <= box[1] or not len(segmentation):
            continue
        annotations.append(
            {
                "iscrowd": bool(is_group),
                "category_id": _THING_IDS[label],
                "bbox": box,
                "bbox_mode": BoxMode.XYXY_ABS,
                "segmentation": segmentation,
            }
        )
    height, width = ids.shape
    return {
        "file_name": image_file,
        "image_id": os.path.basename(image_file),
        "height": height,
        "width": width,
        "annotations": annotations,
    }


def load_cityscapes_semantic(image_dir: str, gt_dir: str) -> list[dict]:
    """Read the pairs of image and labelTrainIds image of a split."""
    records = []
    for image_file, _, label_file, _ in _get_cityscapes_files(image_dir, gt_dir):
        train_ids = label_file.replace("labelIds", "labelTrainIds")
        if not PathManager.isfile(train_ids):
            raise AssertionError(
                f"{train_ids} is missing; create it with csCreateTrainIdLabelImgs of cityscapesscripts"
            )
        records.append({"file_name": image_file, "sem_seg_file_name": train_ids, **_size(image_file)})
    return records
