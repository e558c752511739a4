"""Annotations that are no instances: label maps, sentences and their boxes, moved along with the augmentation."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.structures import BoxMode

from .label_maps import ignore_label, read_panoptic, read_semantic, transform_labels, transform_panoptic
from .supervision import ANSWERS

_SIDES = re.compile(r"\b(left|right)(?=\b|most|hand|side|ward)", re.IGNORECASE)
_OTHER = {"left": "right", "right": "left", "LEFT": "RIGHT", "RIGHT": "LEFT", "Left": "Right", "Right": "Left"}


def drop_answers(record: dict[str, Any]) -> None:
    """Take everything out of a record that a model is to find out by itself.

    Args:
        record: dataset record, changed in place.
    """
    for key in ANSWERS:
        record.pop(key, None)


def add_targets(record: dict[str, Any], transforms: Any, size: tuple[int, int]) -> None:
    """Turn the annotation of a record into what a model learns from; instances are the mapper's own business.

    ``semantic``: ``sem_seg`` (H, W), int64, class indices and the dataset's ``ignore_label``. ``panoptic``: ``pan_seg``
    (H, W), int64, segment ids with 0 for none, and ``segments_info`` of the segments that are left. ``phrases``: those
    whose box is left, boxes (x0, y0, x1, y1) in pixels of the augmented image. In ``phrases`` and ``captions`` left and
    right change places if the image was mirrored. Tags need nothing.

    Args:
        record: dataset record, changed in place.
        transforms: Detectron2's transforms of its image.
        size: height and width of the augmented image, pixels.

    Raises:
        ImageReadError: if a label map cannot be read.
        LabelMapError: if a label map does not fit its record.
    """
    kind = record.get("supervision")
    if kind == "semantic":
        values = record.get("sem_seg_values") or {"classes": 0}
        labels = transform_labels(read_semantic(record), transforms, ignore_label(values["classes"]))
        record["sem_seg"] = torch.from_numpy(labels)
        for key in ("sem_seg_file_name", "sem_seg_values"):
            record.pop(key, None)
    elif kind == "panoptic":
        ids, segments = transform_panoptic(read_panoptic(record), record["segments_info"], transforms)
        record["pan_seg"], record["segments_info"] = torch.from_numpy(ids), segments
        for key in ("pan_seg_file_name", "left_out_segments"):
            record.pop(key, None)
    elif kind == "phrases":
        record["phrases"] = transform_phrases(record["phrases"], transforms, size)
    if record.get("captions") and is_mirrored(transforms):  # images with tags can have sentences too
        record["captions"] = [swap_sides(text) for text in record["captions"]]


def transform_phrases(
    phrases: Sequence[Mapping[str, Any]], transforms: Any, size: tuple[int, int]
) -> list[dict[str, Any]]:
    """Move phrases along with an augmentation.

    Args:
        phrases: dicts with ``text``, ``bbox`` in pixels, and ``bbox_mode``.
        transforms: Detectron2's transforms.
        size: height and width of the augmented image, pixels.

    Returns:
        Copies of those whose box is still in the image at least in part, with boxes (x0, y0, x1, y1) inside it.
    """
    mirrored = is_mirrored(transforms)
    limit = np.array([size[1], size[0], size[1], size[0]], dtype=float)
    moved = []
    for phrase in phrases:
        box = BoxMode.convert(list(phrase["bbox"]), phrase["bbox_mode"], BoxMode.XYXY_ABS)
        box = transforms.apply_box(np.array([box], dtype=float))[0].clip(0, limit)
        if box[2] <= box[0] or box[3] <= box[1]:
            continue
        text = swap_sides(phrase["text"]) if mirrored else phrase["text"]
        moved.append({**phrase, "text": text, "bbox": box.tolist(), "bbox_mode": BoxMode.XYXY_ABS})
    return moved


def is_mirrored(transforms: Any) -> bool:
    """Say whether an augmentation exchanges left and right.

    Args:
        transforms: Detectron2's transforms.

    Returns:
        True if a point to the right of another ends up to its left.
    """
    left, right = transforms.apply_coords(np.array([[0.0, 0.0], [1.0, 0.0]]))
    return bool(right[0] < left[0])


def swap_sides(text: str) -> str:
    """Exchange left and right in a sentence, so that it stays true of the mirrored image.

    Args:
        text: the sentence, in English.

    Returns:
        The sentence with "left" for "right" and the other way round, in "leftmost" and the like too.
    """
    return _SIDES.sub(lambda found: _OTHER.get(found[0], _OTHER[found[0].lower()]), text)
