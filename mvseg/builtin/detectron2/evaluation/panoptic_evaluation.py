"""COCO panoptic evaluation: panoptic quality (PQ) of all, thing and stuff classes."""

import io
import itertools
import json
import logging
import os
from collections import OrderedDict
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from PIL import Image
from tabulate import tabulate

from ._instances import write_json
from ._panoptic_quality import ClassCounts, average, count_image, id2rgb, rgb2id
from .evaluator import DatasetEvaluator

logger = logging.getLogger(__name__)


class COCOPanopticEvaluator(DatasetEvaluator):
    """Panoptic quality on a dataset whose metadata has panoptic_json and panoptic_root.

    Args:
        dataset_name: a registered dataset.
        output_dir: keeps predictions.json.
    """

    def __init__(self, dataset_name: str, output_dir: str | None = None) -> None:
        self._metadata = MetadataCatalog.get(dataset_name)
        things, stuff = (self._metadata.get(f"{kind}_dataset_id_to_contiguous_id") for kind in ("thing", "stuff"))
        self._thing_contiguous_id_to_dataset_id = {new: old for old, new in things.items()}
        self._stuff_contiguous_id_to_dataset_id = {new: old for old, new in stuff.items()}
        self._output_dir = output_dir
        if output_dir is not None:
            PathManager.mkdirs(output_dir)

    def reset(self) -> None:
        """Forget the predictions."""
        self._predictions = []

    def _convert_category_id(self, segment_info: dict) -> dict:
        """Return the segment with the category id of the dataset, without isthing (kept as it is if that is absent)."""
        info = dict(segment_info)
        if "isthing" in info:
            things, stuff = self._thing_contiguous_id_to_dataset_id, self._stuff_contiguous_id_to_dataset_id
            info["category_id"] = (things if info.pop("isthing") else stuff)[info["category_id"]]
        return info

    def _segments_of_labels(self, labels: np.ndarray) -> list[dict]:
        """Read the segments off a map of category * label_divisor + number (-1: void), as ids one higher."""
        divisor = self._metadata.label_divisor
        things = self._metadata.thing_dataset_id_to_contiguous_id.values()
        return [
            {"id": int(label) + 1, "category_id": int(label // divisor), "isthing": bool(label // divisor in things)}
            for label in np.unique(labels)
            if label != -1
        ]

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Take a batch: outputs hold "panoptic_seg", (ids (H, W), segments or None)."""
        for record, output in zip(inputs, outputs):
            ids, segments = output["panoptic_seg"]
            ids = ids.cpu().numpy()
            if segments is None:
                segments = self._segments_of_labels(ids)
                ids = ids + 1
            buffer, stem = io.BytesIO(), os.path.splitext(os.path.basename(record["file_name"]))[0]
            Image.fromarray(id2rgb(ids)).save(buffer, format="PNG")
            prediction = {"image_id": record["image_id"], "file_name": f"{stem}.png", "png_string": buffer.getvalue()}
            prediction["segments_info"] = [self._convert_category_id(segment) for segment in segments]
            self._predictions.append(prediction)

    def evaluate(self) -> Any:
        """Return {"panoptic_seg": {"PQ", "SQ", "RQ", "PQ_th", ..., "RQ_st"}} in percent."""
        comm.synchronize()
        self._predictions = list(itertools.chain.from_iterable(comm.gather(self._predictions)))
        if not comm.is_main_process():
            return None
        with PathManager.open(PathManager.get_local_path(self._metadata.panoptic_json)) as file:
            content = json.load(file)
        if self._output_dir:
            plain = [{k: v for k, v in p.items() if k != "png_string"} for p in self._predictions]
            write_json(self._output_dir, "predictions.json", {**content, "annotations": plain})
        counts = self._count(content)
        thing = {category["id"]: bool(category["isthing"]) for category in content["categories"]}
        results, rows = {}, []
        for group, suffix, kinds in (
            ("All", "", (True, False)),
            ("Things", "_th", (True,)),
            ("Stuff", "_st", (False,)),
        ):
            quality = average(counts, [key for key in thing if thing[key] in kinds])
            own = {f"{metric.upper()}{suffix}": 100 * quality[metric] for metric in ("pq", "sq", "rq")}
            rows.append([group, *own.values(), quality["n"]])
            results |= own
        head = ["", "PQ", "SQ", "RQ", "#categories"]
        table = tabulate(rows, headers=head, tablefmt="pipe", floatfmt=".3f", stralign="center", numalign="center")
        logger.info("Panoptic Evaluation Results:\n%s", table)
        return OrderedDict({"panoptic_seg": results})

    def _count(self, content: dict) -> dict[int, ClassCounts]:
        counts = {category["id"]: ClassCounts() for category in content["categories"]}
        predictions = {prediction["image_id"]: prediction for prediction in self._predictions}
        root = PathManager.get_local_path(self._metadata.panoptic_root)
        for annotation in content["annotations"]:
            image_id = annotation["image_id"]
            if image_id not in predictions:
                raise KeyError(f"no prediction for image {image_id} of {self._metadata.panoptic_json}")
            prediction = predictions[image_id]
            truth = rgb2id(np.asarray(Image.open(os.path.join(root, annotation["file_name"])).convert("RGB")))
            predicted = rgb2id(np.asarray(Image.open(io.BytesIO(prediction["png_string"]))))
            try:
                count_image(truth, annotation["segments_info"], predicted, prediction["segments_info"], counts)
            except ValueError as error:
                raise ValueError(f"image {image_id}: {error}") from error
        return counts
