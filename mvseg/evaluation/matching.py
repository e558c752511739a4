"""Boxes of a whole test set as a few arrays: collecting a model's, matching them with the annotations, precision."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import BoxMode
from detectron2.utils import comm

from mvseg.data.catalog import get_records, get_vocabulary

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Found = tuple[Any, Floats, Floats, Ints]  # image id, boxes (D, 4), scores (D,), class indices (D,)


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

    @classmethod
    def join(cls, found: Sequence[Found], numbers: Mapping[Any, int]) -> Detections:
        """Put the detections of single images together.

        Args:
            found: of every image its id, boxes ``(D, 4)``, scores ``(D,)`` and class indices ``(D,)``.
            numbers: image id to image number.

        Returns:
            All detections, in the order of ``found``.
        """
        return cls(
            images=np.concatenate([np.full(len(s), numbers[i]) for i, _, s, _ in found] or [np.empty(0, int)]),
            classes=np.concatenate([classes for *_, classes in found] or [np.empty(0, int)]),
            boxes=np.concatenate([boxes for _, boxes, _, _ in found] or [np.empty((0, 4))]),
            scores=np.concatenate([scores for _, _, scores, _ in found] or [np.empty(0)]),
        )

    def take(self, rows: npt.NDArray[Any]) -> Detections:
        """Choose some of the detections.

        Args:
            rows: indices or mask, shape ``(K,)`` or ``(D,)``.

        Returns:
            Those detections.
        """
        return Detections(self.images[rows], self.classes[rows], self.boxes[rows], self.scores[rows])

    def best_first(self) -> Detections:
        """Order by falling score; equal scores keep their order.

        Returns:
            The detections.
        """
        return self.take(np.argsort(-self.scores, kind="stable"))

    def expanded(self, ancestors: Sequence[Sequence[int]]) -> Detections:
        """Repeat every detection for the ancestors of its class.

        Args:
            ancestors: class index to those of its ancestors.

        Returns:
            The detections, each followed by its copies.
        """
        rows, classes = with_related(self.classes, ancestors)
        return Detections(self.images[rows], classes, self.boxes[rows], self.scores[rows])


def with_related(classes: Ints, related: Sequence[Sequence[int]]) -> tuple[Ints, Ints]:
    """Follow every class by the classes related to it.

    Args:
        classes: class indices, shape ``(N,)``, int64.
        related: class index to those of the related classes.

    Returns:
        Row of each in ``classes``, and the class; both of shape ``(M,)``, int64.
    """
    chains = [[index, *others] for index, others in enumerate(related)]
    lengths = np.array([len(chain) for chain in chains], dtype=np.int64)
    flat = np.array([index for chain in chains for index in chain], dtype=np.int64)
    starts = np.cumsum(lengths) - lengths
    times = lengths[classes]
    rows = np.repeat(np.arange(len(classes)), times)
    steps = np.arange(len(rows)) - np.repeat(np.cumsum(times) - times, times)
    return rows, flat[starts[classes[rows]] + steps]


def corners_of(annotation: Mapping[str, Any]) -> list[float]:
    """Give the corners of an annotation's box.

    Args:
        annotation: with ``bbox`` and ``bbox_mode``.

    Returns:
        (x0, y0, x1, y1) in pixels.
    """
    if annotation["bbox_mode"] == BoxMode.XYWH_ABS:
        x, y, w, h = annotation["bbox"]
        return [x, y, x + w, y + h]
    return BoxMode.convert(list(annotation["bbox"]), annotation["bbox_mode"], BoxMode.XYXY_ABS)


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


def best_match(keys: Ints, boxes: Floats, truth_keys: Ints, truth_boxes: Floats, of_union: bool) -> tuple[Ints, Floats]:
    """Find for every detection the object of its image and class that overlaps it most.

    Args:
        keys: a number for image and class of every detection, shape ``(D,)``, int64.
        boxes: corners of the detections, shape ``(D, 4)``, float64.
        truth_keys: the same number for every object, shape ``(N,)``, int64.
        truth_boxes: corners of the objects, shape ``(N, 4)``, float64.
        of_union: intersection over union; False: over the area of the detection.

    Returns:
        Index of the object (-1: the image has none of the class; of equal ones the first) and overlap, ``(D,)``.
    """
    order = np.argsort(truth_keys, kind="stable")
    ordered = truth_keys[order]
    first, last = np.searchsorted(ordered, keys, "left"), np.searchsorted(ordered, keys, "right")
    counts = last - first
    rows = np.repeat(np.arange(len(keys)), counts)  # one row for each pair of detection and object
    starts = np.cumsum(counts) - counts
    others = order[np.arange(len(rows)) - np.repeat(starts - first, counts)] if len(rows) else rows
    overlaps = box_overlap(boxes[rows], truth_boxes[others], of_union)
    best, overlap = np.full(len(keys), -1), np.zeros(len(keys))
    some = counts > 0
    if some.any():
        overlap[some] = np.maximum.reduceat(overlaps, starts[some])
        largest = np.flatnonzero(overlaps == overlap[rows])
        best[rows[largest[::-1]]] = others[largest[::-1]]  # of equal ones the first: it is written last
    return best, overlap


def box_overlap(boxes: Floats, others: Floats, of_union: bool) -> Floats:
    """Compute the overlap of pairs of boxes.

    Args:
        boxes: corners, shape ``(P, 4)``, float64.
        others: corners of the partners, shape ``(P, 4)``, float64.
        of_union: intersection over union; False: over the area of ``boxes``.

    Returns:
        The overlaps, shape ``(P,)``; 0 where there is no area.
    """
    sides = np.minimum(boxes[:, 2:], others[:, 2:]) - np.maximum(boxes[:, :2], others[:, :2])
    common = np.prod(np.maximum(sides, 0), axis=1)
    area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    whole = area + np.prod(others[:, 2:] - others[:, :2], axis=1) - common if of_union else area
    return np.divide(common, whole, out=np.zeros(len(common)), where=whole > 0)


def first_of_each(numbers: Ints) -> npt.NDArray[np.bool_]:
    """Mark the first place of every number from 0 on.

    Args:
        numbers: shape ``(D,)``, int64; negative ones are nothing.

    Returns:
        Whether the number stands there for the first time, shape ``(D,)``, bool.
    """
    _, places = np.unique(numbers, return_index=True)
    marked = np.zeros(len(numbers), dtype=bool)
    marked[places] = True
    return marked & (numbers >= 0)


class BoxEvaluator(DatasetEvaluator):
    """Collects the boxes of all processes; what they are worth is up to the evaluators built on it.

    Args:
        name: dataset name.
        output_dir: folder for the detections as JSON; None writes none.
    """

    results_file = "box_results.json"

    def __init__(self, name: str, output_dir: str | None = None) -> None:
        self.name = name
        self.records = get_records(name)
        self.names = get_vocabulary(name, embeddings=False).names
        self.numbers = {record["image_id"]: number for number, record in enumerate(self.records)}
        self.output_dir = output_dir
        self.reset()

    def reset(self) -> None:
        """Forget the detections collected so far."""
        self._found: list[Found] = []

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

    def gather(self) -> Detections | None:
        """Bring the detections of all processes together, and write them if there is a folder.

        Returns:
            The detections; None on other processes than the main one.
        """
        parts = comm.gather(self._found)
        if not comm.is_main_process():
            return None
        found = [entry for part in parts for entry in part]
        if self.output_dir:
            self._write(found, Path(self.output_dir))
        return Detections.join(found, self.numbers)

    def _write(self, found: Sequence[Found], folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        entries = [
            {"image_id": image_id, "category": self.names[index], "bbox": [x0, y0, x1 - x0, y1 - y0], "score": score}
            for image_id, boxes, scores, classes in found
            for (x0, y0, x1, y1), score, index in zip(boxes.tolist(), scores.tolist(), classes.tolist())
        ]
        (folder / self.results_file).write_text(json.dumps(entries))
