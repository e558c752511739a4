"""What COCO and LVIS evaluation share: result dicts, recall of proposals, tables."""

from __future__ import annotations

import itertools
import json
import os
import pickle
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.structures import Boxes, BoxMode, Instances, pairwise_iou
from detectron2.utils.file_io import PathManager
from tabulate import tabulate

# Ranges of box area in pixels, by name.
AREA_RANGES = {
    "all": (0, 1e5**2),
    "small": (0, 32**2),
    "medium": (32**2, 96**2),
    "large": (96**2, 1e5**2),
    "96-128": (96**2, 128**2),
    "128-256": (128**2, 256**2),
    "256-512": (256**2, 512**2),
    "512-inf": (512**2, 1e5**2),
}


def instances_to_coco_json(instances: Instances, img_id: Any) -> list[dict]:
    """Express the predictions of one image as COCO results: XYWH boxes, and RLE masks if there are any.

    Args:
        instances: pred_boxes, scores, pred_classes and optionally pred_masks (N, H, W) bool, all on the CPU.
        img_id: the image.

    Returns:
        A dict for each instance, with contiguous category_id.
    """
    if len(instances) == 0:
        return []
    boxes = BoxMode.convert(instances.pred_boxes.tensor.numpy(), BoxMode.XYXY_ABS, BoxMode.XYWH_ABS).tolist()
    results = [
        {"image_id": img_id, "category_id": category, "bbox": box, "score": score}
        for category, box, score in zip(instances.pred_classes.tolist(), boxes, instances.scores.tolist())
    ]
    if instances.has("pred_masks"):
        for result, mask in zip(results, instances.pred_masks):
            rle = mask_util.encode(np.asfortranarray(np.asarray(mask).astype(np.uint8)))
            result["segmentation"] = {"size": rle["size"], "counts": rle["counts"].decode("ascii")}
    return results


def write_json(folder: str, name: str, content: Any) -> str:
    """Write a file of results and return its path."""
    path = os.path.join(folder, name)
    with PathManager.open(path, "w") as file:
        json.dump(content, file)
    return path


def save_proposals(folder: str | None, predictions: Sequence[dict]) -> None:
    """Write the proposals of all images in the form that load_proposals_into_dataset reads."""
    if not folder:
        return
    proposals = [prediction["proposals"] for prediction in predictions]
    content = {
        "boxes": [item.proposal_boxes.tensor.numpy() for item in proposals],
        "objectness_logits": [item.objectness_logits.numpy() for item in proposals],
        "ids": [prediction["image_id"] for prediction in predictions],
        "bbox_mode": int(BoxMode.XYXY_ABS),
    }
    with PathManager.open(os.path.join(folder, "box_proposals.pkl"), "wb") as file:
        pickle.dump(content, file)


def _best_overlaps(proposals: Boxes, truth: Boxes) -> torch.Tensor:
    """Pair boxes one to one, best pair first; return the IoU of every true box, shape (G,), 0 where none is left."""
    iou = pairwise_iou(proposals, truth)
    overlaps = torch.zeros(len(truth))
    for _ in range(min(iou.shape)):
        best, row_of = iou.max(dim=0)
        column = int(best.argmax())
        overlaps[column] = best[column]
        iou[row_of[column], :] = -1
        iou[:, column] = -1
    return overlaps


def box_proposal_recall(
    predictions: Sequence[dict],
    annotations_of: Callable[[Any], list[dict]],
    thresholds: torch.Tensor | None,
    area: str,
    limit: int | None,
) -> dict[str, Any]:
    """Compute the recall of class-agnostic proposals at several IoU thresholds, and its average.

    Args:
        predictions: dicts with image_id and proposals (Instances with proposal_boxes, objectness_logits).
        annotations_of: image id -> annotations of that image without crowds (XYWH bbox, area).
        thresholds: IoU thresholds; None: 0.5:0.05:0.95.
        area: a name in AREA_RANGES; only true boxes of that size count.
        limit: only so many best proposals of each image count.

    Returns:
        "ar", "recalls" and "thresholds" (T,), "gt_overlaps" (all true boxes,), "num_pos".
    """
    if area not in AREA_RANGES:
        raise AssertionError(f"unknown area range {area!r}; there is {', '.join(AREA_RANGES)}")
    low, high = AREA_RANGES[area]
    overlaps, count = [], 0
    for prediction in predictions:
        truth = [anno for anno in annotations_of(prediction["image_id"]) if low <= anno["area"] <= high]
        count += len(truth)
        proposals = prediction["proposals"]
        if not truth or len(proposals) == 0:
            continue
        best_first = proposals.objectness_logits.sort(descending=True)[1]
        boxes = proposals.proposal_boxes[best_first][:limit]
        corners = [BoxMode.convert(anno["bbox"], BoxMode.XYWH_ABS, BoxMode.XYXY_ABS) for anno in truth]
        overlaps.append(_best_overlaps(boxes, Boxes(torch.as_tensor(corners).reshape(-1, 4))))
    gt_overlaps = torch.cat(overlaps).sort()[0] if overlaps else torch.zeros(0)
    if thresholds is None:
        thresholds = torch.arange(0.5, 0.95 + 1e-5, 0.05, dtype=torch.float32)
    recalls = (gt_overlaps[None] >= thresholds[:, None]).float().sum(dim=1) / float(count)
    return {
        "ar": recalls.mean(),
        "recalls": recalls,
        "thresholds": thresholds,
        "gt_overlaps": gt_overlaps,
        "num_pos": count,
    }


def proposal_recalls(recall: Callable[..., dict[str, Any]]) -> dict[str, float]:
    """Fill the table "AR@100", "ARs@100" ... in percent with a function of (area, limit)."""
    suffixes = {"all": "", "small": "s", "medium": "m", "large": "l"}
    return {
        f"AR{suffix}@{limit}": float(recall(area=area, limit=limit)["ar"].item() * 100)
        for limit in (100, 1000)
        for area, suffix in suffixes.items()
    }


def per_class_table(metric: str, values: dict[str, float]) -> str:
    """Format class names and their values as a table of three pairs a line."""
    flat = list(itertools.chain.from_iterable((name, value) for name, value in values.items()))
    columns = min(6, len(flat))
    rows = [flat[at : at + columns] for at in range(0, len(flat), columns)]
    return tabulate(
        rows, tablefmt="pipe", floatfmt=".3f", headers=["category", metric] * (columns // 2), numalign="left"
    )
