"""Cascade region heads for many datasets (``MODEL.ROI_HEADS.NAME: MultiDatasetCascadeROIHeads``).

Class-agnostic boxes and masks, a classifier over the columns of a label space, an objective for every kind of
supervision, and test scores that combine all stages with the proposal score.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import CascadeROIHeads, build_box_head
from detectron2.modeling.roi_heads.cascade_rcnn import _ScaleGradient
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor

from mvseg.modeling.context import BatchContext
from mvseg.modeling.objectives import RegionObjective
from mvseg.modeling.objectives.region import mask_loss
from mvseg.modeling.precision import at_least_float32
from mvseg.modeling.prompt_context import PromptContext
from mvseg.modeling.region_pooling import use_sparse_gradient
from mvseg.modeling.roi_heads.box_predictor import BoxPredictor, build_predictor
from mvseg.modeling.roi_heads.classifying import ClassifyingHeads, classification_arguments
from mvseg.modeling.roi_heads.image_labels import ImageLabelSettings
from mvseg.modeling.roi_heads.mask import mask_targets, with_masks
from mvseg.vocabulary import LabelSpace


@ROI_HEADS_REGISTRY.register()
class MultiDatasetCascadeROIHeads(ClassifyingHeads, CascadeROIHeads):
    """Detectron2's cascade heads with a classifier that computes only the label columns that a loss needs."""

    @configurable
    def __init__(
        self,
        *,
        objectives: Mapping[str, RegionObjective],
        image_labels: ImageLabelSettings | None = None,
        score_threshold: float,
        nms_threshold: float,
        topk: int,
        class_agnostic_nms: bool = False,
        multiply_proposal_score: bool = True,
        one_class_per_proposal: bool = False,
        mask_weight: float = 1.0,
        label_space: LabelSpace | None = None,
        prompt_context: PromptContext | None = None,
        **kwargs: Any,
    ) -> None:
        """Build the heads.

        Args:
            objectives: kind of supervision to the objective that learns from it.
            image_labels: which regions of an image learn from its labels; None: the defaults.
            score_threshold: test scores must be above it.
            nms_threshold: IoU of the suppression at test time.
            topk: largest number of detections per image.
            class_agnostic_nms: suppress boxes over all classes together, not within each class.
            multiply_proposal_score: test score = sqrt(class probability * proposal probability).
            one_class_per_proposal: report only the best class of every region.
            mask_weight: factor on the mask loss.
            label_space: what the label columns mean; None: nobody said.
            prompt_context: learnable context that the classifiers of all stages make their text rows with, or None.
            **kwargs: as for Detectron2's ``CascadeROIHeads``; the box predictors are ``BoxPredictor``.
        """
        super().__init__(**kwargs)
        self._set_classification(
            objectives=objectives,
            image_labels=image_labels or ImageLabelSettings(),
            score_threshold=score_threshold,
            nms_threshold=nms_threshold,
            topk=topk,
            class_agnostic_nms=class_agnostic_nms,
            multiply_proposal_score=multiply_proposal_score,
            one_class_per_proposal=one_class_per_proposal,
            label_space=label_space,
            prompt_context=prompt_context,
        )
        self.mask_weight = mask_weight
        use_sparse_gradient(self.box_pooler)
        if self.mask_on:
            use_sparse_gradient(self.mask_pooler)

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

        Raises:
            ValueError: if masks are wanted per class.
        """
        if cfg.MODEL.MASK_ON and not cfg.MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK:
            raise ValueError(
                "MultiDatasetCascadeROIHeads has one mask for all classes: set ROI_MASK_HEAD.CLS_AGNOSTIC_MASK"
            )
        arguments = super().from_config(cfg, input_shape)
        shared = classification_arguments(cfg)
        space, context = shared["label_space"], shared["prompt_context"]
        stages = zip(arguments["box_heads"], cfg.MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS, strict=True)
        arguments.update(
            shared,
            box_predictors=[build_predictor(cfg, h.output_shape, weights, space, context) for h, weights in stages],
            mask_weight=cfg.MODEL.ROI_HEADS.MASK_WEIGHT,
        )
        return arguments

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
        if not node.CLS_AGNOSTIC_BBOX_REG:
            raise ValueError(
                "MultiDatasetCascadeROIHeads refines one box for all classes: set CLS_AGNOSTIC_BBOX_REG True"
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

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
        context: BatchContext | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """Train on a batch, or detect.

        Args:
            images: the batch; not used.
            features: (B, C, H, W) for every level.
            proposals: for every image ``proposal_boxes``, pixels, and ``objectness_logits``.
            targets: for every image ``gt_boxes``, ``gt_classes`` (label columns) and perhaps ``gt_masks``.
            context: supervision, scope and weight of the images; None: complete annotation of weight 1.

        Returns:
            In training the sampled regions and the losses; otherwise detections and an empty dict.

        Raises:
            ValueError: in training without targets, or for a kind of supervision that no objective learns from.
        """
        # Detectron2's poolers round boxes to the precision of the features: bfloat16 to 4 pixels at x = 1000.
        features = {name: at_least_float32(feature) for name, feature in features.items()}
        if not self.training:
            return self.forward_with_given_boxes(features, self._detect(features, proposals)), {}
        if targets is None:
            raise ValueError("MultiDatasetCascadeROIHeads needs targets in training")
        context = context or BatchContext.plain(targets)
        if self.prompt_context is not None:
            self.prompt_context.forget()
        self.check_supervision(context.supervision)
        regions = self._sampled_regions(proposals, targets, context)
        losses = self._box_losses(features, regions, targets, context)
        losses.update(self._mask_losses(features, regions, context))
        losses = {name: context.place_share() * loss for name, loss in losses.items()}
        region_features = functools.partial(self._region_features, features)
        losses.update(self._image_losses(proposals, context, region_features, self._next_proposals))
        return regions, losses

    def _region_features(self, features: dict[str, Tensor], boxes: Sequence[Boxes], stage: int) -> Tensor:
        pooled = self.box_pooler([features[name] for name in self.box_in_features], list(boxes))
        if self.training:  # every stage sends its gradient into the same pyramid
            pooled = _ScaleGradient.apply(pooled, 1.0 / self.num_cascade_stages)
        return self.box_head[stage](pooled)

    def _box_losses(
        self,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances],
        context: BatchContext,
    ) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = {}
        for stage, predictor in enumerate(self.box_predictor):
            if stage:
                proposals = self._match_and_label_boxes(proposals, stage, targets)
            hidden = self._region_features(features, [p.proposal_boxes for p in proposals], stage)
            for name, loss in self._class_losses(predictor, hidden, proposals, context).items():
                losses[f"{name}_stage{stage}"] = loss
            deltas = predictor.bbox_pred(hidden)
            weights = context.rows(context.weights, [len(p) for p in proposals])
            losses[f"loss_box_reg_stage{stage}"] = predictor.box_loss(deltas, proposals, self.num_classes, weights)
            if stage + 1 < self.num_cascade_stages:
                proposals = self._next_proposals(predictor, deltas, proposals)
        return losses

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
        pooled = self.mask_pooler([features[n] for n in self.mask_in_features], [p.proposal_boxes for p in regions])
        logits = self.mask_head.layers(pooled)[:, 0]
        targets = mask_targets(regions, logits.shape[-1], logits.device)
        weights = context.rows(context.weights, [len(p) for p in regions])
        return {"loss_mask": self.mask_weight * mask_loss(logits, targets, weights=weights)}

    def _detect(self, features: dict[str, Tensor], proposals: list[Instances]) -> list[Instances]:
        proposal_scores = [p.objectness_logits.float().sigmoid() for p in proposals]
        hidden = []
        for stage, predictor in enumerate(self.box_predictor):
            hidden.append(self._region_features(features, [p.proposal_boxes for p in proposals], stage))
            deltas = predictor.bbox_pred(hidden[-1])
            if stage + 1 < self.num_cascade_stages:
                proposals = self._next_proposals(predictor, deltas, proposals)
        boxes = predictor.refine(deltas, [p.proposal_boxes for p in proposals])
        return [
            self._select(b, scores, objectness, p.image_size)
            for b, scores, objectness, p in zip(boxes, self._scores(hidden, boxes), proposal_scores, proposals)
        ]
