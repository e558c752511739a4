"""COCO evaluation: box and mask AP with pycocotools."""

import copy
import os
from collections.abc import Sequence
from typing import Any

from detectron2._missing import missing
from detectron2.data.datasets.coco import convert_to_coco_json, open_coco
from detectron2.utils.logger import create_small_table, wide_table
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ._instances import InstanceEvaluator, instances_to_coco_json  # noqa: F401
from .fast_eval_api import COCOeval_opt

_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


class COCOEvaluator(InstanceEvaluator):
    """Average precision of boxes and masks on any dataset that can be written as COCO json.

    Args:
        dataset_name: a registered dataset; without json_file in its metadata it is converted into output_dir.
        tasks: "bbox", "segm"; None: what the predictions contain.
        distributed: gather the predictions of all processes.
        output_dir: keeps the predictions; may be None where no conversion is needed.
        max_dets_per_image: limit instead of 100 for AP (one number, or COCO's three).
        use_fast_impl: has no effect here.
        kpt_oks_sigmas: for keypoints, which the built-in provider does not evaluate.
        allow_cached_coco: reuse an earlier conversion.
    """

    _results_file = "coco_instances_results.json"

    def __init__(
        self,
        dataset_name: str,
        tasks: Sequence[str] | None = None,
        distributed: bool = True,
        output_dir: str | None = None,
        *,
        max_dets_per_image: int | Sequence[int] | None = None,
        use_fast_impl: bool = True,
        kpt_oks_sigmas: Sequence[float] = (),
        allow_cached_coco: bool = True,
    ) -> None:
        self._prepare(dataset_name, tasks, distributed, output_dir)
        self._use_fast_impl, self._kpt_oks_sigmas = use_fast_impl, kpt_oks_sigmas
        limit = 100 if max_dets_per_image is None else max_dets_per_image
        self._max_dets_per_image = [1, 10, limit] if isinstance(limit, int) else list(limit)
        if not hasattr(self._metadata, "json_file"):
            if output_dir is None:
                raise ValueError(f"dataset {dataset_name!r} has no json_file: COCOEvaluator makes one in output_dir")
            path = os.path.join(output_dir, f"{dataset_name}_coco_format.json")
            self._metadata.json_file = path
            convert_to_coco_json(dataset_name, path, allow_cached=allow_cached_coco)
        self._coco_api = open_coco(self._metadata.json_file)
        # Test sets come without annotations; then the predictions are only written.
        self._do_evaluation = "annotations" in self._coco_api.dataset

    def evaluate(self, img_ids: Sequence[Any] | None = None) -> dict[str, Any]:
        """Evaluate what was processed.

        Args:
            img_ids: restrict the evaluation to these images.

        Returns:
            {"bbox": {"AP": ..., "AP-<class>": ...}, "segm": ...}, in percent.
        """
        return self._evaluate(img_ids=img_ids) or {}

    def _to_dataset_ids(self, results: list[dict]) -> None:
        """Replace contiguous category ids by those of the annotation file, in place."""
        id_map = self._metadata.get("thing_dataset_id_to_contiguous_id")
        if id_map is None:
            return
        original = {contiguous: dataset_id for dataset_id, contiguous in id_map.items()}
        if sorted(original) != list(range(len(id_map))):
            raise AssertionError(f"thing_dataset_id_to_contiguous_id of {self._metadata.name!r} does not map to 0..n-1")
        for result in results:
            category = result["category_id"]
            if category not in original:
                raise AssertionError(f"class {category} predicted, but {self._metadata.name!r} has {len(original)}")
            result["category_id"] = original[category]

    def _eval_predictions(self, predictions: list[dict], img_ids: Sequence[Any] | None = None) -> None:
        results, tasks = self._flat_results(predictions)
        self._to_dataset_ids(results)
        if not self._write_results(results):
            return
        for task in tasks:
            if task not in ("bbox", "segm"):
                raise missing(f"evaluation of the task {task!r}")
            coco_eval = None
            if results:
                options = {"img_ids": img_ids, "max_dets_per_image": self._max_dets_per_image}
                coco_eval = _evaluate_predictions_on_coco(self._coco_api, results, task, **options)
            class_names = self._metadata.get("thing_classes")
            self._results[task] = self._derive_coco_results(coco_eval, task, class_names=class_names)

    def _derive_coco_results(
        self, coco_eval: COCOeval | None, iou_type: str, class_names: Sequence[str] | None = None
    ) -> dict[str, float]:
        if coco_eval is None:
            self._logger.warning("no %s predictions", iou_type)
            return dict.fromkeys(_METRICS, float("nan"))
        stats = [float(value) * 100 if value >= 0 else float("nan") for value in coco_eval.stats[: len(_METRICS)]]
        results = dict(zip(_METRICS, stats))
        self._logger.info("Evaluation results for %s:\n%s", iou_type, create_small_table(results))
        if class_names is None or len(class_names) <= 1:
            return results
        # Axes: IoU threshold, recall, class, area range (0 is all), limit of detections (-1 is the largest).
        precision = coco_eval.eval["precision"][:, :, :, 0, -1]
        if precision.shape[2] != len(class_names):
            raise AssertionError(f"{len(class_names)} class names for {precision.shape[2]} categories of the file")
        per_class = {}
        for index, name in enumerate(class_names):
            valid = precision[:, :, index][precision[:, :, index] > -1]
            per_class[name] = float(valid.mean() * 100) if valid.size else float("nan")
        self._logger.info("Per-category %s AP:\n%s", iou_type, wide_table(per_class, ("category", "AP")))
        return results | {f"AP-{name}": value for name, value in per_class.items()}


class COCOevalMaxDets(COCOeval):
    """COCOeval whose AP uses the largest of params.maxDets; pycocotools has 100 built in there."""

    def summarize(self) -> None:
        """Compute the stats, and AP once more."""
        super().summarize()
        precision = self.eval["precision"][:, :, :, 0, -1]
        valid = precision[precision > -1]
        self.stats[0] = valid.mean() if valid.size else -1

    def __str__(self) -> str:
        self.summarize()
        return ""


def _evaluate_predictions_on_coco(
    coco_gt: COCO,
    coco_results: list[dict],
    iou_type: str,
    kpt_oks_sigmas: Sequence[float] | None = None,
    cocoeval_fn: type[COCOeval] = COCOeval_opt,
    img_ids: Sequence[Any] | None = None,
    max_dets_per_image: Sequence[int] | None = None,
) -> COCOeval:
    """Run COCOeval on result dicts with dataset category ids."""
    limits = [1, 10, 100] if max_dets_per_image is None else list(max_dets_per_image)
    if iou_type == "segm":
        # With a box present, pycocotools would take the area of the box for the size of the mask.
        coco_results = [{key: value for key, value in result.items() if key != "bbox"} for result in coco_results]
    coco_dt = coco_gt.loadRes(copy.deepcopy(coco_results))
    if limits[2] != 100:
        cocoeval_fn = COCOevalMaxDets
    coco_eval = cocoeval_fn(coco_gt, coco_dt, iou_type)
    coco_eval.params.maxDets = limits
    if img_ids is not None:
        coco_eval.params.imgIds = img_ids
    coco_eval.evaluate()
    coco_eval.accumulate()
    coco_eval.summarize()
    return coco_eval
