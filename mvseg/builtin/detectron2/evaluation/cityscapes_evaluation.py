"""Cityscapes evaluation by its own scripts (python -m pip install cityscapesscripts), which are imported on use."""

from __future__ import annotations

import glob
import json
import logging
import os
import tempfile
from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from PIL import Image

from ._old_numpy import OldNumpy
from .evaluator import DatasetEvaluator


def _scripts(module: str) -> Any:
    import importlib

    try:
        return importlib.import_module(f"cityscapesscripts.{module}")
    except ImportError as error:
        raise ImportError(f"Cityscapes evaluation: python -m pip install cityscapesscripts ({error})") from error


def _write_json(content: dict, path: str) -> None:
    with open(path, "w") as file:
        json.dump(content, file, default=lambda value: value.item() if isinstance(value, np.generic) else vars(value))


class CityscapesEvaluator(DatasetEvaluator):
    """Base: a folder of predictions that all processes on this machine write to."""

    def __init__(self, dataset_name: str) -> None:
        self._metadata = MetadataCatalog.get(dataset_name)
        self._cpu_device = torch.device("cpu")
        self._logger = logging.getLogger(__name__)

    def reset(self) -> None:
        """Make a new folder (that of the first process)."""
        self._working_dir = tempfile.TemporaryDirectory(prefix="cityscapes_eval_")
        self._temp_dir = self._working_dir.name
        if comm.get_world_size() > 1:
            if comm.get_world_size() != comm.get_local_size():
                raise AssertionError(f"{type(self).__name__} works on one machine only")
            self._temp_dir = comm.all_gather(self._temp_dir)[0]
            if self._temp_dir != self._working_dir.name:
                self._working_dir.cleanup()

    def _path(self, file_name: str, suffix: str) -> str:
        return os.path.join(self._temp_dir, os.path.splitext(os.path.basename(file_name))[0] + suffix)

    def _configured(self, module: str) -> Any:
        """Return the evaluation module with paths set, and the list of true label images."""
        scripts = _scripts(module)
        # The scripts (2.3) use a removed name of numpy, and write numpy numbers as json. Only their module is changed.
        scripts.np = OldNumpy()
        scripts.writeDict2JSON = _write_json
        scripts.args.predictionPath = os.path.abspath(self._temp_dir)
        scripts.args.predictionWalk = None
        scripts.args.JSONOutput = False
        scripts.args.colorized = False
        return scripts

    def _true_files(self, pattern: str) -> list[str]:
        folder = PathManager.get_local_path(self._metadata.gt_dir)
        files = glob.glob(os.path.join(folder, "*", f"*_{pattern}"))
        if not files:
            raise AssertionError(f"no *_{pattern} below {folder}; is $DETECTRON2_DATASETS right?")
        return files


class CityscapesInstanceEvaluator(CityscapesEvaluator):
    """AP of instances."""

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Write masks and scores of a batch: outputs hold "instances" with pred_masks."""
        ids = {label.name: label.id for label in _scripts("helpers.labels").labels}
        for record, output in zip(inputs, outputs):
            instances = output["instances"].to(self._cpu_device)
            masks = instances.pred_masks.numpy().astype("uint8") * 255 if instances.has("pred_masks") else []
            with open(self._path(record["file_name"], "_pred.txt"), "w") as listing:
                for index, mask in enumerate(masks):
                    name = self._metadata.thing_classes[int(instances.pred_classes[index])]
                    png = self._path(record["file_name"], f"_{index}_{name}.png")
                    Image.fromarray(mask).save(png)
                    score = float(instances.scores[index])
                    listing.write(f"{os.path.basename(png)} {ids[name]} {score}\n")

    def evaluate(self) -> Any:
        """Return {"segm": {"AP", "AP50"}} in percent."""
        comm.synchronize()
        if comm.get_rank() > 0:
            return None
        scripts = self._configured("evaluation.evalInstanceLevelSemanticLabeling")
        scripts.args.gtInstancesFile = os.path.join(self._temp_dir, "gtInstances.json")
        truth = self._true_files("gtFine_instanceIds.png")
        predictions = [scripts.getPrediction(path, scripts.args) for path in truth]
        averages = scripts.evaluateImgLists(predictions, truth, scripts.args)["averages"]
        self._working_dir.cleanup()
        return OrderedDict({"segm": {"AP": averages["allAp"] * 100, "AP50": averages["allAp50%"] * 100}})


class CityscapesSemSegEvaluator(CityscapesEvaluator):
    """IoU of classes and categories."""

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Write the label images of a batch: outputs hold "sem_seg", scores of shape (19, H, W)."""
        label_of = _scripts("helpers.labels").trainId2label
        for record, output in zip(inputs, outputs):
            train_ids = output["sem_seg"].argmax(dim=0).to(self._cpu_device).numpy()
            labels = np.full(train_ids.shape, 255, dtype=np.uint8)
            for train_id in np.unique(train_ids).tolist():
                label = label_of.get(train_id)
                if label is not None and not label.ignoreInEval:
                    labels[train_ids == train_id] = label.id
            Image.fromarray(labels).save(self._path(record["file_name"], "_pred.png"))

    def evaluate(self) -> Any:
        """Return {"sem_seg": {"IoU", "iIoU", "IoU_sup", "iIoU_sup"}} in percent."""
        comm.synchronize()
        if comm.get_rank() > 0:
            return None
        scripts = self._configured("evaluation.evalPixelLevelSemanticLabeling")
        truth = self._true_files("gtFine_labelIds.png")
        predictions = [scripts.getPrediction(scripts.args, path) for path in truth]
        scores = scripts.evaluateImgLists(predictions, truth, scripts.args)
        self._working_dir.cleanup()
        keys = {
            "IoU": "averageScoreClasses",
            "iIoU": "averageScoreInstClasses",
            "IoU_sup": "averageScoreCategories",
            "iIoU_sup": "averageScoreInstCategories",
        }
        return OrderedDict({"sem_seg": {short: 100.0 * scores[long] for short, long in keys.items()}})
