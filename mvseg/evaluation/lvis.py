"""LVIS evaluation with the AP of every class, and *fixed* AP beside it.

Plain AP counts the best 300 detections of an image, so the classes compete for places, and a detector can gain by the
calibration of its scores alone. Fixed AP counts the best K detections of each class in the whole test set instead, and
any number in an image. The two are different numbers: fixed AP is "APfixed", and never stands where AP does.

This is also the one place that works around the lvis package's ``np.float``.
"""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from detectron2.evaluation import LVISEvaluator
from detectron2.structures import Instances
from detectron2.utils import comm

from mvseg.evaluation.class_budget import ClassBudget, Kept
from mvseg.evaluation.split import novel_classes, split_mean

logger = logging.getLogger(__name__)

LIMIT = 300  # detections of an image that count for plain AP
# Results of fixed AP and what they are called in plain AP.
FIXED = {"APfixed": "AP", "APfixed-r": "APr", "APfixed-c": "APc", "APfixed-f": "APf"}
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf")


class _NumpyWithFloat:
    """numpy as the lvis package expects it: with the alias ``float`` that numpy 1.24 removed."""

    float = float

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


@contextmanager
def _lvis_numpy() -> Iterator[None]:
    import lvis.eval

    original = lvis.eval.np
    lvis.eval.np = _NumpyWithFloat()
    try:
        yield
    finally:
        lvis.eval.np = original


class PerClassLVISEvaluator(LVISEvaluator):
    """Detectron2's LVIS evaluator that also gives the AP of every class, as its COCO evaluator does, and fixed AP.

    Args:
        name: dataset name.
        tasks: "bbox", "segm"; None: what the predictions contain.
        output_dir: keeps the predictions that plain AP looks at.
        fixed_ap: detections of a class that count over the whole test set for fixed AP; 0: no fixed AP.
        **options: what Detectron2's evaluator takes besides.

    Raises:
        ValueError: if ``fixed_ap`` is no whole number from 0 on.
    """

    def __init__(
        self,
        name: str,
        tasks: tuple[str, ...] | None = None,
        output_dir: str | None = None,
        fixed_ap: int = 0,
        **options: Any,
    ) -> None:
        if not isinstance(fixed_ap, int) or isinstance(fixed_ap, bool) or fixed_ap < 0:
            raise ValueError(
                f"dataset {name!r}: options.fixed_ap is the number of detections of a class that count over the whole "
                f"test set, such as 10000, not {fixed_ap!r}"
            )
        super().__init__(name, tasks, output_dir=output_dir, **options)
        self._fixed_ap = fixed_ap
        if fixed_ap:
            to_index = self._metadata.thing_dataset_id_to_contiguous_id
            self._verified = _verified_classes(self._lvis_api, to_index)

    def reset(self) -> None:
        """Forget the predictions."""
        super().reset()
        self._budget = ClassBudget(self._fixed_ap, len(self._metadata.thing_classes)) if self._fixed_ap else None

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Collect the detections of a batch.

        Args:
            inputs: records as the model got them.
            outputs: the model's answers, with ``instances`` in pixels of the image file.
        """
        if self._budget is None:
            super().process(inputs, outputs)
            return
        limit = self._max_dets_per_image or LIMIT
        for given, answer in zip(inputs, outputs):
            found = answer["instances"].to("cpu")
            self._budget.add(self._kept(given["image_id"], found))
            best = found.scores.argsort(descending=True, stable=True)[:limit]  # plain AP would drop the others itself
            super().process([given], [{"instances": found[best]}])

    def _kept(self, image_id: int, found: Instances) -> Kept:
        """The detections of an image, with the masks of those that will be compared with annotations."""
        classes, scores = found.pred_classes.numpy().astype(np.int32), found.scores.numpy().astype(np.float64)
        boxes = found.pred_boxes.tensor.numpy().astype(np.float32)
        masks = np.full(len(scores), None, dtype=object)
        if found.has("pred_masks") and (self._tasks is None or "segm" in self._tasks):
            known = self._budget is not None and self._budget.wanted(classes, scores)
            compared = known & np.isin(classes, list(self._verified[image_id]))
            for row in np.flatnonzero(compared):
                masks[row] = mask_util.encode(np.asfortranarray(found.pred_masks[int(row)].numpy().astype(np.uint8)))
        sizes = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
        return Kept(np.full(len(scores), image_id, np.int64), classes, scores, sizes, masks)

    def evaluate(self) -> Any:
        """Compare the detections of all processes with the annotations.

        Returns:
            Task to metric to value in percent; with ``fixed_ap`` also APfixed, APfixed-r, APfixed-c and APfixed-f. None
            on other processes than the main one.
        """
        parts = comm.gather(self._budget.settle()) if self._budget is not None else []
        results = super().evaluate()
        if parts and results and self._do_evaluation:
            kept = Kept.join(parts).best(self._fixed_ap)
            for task, metrics in results.items():
                results[task] = {**metrics, **self._fixed_metrics(kept, task)}
        return results

    def _fixed_metrics(self, kept: Kept, task: str) -> dict[str, float]:
        classes = self._classes()
        sizes = np.bincount(kept.classes, minlength=len(classes))
        short = int((sizes < self._fixed_ap).sum())
        logger.info(
            "Fixed AP (%s) from the best %d detections of each class in all images%s",
            task,
            self._fixed_ap,
            f"; {short} of {len(classes)} classes have fewer: if the detector has more to give, raise "
            "TEST.DETECTIONS_PER_IMAGE and lower MODEL.ROI_HEADS.SCORE_THRESH_TEST"
            if short
            else "",
        )
        # What nobody looked for in an image takes up its place in the budget, but is neither right nor wrong.
        rows = np.flatnonzero(self._is_verified(kept.images, kept.classes)).tolist()
        results = [self._result(kept, row, classes, task) for row in rows]
        found = lvis_metrics(self._lvis_api, results, task, classes, max_detections=-1)
        return {name: found[plain] for name, plain in FIXED.items()}

    def _result(self, kept: Kept, row: int, classes: Sequence[tuple[int, str]], task: str) -> dict[str, Any]:
        shape = {"segmentation": kept.masks[row]} if task == "segm" else {"bbox": kept.boxes[row].tolist()}
        category = classes[kept.classes[row]][0]
        return {"image_id": int(kept.images[row]), "category_id": category, "score": float(kept.scores[row]), **shape}

    def _is_verified(self, images: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """Whether people looked for the class in the image, for D detections."""
        ids = np.array(sorted(self._verified))
        known = [row * len(self._metadata.thing_classes) + c for row, i in enumerate(ids) for c in self._verified[i]]
        keys = np.searchsorted(ids, images) * len(self._metadata.thing_classes) + classes
        return np.isin(keys, known)

    def _classes(self) -> list[tuple[int, str]]:
        """Category id and name of every class, in the order of the class indices."""
        to_dataset = {v: k for k, v in self._metadata.thing_dataset_id_to_contiguous_id.items()}
        return [(to_dataset[index], name) for index, name in enumerate(self._metadata.thing_classes)]

    def _eval_predictions(self, predictions: list[dict[str, Any]]) -> None:
        tasks = self._tasks or self._tasks_from_predictions(predictions)
        results = [result for prediction in predictions for result in prediction["instances"]]
        to_dataset = {v: k for k, v in self._metadata.thing_dataset_id_to_contiguous_id.items()}
        for result in results:
            result["category_id"] = to_dataset[result["category_id"]]
        if self._output_dir:
            Path(self._output_dir, "lvis_instances_results.json").write_text(json.dumps(results))
        if not self._do_evaluation:
            return
        classes = self._classes()
        novel, limit = novel_classes(self._metadata.name), self._max_dets_per_image or LIMIT
        for task in sorted(tasks):
            self._results[task] = lvis_metrics(
                self._lvis_api, results, task, classes, max_detections=limit, novel=novel
            )


def _verified_classes(ground_truth: Any, to_index: Mapping[int, int]) -> dict[int, set[int]]:
    """Image id to the class indices that people looked for in it: there, or surely not there."""
    found = {
        image_id: {to_index[c] for c in image["neg_category_ids"]} for image_id, image in ground_truth.imgs.items()
    }
    for annotation in ground_truth.anns.values():
        found[annotation["image_id"]].add(to_index[annotation["category_id"]])
    return found


def lvis_metrics(
    ground_truth: Any,
    results: Sequence[dict[str, Any]],
    task: str,
    classes: Sequence[tuple[int, str]],
    max_detections: int = LIMIT,
    novel: Sequence[bool] = (),
) -> dict[str, float]:
    """Evaluate detections on LVIS annotations with the lvis package.

    Args:
        ground_truth: an ``lvis.LVIS``.
        results: COCO result dicts with the dataset's category ids.
        task: "bbox" or "segm".
        classes: (category id, name) of every class.
        max_detections: detections per image that count; -1: all.
        novel: for every class whether it is novel, or empty.

    Returns:
        AP, AP50, AP75, APs, APm, APl, APr, APc, APf, with novel classes AP50-base and AP50-novel, and "AP-<class>" in
        percent; nan where there is nothing to find.
    """
    from lvis import LVISEval, LVISResults

    if not results:
        nothing = split_mean([0.0] * len(classes), novel)
        return dict.fromkeys(METRICS, 0.0) | nothing | {f"AP-{name}": 0.0 for _, name in classes}
    # With a box in the result the package would take areas and sizes from it, also for masks.
    dropped = {"bbox"} if task == "segm" else set()
    kept = [{k: v for k, v in copy.copy(result).items() if k not in dropped} for result in results]
    evaluation = LVISEval(ground_truth, LVISResults(ground_truth, kept, max_dets=max_detections), task)
    evaluation.params.max_dets = max_detections
    with _lvis_numpy():
        evaluation.run()
    found = evaluation.get_results()
    # precision: (IoU thresholds, recall thresholds, classes, areas); area 0 is "all", -1 where a class has no object
    precision = evaluation.eval["precision"][:, :, :, 0]
    column = {category: k for k, category in enumerate(evaluation.params.cat_ids)}
    metrics = {name: _percent(found[name]) for name in METRICS}
    values = [precision[:, :, column[c]] if c in column else np.empty((1, 0)) for c, _ in classes]
    metrics |= split_mean([_mean(value[:1]) for value in values], novel)
    return metrics | {f"AP-{name}": _mean(value) for (_, name), value in zip(classes, values)}


def _mean(precision: np.ndarray) -> float:
    """Mean in percent of what is known (-1: it is not)."""
    known = precision[precision > -1]
    return float(100 * known.mean()) if known.size else float("nan")


def _percent(value: float) -> float:
    return float(100 * value) if value > -1 else float("nan")
