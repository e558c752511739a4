"""Region heads that share the last stage of a ResNet (``MODEL.ROI_HEADS.NAME: MultiDatasetRes5ROIHeads``).

One stage, the "C4" layout of Detectron2, with the same classifier, objectives and words of the test as the cascade: the
architecture of open-vocabulary detection on COCO with 48 base and 17 novel classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.roi_heads import Res5ROIHeads
from detectron2.structures import Boxes, Instances
from torch import Tensor

from mvseg.modeling.context import BatchContext
from mvseg.modeling.objectives.pseudo_boxes import multiplied, weights_of_regions
from mvseg.modeling.objectives.region import mask_loss
from mvseg.modeling.roi_heads.box_predictor import BoxPredictor, build_predictor
from mvseg.modeling.roi_heads.classifying import ClassifyingHeads
from mvseg.modeling.roi_heads.dataset_modulation import dataset_modulation
from mvseg.modeling.roi_heads.mask import add_masks, mask_logits, mask_targets, with_masks


@ROI_HEADS_REGISTRY.register()
class MultiDatasetRes5ROIHeads(ClassifyingHeads, Res5ROIHeads):
    """Detectron2's C4 heads with a classifier over a label space, class-agnostic boxes and masks."""

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
        """
        arguments = super().from_config(cfg, input_shape)
        channels = arguments["box_predictor"].bbox_pred.in_features
        predictor = cls._build_predictor(cfg, channels, arguments)
        modulation = dataset_modulation(cfg, arguments["label_space"], [predictor.input_size])
        return {**arguments, "box_predictor": predictor, "dataset_modulation": modulation}

    @classmethod
    def _build_predictor(
        cls, cfg: Any, channels: int, arguments: dict[str, Any], box_layers: int | None = None
    ) -> BoxPredictor:
        shape = ShapeSpec(channels=channels, height=1, width=1)
        weights = cfg.MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS
        return build_predictor(cfg, shape, weights, arguments["label_space"], arguments["prompt_context"], box_layers)

    def _region_maps(self, features: dict[str, Tensor], boxes: Sequence[Boxes]) -> Tensor:
        """Maps (R, C, S, S) of the regions, from which classes, boxes and masks are read."""
        return self._shared_roi_transform([features[name] for name in self.in_features], list(boxes))

    def _region_features(self, features: dict[str, Tensor], boxes: Sequence[Boxes], stage: int = 0) -> Tensor:
        return self._adapted(self._pool(self._region_maps(features, boxes)), boxes)

    def _pool(self, maps: Tensor) -> Tensor:
        """Features (R, input_size) of regions from their maps (R, C, S, S)."""
        return maps.mean((2, 3))

    def _place_losses(
        self, features: dict[str, Tensor], regions: list[Instances], targets: list[Instances], context: BatchContext
    ) -> dict[str, Tensor]:
        boxes = [p.proposal_boxes for p in regions]
        maps = self._region_maps(features, boxes)
        hidden = self._adapted(self._pool(maps), boxes)
        factors = weights_of_regions(regions, targets, self.num_classes)
        losses = self._class_losses(self.box_predictor, hidden, regions, context, factors)
        weights = multiplied(context.rows(context.weights, [len(p) for p in regions]), factors)
        deltas = self.box_predictor.bbox_pred(hidden)
        losses["loss_box_reg"] = self.box_predictor.box_loss(deltas, regions, self.num_classes, weights)
        if self.mask_on:
            losses["loss_mask"] = self.mask_weight * self._mask_loss(maps, regions, context)
        return losses

    def forward_with_given_boxes(self, features: dict[str, Tensor], instances: list[Instances]) -> list[Instances]:
        """Add masks to detections.

        Args:
            features: (B, C, H, W) for every level.
            instances: for every image ``pred_boxes`` and ``pred_classes``.

        Returns:
            The detections, with ``pred_masks`` (N, 1, M, M) if there is a mask head.
        """
        return add_masks(self.mask_head, partial(self._region_maps, features), instances) if self.mask_on else instances

    def _mask_loss(self, maps: Tensor, proposals: list[Instances], context: BatchContext) -> Tensor:
        for start, regions in zip(_starts(proposals), proposals, strict=True):
            regions.map_row = torch.arange(start, start + len(regions), device=maps.device)
        chosen = with_masks(proposals, self.num_classes)
        logits = mask_logits(self.mask_head, maps[torch.cat([regions.map_row for regions in chosen])])[:, 0]
        for regions in proposals:
            regions.remove("map_row")
        targets = mask_targets(chosen, logits.shape[-1], logits.device)
        return mask_loss(logits, targets, weights=context.rows(context.weights, [len(p) for p in chosen]))

    def _detect(self, features: dict[str, Tensor], proposals: list[Instances]) -> list[Instances]:
        regions = [p.proposal_boxes for p in proposals]
        hidden = self._region_features(features, regions)
        boxes = self.box_predictor.refine(self.box_predictor.bbox_pred(hidden), regions)
        return self._detections([hidden], boxes, proposals)


def _starts(proposals: Sequence[Instances]) -> list[int]:
    """Row of the first region of every image among those of the batch."""
    starts = [0]
    for regions in proposals:
        starts.append(starts[-1] + len(regions))
    return starts[:-1]
