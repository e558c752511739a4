"""Region heads that share the last stage of a ResNet (``MODEL.ROI_HEADS.NAME: MultiDatasetRes5ROIHeads``).

One stage, the "C4" layout of Detectron2, with the same classifier, objectives and words of the test as the cascade: the
architecture of open-vocabulary detection on COCO with 48 base and 17 novel classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.roi_heads import Res5ROIHeads
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
class MultiDatasetRes5ROIHeads(ClassifyingHeads, Res5ROIHeads):
    """Detectron2's C4 heads with a classifier over a label space, class-agnostic boxes and masks."""

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
        multiply_proposal_score: bool = False,
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
            prompt_context: learnable context that the classifier makes its text rows with, or None.
            **kwargs: as for Detectron2's ``Res5ROIHeads``; the box predictor is a ``BoxPredictor``.
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
        use_sparse_gradient(self.pooler)

    @property
    def predictors(self) -> Sequence[BoxPredictor]:
        """The last layers of every stage; there is one stage."""
        return [self.box_predictor]

    @classmethod
    def from_config(cls, cfg: Any, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Read ``MODEL.ROI_HEADS``, ``RESNETS``, ``ROI_BOX_HEAD``, ``ROI_MASK_HEAD`` and ``CLASSIFIER``.

        Args:
            cfg: the config tree.
            input_shape: channels and stride of every feature level.

        Returns:
            The arguments of the constructor.

        Raises:
            ValueError: if boxes or masks are wanted per class.
        """
        if not cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG:
            raise ValueError(f"{cls.__name__} refines one box for all classes: set CLS_AGNOSTIC_BBOX_REG True")
        if cfg.MODEL.MASK_ON and not cfg.MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK:
            raise ValueError(f"{cls.__name__} has one mask for all classes: set ROI_MASK_HEAD.CLS_AGNOSTIC_MASK")
        arguments = super().from_config(cfg, input_shape)
        shared = classification_arguments(cfg)
        shape = ShapeSpec(channels=arguments["box_predictor"].bbox_pred.in_features, height=1, width=1)
        weights = cfg.MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS
        predictor = build_predictor(cfg, shape, weights, shared["label_space"], shared["prompt_context"])
        return {**arguments, **shared, "box_predictor": predictor, "mask_weight": cfg.MODEL.ROI_HEADS.MASK_WEIGHT}

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
        features = {name: at_least_float32(features[name]) for name in self.in_features}
        if not self.training:
            return self.forward_with_given_boxes(features, self._detect(features, proposals)), {}
        if targets is None:
            raise ValueError(f"{type(self).__name__} needs targets in training")
        context = context or BatchContext.plain(targets)
        if self.prompt_context is not None:
            self.prompt_context.forget()
        self.check_supervision(context.supervision)
        regions = self._sampled_regions(proposals, targets, context)
        losses = self._box_losses(features, regions, context)
        losses = {name: context.place_share() * loss for name, loss in losses.items()}
        losses.update(self._image_losses(proposals, context, lambda boxes, _: self._hidden(features, boxes)))
        return regions, losses

    def _region_maps(self, features: dict[str, Tensor], boxes: Sequence[Boxes]) -> Tensor:
        """Maps (R, C, S, S) of the regions, from which classes, boxes and masks are read."""
        return self._shared_roi_transform([features[name] for name in self.in_features], list(boxes))

    def _hidden(self, features: dict[str, Tensor], boxes: Sequence[Boxes]) -> Tensor:
        return self._region_maps(features, boxes).mean((2, 3))

    def _box_losses(
        self, features: dict[str, Tensor], proposals: list[Instances], context: BatchContext
    ) -> dict[str, Tensor]:
        maps = self._region_maps(features, [p.proposal_boxes for p in proposals])
        hidden = maps.mean((2, 3))
        losses = self._class_losses(self.box_predictor, hidden, proposals, context)
        weights = context.rows(context.weights, [len(p) for p in proposals])
        deltas = self.box_predictor.bbox_pred(hidden)
        losses["loss_box_reg"] = self.box_predictor.box_loss(deltas, proposals, self.num_classes, weights)
        if self.mask_on:
            losses["loss_mask"] = self.mask_weight * self._mask_loss(maps, proposals, context)
        return losses

    def _mask_loss(self, maps: Tensor, proposals: list[Instances], context: BatchContext) -> Tensor:
        for start, regions in zip(_starts(proposals), proposals, strict=True):
            regions.map_row = torch.arange(start, start + len(regions), device=maps.device)
        chosen = with_masks(proposals, self.num_classes)
        logits = self.mask_head.layers(maps[torch.cat([regions.map_row for regions in chosen])])[:, 0]
        for regions in proposals:
            regions.remove("map_row")
        targets = mask_targets(chosen, logits.shape[-1], logits.device)
        return mask_loss(logits, targets, weights=context.rows(context.weights, [len(p) for p in chosen]))

    def _detect(self, features: dict[str, Tensor], proposals: list[Instances]) -> list[Instances]:
        regions = [p.proposal_boxes for p in proposals]
        hidden = self._region_maps(features, regions).mean((2, 3))
        boxes = self.box_predictor.refine(self.box_predictor.bbox_pred(hidden), regions)
        return [
            self._select(b, scores, p.objectness_logits.float().sigmoid(), p.image_size)
            for b, scores, p in zip(boxes, self._scores([hidden], boxes), proposals)
        ]


def _starts(proposals: Sequence[Instances]) -> list[int]:
    """Row of the first region of every image among those of the batch."""
    starts = [0]
    for regions in proposals:
        starts.append(starts[-1] + len(regions))
    return starts[:-1]
