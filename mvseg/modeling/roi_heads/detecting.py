"""The way from class probabilities of regions to detections, the same for all region heads: scores, then selection."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from detectron2.structures import Instances
from torch import Tensor

from mvseg.modeling.calibration import Calibration
from mvseg.modeling.roi_heads.box_predictor import BoxPredictor
from mvseg.modeling.roi_heads.selection import fuse_scores, keep_best_class, select_detections

# Class scores of the regions of a batch that are computed together at test time: 2^24 of 4 bytes are 64 MB a copy.
SCORES_AT_ONCE = 2**24


class DetectingHeads:
    """Mixed into region heads that keep these settings, and have ``predictors`` and ``objectives``."""

    objectives: Any
    score_threshold: float | Tensor
    nms_threshold: float
    topk: int
    class_agnostic_nms: bool
    multiply_proposal_score: bool
    one_class_per_proposal: bool
    soft_sigma: float | None
    calibration: Calibration | None

    @property
    def predictors(self) -> Sequence[BoxPredictor]:
        """The last layers of every stage.

        Returns:
            At least one predictor.

        Raises:
            NotImplementedError: always, in this base class.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say where its predictors are")

    def _detections(
        self, hidden: Sequence[Tensor], boxes: Sequence[Tensor], proposals: Sequence[Instances]
    ) -> list[Instances]:
        """Best detections of every image, from the features of its regions at all stages and their last boxes."""
        return [
            self._select(image_boxes, scores, image.objectness_logits.float().sigmoid(), image.image_size)
            for image_boxes, scores, image in zip(boxes, self._scores(hidden, boxes), proposals)
        ]

    def _scores(self, hidden: Sequence[Tensor], boxes: Sequence[Tensor]) -> Iterator[Tensor]:
        """Class probabilities (R_i, n) of every image: of all at once while that is small, else one after the other."""
        counts = [len(b) for b in boxes]
        columns = self.predictors[0].cls_score.num_columns
        if sum(counts) * columns <= SCORES_AT_ONCE:
            yield from self._mean_probabilities(hidden).split(counts)
            return
        for regions in zip(*(stage.split(counts) for stage in hidden)):
            yield self._mean_probabilities(regions)

    def _mean_probabilities(self, hidden: Sequence[Tensor]) -> Tensor:
        total: Tensor | None = None
        for regions, predictor in zip(hidden, self.predictors):
            probabilities = self._probabilities(predictor, regions)
            total = probabilities if total is None else total.add_(probabilities)
        assert total is not None  # there is a stage
        return total.div_(len(self.predictors))

    def _probabilities(self, predictor: BoxPredictor, regions: Tensor) -> Tensor:
        """Class probabilities (R, n) of regions at one stage."""
        objective: Any = next(iter(self.objectives.values()))
        return objective.probabilities(predictor.cls_score(regions))

    def _select(self, boxes: Tensor, scores: Tensor, objectness: Tensor, image_size: tuple[int, int]) -> Instances:
        if self.calibration is not None:
            return self._select_calibrated(self.calibration, boxes, scores, objectness, image_size)
        if self.multiply_proposal_score:
            scores = fuse_scores(scores, objectness)
        return self._best(boxes, scores, image_size, self.score_threshold)

    def _select_calibrated(
        self,
        calibration: Calibration,
        boxes: Tensor,
        probabilities: Tensor,
        objectness: Tensor,
        image_size: tuple[int, int],
    ) -> Instances:
        """Detections by calibrated scores; what is found without the prior is counted after that, if it is wanted."""
        scores = calibration.scores(probabilities, objectness)
        limit = float("inf") if calibration.counting else self.score_threshold
        detections = self._best(boxes, scores, image_size, limit)
        if calibration.watches:
            plain = calibration.scores(probabilities, objectness, with_prior=False)
            found = self._best(boxes, plain, image_size, calibration.count_threshold)
            calibration.observe(found.pred_classes[found.pred_boxes.nonempty()], scores.shape[1])
        return detections

    def _best(
        self, boxes: Tensor, scores: Tensor, image_size: tuple[int, int], score_threshold: float | Tensor
    ) -> Instances:
        if self.one_class_per_proposal:
            scores = keep_best_class(scores)
        detections, _ = select_detections(
            boxes,
            scores,
            image_size,
            score_threshold=score_threshold,
            nms_threshold=self.nms_threshold,
            topk=self.topk,
            class_agnostic=self.class_agnostic_nms,
            soft_sigma=self.soft_sigma,
        )
        return detections
