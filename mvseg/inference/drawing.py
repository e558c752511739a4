"""Pictures of annotations and predictions, side by side and as one sheet."""

from __future__ import annotations

import colorsys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.structures import BoxMode, Instances
from detectron2.utils.visualizer import Visualizer
from PIL import Image, ImageDraw
from torch import Tensor

CAPTION_HEIGHT = 16  # pixels
GAP = 6  # pixels between the cells of a sheet
BACKGROUND = (255, 255, 255)


def label_color(label: str) -> tuple[float, float, float]:
    """Choose the colour of a word: the same word has the same colour in every picture.

    Args:
        label: the word.

    Returns:
        Red, green and blue from 0 to 1.
    """
    code = zlib.crc32(label.encode())
    return colorsys.hsv_to_rgb((code % 997) / 997, 0.65 + 0.35 * ((code >> 10) % 2), 0.95)


def draw_objects(
    image: np.ndarray,
    boxes: Tensor | np.ndarray | Sequence[Sequence[float]],
    labels: Sequence[str],
    *,
    scores: Sequence[float] | None = None,
    masks: Any = None,
    height: int = 320,
) -> np.ndarray:
    """Draw boxes, words and masks over an image.

    Args:
        image: uint8 RGB, (H, W, 3).
        boxes: (n, 4) as x0, y0, x1, y1 in pixels of the image.
        labels: n words.
        scores: n scores, written behind the words; None writes none.
        masks: n masks in any form that Detectron2's Visualizer takes, or None.
        height: height of the picture in pixels.

    Returns:
        uint8 RGB, (height, about W * height / H, 3).
    """
    drawing = Visualizer(np.ascontiguousarray(image), scale=height / image.shape[0])
    texts = [f"{label} {score:.2f}" for label, score in zip(labels, scores)] if scores is not None else list(labels)
    if len(labels):
        drawing.overlay_instances(
            boxes=np.asarray(boxes, dtype=np.float64).reshape(-1, 4),
            labels=texts,
            masks=masks if masks is None or len(masks) else None,
            assigned_colors=[label_color(label) for label in labels],
            alpha=0.4,
        )
    return drawing.get_output().get_image()


def draw_annotations(image: np.ndarray, record: dict[str, Any], names: Sequence[str], height: int = 320) -> np.ndarray:
    """Draw the annotations of a dataset record.

    Args:
        image: uint8 RGB, (H, W, 3).
        record: Detectron2's standard form, with ``annotations``.
        names: the words of the dataset's vocabulary.
        height: height of the picture in pixels.

    Returns:
        uint8 RGB, (height, about W * height / H, 3).
    """
    annotations = record.get("annotations", [])
    boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in annotations]
    labels = [names[a["category_id"]] + (" (crowd)" if a.get("iscrowd") else "") for a in annotations]
    masks = [a.get("segmentation") for a in annotations]
    return draw_objects(image, boxes, labels, masks=masks if all(masks) else None, height=height)


def draw_predictions(
    image: np.ndarray, instances: Instances, names: Sequence[str], threshold: float = 0.3, height: int = 320
) -> np.ndarray:
    """Draw the predictions of a detector or segmenter.

    Args:
        image: uint8 RGB, (H, W, 3).
        instances: pred_boxes, scores and pred_classes in pixels of the image, pred_masks (n, H, W) if there are any.
        names: the words that were asked for.
        threshold: predictions with a lower score are left out.
        height: height of the picture in pixels.

    Returns:
        uint8 RGB, (height, about W * height / H, 3).
    """
    kept = instances.to("cpu")
    kept = kept[kept.scores >= threshold]
    masks = kept.pred_masks.numpy() if kept.has("pred_masks") else None
    labels = [names[int(c)] for c in kept.pred_classes]
    boxes = kept.pred_boxes.tensor
    return draw_objects(image, boxes, labels, scores=kept.scores.tolist(), masks=masks, height=height)


def captioned(picture: np.ndarray, text: str) -> np.ndarray:
    """Put a line of text above a picture.

    Args:
        picture: uint8 RGB, (H, W, 3).
        text: the line; what does not fit is cut off.

    Returns:
        uint8 RGB, (H + 16, W, 3).
    """
    canvas = Image.new("RGB", (picture.shape[1], picture.shape[0] + CAPTION_HEIGHT), BACKGROUND)
    ImageDraw.Draw(canvas).text((2, 2), text, fill=(0, 0, 0))
    canvas.paste(Image.fromarray(picture), (0, CAPTION_HEIGHT))
    return np.asarray(canvas)


def side_by_side(left: np.ndarray, right: np.ndarray, left_text: str, right_text: str) -> np.ndarray:
    """Put two pictures of one height beside each other, each below its caption.

    Args:
        left: uint8 RGB, (H, W, 3).
        right: uint8 RGB, (H, W2, 3).
        left_text: caption of the left picture.
        right_text: caption of the right picture.

    Returns:
        uint8 RGB, (H + 16, W + 6 + W2, 3).
    """
    return sheet([captioned(left, left_text), captioned(right, right_text)], columns=2)


def sheet(pictures: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Lay pictures out in rows.

    Args:
        pictures: at least one, each uint8 RGB, (H, W, 3); sizes may differ.
        columns: pictures in a row.

    Returns:
        uint8 RGB, (height, width, 3): as large as the rows need.
    """
    rows = [pictures[i : i + columns] for i in range(0, len(pictures), columns)]
    heights = [max(p.shape[0] for p in row) for row in rows]
    widths = [sum(p.shape[1] for p in row) + GAP * (len(row) - 1) for row in rows]
    canvas = np.full((sum(heights) + GAP * (len(rows) - 1), max(widths), 3), BACKGROUND, dtype=np.uint8)
    top = 0
    for row, height in zip(rows, heights):
        left = 0
        for picture in row:
            canvas[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
            left += picture.shape[1] + GAP
        top += height + GAP
    return canvas


def save_picture(picture: np.ndarray, path: str | Path) -> None:
    """Write a picture; the folder is made.

    Args:
        picture: uint8 RGB, (H, W, 3).
        path: file name; its ending chooses the format.

    Raises:
        ValueError: if no picture can be written with that ending.
    """
    if Image.registered_extensions().get(Path(path).suffix.lower()) not in Image.SAVE:
        raise ValueError(f"{path}: a picture ends in .jpg, .png, .webp or another ending that Pillow can write")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)
