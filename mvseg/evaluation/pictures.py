"""An evaluator that draws: annotations and predictions of a few images of a test set, side by side on one sheet."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Instances
from detectron2.utils import comm
from torchvision.ops import nms

from mvseg.data.reading import read_image
from mvseg.inference.drawing import draw_annotations, draw_predictions, save_picture, sheet, side_by_side

logger = logging.getLogger(__name__)


def best_of_overlapping(instances: Instances, overlap: float = 0.6) -> Instances:
    """Keep the best word where several lie on one object; a picture with all of them cannot be read.

    Args:
        instances: ``pred_boxes`` of N detections, (N, 4) in pixels, and ``scores`` (N,), of all classes.
        overlap: intersection over union above which the lower score is dropped, whatever its class.

    Returns:
        The detections that stay, best first.
    """
    return instances[nms(instances.pred_boxes.tensor.float(), instances.scores.float(), overlap)]


class PictureEvaluator(DatasetEvaluator):
    """Draw evenly spread images of a test set while it is evaluated; gives no metrics.

    Args:
        name: dataset name.
        path: the picture to write.
        count: number of images.
        threshold: predictions with a lower score are not drawn.
        height: height of each image in the sheet, pixels.
        words: words of the predictions where they are not those of the dataset.
    """

    def __init__(
        self,
        name: str,
        path: str | Path,
        count: int,
        threshold: float = 0.3,
        height: int = 320,
        words: Sequence[str] | None = None,
    ) -> None:
        records = DatasetCatalog.get(name)
        chosen = np.unique(np.linspace(0, len(records) - 1, min(count, len(records))).astype(int))
        self.records = {records[i]["image_id"]: records[i] for i in chosen}
        metadata = MetadataCatalog.get(name)
        self.names = metadata.get("thing_classes") or metadata.get("stuff_classes") or ()
        self.words = self.names if words is None else tuple(words)
        self.path = Path(path)
        self.threshold = threshold
        self.height = height
        self.reset()

    def reset(self) -> None:
        """Forget the pictures drawn so far."""
        self.drawn: dict[Any, np.ndarray] = {}

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Draw those of the images that were chosen.

        Args:
            inputs: records as the model got them.
            outputs: the model's answers, with ``instances``.
        """
        for given, answer in zip(inputs, outputs):
            record = self.records.get(given["image_id"])
            if record is None or "instances" not in answer:
                continue
            image = read_image(record["file_name"], "RGB")
            left = draw_annotations(image, record, self.names, self.height)
            best = best_of_overlapping(answer["instances"])
            right = draw_predictions(image, best, self.words, self.threshold, self.height)
            self.drawn[given["image_id"]] = side_by_side(
                left, right, f"{Path(record['file_name']).name}: annotations", f"predictions, score >= {self.threshold}"
            )

    def evaluate(self) -> None:
        """Collect the pictures of all processes and write the sheet."""
        parts = comm.gather(self.drawn)
        drawn = {image_id: picture for part in parts for image_id, picture in part.items()}
        if comm.is_main_process() and drawn:
            ordered = [drawn[image_id] for image_id in self.records if image_id in drawn]
            save_picture(sheet(ordered, columns=2), self.path)
            logger.info("Pictures of predictions: %s", self.path)
