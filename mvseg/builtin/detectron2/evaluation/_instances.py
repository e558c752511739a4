"""What COCO and LVIS evaluation share: collecting predictions, and result dicts."""

import copy
import itertools
import json
import logging
import os
from collections import OrderedDict
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.structures import BoxMode, Instances
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager

from .evaluator import DatasetEvaluator


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


class InstanceEvaluator(DatasetEvaluator):
    """Base of the two evaluators: collects "instances", and calls ``_eval_*`` on the first process."""

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
        """Take a batch: outputs hold "instances"."""
        for image_id, output in zip((record["image_id"] for record in inputs), outputs):
            if "instances" in output:
                results = instances_to_coco_json(output["instances"].to(self._cpu_device), image_id)
                self._predictions.append({"image_id": image_id, "instances": results})

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
        self._eval_predictions(predictions, **options)
        return copy.deepcopy(self._results)

    def _flat_results(self, predictions: list[dict]) -> tuple[list[dict], list[str]]:
        """Join the results of all images, and choose the tasks."""
        results = list(itertools.chain.from_iterable(prediction["instances"] for prediction in predictions))
        return results, sorted(self._tasks or self._tasks_from_predictions(results))

    def _tasks_from_predictions(self, predictions: list[dict]) -> list[str]:
        return ["bbox", "segm"] if any("segmentation" in result for result in predictions) else ["bbox"]

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
