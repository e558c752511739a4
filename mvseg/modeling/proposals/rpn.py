"""Detectron2's RPN for batches in which only some images have boxes (``PROPOSAL_GENERATOR.NAME: MultiDatasetRPN``)."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.modeling import PROPOSAL_GENERATOR_REGISTRY
from detectron2.modeling.proposal_generator import RPN
from detectron2.structures import ImageList, Instances
from torch import Tensor

from mvseg.modeling.context import BatchContext
from mvseg.modeling.precision import at_least_float32


@PROPOSAL_GENERATOR_REGISTRY.register()
class MultiDatasetRPN(RPN):
    """Propose in all images, and learn from those whose annotation has boxes, each with its weight.

    Parameters, losses and proposals are those of Detectron2's RPN; with boxes in all images it is the same.
    """

    takes_context = True  # forward() accepts a BatchContext

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        gt_instances: list[Instances] | None = None,
        context: BatchContext | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """Propose, and in training compute the losses.

        Args:
            images: the batch; only its sizes are used.
            features: (B, C, H, W) for every level.
            gt_instances: boxes of every image (``gt_boxes``, pixels); needed in training.
            context: loss weights of the images, and which of them have boxes.

        Returns:
            For every image ``proposal_boxes`` and ``objectness_logits`` by descending score; in training loss_rpn_cls
            and loss_rpn_loc, averages over the batch to which images without boxes give nothing.

        Raises:
            ValueError: in training without boxes.
        """
        levels = {name: at_least_float32(features[name]) for name in self.in_features}
        if not self.training or context is None:
            return super().forward(images, levels, gt_instances)
        if gt_instances is None:
            raise ValueError("MultiDatasetRPN needs the boxes of the images in training")
        maps = list(levels.values())
        anchors = self.anchor_generator(maps)
        scores, offsets = self.rpn_head(maps)
        # One row per anchor, in the order of the anchor generator: row, column, anchor.
        logits = [x.permute(0, 2, 3, 1).flatten(1) for x in scores]
        side = self.anchor_generator.box_dim
        deltas = [x.unflatten(1, (-1, side)).permute(0, 3, 4, 1, 2).flatten(1, 3) for x in offsets]
        losses = self._losses_of_some(anchors, logits, deltas, gt_instances, context)
        return self.predict_proposals(anchors, logits, deltas, images.image_sizes), losses

    def _losses_of_some(
        self, anchors: Any, logits: list[Tensor], deltas: list[Tensor], targets: list[Instances], context: BatchContext
    ) -> dict[str, Tensor]:
        """Losses of the images with boxes; zeros that are connected to the head where there are none."""
        weights = context.weights
        places = [index for index, known in enumerate(context.has_places) if known]
        if not places:
            nothing = torch.stack([x.flatten()[:0].sum() for x in (*logits, *deltas)]).sum()
            return {"loss_rpn_cls": nothing, "loss_rpn_loc": nothing}
        labels, boxes = self.label_and_sample_anchors(anchors, [targets[index] for index in places])
        if weights is None and len(places) == len(targets):
            return self.losses(anchors, logits, labels, deltas, boxes)
        total: dict[str, Tensor] = {}
        for index, label, truth in zip(places, labels, boxes, strict=True):
            some = slice(index, index + 1)
            one = self.losses(anchors, [x[some] for x in logits], [label], [x[some] for x in deltas], [truth])
            share = (1.0 if weights is None else weights[index]) / len(targets)
            for name, loss in one.items():
                total[name] = total.get(name, 0.0) + share * loss
        return total
