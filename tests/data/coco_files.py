"""Small COCO files for the tests of cards and sources."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

SQUARE = [[2, 3, 12, 3, 12, 13, 2, 13]]


def small_tree() -> dict[str, Any]:
    """Two images of 40 x 30 pixels, three categories with gaps in their ids, three annotations."""
    tree = {
        "images": [
            {"id": 7, "file_name": "one.png", "height": 30, "width": 40},
            {"id": 9, "file_name": "two.png", "height": 30, "width": 40},
        ],
        "categories": [{"id": 5, "name": "dog"}, {"id": 2, "name": "cat"}, {"id": 11, "name": "traffic light"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 2, "bbox": [2, 3, 10, 10], "segmentation": SQUARE, "iscrowd": 0},
            {"id": 2, "image_id": 7, "category_id": 11, "bbox": [5, 5, 20, 8], "segmentation": SQUARE, "iscrowd": 0},
            {"id": 4, "image_id": 9, "category_id": 5, "bbox": [0, 0, 40, 30], "segmentation": SQUARE, "iscrowd": 0},
        ],
    }
    for annotation in tree["annotations"]:
        annotation["area"] = 100
    return tree


def write_coco(folder: Path, tree: Any, images: bool = True) -> dict[str, str]:
    """Write a tree as COCO JSON, with black pictures, and return the paths as fields of a card."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    if images:
        for image in tree["images"]:
            cv2.imwrite(str(folder / "images" / image["file_name"]), np.zeros((30, 40, 3), np.uint8))
    (folder / "a.json").write_text(tree if isinstance(tree, str) else json.dumps(tree))
    return {"format": "coco", "image_root": str(folder / "images"), "annotations": str(folder / "a.json")}
