"""PASCAL VOC detection AP, in the 11-point form of 2007 and as the area under the curve since 2010."""

from __future__ import annotations

import logging
import os
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import OrderedDict, defaultdict
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.data.datasets.pascal_voc import read_box
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager

from .evaluator import DatasetEvaluator


class PascalVOCDetectionEvaluator(DatasetEvaluator):
    """VOC AP of boxes at IoU 0.5:0.05:0.95, on a dataset registered by register_pascal_voc.

    Scores and corners are rounded as in the official result files (three and one decimals).
    """

    def __init__(self, dataset_name: str) -> None:
        self._dataset_name = dataset_name
        meta = MetadataCatalog.get(dataset_name)
        local = PathManager.get_local_path(os.path.join(meta.dirname, "Annotations/"))
        self._anno_file_template = os.path.join(local, "{}.xml")
        self._image_set_path = os.path.join(meta.dirname, "ImageSets", "Main", meta.split + ".txt")
        self._class_names = meta.thing_classes
        if meta.year not in (2007, 2012):
            raise AssertionError(f"dataset {dataset_name!r}: the year must be 2007 or 2012, not {meta.year}")
        self._is_2007 = meta.year == 2007
        self._logger = logging.getLogger(__name__)

    def reset(self) -> None:
        """Forget the predictions."""
        self._predictions: dict[int, list[str]] = defaultdict(list)

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Take a batch: outputs hold "instances"."""
        for record, output in zip(inputs, outputs):
            instances = output["instances"].to("cpu")
            boxes, scores = instances.pred_boxes.tensor.tolist(), instances.scores.tolist()
            for (left, top, right, bottom), score, label in zip(boxes, scores, instances.pred_classes.tolist()):
                # The files count pixels from 1.
                line = f"{record['image_id']} {score:.3f} {left + 1:.1f} {top + 1:.1f} {right:.1f} {bottom:.1f}"
                self._predictions[label].append(line)

    def evaluate(self) -> Any:
        """Return {"bbox": {"AP", "AP50", "AP75"}} in percent."""
        gathered = comm.gather(self._predictions, dst=0)
        if not comm.is_main_process():
            return None
        lines: dict[int, list[str]] = defaultdict(list)
        for part in gathered:
            for label, own in part.items():
                lines[label].extend(own)
        by_threshold: dict[int, list[float]] = defaultdict(list)
        with tempfile.TemporaryDirectory(prefix="pascal_voc_eval_") as folder:
            template = os.path.join(folder, "{}.txt")
            for label, name in enumerate(self._class_names):
                with open(template.format(name), "w") as file:
                    file.write("\n".join(lines[label]))
                for percent in range(50, 100, 5):
                    _, _, ap = voc_eval(
                        template, self._anno_file_template, self._image_set_path, name, percent / 100.0, self._is_2007
                    )
                    by_threshold[percent].append(ap * 100)
        mean = {percent: float(np.mean(values)) for percent, values in by_threshold.items()}
        return OrderedDict({"bbox": {"AP": float(np.mean(list(mean.values()))), "AP50": mean[50], "AP75": mean[75]}})


_PARSED: dict[str, list[dict]] = {}


def parse_rec(filename: str) -> list[dict]:
    """Read the objects of an annotation file: name, pose, truncated, difficult, bbox (ints as written)."""
    if filename not in _PARSED:
        with PathManager.open(filename) as file:
            tree = ElementTree.parse(file)
        _PARSED[filename] = [
            {
                "name": element.findtext("name"),
                "pose": element.findtext("pose"),
                "truncated": int(element.findtext("truncated", "0")),
                "difficult": int(element.findtext("difficult", "0")),
                "bbox": [int(value) for value in read_box(element.find("bndbox"))],
            }
            for element in tree.iter("object")
        ]
    return _PARSED[filename]


def voc_ap(rec: np.ndarray, prec: np.ndarray, use_07_metric: bool = False) -> float:
    """Average precision from recalls and precisions in the order of falling scores.

    Source: Everingham et al., The PASCAL Visual Object Classes Challenge, IJCV 2010, section 4.2 (11 points);
    development kit of VOC 2012, section 3.4.1 (area under the monotone curve).
    """
    if use_07_metric:
        best = [prec[rec >= level].max(initial=0) for level in np.arange(0.0, 1.1, 0.1)]
        return float(sum(value / 11.0 for value in best))
    recall = np.concatenate([[0.0], rec, [1.0]])
    envelope = np.maximum.accumulate(np.concatenate([prec, [0.0]])[::-1])[::-1]
    return float(np.sum(np.diff(recall) * envelope))


def _read_detections(path: str) -> tuple[list[str], np.ndarray]:
    """Return image names and boxes (N, 4), best score first."""
    with open(path) as file:
        rows = [line.split() for line in file if line.strip()]
    scores = np.array([float(row[1]) for row in rows])
    order = np.argsort(-scores)
    return [rows[index][0] for index in order], np.array([row[2:] for row in rows], dtype=float).reshape(-1, 4)[order]


def _overlaps(boxes: np.ndarray, box: np.ndarray) -> np.ndarray:
    """IoU of boxes (N, 4) with a box, for corners that are the first and last pixel."""
    inter = (np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2]) + 1.0).clip(min=0).prod(axis=1)
    areas = (boxes[:, 2:] - boxes[:, :2] + 1.0).prod(axis=1)
    return inter / (areas + np.prod(box[2:] - box[:2] + 1.0) - inter)


def voc_eval(
    detpath: str,
    annopath: str,
    imagesetfile: str,
    classname: str,
    ovthresh: float = 0.5,
    use_07_metric: bool = False,
) -> tuple[np.ndarray, np.ndarray, float]:
    """Evaluate one class.

    Args:
        detpath: result file for a class name ("{}"): lines of image, score, left, top, right, bottom.
        annopath: annotation file for an image name ("{}").
        imagesetfile: the image names.
        classname: the class.
        ovthresh: a detection is right above this IoU.
        use_07_metric: 11-point AP.

    Returns:
        Recall and precision after each detection, and AP.
    """
    with PathManager.open(imagesetfile) as file:
        names = [line.strip() for line in file if line.strip()]
    truth = {}
    for name in names:
        objects = [item for item in parse_rec(annopath.format(name)) if item["name"] == classname]
        difficult = np.array([item["difficult"] for item in objects], dtype=bool)
        truth[name] = (np.array([item["bbox"] for item in objects], dtype=float).reshape(-1, 4), difficult)
    positives = sum(int((~difficult).sum()) for _, difficult in truth.values())
    used = {name: np.zeros(len(boxes), dtype=bool) for name, (boxes, _) in truth.items()}

    images, boxes = _read_detections(detpath.format(classname))
    right, wrong = np.zeros(len(images)), np.zeros(len(images))
    for index, (name, box) in enumerate(zip(images, boxes)):
        targets, difficult = truth[name]
        overlaps = _overlaps(targets, box)
        best = int(overlaps.argmax()) if len(overlaps) else -1
        if best < 0 or overlaps[best] <= ovthresh:
            wrong[index] = 1
        elif not difficult[best]:
            (wrong if used[name][best] else right)[index] = 1
            used[name][best] = True
    right, wrong = np.cumsum(right), np.cumsum(wrong)
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = right / float(positives)
    precision = right / np.maximum(right + wrong, np.finfo(np.float64).eps)
    return recall, precision, voc_ap(recall, precision, use_07_metric)
