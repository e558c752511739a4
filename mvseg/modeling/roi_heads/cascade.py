"""Cascade region heads for many datasets (``MODEL.ROI_HEADS.NAME: MultiDatasetCascadeROIHeads``).

Class-agnostic boxes and masks, a classifier over the columns of a label space, an objective for every kind of
supervision, and test scores that combine all stages with the proposal score.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import CascadeROIHeads, build_box_head
from detectron2.structures import Boxes, Instances
from torch import Tensor

from mvseg.modeling.classifier import TextClassifier
from mvseg.modeling.context import BatchContext
from mvseg.modeling.objectives.pseudo_boxes import multiplied, weights_of_regions
from mvseg.modeling.objectives.region import mask_loss
from mvseg.modeling.roi_heads.box_predictor import BoxPredictor, build_predictor
from mvseg.modeling.roi_heads.classifying import ClassifyingHeads
from mvseg.modeling.roi_heads.dataset_modulation import dataset_modulation
from mvseg.modeling.roi_heads.mask import add_masks, mask_logits, mask_targets, with_masks


@ROI_HEADS_REGISTRY.register()
class MultiDatasetCascadeROIHeads(ClassifyingHeads, CascadeROIHeads):
    """Detectron2's cascade heads with a classifier that computes only the label columns that a loss needs."""

    names_stages = True

    @property
    def predictors(self) -> Sequence[BoxPredictor]:
        """The last layers of every stage."""
        return list(self.box_predictor)

    @classmethod
    def from_config(cls, cfg: Any, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Read ``MODEL.ROI_HEADS``, ``ROI_BOX_HEAD``, ``ROI_BOX_CASCADE_HEAD``, ``ROI_MASK_HEAD`` and ``CLASSIFIER``.

        Args:
            cfg: the config tree.
            input_shape: channels and stride of every feature level.

        Returns:
            The arguments of the constructor.
        """
        arguments = super().from_config(cfg, input_shape)
        space, context = arguments["label_space"], arguments["prompt_context"]
        stages = zip(arguments["box_heads"], cfg.MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS, strict=True)
        predictors = [build_predictor(cfg, head.output_shape, weights, space, context) for head, weights in stages]
        first = predictors[0].cls_score
        for later in (predictor.cls_score for predictor in predictors[1:]):
            if isinstance(first, TextClassifier) and isinstance(later, TextClassifier):
                later.share_rows(first)
        sizes = [predictor.input_size for predictor in predictors]
        modulation = dataset_modulation(cfg, space, sizes)
        return {**arguments, "box_predictors": predictors, "dataset_modulation": modulation}

    @classmethod
    def _init_box_head(cls, cfg: Any, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        node, cascade = cfg.MODEL.ROI_BOX_HEAD, cfg.MODEL.ROI_BOX_CASCADE_HEAD
        names = cfg.MODEL.ROI_HEADS.IN_FEATURES
        thresholds = cascade.IOUS
        if len(thresholds) != len(cascade.BBOX_REG_WEIGHTS):
            raise ValueError("MODEL.ROI_BOX_CASCADE_HEAD: IOUS and BBOX_REG_WEIGHTS must have one entry per stage")
        if list(cfg.MODEL.ROI_HEADS.IOU_THRESHOLDS) != [thresholds[0]]:
            raise ValueError(
                f"MODEL.ROI_HEADS.IOU_THRESHOLDS {cfg.MODEL.ROI_HEADS.IOU_THRESHOLDS} must be the first of "
                f"MODEL.ROI_BOX_CASCADE_HEAD.IOUS {thresholds}"
            )
        side = node.POOLER_RESOLUTION
        region = ShapeSpec(channels=input_shape[names[0]].channels, height=side, width=side)
        heads = [build_box_head(cfg, region) for _ in thresholds]
        scales = [1.0 / input_shape[name].stride for name in names]
        return {
            "box_in_features": names,
            "box_pooler": ROIPooler(side, scales, node.POOLER_SAMPLING_RATIO, node.POOLER_TYPE),
            "box_heads": heads,
            "box_predictors": [],  # from_config builds them: they need the label space
            "proposal_matchers": [Matcher([iou], [0, 1], allow_low_quality_matches=False) for iou in thresholds],
        }

    def _region_features(self, features: dict[str, Tensor], boxes: Sequence[Boxes], stage: int) -> Tensor:
        return self._adapted(self.box_head[stage](self._pooled(features, boxes)), boxes, stage)

    def _pooled(self, features: dict[str, Tensor], boxes: Sequence[Boxes]) -> Tensor:
        share = 1.0 / self.num_cascade_stages  # every stage sends its gradient into the same pyramid
        return self.box_pooler([features[name] for name in self.box_in_features], list(boxes), share)

    def _scored_features(
        self, hidden: Tensor, features: dict[str, Tensor], boxes: Sequence[Boxes], stage: int
    ) -> Tensor:
        """What the class probabilities of a stage are computed of at test time."""
        return hidden

    def _place_losses(
        self, features: dict[str, Tensor], regions: list[Instances], targets: list[Instances], context: BatchContext
    ) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = {}
        proposals = regions
        for stage, predictor in enumerate(self.box_predictor):
            if stage:
                proposals = self._match_and_label_boxes(proposals, stage, targets)
            hidden = self._region_features(features, [p.proposal_boxes for p in proposals], stage)
            factors = weights_of_regions(proposals, targets, self.num_classes)
            for name, loss in self._class_losses(predictor, hidden, proposals, context, factors).items():
                losses[f"{name}_stage{stage}"] = loss
            deltas = predictor.bbox_pred(hidden)
            weights = multiplied(context.rows(context.weights, [len(p) for p in proposals]), factors)
            losses[f"loss_box_reg_stage{stage}"] = predictor.box_loss(deltas, proposals, self.num_classes, weights)
            if stage + 1 < self.num_cascade_stages:
                proposals = self._next_proposals(predictor, deltas, proposals)
        return losses | self._mask_losses(features, regions, context)

    def _next_proposals(self, predictor: BoxPredictor, deltas: Tensor, proposals: list[Instances]) -> list[Instances]:
        """Refined, clipped boxes as regions of the next stage; in training without empty ones.

        Boxes that are not finite become empty: a diverged model shows in its losses, on all processes alike.
        """
        refined = []
        boxes = predictor.refine(deltas, [p.proposal_boxes for p in proposals])
        for before, image_boxes in zip(proposals, boxes, strict=True):
            after = Instances(before.image_size)
            finite = image_boxes.isfinite().all(1, keepdim=True)
            after.proposal_boxes = Boxes(torch.where(finite, image_boxes, 0.0))
            after.proposal_boxes.clip(before.image_size)
            after.objectness_logits = before.objectness_logits
            refined.append(after[after.proposal_boxes.nonempty()] if self.training else after)
        return refined

    def _mask_losses(
        self, features: dict[str, Tensor], proposals: list[Instances], context: BatchContext
    ) -> dict[str, Tensor]:
        if not self.mask_on:
            return {}
        regions = with_masks(proposals, self.num_classes)
        maps = self._mask_maps(features, [p.proposal_boxes for p in regions])
        logits = mask_logits(self.mask_head, maps)[:, 0]
        targets = mask_targets(regions, logits.shape[-1], logits.device)
        weights = context.rows(context.weights, [len(p) for p in regions])
        return {"loss_mask": self.mask_weight * mask_loss(logits, targets, weights=weights)}

    def _mask_maps(self, features: dict[str, Tensor], boxes: list[Boxes]) -> Tensor:
        return self.mask_pooler([features[name] for name in self.mask_in_features], boxes)

    def _forward_mask(self, features: dict[str, Tensor], instances: list[Instances]) -> list[Instances]:
        """Masks of detections; Detectron2 calls it."""
        return add_masks(self.mask_head, partial(self._mask_maps, features), instances) if self.mask_on else instances

    def _detect(self, features: dict[str, Tensor], proposals: list[Instances]) -> list[Instances]:
        scored, regions = [], proposals
        for stage, predictor in enumerate(self.box_predictor):
            places = [p.proposal_boxes for p in regions]
            hidden = self._region_features(features, places, stage)
            scored.append(self._scored_features(hidden, features, places, stage))
            deltas = predictor.bbox_pred(hidden)
            if stage + 1 < self.num_cascade_stages:
                regions = self._next_proposals(predictor, deltas, regions)
        boxes = predictor.refine(deltas, [p.proposal_boxes for p in regions])
        return self._detections(scored, boxes, proposals)
