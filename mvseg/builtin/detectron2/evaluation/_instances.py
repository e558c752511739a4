"""What COCO and LVIS evaluation share: collecting predictions, result dicts, recall of proposals, tables."""

from __future__ import annotations

import copy
import itertools
import json
import logging
import os
import pickle
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, BoxMode, Instances, pairwise_iou
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import create_small_table
from tabulate import tabulate

from .evaluator import DatasetEvaluator

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


class InstanceEvaluator(DatasetEvaluator):
    """Base of the two evaluators: collects "instances" and "proposals", and calls ``_eval_*`` on the first process."""

    _results_file = "instances_results.json"

    def _prepare(self, dataset_name: str, tasks: Any, distributed: bool, output_dir: str | None) -> None:
        self._logger = logging.getLogger(type(self).__module__)
        # Long ago the second argument was the config; then the predictions decide.
        self._tasks = None if isinstance(tasks, CfgNode) else tasks
        self._distributed, self._output_dir = distributed, output_dir
        self._metadata, self._cpu_device = MetadataCatalog.get(dataset_name), torch.device("cpu")

    def reset(self) -> None:
        """Forget the predictions."""
        self._predictions = []

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Take a batch: outputs hold "instances" or "proposals"."""
        for record, output in zip(inputs, outputs):
            parts = {kind: output[kind].to(self._cpu_device) for kind in ("instances", "proposals") if kind in output}
            if "instances" in parts:
                parts["instances"] = instances_to_coco_json(parts["instances"], record["image_id"])
            if parts:
                self._predictions.append({"image_id": record["image_id"], **parts})

    def _evaluate(self, **options: Any) -> dict[str, Any] | None:
        """Gather, keep and evaluate; None on processes other than the first. Options go to _eval_predictions."""
        predictions = self._predictions
        if self._distributed:
            comm.synchronize()
            predictions = list(itertools.chain.from_iterable(comm.gather(predictions, dst=0)))
        if self._distributed and not comm.is_main_process():
            return None
        if not predictions:
            self._logger.warning("%s has received no predictions", type(self).__name__)
            return {}
        if self._output_dir:
            PathManager.mkdirs(self._output_dir)
            with PathManager.open(os.path.join(self._output_dir, "instances_predictions.pth"), "wb") as file:
                torch.save(predictions, file)
        self._results: OrderedDict[str, Any] = OrderedDict()
        if "proposals" in predictions[0]:
            self._eval_box_proposals(predictions)
        if "instances" in predictions[0]:
            self._eval_predictions(predictions, **options)
        return copy.deepcopy(self._results)

    def _write_results(self, results: list[dict]) -> bool:
        """Write the result file if asked for; say whether there is anything to compare with."""
        if self._output_dir:
            path = write_json(self._output_dir, self._results_file, results)
            self._logger.info("results are in %s", path)
        if not self._do_evaluation:
            self._logger.info("%s has no annotations, so nothing is evaluated", self._metadata.json_file)
        return self._do_evaluation

    def _eval_predictions(self, predictions: list[dict], **options: Any) -> None:
        raise NotImplementedError

    def _recall_of_proposals(self, predictions: list[dict], area: str, limit: int) -> dict[str, Any]:
        raise NotImplementedError

    def _eval_box_proposals(self, predictions: list[dict]) -> None:
        save_proposals(self._output_dir, predictions)
        if self._do_evaluation:
            recalls = proposal_recalls(lambda **kind: self._recall_of_proposals(predictions, **kind))
            self._logger.info("Proposal metrics:\n%s", create_small_table(recalls))
            self._results["box_proposals"] = recalls
