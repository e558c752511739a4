"""Proposals of any class by how well a box is placed (``MODEL.PROPOSAL_GENERATOR.NAME: LocalizationRPN``).

The first half of a class-agnostic localisation network: one anchor at every place predicts the sides of a box and its
centerness. It never learns what is background, so that objects of classes without annotation are no negatives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import configurable
from detectron2.layers import ShapeSpec, batched_nms
from detectron2.modeling import PROPOSAL_GENERATOR_REGISTRY
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn
from torch.nn import functional as F

from mvseg.modeling.context import BatchContext
from mvseg.modeling.objectives.localization import boxes_of_sides, linear_iou_loss, quality_loss
from mvseg.modeling.precision import at_least_float32
from mvseg.modeling.proposals.localization_targets import (
    AnchorSampling,
    LocalizationTargets,
    batch_targets,
    learning_anchors,
    localization_targets,
)

LOSSES = ("loss_localization_box", "loss_localization_center")
CONV_STD = 0.01
INITIAL_SIDE = 0.5  # the first boxes are the anchors: boxes without any overlap would have no gradient


class LocalizationHead(nn.Module):
    """Predict, in every cell of every level, the sides of a box and a logit of its centerness."""

    def __init__(self, in_channels: int, feature_norm: float = 1.0) -> None:
        """Build the head.

        Args:
            in_channels: channels of every level.
            feature_norm: length of the features of a cell before the last layers.
        """
        super().__init__()
        self.feature_norm = feature_norm
        self.conv = nn.Conv2d(in_channels, in_channels, 3, padding=1)
        self.sides = nn.Conv2d(in_channels, 4, 1)
        self.center = nn.Conv2d(in_channels, 1, 1)
        for layer in (self.conv, self.sides, self.center):
            nn.init.normal_(layer.weight, std=CONV_STD)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        nn.init.constant_(self.sides.bias, INITIAL_SIDE)  # type: ignore[arg-type]

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Run the head on all levels.

        Args:
            features: for every level (B, C, H, W) float.

        Returns:
            Sides (B, A, 4) left, top, right, bottom in sides of the anchor, and logits of the centerness (B, A); the A
            cells level by level, row by row.
        """
        sides, centers = [], []
        for feature in features:
            hidden = self.feature_norm * F.normalize(torch.relu(self.conv(feature)), dim=1)
            sides.append(self.sides(hidden).flatten(2).transpose(1, 2))
            centers.append(self.center(hidden).flatten(1))
        return torch.cat(sides, 1), torch.cat(centers, 1)


@PROPOSAL_GENERATOR_REGISTRY.register()
class LocalizationRPN(nn.Module):
    """Propose the boxes with the highest centerness; ``objectness_logits`` are its logits."""

    takes_context = True  # forward() accepts a BatchContext

    @configurable
    def __init__(
        self,
        *,
        head: nn.Module,
        anchor_generator: nn.Module,
        in_features: Sequence[str],
        regression: AnchorSampling,
        quality: AnchorSampling,
        quality_negatives: bool,
        border: int,
        box_weight: float,
        center_weight: float,
        nms_threshold: tuple[float, float],
        pre_nms_topk: tuple[int, int],
        post_nms_topk: tuple[int, int],
    ) -> None:
        """Build the generator.

        Args:
            head: from feature maps to sides (B, A, 4) and logits of the centerness (B, A).
            anchor_generator: from feature maps to one anchor a cell, level by level.
            in_features: names of the levels.
            regression: which anchors learn boxes.
            quality: which anchors learn centerness.
            quality_negatives: where objects give too few anchors of centerness, others learn that theirs is 0.
            border: pixels that a learning anchor may reach beyond the image; negative: as far as it likes.
            box_weight: factor on the loss of the boxes.
            center_weight: factor on the loss of the centerness.
            nms_threshold: IoU of the suppression within a level in (training, test); 1 or more: none.
            pre_nms_topk: anchors kept per level in (training, test).
            post_nms_topk: proposals kept per image in (training, test).
        """
        super().__init__()
        self.localization_head, self.anchor_generator = head, anchor_generator
        self.in_features = tuple(in_features)
        self.regression, self.quality, self.quality_negatives = regression, quality, quality_negatives
        self.border, self.box_weight, self.center_weight = border, box_weight, center_weight
        self.nms_threshold, self.pre_nms_topk, self.post_nms_topk = nms_threshold, pre_nms_topk, post_nms_topk

    @classmethod
    def from_config(cls, cfg: Any, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Read ``MODEL.LOCALIZATION``.

        Args:
            cfg: the config tree.
            input_shape: channels and stride of every feature level.

        Returns:
            The arguments of the constructor.

        Raises:
            ValueError: if a feature level does not exist.
        """
        node = cfg.MODEL.LOCALIZATION
        missing = [name for name in node.IN_FEATURES if name not in input_shape]
        if missing:
            raise ValueError(f"MODEL.LOCALIZATION.IN_FEATURES: {missing} not among the backbone's {list(input_shape)}")
        strides = [input_shape[name].stride for name in node.IN_FEATURES]
        low, high = node.BOX_IOUS
        center_low, center_high = node.CENTER_IOUS
        return {
            "head": LocalizationHead(input_shape[node.IN_FEATURES[0]].channels, node.FEATURE_NORM),
            "anchor_generator": DefaultAnchorGenerator(
                sizes=[[node.ANCHOR_SCALE * stride] for stride in strides],
                aspect_ratios=[[1.0]],
                strides=strides,
                offset=0.0,
            ),
            "in_features": node.IN_FEATURES,
            "regression": AnchorSampling(low, high, node.LEAST_IOU, node.BOX_ANCHORS, node.BOX_POSITIVE_FRACTION),
            "quality": AnchorSampling(center_low, center_high, node.LEAST_IOU, node.CENTER_ANCHORS, 1.0),
            "quality_negatives": node.CENTER_NEGATIVES,
            "border": node.BORDER,
            "box_weight": node.BOX_WEIGHT,
            "center_weight": node.CENTER_WEIGHT,
            "nms_threshold": (node.NMS_TH_TRAIN, node.NMS_TH_TEST),
            "pre_nms_topk": (node.PRE_NMS_TOPK_TRAIN, node.PRE_NMS_TOPK_TEST),
            "post_nms_topk": (node.POST_NMS_TOPK_TRAIN, node.POST_NMS_TOPK_TEST),
        }

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        gt_instances: list[Instances] | None = None,
        context: BatchContext | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """Propose boxes and, in training, compute the losses.

        Args:
            images: the batch; only its sizes are used.
            features: (B, C, H, W) for every level.
            gt_instances: boxes of every image (``gt_boxes``, pixels); needed in training.
            context: loss weights of the images, and which of them have boxes.

        Returns:
            For every image ``proposal_boxes`` and ``objectness_logits`` by descending score; the losses, empty outside
            training.

        Raises:
            ValueError: in training without gt_instances.
        """
        maps = [at_least_float32(features[name]) for name in self.in_features]
        sides, logits = self.localization_head(maps)
        levels = [level.tensor for level in self.anchor_generator(maps)]
        losses = {}
        if self.training:
            if gt_instances is None:
                raise ValueError("LocalizationRPN needs gt_instances in training")
            losses = self._losses(sides, logits, torch.cat(levels), gt_instances, context)
        return self.propose(sides, logits, levels, images.image_sizes), losses

    def _losses(
        self,
        sides: Tensor,
        logits: Tensor,
        anchors: Tensor,
        gt_instances: Sequence[Instances],
        context: BatchContext | None,
    ) -> dict[str, Tensor]:
        """Means over the images; those without boxes give nothing."""
        weights = None if context is None else context.place_weights(logits.device)
        targets = [self.targets(anchors, x.gt_boxes.tensor, x.image_size) for x in gt_instances]
        if weights is None:
            weights = logits.new_ones(len(targets), dtype=torch.float32)
        box_weights, center_weights = batch_targets(targets, weights)
        rows = torch.cat([t.box_anchors for t in targets])
        predicted = torch.cat([s[t.box_anchors] for s, t in zip(sides, targets, strict=True)])
        boxes = boxes_of_sides(anchors[rows], at_least_float32(predicted))
        box = linear_iou_loss(boxes, torch.cat([t.boxes for t in targets]), box_weights)
        chosen = torch.cat([c[t.center_anchors] for c, t in zip(logits, targets, strict=True)])
        center = quality_loss(chosen, torch.cat([t.centers for t in targets]), center_weights)
        return dict(zip(LOSSES, (self.box_weight * box, self.center_weight * center), strict=True))

    @torch.no_grad()
    def targets(self, anchors: Tensor, boxes: Tensor, image_size: tuple[int, int]) -> LocalizationTargets:
        """Choose the anchors of an image that learn.

        Args:
            anchors: (A, 4) float x0, y0, x1, y1, pixels.
            boxes: (G, 4) float boxes of the objects, pixels.
            image_size: height and width of the image without padding.

        Returns:
            Which anchors learn what.
        """
        return localization_targets(
            anchors,
            boxes,
            image_size,
            regression=self.regression,
            quality=self.quality,
            border=self.border,
            quality_negatives=self.quality_negatives,
        )

    @torch.no_grad()
    def propose(
        self, sides: Tensor, logits: Tensor, levels: Sequence[Tensor], image_sizes: Sequence[tuple[int, int]]
    ) -> list[Instances]:
        """Turn predictions into proposals: best anchors of every level, suppression within levels, best boxes.

        Args:
            sides: (B, A, 4) predicted sides.
            logits: (B, A) logits of the centerness.
            levels: anchors of every level, (A_l, 4), pixels.
            image_sizes: height and width of every image, pixels.

        Returns:
            For every image ``proposal_boxes`` (N, 4), pixels, clipped, and ``objectness_logits`` (N,), descending.
            Anchors whose centre lies in the padding propose nothing.
        """
        phase = 0 if self.training else 1
        anchors = torch.cat(list(levels))
        level = torch.cat([torch.full((len(a),), i, device=a.device) for i, a in enumerate(levels)])
        proposals = []
        for image_sides, image_logits, size in zip(sides.float(), logits.float(), image_sizes, strict=True):
            score = image_logits.masked_fill(~learning_anchors(anchors, size, -1), -torch.inf)
            best, start = [], 0
            for a in levels:
                rows = score[start : start + len(a)].topk(min(self.pre_nms_topk[phase], len(a))).indices
                best.append(rows + start)
                start += len(a)
            rows = torch.cat(best)
            proposals.append(self._select(anchors[rows], image_sides[rows], score[rows], level[rows], size, phase))
        return proposals

    def _select(
        self, anchors: Tensor, sides: Tensor, score: Tensor, level: Tensor, size: tuple[int, int], phase: int
    ) -> Instances:
        boxes = Boxes(boxes_of_sides(anchors, sides))
        valid = boxes.tensor.isfinite().all(1) & score.isfinite()
        boxes = Boxes(boxes.tensor[valid])
        boxes.clip(size)
        full = boxes.nonempty()
        boxes, score, level = boxes[full], score[valid][full], level[valid][full]
        if self.nms_threshold[phase] < 1:
            keep = batched_nms(boxes.tensor, score, level, self.nms_threshold[phase])
        else:
            keep = score.argsort(descending=True, stable=True)
        keep = keep[: self.post_nms_topk[phase]]
        return Instances(size, proposal_boxes=boxes[keep], objectness_logits=score[keep])
