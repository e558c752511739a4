"""Detections for other programs: a COCO-style JSON file, and objects of the library supervision."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from detectron2.structures import Instances

from mvseg.checkpoints import atomic_file
from mvseg.vocabulary import Vocabulary


class CocoResults:
    """Collect the detections of many images in one COCO-style tree: info, images, categories, annotations.

    The file loads in pycocotools as a data set (``COCO(file)``), and its ``annotations`` as results (``loadRes``).

    Args:
        vocabulary: the words; categories have its ids.
        info: what else to write down, such as the weight file and the thresholds.
    """

    def __init__(self, vocabulary: Vocabulary, info: dict[str, Any] | None = None) -> None:
        self._ids = vocabulary.ids
        categories = [{"id": id_, "name": name} for id_, name in zip(vocabulary.ids, vocabulary.names)]
        self.tree: dict[str, Any] = {
            "info": {"description": "detections made by mvseg", "vocabulary": vocabulary.name, **(info or {})},
            "images": [],
            "categories": categories,
            "annotations": [],
        }

    def add(self, file_name: str, instances: Instances, **facts: Any) -> None:
        """Add an image with its detections.

        Args:
            file_name: the image file, or the video of a frame.
            instances: detections in pixels of the image: pred_boxes, scores, pred_classes, pred_masks if there are any.
            **facts: more about the image, such as ``frame=12``.
        """
        height, width = instances.image_size
        image_id = len(self.tree["images"]) + 1
        self.tree["images"].append(
            {"id": image_id, "file_name": file_name, "height": int(height), "width": int(width), **facts}
        )
        for entry in coco_annotations(instances, self._ids):
            entry = {"id": len(self.tree["annotations"]) + 1, "image_id": image_id, **entry}
            self.tree["annotations"].append(entry)

    def write(self, path: str | Path) -> None:
        """Write the file, whole or not at all.

        Args:
            path: the file; its folder is made.
        """
        with atomic_file(path) as file:
            file.write(json.dumps(self.tree, ensure_ascii=False).encode())


def coco_annotations(instances: Instances, ids: Sequence[int]) -> list[dict[str, Any]]:
    """Write detections as COCO results, without the id of the image.

    Args:
        instances: n detections in pixels of the image.
        ids: category id of every word.

    Returns:
        n dicts with category_id, bbox (x, y, width, height), score, area, iscrowd and, where there are masks,
        segmentation as RLE with counts as text.
    """
    instances = instances.to("cpu")
    boxes = instances.pred_boxes.tensor.double().numpy().copy()
    boxes[:, 2:] -= boxes[:, :2]
    masks = instances.pred_masks.numpy() if instances.has("pred_masks") else None
    entries = []
    for row, (box, score, word) in enumerate(zip(boxes, instances.scores.tolist(), instances.pred_classes.tolist())):
        entry: dict[str, Any] = {
            "category_id": int(ids[word]),
            "bbox": [round(float(value), 3) for value in box],
            "score": round(score, 6),
            "area": round(float(box[2] * box[3]), 3),
            "iscrowd": 0,
        }
        if masks is not None:
            code = mask_util.encode(np.asfortranarray(masks[row], dtype=np.uint8))
            entry["area"] = float(mask_util.area(code))
            entry["segmentation"] = {"size": list(code["size"]), "counts": code["counts"].decode()}
        entries.append(entry)
    return entries


def to_supervision(instances: Instances, vocabulary: Vocabulary | Sequence[str]) -> Any:
    """Convert detections for the library supervision.

    Args:
        instances: n detections in pixels of the image.
        vocabulary: the words that were asked for.

    Returns:
        ``supervision.Detections`` with xyxy (n, 4), mask (n, H, W) or None, confidence, class_id, and the words in
        ``data["class_name"]``.

    Raises:
        ImportError: if the library is not installed.
    """
    try:
        import supervision
    except ImportError as error:
        raise ImportError("to_supervision needs the package supervision: python -m pip install supervision") from error
    names = np.array(vocabulary.names if isinstance(vocabulary, Vocabulary) else list(vocabulary), dtype=object)
    instances = instances.to("cpu")
    classes = instances.pred_classes.numpy().astype(int)
    return supervision.Detections(
        xyxy=instances.pred_boxes.tensor.numpy().astype(np.float32),
        mask=instances.pred_masks.numpy().astype(bool) if instances.has("pred_masks") else None,
        confidence=instances.scores.numpy().astype(np.float32),
        class_id=classes,
        data={"class_name": names[classes].astype(str)},
    )
