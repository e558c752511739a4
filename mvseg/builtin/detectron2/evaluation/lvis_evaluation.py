"""LVIS evaluation: federated AP, also by class frequency, and recall of proposals."""

from __future__ import annotations

import copy
import itertools
import logging
import os
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import create_small_table

from ._instances import box_proposal_recall, instances_to_coco_json, proposal_recalls, save_proposals, write_json
from .evaluator import DatasetEvaluator

_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf")


class LVISEvaluator(DatasetEvaluator):
    """Average precision on LVIS by its own rules; the dataset's metadata must have json_file.

    Args:
        dataset_name: a registered LVIS dataset.
        tasks: "bbox", "segm"; None: what the predictions contain.
        distributed: gather the predictions of all processes.
        output_dir: keeps the predictions.
        max_dets_per_image: limit of detections of an image; None: 300.
    """

    def __init__(
        self,
        dataset_name: str,
        tasks: Sequence[str] | None = None,
        distributed: bool = True,
        output_dir: str | None = None,
        *,
        max_dets_per_image: int | None = None,
    ) -> None:
        from ._lvis_compat import LVIS

        self._logger = logging.getLogger(__name__)
        self._tasks = None if isinstance(tasks, CfgNode) else tasks
        self._distributed = distributed
        self._output_dir = output_dir
        self._max_dets_per_image = max_dets_per_image
        self._cpu_device = torch.device("cpu")
        self._metadata = MetadataCatalog.get(dataset_name)
        self._lvis_api = LVIS(PathManager.get_local_path(self._metadata.json_file))
        # Test sets come without annotations; then the predictions are only written.
        self._do_evaluation = len(self._lvis_api.get_ann_ids()) > 0

    def reset(self) -> None:
        """Forget the predictions."""
        self._predictions = []

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Take a batch: outputs hold "instances" or "proposals"."""
        for record, output in zip(inputs, outputs):
            prediction = {"image_id": record["image_id"]}
            if "instances" in output:
                instances = output["instances"].to(self._cpu_device)
                prediction["instances"] = instances_to_coco_json(instances, record["image_id"])
            if "proposals" in output:
                prediction["proposals"] = output["proposals"].to(self._cpu_device)
            self._predictions.append(prediction)

    def evaluate(self) -> Any:
        """Evaluate what was processed: {"bbox": {"AP": ..., "APr": ...}, "segm": ..., "box_proposals": ...}."""
        predictions = self._predictions
        if self._distributed:
            comm.synchronize()
            predictions = list(itertools.chain.from_iterable(comm.gather(predictions, dst=0)))
            if not comm.is_main_process():
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
            self._eval_predictions(predictions)
        return copy.deepcopy(self._results)

    def _tasks_from_predictions(self, predictions: list[dict]) -> tuple[str, ...]:
        masks = any("segmentation" in result for prediction in predictions for result in prediction["instances"])
        return ("bbox", "segm") if masks else ("bbox",)

    def _eval_predictions(self, predictions: list[dict]) -> None:
        results = list(itertools.chain.from_iterable(prediction["instances"] for prediction in predictions))
        tasks = self._tasks or self._tasks_from_predictions(predictions)
        id_map = self._metadata.get("thing_dataset_id_to_contiguous_id")
        original = {contiguous: dataset_id for dataset_id, contiguous in id_map.items()} if id_map else None
        for result in results:
            # Without a map the dataset ids are 1..n.
            category = result["category_id"]
            result["category_id"] = original[category] if original else category + 1
        if self._output_dir:
            self._logger.info("results are in %s", write_json(self._output_dir, "lvis_instances_results.json", results))
        if not self._do_evaluation:
            self._logger.info("%s has no annotations, so nothing is evaluated", self._metadata.json_file)
            return
        for task in sorted(tasks):
            self._results[task] = _evaluate_predictions_on_lvis(
                self._lvis_api,
                results,
                task,
                max_dets_per_image=self._max_dets_per_image,
                class_names=self._metadata.get("thing_classes"),
            )

    def _eval_box_proposals(self, predictions: list[dict]) -> None:
        save_proposals(self._output_dir, predictions)
        if self._do_evaluation:
            recalls = proposal_recalls(lambda **kind: _evaluate_box_proposals(predictions, self._lvis_api, **kind))
            self._logger.info("Proposal metrics:\n%s", create_small_table(recalls))
            self._results["box_proposals"] = recalls


def _evaluate_box_proposals(
    dataset_predictions: list[dict],
    lvis_api: Any,
    thresholds: torch.Tensor | None = None,
    area: str = "all",
    limit: int | None = None,
) -> dict[str, Any]:
    def truth(image_id: Any) -> list[dict]:
        return lvis_api.load_anns(lvis_api.get_ann_ids(img_ids=[image_id]))

    return box_proposal_recall(dataset_predictions, truth, thresholds, area, limit)


def _evaluate_predictions_on_lvis(
    lvis_gt: Any,
    lvis_results: list[dict],
    iou_type: str,
    max_dets_per_image: int | None = None,
    class_names: Sequence[str] | None = None,
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
