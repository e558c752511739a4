"""LVIS evaluation: federated AP, also by class frequency."""

import copy
import logging
from typing import Any

from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import create_small_table

from ._instances import InstanceEvaluator

_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf")


class LVISEvaluator(InstanceEvaluator):
    """Average precision on LVIS by its own rules; the dataset's metadata must have json_file.

    Args:
        dataset_name: a registered LVIS dataset.
        tasks: "bbox", "segm"; None: what the predictions contain.
        distributed: gather the predictions of all processes.
        output_dir: keeps the predictions.
        max_dets_per_image: limit of detections of an image; None: 300.
    """

    _results_file = "lvis_instances_results.json"

    def __init__(self, dataset_name, tasks=None, distributed=True, output_dir=None, *, max_dets_per_image=None) -> None:
        from ._lvis_compat import LVIS

        self._prepare(dataset_name, tasks, distributed, output_dir)
        self._max_dets_per_image = max_dets_per_image
        self._lvis_api = LVIS(PathManager.get_local_path(self._metadata.json_file))
        # Test sets come without annotations; then the predictions are only written.
        self._do_evaluation = len(self._lvis_api.get_ann_ids()) > 0

    def evaluate(self) -> Any:
        """Evaluate what was processed: {"bbox": {"AP": ..., "APr": ...}, "segm": ...}."""
        return self._evaluate()

    def _eval_predictions(self, predictions: list[dict]) -> None:
        results, tasks = self._flat_results(predictions)
        id_map = self._metadata.get("thing_dataset_id_to_contiguous_id")
        original = {contiguous: dataset_id for dataset_id, contiguous in id_map.items()} if id_map else None
        for result in results:
            # Without a map the dataset ids are 1..n.
            category = result["category_id"]
            result["category_id"] = original[category] if original else category + 1
        if not self._write_results(results):
            return
        for task in tasks:
            limit = self._max_dets_per_image
            self._results[task] = _evaluate_predictions_on_lvis(self._lvis_api, results, task, limit)


def _evaluate_predictions_on_lvis(
    lvis_gt: Any, lvis_results: list[dict], iou_type: str, max_dets_per_image: int | None = None, class_names=None
) -> dict[str, float]:
    """Run LVISEval on result dicts with dataset category ids; return the metrics in percent."""
    from ._lvis_compat import LVISResults, ModernLVISEval

    logger = logging.getLogger(__name__)
    if not lvis_results:
        logger.warning("no %s predictions", iou_type)
        return dict.fromkeys(_METRICS, float("nan"))
    limit = 300 if max_dets_per_image is None else max_dets_per_image
    # LVISResults writes into the dicts; and with a box present it would take that for the size of the mask.
    unused = "bbox" if iou_type == "segm" else "segmentation"
    own = [{key: copy.copy(value) for key, value in result.items() if key != unused} for result in lvis_results]
    evaluation = ModernLVISEval(lvis_gt, LVISResults(lvis_gt, own, max_dets=limit), iou_type)
    evaluation.params.max_dets = limit
    evaluation.run()
    evaluation.print_results()
    scores = evaluation.get_results()
    results = {metric: float(scores[metric] * 100) for metric in _METRICS}
    logger.info("Evaluation results for %s:\n%s", iou_type, create_small_table(results))
    return results
