"""AP50 as in the Open Images challenge: hierarchy, image-level verification and boxes of groups.

The rules: a box counts for the ancestors of its class too. In an image only classes count that people verified there to
be present or absent; detections of others are ignored. Detections are matched by score to the box of their class with
which their IoU is largest; a box is found once, further detections of it are wrong. Detections that match none, but lie
with half of their area in a box around a group, are together one right detection with the highest of their scores.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import BoxMode
from detectron2.utils import comm

from mvseg.data.catalog import get_records, get_vocabulary
from mvseg.evaluation.split import novel_classes, split_mean

logger = logging.getLogger(__name__)

THRESHOLD = 0.5  # of IoU, and of the share of a detection that lies in a group
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Truth:
    """What people said about a test set of N boxes.

    Args:
        images: image number of every box, shape ``(N,)``, int64.
        classes: class index of every box, shape ``(N,)``, int64.
        boxes: corners (x0, y0, x1, y1), shape ``(N, 4)``, float64.
        groups: whether the box is one around a group, shape ``(N,)``, bool.
        verified: image number and class index of what was found to be there or not, shape ``(V, 2)``, int64.
    """

    images: Ints
    classes: Ints
    boxes: Floats
    groups: npt.NDArray[np.bool_]
    verified: Ints

    @classmethod
    def from_records(cls, records: Sequence[Mapping[str, Any]], ancestors: Sequence[Sequence[int]] | None) -> Truth:
        """Collect what records say; images are numbered in their order.

        Args:
            records: dataset records with annotations and verified classes.
            ancestors: class index to those of its ancestors, which boxes and labels then count for as well, and labels
                of absence for its descendants; None: no hierarchy.

        Returns:
            The truth.
        """
        found = [(i, a) for i, record in enumerate(records) for a in record.get("annotations", ())]
        images = np.array([i for i, _ in found], dtype=np.int64)
        classes = np.array([a["category_id"] for _, a in found], dtype=np.int64)
        groups = np.array([a.get("is_group_of", a.get("iscrowd", 0)) for _, a in found], dtype=bool)
        boxes = np.array([_corners(a) for _, a in found], dtype=np.float64).reshape(-1, 4)
        there, absent = (
            np.array([(i, c) for i, r in enumerate(records) for c in r.get(key, ())], dtype=np.int64).reshape(-1, 2)
            for key in ("verified_category_ids", "neg_category_ids")
        )
        if ancestors is not None:
            rows, classes = _with_related(classes, ancestors)
            images, groups, boxes = images[rows], groups[rows], boxes[rows]
            rows, others = _with_related(there[:, 1], ancestors)
            there = np.stack([there[rows, 0], others], axis=1)
            rows, others = _with_related(absent[:, 1], _reversed(ancestors))
            absent = np.stack([absent[rows, 0], others], axis=1)
        verified = np.concatenate([there, absent, np.stack([images, classes], axis=1)])
        return cls(images, classes, boxes, groups, np.unique(verified, axis=0))


@dataclass(frozen=True)
class Detections:
    """What a model found in a test set.

    Args:
        images: image number of every detection, shape ``(D,)``, int64.
        classes: class index of every detection, shape ``(D,)``, int64.
        boxes: corners (x0, y0, x1, y1), shape ``(D, 4)``, float64.
        scores: scores, shape ``(D,)``, float64.
    """

    images: Ints
    classes: Ints
    boxes: Floats
    scores: Floats

    def take(self, rows: npt.NDArray[Any]) -> Detections:
        """Choose some of the detections.

        Args:
            rows: indices or mask, shape ``(K,)`` or ``(D,)``.

        Returns:
            Those detections.
        """
        return Detections(self.images[rows], self.classes[rows], self.boxes[rows], self.scores[rows])

    def expanded(self, ancestors: Sequence[Sequence[int]]) -> Detections:
        """Repeat every detection for the ancestors of its class.

        Args:
            ancestors: class index to those of its ancestors.

        Returns:
            The detections, each followed by its copies.
        """
        rows, classes = _with_related(self.classes, ancestors)
        return Detections(self.images[rows], classes, self.boxes[rows], self.scores[rows])


def _corners(annotation: Mapping[str, Any]) -> list[float]:
    if annotation["bbox_mode"] == BoxMode.XYWH_ABS:
        x, y, w, h = annotation["bbox"]
        return [x, y, x + w, y + h]
    return BoxMode.convert(list(annotation["bbox"]), annotation["bbox_mode"], BoxMode.XYXY_ABS)


def _with_related(classes: Ints, related: Sequence[Sequence[int]]) -> tuple[Ints, Ints]:
    """Follow every class by the classes related to it: row of each in ``classes``, and the class."""
    chains = [[index, *others] for index, others in enumerate(related)]
    lengths = np.array([len(chain) for chain in chains], dtype=np.int64)
    flat = np.array([index for chain in chains for index in chain], dtype=np.int64)
    starts = np.cumsum(lengths) - lengths
    times = lengths[classes]
    rows = np.repeat(np.arange(len(classes)), times)
    steps = np.arange(len(rows)) - np.repeat(np.cumsum(times) - times, times)
    return rows, flat[starts[classes[rows]] + steps]


def _reversed(ancestors: Sequence[Sequence[int]]) -> list[list[int]]:
    """Class index to those of its descendants."""
    below: list[list[int]] = [[] for _ in ancestors]
    for index, others in enumerate(ancestors):
        for other in others:
            below[other].append(index)
    return below


def open_images_ap(truth: Truth, detections: Detections, num_classes: int) -> Floats:
    """Compute the average precision of every class at an IoU of 0.5 by the rules of the Open Images challenge.

    Args:
        truth: the annotations, expanded if the hierarchy is to count.
        detections: the detections, expanded likewise.
        num_classes: number n of classes.

    Returns:
        AP from 0 to 1, shape ``(n,)``, float64; nan for classes without a box.

    Source:
        Kuznetsova et al. 2020, The Open Images Dataset V4 (arXiv 1811.00982), section 4.3, and the evaluation page of
        the Open Images challenge 2019, https://storage.googleapis.com/openimages/web/evaluation.html.
    """
    checked = truth.verified[:, 0] * num_classes + truth.verified[:, 1]
    found = detections.take(np.isin(detections.images * num_classes + detections.classes, checked))
    found = found.take(np.argsort(-found.scores, kind="stable"))
    keys = found.images * num_classes + found.classes
    truth_keys = truth.images * num_classes + truth.classes
    single, group = np.flatnonzero(~truth.groups), np.flatnonzero(truth.groups)
    best, overlap = _best_match(keys, found.boxes, truth_keys[single], truth.boxes[single], of_union=True)
    right = _first_of_each(np.where(overlap >= THRESHOLD, best, -1))
    best, overlap = _best_match(keys, found.boxes, truth_keys[group], truth.boxes[group], of_union=False)
    in_group = ~right & (overlap >= THRESHOLD)
    covers = _first_of_each(np.where(in_group, best, -1))  # the detection that counts for the group
    counted = ~in_group | covers
    hits = (right | covers)[counted]
    classes = found.classes[counted]
    totals = np.bincount(truth.classes, minlength=num_classes)
    result = np.full(num_classes, np.nan)
    order = np.argsort(classes, kind="stable")  # by class, and within a class by falling score
    ends = np.cumsum(np.bincount(classes, minlength=num_classes))
    for index in np.flatnonzero(totals):
        rows = order[ends[index - 1] if index else 0 : ends[index]]
        result[index] = average_precision(hits[rows], int(totals[index]))
    return result


def average_precision(hits: npt.NDArray[np.bool_], total: int) -> float:
    """Compute the area under the curve of precision over recall, precision made to fall.

    Args:
        hits: whether each detection is right, by falling score, shape ``(D,)``, bool.
        total: number of objects to find, at least 1.

    Returns:
        The average precision, 0 to 1.

    Source:
        Everingham et al. 2010, The PASCAL VOC Challenge, section 4.2, in the form used since VOC 2010: every point of
        the curve counts.
    """
    if not len(hits):
        return 0.0
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    highest = np.maximum.accumulate(precision[::-1])[::-1]
    return float(highest[hits].sum() / total)  # recall rises by 1 / total at each hit


def _best_match(
    keys: Ints, boxes: Floats, truth_keys: Ints, truth_boxes: Floats, of_union: bool
) -> tuple[Ints, Floats]:
    """For every detection the truth of its image and class that overlaps it most: index (-1: none) and overlap."""
    order = np.argsort(truth_keys, kind="stable")
    ordered = truth_keys[order]
    first, last = np.searchsorted(ordered, keys, "left"), np.searchsorted(ordered, keys, "right")
    counts = last - first
    rows = np.repeat(np.arange(len(keys)), counts)  # one row for each pair of detection and truth
    starts = np.cumsum(counts) - counts
    others = order[np.arange(len(rows)) - np.repeat(starts - first, counts)] if len(rows) else rows
    overlaps = _overlap(boxes[rows], truth_boxes[others], of_union)
    best, overlap = np.full(len(keys), -1), np.zeros(len(keys))
    some = counts > 0
    if some.any():
        overlap[some] = np.maximum.reduceat(overlaps, starts[some])
        largest = np.flatnonzero(overlaps == overlap[rows])
        best[rows[largest[::-1]]] = others[largest[::-1]]  # of equal ones the first: it is written last
    return best, overlap


def _overlap(boxes: Floats, others: Floats, of_union: bool) -> Floats:
    """Intersection over union, or over the area of ``boxes``, of pairs of boxes (P, 4)."""
    sides = np.minimum(boxes[:, 2:], others[:, 2:]) - np.maximum(boxes[:, :2], others[:, :2])
    common = np.prod(np.maximum(sides, 0), axis=1)
    area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    whole = area + np.prod(others[:, 2:] - others[:, :2], axis=1) - common if of_union else area
    return np.divide(common, whole, out=np.zeros(len(common)), where=whole > 0)


def _first_of_each(numbers: Ints) -> npt.NDArray[np.bool_]:
    """Mark the first place of every number from 0 on."""
    _, places = np.unique(numbers, return_index=True)
    marked = np.zeros(len(numbers), dtype=bool)
    marked[places] = True
    return marked & (numbers >= 0)


class OpenImagesEvaluator(DatasetEvaluator):
    """AP50 of the Open Images challenge on a dataset whose records say what was verified.

    The hierarchy is the metadata's ``ancestors``; without it, or with ``expand_hierarchy`` False, every class stands
    for itself.

    Args:
        name: dataset name.
        output_dir: folder for the detections as JSON; None writes none.
        expand_hierarchy: boxes and verified labels count for the ancestors of their class too.
        expand_detections: detections count for the ancestors of their class too, for models that only name the
            narrowest class.
    """

    def __init__(
        self, name: str, output_dir: str | None = None, expand_hierarchy: bool = True, expand_detections: bool = False
    ) -> None:
        self.name = name
        self.records = get_records(name)
        self.names = get_vocabulary(name, embeddings=False).names
        self.ancestors: list[list[int]] = MetadataCatalog.get(name).get("ancestors") or [[] for _ in self.names]
        self.numbers = {record["image_id"]: number for number, record in enumerate(self.records)}
        self.output_dir = output_dir
        self.expand_hierarchy = expand_hierarchy
        self.expand_detections = expand_detections
        self.reset()

    def reset(self) -> None:
        """Forget the detections collected so far."""
        self._found: list[tuple[Any, Floats, Floats, Ints]] = []

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Collect the detections of a batch.

        Args:
            inputs: records as the model got them.
            outputs: the model's answers, with ``instances`` in pixels of the image file.
        """
        for given, answer in zip(inputs, outputs):
            instances = answer["instances"].to("cpu")
            self._found.append(
                (
                    given["image_id"],
                    instances.pred_boxes.tensor.numpy().astype(np.float64),
                    instances.scores.numpy().astype(np.float64),
                    instances.pred_classes.numpy().astype(np.int64),
                )
            )

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Compare the detections of all processes with the annotations.

        Returns:
            ``{"bbox": {"AP50", "AP-<class>", ...}}`` in percent, with novel classes AP50-base and AP50-novel too, nan
            for classes without a box; None on other processes than the main one.
        """
        parts = comm.gather(self._found)
        if not comm.is_main_process():
            return None
        found = [entry for part in parts for entry in part]
        if self.output_dir:
            self._write(found, Path(self.output_dir))
        detections = Detections(
            images=np.concatenate([np.full(len(s), self.numbers[i]) for i, _, s, _ in found] or [np.empty(0, int)]),
            classes=np.concatenate([classes for *_, classes in found] or [np.empty(0, int)]),
            boxes=np.concatenate([boxes for _, boxes, _, _ in found] or [np.empty((0, 4))]),
            scores=np.concatenate([scores for _, _, scores, _ in found] or [np.empty(0)]),
        )
        if self.expand_detections:
            detections = detections.expanded(self.ancestors)
        truth = Truth.from_records(self.records, self.ancestors if self.expand_hierarchy else None)
        values = 100 * open_images_ap(truth, detections, len(self.names))
        known = values[~np.isnan(values)]
        results = {"AP50": float(known.mean()) if len(known) else float("nan")}
        results.update(split_mean(values.tolist(), novel_classes(self.name)))
        results.update({f"AP-{name}": float(value) for name, value in zip(self.names, values, strict=True)})
        logger.info("Open Images AP50 of %d classes with boxes: %.3f", len(known), results["AP50"])
        return {"bbox": results}

    def _write(self, found: Sequence[tuple[Any, Floats, Floats, Ints]], folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        entries = [
            {
                "image_id": image_id,
                "category": self.names[index],
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "score": score,
            }
            for image_id, boxes, scores, classes in found
            for (x0, y0, x1, y1), score, index in zip(boxes.tolist(), scores.tolist(), classes.tolist())
        ]
        (folder / "openimages_results.json").write_text(json.dumps(entries))
