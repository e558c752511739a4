"""Small files of the formats other than COCO, LVIS and VOC, for the tests of their readers."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
SIZE = (30, 40)  # height, width of all pictures


def save(path: Path, pixels: Any, dtype: Any = np.uint8) -> Path:
    """Write pixels, or a picture of one colour, as an image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, dtype=dtype)).save(path)
    return path


def picture(path: Path, size: tuple[int, int] = SIZE) -> Path:
    """Write a black RGB picture."""
    return save(path, np.zeros((*size, 3)))


def write_rows(path: Path, rows: Any) -> str:
    """Write rows as CSV."""
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
    return str(path)


def write_json(path: Path, tree: Any) -> str:
    """Write a tree as JSON; text as it is."""
    path.write_text(tree if isinstance(tree, str) else json.dumps(tree))
    return str(path)


def semantic_set(folder: Path, maps: dict[str, Any], **options: Any) -> dict[str, Any]:
    """Write images and label maps like ADE20K; the fields of the card."""
    for name, pixels in maps.items():
        picture(folder / f"images/training/{name}.jpg")
        save(folder / f"annotations/training/{name}.png", pixels)
    return {
        "format": "semantic",
        "image_root": str(folder / "images"),
        "annotations": str(folder / "annotations"),
        "vocabulary": ["sky", "tree", "road"],
        "options": options,
    }


def stripes(*values: int) -> np.ndarray:
    """A label map of upright stripes of equal width."""
    return np.repeat(np.repeat(values, SIZE[1] // len(values))[None], SIZE[0], axis=0)


def panoptic_tree() -> dict[str, Any]:
    """Two images; the first with a thing of a large id and a stuff segment, the second with a crowd."""
    return {
        "images": [
            {"id": 3, "file_name": "a.jpg", "height": 30, "width": 40},
            {"id": 5, "file_name": "b.jpg", "height": 30, "width": 40},
        ],
        "annotations": [
            {
                "image_id": 3,
                "file_name": "a.png",
                "segments_info": [
                    {"id": 1 + 256 * 2 + 65536 * 3, "category_id": 7, "area": 600, "bbox": [0, 0, 20, 30]},
                    {"id": 9, "category_id": 90, "area": 300, "bbox": [20, 0, 10, 30], "iscrowd": 0},
                ],
            },
            {
                "image_id": 5,
                "file_name": "b.png",
                "segments_info": [{"id": 256, "category_id": 7, "iscrowd": 1, "area": 1200, "bbox": [0, 0, 40, 30]}],
            },
        ],
        "categories": [
            {"id": 90, "name": "grass", "isthing": 0},
            {"id": 7, "name": "cat", "isthing": 1},
        ],
    }


def panoptic_set(folder: Path, tree: dict[str, Any] | None = None) -> dict[str, Any]:
    """Write the images and PNGs of :func:`panoptic_tree`; the fields of the card."""
    for name in "ab":
        picture(folder / f"images/{name}.jpg")
    first = np.zeros((*SIZE, 3))
    first[:, :20] = (1, 2, 3)
    first[:, 20:30] = (9, 0, 0)
    save(folder / "panoptic/a.png", first)
    save(folder / "panoptic/b.png", np.full((*SIZE, 3), (0, 1, 0)))
    return {
        "format": "coco_panoptic",
        "image_root": str(folder / "images"),
        "annotations": write_json(folder / "panoptic.json", tree or panoptic_tree()),
    }


def caption_tree() -> dict[str, Any]:
    """Three images, the last without a sentence."""
    return {
        "images": [{"id": i, "file_name": f"{i}.jpg", "height": 30, "width": 40} for i in (1, 2, 3)],
        "annotations": [
            {"id": 1, "image_id": 1, "caption": " A dog\n left of a cat. "},
            {"id": 2, "image_id": 1, "caption": "  "},
            {"id": 3, "image_id": 2, "caption": "Two cats"},
        ],
    }


def caption_set(folder: Path, tree: Any = None) -> dict[str, Any]:
    """Write the images of :func:`caption_tree`; the fields of the card."""
    for i in (1, 2, 3):
        picture(folder / f"{i}.jpg")
    file = write_json(folder / "captions.json", caption_tree() if tree is None else tree)
    return {"format": "coco_captions", "image_root": str(folder), "annotations": file}


def phrase_tree() -> dict[str, Any]:
    """One image with two refs, one of two sentences."""
    return {
        "images": [{"id": 4, "file_name": "4.jpg", "height": 30, "width": 40}],
        "refs": [
            {"ref_id": 8, "image_id": 4, "ann_id": 1, "bbox": [2, 3, 10, 20],
             "sentences": ["left dog", "the Leftmost"]},
            {"ref_id": 9, "image_id": 4, "bbox": [30, 3, 8, 8],
             "sentences": [{"sent": "the cat right of it"}, {"sent": ""}]},
        ],
    }  # fmt: skip


def phrase_set(folder: Path, tree: Any = None) -> dict[str, Any]:
    """Write the image of :func:`phrase_tree`; the fields of the card."""
    picture(folder / "4.jpg")
    file = write_json(folder / "refs.json", phrase_tree() if tree is None else tree)
    return {"format": "phrases", "image_root": str(folder), "annotations": file}


BOX_ROWS = [
    ["ImageID", "Source", "LabelName", "Confidence", "XMin", "XMax", "YMin", "YMax", "IsOccluded", "IsTruncated",
     "IsGroupOf", "IsDepiction", "IsInside"],
    ["aa", "xclick", "/m/cat", 1, 0.25, 0.75, 0.1, 0.5, 1, 0, 0, 0, 0],
    ["aa", "xclick", "/m/dog", 1, 0, 1, 0, 1, 0, -1, 1, 0, 0],
    ["bb", "xclick", "/m/car", 1, 0.5, 1.001, 0.5, 1, 0, 0, 0, 0, 0],
]  # fmt: skip
LABEL_ROWS = [
    ["ImageID", "Source", "LabelName", "Confidence"],
    ["aa", "verification", "/m/animal", 1],
    ["aa", "verification", "/m/car", "0.0"],
    ["bb", "verification", "/m/dog", 0],
    ["cc", "verification", "/m/cat", 1],
    ["cc", "verification", "/m/dog", 0],
    ["cc", "verification", "/m/moon", 1],
]
CLASS_ROWS = [
    ["LabelName", "DisplayName"],
    ["/m/animal", "Animal"],
    ["/m/cat", "Cat"],
    ["/m/dog", "Dog"],
    ["/m/car", "Car"],
]
TREE = {
    "LabelName": "/m/entity",
    "Subcategory": [
        {
            "LabelName": "/m/animal",
            "Subcategory": [
                {"LabelName": "/m/carnivore", "Subcategory": [{"LabelName": "/m/cat"}, {"LabelName": "/m/dog"}]}
            ],
        },
        {"LabelName": "/m/car", "Part": [{"LabelName": "/m/wheel"}]},
    ],
}


def open_images_set(folder: Path, boxes: Any = None, labels: Any = None, classes: Any = None, tree: Any = None) -> Any:
    """Write three images, boxes, labels, classes and the hierarchy; the fields of the card."""
    for name, place in (("aa", "train_0"), ("bb", "train_1"), ("cc", "")):
        picture(folder / "images" / place / f"{name}.jpg")
    return {
        "format": "openimages",
        "image_root": str(folder / "images"),
        "annotations": write_rows(folder / "boxes.csv", boxes or BOX_ROWS),
        "files": {
            "classes": write_rows(folder / "classes.csv", classes or CLASS_ROWS),
            "image_labels": write_rows(folder / "labels.csv", labels or LABEL_ROWS),
            "hierarchy": write_json(folder / "tree.json", tree or TREE),
        },
    }
