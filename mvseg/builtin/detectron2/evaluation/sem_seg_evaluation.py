"""Semantic segmentation: IoU and accuracy."""

import itertools
import logging
import os
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.comm import all_gather, is_main_process, synchronize
from detectron2.utils.file_io import PathManager
from PIL import Image

from ._instances import write_json
from .evaluator import DatasetEvaluator


def load_image_into_numpy_array(filename: str, dtype: np.dtype | str | None = None) -> np.ndarray:
    """Read an image file as an array (H, W) or (H, W, C)."""
    with PathManager.open(filename, "rb") as file:
        return np.array(Image.open(file), dtype=dtype)


def _divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.divide(numerator, denominator, out=np.full(len(numerator), np.nan), where=denominator > 0)


class SemSegEvaluator(DatasetEvaluator):
    """mIoU and its relatives from a confusion matrix over all pixels.

    Args:
        dataset_name: its records have file_name and sem_seg_file_name; its metadata stuff_classes and ignore_label.
        distributed: sum over all processes.
        output_dir: keeps predictions and results.
        sem_seg_loading_fn: reads a label image.
        num_classes: deprecated, the metadata counts.
        ignore_label: deprecated, the metadata counts.
    """

    def __init__(
        self,
        dataset_name: str,
        distributed: bool = True,
        output_dir: str | None = None,
        *,
        sem_seg_loading_fn: Callable[..., np.ndarray] = load_image_into_numpy_array,
        num_classes: int | None = None,
        ignore_label: int | None = None,
    ) -> None:
        self._logger = logging.getLogger(__name__)
        if num_classes is not None or ignore_label is not None:
            self._logger.warning("SemSegEvaluator: num_classes and ignore_label are taken from the metadata")
        meta = MetadataCatalog.get(dataset_name)
        self._dataset_name, self._distributed, self._output_dir = dataset_name, distributed, output_dir
        self._cpu_device, self.sem_seg_loading_fn = torch.device("cpu"), sem_seg_loading_fn
        records = DatasetCatalog.get(dataset_name)
        self.input_file_to_gt_file = {record["file_name"]: record["sem_seg_file_name"] for record in records}
        id_map = meta.get("stuff_dataset_id_to_contiguous_id")
        self._contiguous_id_to_dataset_id = {new: old for old, new in id_map.items()} if id_map else None
        self._class_names = meta.stuff_classes
        self._num_classes = len(meta.stuff_classes)
        self._ignore_label = meta.get("ignore_label", ignore_label)

    def reset(self) -> None:
        """Forget everything."""
        shape = (self._num_classes + 1, self._num_classes + 1)
        # Rows are predicted, columns true classes; the last of each is "ignored".
        self._conf_matrix = np.zeros(shape, dtype=np.int64)
        self._predictions = []

    def _confusion(self, predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
        side = self._num_classes + 1
        pairs = side * predicted.reshape(-1).astype(np.int64) + truth.reshape(-1)
        return np.bincount(pairs, minlength=side**2).reshape(side, side)

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Take a batch: outputs hold "sem_seg", scores of shape (classes, H, W)."""
        for record, output in zip(inputs, outputs):
            predicted = output["sem_seg"].argmax(dim=0).to(self._cpu_device).numpy().astype(int)
            truth = self.sem_seg_loading_fn(self.input_file_to_gt_file[record["file_name"]], dtype=int)
            truth = np.where(truth == self._ignore_label, self._num_classes, truth)
            self._conf_matrix += self._confusion(predicted, truth)
            self._predictions.extend(self.encode_json_sem_seg(predicted, record["file_name"]))

    def evaluate(self) -> Any:
        """Return {"sem_seg": {"mIoU", "fwIoU", "IoU-<class>", ..., "mACC", "pACC", "ACC-<class>"}} in percent."""
        if self._distributed:
            synchronize()
            matrices, predictions = all_gather(self._conf_matrix), all_gather(self._predictions)
            if not is_main_process():
                return None
            self._conf_matrix = sum(matrices)
            self._predictions = list(itertools.chain.from_iterable(predictions))
        if self._output_dir:
            PathManager.mkdirs(self._output_dir)
            write_json(self._output_dir, "sem_seg_predictions.json", self._predictions)
        results = OrderedDict({"sem_seg": self._summarize()})
        if self._output_dir:
            with PathManager.open(os.path.join(self._output_dir, "sem_seg_evaluation.pth"), "wb") as file:
                torch.save(results, file)
        self._logger.info(results)
        return results

    def _summarize(self) -> dict[str, float]:
        hits = self._conf_matrix.diagonal()[:-1].astype(float)
        true_pixels = self._conf_matrix[:-1, :-1].sum(axis=0).astype(float)
        union = true_pixels + self._conf_matrix[:-1, :-1].sum(axis=1) - hits
        present = true_pixels > 0
        accuracy, iou = _divide(hits, true_pixels), np.where(present, _divide(hits, union), np.nan)
        frequency = true_pixels / true_pixels.sum()
        results = {"mIoU": 100 * np.nanmean(iou), "fwIoU": 100 * np.nansum(iou * frequency)}
        results |= {f"IoU-{name}": 100 * value for name, value in zip(self._class_names, iou)}
        results |= {"mACC": 100 * np.nanmean(accuracy), "pACC": 100 * hits.sum() / true_pixels.sum()}
        return results | {f"ACC-{name}": 100 * value for name, value in zip(self._class_names, accuracy)}

    def encode_json_sem_seg(self, sem_seg: np.ndarray, input_file_name: str) -> list[dict]:
        """Express a label map (H, W) as COCO stuff results, one RLE for each class present."""
        results = []
        for label in np.unique(sem_seg):
            category = int(label)
            if self._contiguous_id_to_dataset_id is not None:
                category = self._contiguous_id_to_dataset_id[category]
            rle = mask_util.encode(np.asfortranarray((sem_seg == label).astype(np.uint8)))
            rle["counts"] = rle["counts"].decode("ascii")
            results.append({"file_name": input_file_name, "category_id": category, "segmentation": rle})
        return results
