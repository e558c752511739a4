"""Coloured rectangles as images with records, for the tests of the loading."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from detectron2.structures import BoxMode

Record = dict[str, Any]


def draw_records(
    folder: Path,
    count: int,
    *,
    num_classes: int = 3,
    masks: bool = False,
    seed: int = 0,
    size: tuple[int, int] = (40, 30),
) -> list[Record]:
    """Draw images with one or two rectangles each, every third one upright, and write them as PNG."""
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for index in range(count):
        width, height = size if index % 3 else size[::-1]
        image = random.integers(0, 60, (height, width, 3), dtype=np.uint8)
        annotations = []
        for _ in range(1 + index % 2):
            x, y = random.integers(0, width - 12), random.integers(0, height - 12)
            w, h = random.integers(6, 12, 2)
            label = int(random.integers(num_classes))
            image[y : y + h, x : x + w] = 80 + 20 * label
            box = [float(x), float(y), float(x + w), float(y + h)]
            annotation = {"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "category_id": label, "iscrowd": 0}
            if masks:
                x0, y0, x1, y1 = box
                annotation["segmentation"] = [[x0, y0, x1, y0, x1, y1, x0, y1]]
            annotations.append(annotation)
        path = folder / f"{index}.png"
        cv2.imwrite(str(path), image)
        records.append(
            {"file_name": str(path), "height": height, "width": width, "image_id": index, "annotations": annotations}
        )
    return records
