"""Region heads that know objects but no classes (``MODEL.ROI_HEADS.NAME: LocalizationROIHeads``).

The second half of a class-agnostic localisation network: is the region an object, where exactly, and how well does it
overlap. The confidence of a box joins these answers with the centerness that the proposal came with.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.structures import Instances
from torch import Tensor, nn

from mvseg.modeling.context import BatchContext
from mvseg.modeling.objectives.localization import localization_confidence, paired_iou, quality_loss
from mvseg.modeling.roi_heads.cascade import MultiDatasetCascadeROIHeads


@ROI_HEADS_REGISTRY.register()
class LocalizationROIHeads(MultiDatasetCascadeROIHeads):
    """One stage with one label column, and a branch that predicts the overlap of a region with its object."""

    names_stages = False
    class_agnostic = True  # speaks no words: any vocabulary of a test set is ignored, every answer is of class 0

    @configurable
    def __init__(self, *, region_size: int, alpha: float = 0.3, overlap_weight: float = 1.0, **kwargs: Any) -> None:
        """Build the heads.

        Args:
            region_size: length of a region feature.
            alpha: weight of the objectness in the confidence of a box, 0 to 1.
            overlap_weight: factor on the loss of the predicted overlap.
            **kwargs: as for ``MultiDatasetCascadeROIHeads``, with one stage and one label column.

        Raises:
            ValueError: if there are several stages or label columns, or scores shall be calibrated by word.
        """
        super().__init__(**kwargs)
        if self.calibration is not None:
            raise ValueError(
                "LocalizationROIHeads knows no words whose scores could be calibrated: set "
                "MODEL.CALIBRATION.ENABLED False"
            )
        if self.num_cascade_stages != 1:
            raise ValueError(
                f"LocalizationROIHeads has one stage, MODEL.ROI_BOX_CASCADE_HEAD.IOUS {self.num_cascade_stages}: set "
                "IOUS [0.5], BBOX_REG_WEIGHTS [[10.0, 10.0, 5.0, 5.0]] and MODEL.ROI_HEADS.IOU_THRESHOLDS [0.5]"
            )
        if self.num_classes != 1:
            raise ValueError(
                f"LocalizationROIHeads knows no classes, but the label space has {self.num_classes} columns: set "
                "DATASETS.LABEL_SPACE object (without datasets: MODEL.ROI_HEADS.NUM_CLASSES 1)"
            )
        self.alpha, self.overlap_weight = alpha, overlap_weight
        self.overlap = nn.Linear(region_size, 1)
        nn.init.normal_(self.overlap.weight, std=0.01)
        nn.init.zeros_(self.overlap.bias)

    @classmethod
    def from_config(cls, cfg: Any, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Read ``MODEL.LOCALIZATION`` and what the cascade heads read.

        Args:
            cfg: the config tree.
            input_shape: channels and stride of every feature level.

        Returns:
            The arguments of the constructor.
        """
        node = cfg.MODEL.LOCALIZATION
        arguments = super().from_config(cfg, input_shape)
        shape = arguments["box_heads"][0].output_shape
        size = shape.channels * (shape.width or 1) * (shape.height or 1)
        return {**arguments, "region_size": size, "alpha": node.ALPHA, "overlap_weight": node.OVERLAP_WEIGHT}

    @classmethod
    def learns_from(cls, cfg: CfgNode) -> tuple[str, ...]:
        """Say from which kinds of annotation these heads can learn.

        Args:
            cfg: the config; not read.

        Returns:
            Kinds of supervision.
        """
        return ("boxes", "masks")

    def set_test_words(self, *args: Any, **kwargs: Any) -> None:
        """Ignore the words of a test set: there is one column, whatever they are.

        Args:
            *args: as for other heads.
            **kwargs: as for other heads.
        """

    def _place_losses(
        self, features: dict[str, Tensor], regions: list[Instances], targets: list[Instances], context: BatchContext
    ) -> dict[str, Tensor]:
        predictor = self.box_predictor[0]
        hidden = self._region_features(features, [p.proposal_boxes for p in regions], 0)
        weights = context.rows(context.weights, [len(p) for p in regions])
        losses = self._class_losses(predictor, hidden, regions, context)
        losses["loss_box_reg"] = predictor.box_loss(predictor.bbox_pred(hidden), regions, self.num_classes, weights)
        losses["loss_overlap"] = self.overlap_weight * self._overlap_loss(hidden, regions, weights)
        return losses | self._mask_losses(features, regions, context)

    def _overlap_loss(self, hidden: Tensor, proposals: Sequence[Instances], weights: Tensor | None) -> Tensor:
        """L1 of the predicted overlap of regions with their objects, over the number of all regions."""
        foreground = torch.cat([p.gt_classes for p in proposals]) < self.num_classes
        matched = [p.gt_boxes if p.has("gt_boxes") else p.proposal_boxes for p in proposals]
        boxes = torch.cat([p.proposal_boxes.tensor for p in proposals])
        truth = paired_iou(boxes[foreground], torch.cat([m.tensor for m in matched])[foreground])
        rows = torch.ones_like(truth) if weights is None else weights[foreground]
        logits = self.overlap(hidden[foreground])[:, 0]
        return quality_loss(logits, truth, rows) / max(len(foreground), 1)

    def _detect(self, features: dict[str, Tensor], proposals: list[Instances]) -> list[Instances]:
        predictor = self.box_predictor[0]
        regions = [p.proposal_boxes for p in proposals]
        hidden = self._region_features(features, regions, 0)
        boxes = predictor.refine(predictor.bbox_pred(hidden), regions)
        overlaps = self.overlap(hidden)[:, 0].sigmoid().split([len(b) for b in boxes])
        detections = []
        for b, objectness, overlap, p in zip(boxes, self._scores([hidden], boxes), overlaps, proposals):
            center = p.objectness_logits.float().sigmoid()
            scores = localization_confidence(objectness[:, 0], center, overlap, self.alpha)
            detections.append(self._best(b, scores[:, None], p.image_size, self.score_threshold))
        return detections
