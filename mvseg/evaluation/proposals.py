"""Average recall of boxes of any class: how many objects have a box, of classes that were trained on and of others."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Boxes, BoxMode, Instances, pairwise_iou
from detectron2.utils import comm
from tabulate import tabulate
from torch import Tensor

from mvseg.data.catalog import get_card, get_records
from mvseg.data.supervision import has_places
from mvseg.evaluation.split import novel_classes

logger = logging.getLogger(__name__)

LIMITS = (10, 50, 100, 1000)  # boxes of an image
THRESHOLDS = torch.arange(0.5, 0.96, 0.05, dtype=torch.float64)  # IoU from which an object is found
ROUNDING = 1e-6  # of the IoU, float32: an overlap of exactly 0.5 counts


def object_overlaps(objects: Tensor, boxes: Tensor) -> Tensor:
    """Give every object one box, the pair with the largest overlap first.

    Args:
        objects: (G, 4) float x0, y0, x1, y1, pixels.
        boxes: (P, 4) float, pixels.

    Returns:
        (G,) float IoU of every object with its box; 0 where no box is left for it.

    Source: Hosang et al. 2015, What makes for effective detection proposals (arXiv 1502.05082), section 4; one box
    serves one object, as in Detectron2.
    """
    found = torch.zeros(len(objects))
    if not len(objects) or not len(boxes):
        return found
    iou = pairwise_iou(Boxes(objects), Boxes(boxes))
    for _ in range(min(iou.shape)):
        best, place = iou.flatten().max(0)
        row, column = divmod(int(place), iou.shape[1])
        found[row] = best
        iou[row], iou[:, column] = -1, -1
    return found


def average_recall(overlaps: Tensor) -> tuple[float, float]:
    """Average the share of objects found over the IoU from which an object counts as found, 0.50 to 0.95.

    Args:
        overlaps: (N,) float IoU of every object with its box.

    Returns:
        Average recall and recall at IoU 0.5, in percent; nan without objects.

    Source: Hosang et al. 2015 (arXiv 1502.05082), section 4; thresholds of COCO.
    """
    if not len(overlaps):
        return float("nan"), float("nan")
    found = overlaps.double()[:, None] + ROUNDING >= THRESHOLDS
    recalls = 100 * found.double().mean(0)
    return float(recalls.mean()), float(recalls[0])


class ProposalEvaluator(DatasetEvaluator):
    """Average recall of the best boxes of every image, whatever class they are given.

    Args:
        name: dataset name; its annotation must have boxes.
        limits: numbers of boxes of an image to evaluate.

    Raises:
        ValueError: if the annotation of the dataset has no boxes.
    """

    def __init__(self, name: str, limits: Sequence[int] = LIMITS) -> None:
        card = get_card(name)
        if not has_places(card.supervision):
            raise ValueError(f"{card.where} cannot be evaluated with proposals: its {card.supervision} are no boxes")
        self.name, self.limits = name, tuple(limits)
        self.novel = novel_classes(name)
        self.objects = {record["image_id"]: _objects_of(record) for record in get_records(name)}
        self.reset()

    def reset(self) -> None:
        """Forget the boxes seen so far."""
        self.found: dict[Any, list[Tensor]] = {}
        self.boxes = 0

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Compare the boxes of a batch with the objects.

        Args:
            inputs: records as the model got them.
            outputs: the model's answers in pixels of the image file: ``proposals`` with ``proposal_boxes`` and
                ``objectness_logits``, or ``instances`` with ``pred_boxes`` and ``scores``.
        """
        for given, answer in zip(inputs, outputs):
            boxes, scores = boxes_of(answer)
            self.add(given["image_id"], boxes[scores.argsort(descending=True, stable=True)])

    def add(self, image_id: Any, boxes: Tensor) -> None:
        """Compare the boxes of one image with its objects.

        Args:
            image_id: the image.
            boxes: (P, 4) float x0, y0, x1, y1, pixels of the image file, best first.
        """
        objects, _ = self.objects[image_id]
        self.found[image_id] = [object_overlaps(objects, boxes[:limit]) for limit in self.limits]
        self.boxes += len(boxes)

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Average over the images of all processes.

        Returns:
            ``{"box_proposals": {"AR@100": ..., "AR@100-base": ..., "AR@100-novel": ...}}`` in percent, for every limit;
            empty on other processes than the main one. The log also has the recall at IoU 0.5.
        """
        parts = comm.gather((self.found, self.boxes))
        if not comm.is_main_process():
            return {}
        found = {image_id: overlaps for part, _ in parts for image_id, overlaps in part.items()}
        logger.info("%s: %.1f boxes an image", self.name, sum(count for _, count in parts) / max(len(found), 1))
        classes = torch.cat([self.objects[image_id][1] for image_id in found] or [torch.zeros(0, dtype=torch.long)])
        groups = {"": torch.ones(len(classes), dtype=torch.bool)}
        if self.novel:
            is_novel = torch.tensor(self.novel)[classes]
            groups |= {"-base": ~is_novel, "-novel": is_novel}
        results, at_half = {}, {}
        for index, limit in enumerate(self.limits):
            overlaps = torch.cat([lists[index] for lists in found.values()] or [torch.zeros(0)])
            for group, members in groups.items():
                key = f"AR@{limit}{group}"
                results[key], at_half[key] = average_recall(overlaps[members])
        rows = [
            [limit, *(values[f"AR@{limit}{g}"] for values in (results, at_half) for g in groups)]
            for limit in self.limits
        ]
        headers = ["boxes", *(f"{kind}{g}" for kind in ("AR", "AR50") for g in groups)]
        logger.info("Recall on %s:\n%s", self.name, tabulate(rows, headers=headers, floatfmt=".1f", tablefmt="pipe"))
        return {"box_proposals": results}


def boxes_of(answer: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Read the boxes of an answer, whatever class they have.

    Args:
        answer: of a model, with ``proposals`` or ``instances``.

    Returns:
        Boxes (P, 4), pixels, and scores (P,), float32, on the CPU; scores of proposals are their logits.
    """
    found: Instances = answer["proposals"] if "proposals" in answer else answer["instances"]
    boxes = found.proposal_boxes if found.has("proposal_boxes") else found.pred_boxes
    scores = found.objectness_logits if found.has("objectness_logits") else found.scores
    return boxes.tensor.detach().float().cpu(), scores.detach().float().cpu()


def _objects_of(record: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Boxes (G, 4), pixels, and classes (G,) of the objects of a record that are no crowds."""
    known = [a for a in record["annotations"] if not a.get("iscrowd", 0)]
    boxes = [BoxMode.convert(list(a["bbox"]), a["bbox_mode"], BoxMode.XYXY_ABS) for a in known]
    classes = torch.tensor([a["category_id"] for a in known], dtype=torch.long)
    return torch.tensor(np.array(boxes, np.float32).reshape(-1, 4)), classes
