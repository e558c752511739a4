"""LVIS evaluation with the AP of every class; the one place that works around the lvis package's ``np.float``."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.evaluation import LVISEvaluator

from mvseg.evaluation.split import novel_classes, split_mean

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
    """Detectron2's LVIS evaluator that also gives the AP of every class, as its COCO evaluator does."""

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
        names = dict(zip(to_dataset, self._metadata.thing_classes))
        classes = [(to_dataset[i], names[i]) for i in sorted(names)]
        novel, limit = novel_classes(self._metadata.name), self._max_dets_per_image or 300
        for task in sorted(tasks):
            self._results[task] = lvis_metrics(
                self._lvis_api, results, task, classes, max_detections=limit, novel=novel
            )


def lvis_metrics(
    ground_truth: Any,
    results: Sequence[dict[str, Any]],
    task: str,
    classes: Sequence[tuple[int, str]],
    max_detections: int = 300,
    novel: Sequence[bool] = (),
) -> dict[str, float]:
    """Evaluate detections on LVIS annotations with the lvis package.

    Args:
        ground_truth: an ``lvis.LVIS``.
        results: COCO result dicts with the dataset's category ids.
        task: "bbox" or "segm".
        classes: (category id, name) of every class.
        max_detections: detections per image that count.
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
