"""Regions of images of which only labels are known, and their way through the heads of any architecture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor

from mvseg.modeling.columns import training_kinds
from mvseg.modeling.context import BatchContext
from mvseg.modeling.objectives import ImageLabelTargets, RegionObjective
from mvseg.modeling.roi_heads.box_predictor import BoxPredictor

SURE = 1 - 1e-6  # proposal score of the whole image


@dataclass(frozen=True)
class ImageLabelSettings:
    """How regions of images without boxes are chosen.

    Attributes:
        num_proposals: regions of an image, those with the highest proposal scores.
        image_box: height and width of one more region in the middle of the image, as a share of the image's; None:
            none is added.
        reported: every batch reports the losses of image labels, also one that has no labels.
    """

    num_proposals: int = 128
    image_box: float | None = None
    reported: bool = False

    @classmethod
    def from_config(cls, cfg: Any) -> ImageLabelSettings:
        """Read ``MODEL.IMAGE_LABELS``.

        Args:
            cfg: the config tree; the datasets of training say whether there are image labels.

        Returns:
            The settings.
        """
        node = cfg.MODEL.IMAGE_LABELS
        size = float(node.IMAGE_BOX_SIZE) if node.ADD_IMAGE_BOX else None
        return cls(node.NUM_PROPOSALS, size, "tags" in training_kinds(cfg))


def best_proposals(
    proposals: Sequence[Instances], wanted: Sequence[bool], settings: ImageLabelSettings
) -> list[Instances]:
    """Take the regions from which image labels are learnt.

    Args:
        proposals: for every image ``proposal_boxes`` and ``objectness_logits`` by descending score.
        wanted: for every image whether it has regions; others stay in the list, empty.
        settings: how many, and whether the image is one of them.

    Returns:
        For every image its regions, clipped to it, the image itself last.
    """
    chosen = []
    for image, taken in zip(proposals, wanted, strict=True):
        count = settings.num_proposals if taken else 0
        boxes = image.proposal_boxes.tensor[:count].detach().clone()
        scores = image.objectness_logits[:count]
        if taken and settings.image_box is not None:
            boxes = torch.cat([boxes, boxes.new_tensor([_middle(image.image_size, settings.image_box)])])
            scores = torch.cat([scores, torch.logit(scores.new_tensor([SURE]))])
        regions = Instances(image.image_size, proposal_boxes=Boxes(boxes), objectness_logits=scores)
        regions.proposal_boxes.clip(image.image_size)
        chosen.append(regions)
    return chosen


def _middle(size: tuple[int, int], share: float) -> list[float]:
    """A box (x0, y0, x1, y1) of a share of height and width in the middle of an image."""
    height, width = size
    margin = (1 - share) / 2
    return [width * margin, height * margin, width * (1 - margin), height * (1 - margin)]


def without_regions(proposals: Sequence[Instances]) -> list[Instances]:
    """Make labelled regions of images that have none.

    Args:
        proposals: for every image its proposals.

    Returns:
        For every image no regions, with ``proposal_boxes``, ``objectness_logits`` and ``gt_classes``.
    """
    empty = []
    for image in proposals:
        regions = image[:0]
        regions.gt_classes = torch.zeros(0, dtype=torch.long, device=image.proposal_boxes.device)
        empty.append(regions)
    return empty


def image_label_columns(objective: RegionObjective, context: BatchContext, device: torch.device) -> Tensor | None:
    """Choose the label columns of a batch, for all stages.

    Args:
        objective: the objective of tags.
        context: the facts of the batch.
        device: where the model is.

    Returns:
        (k,) int64 label columns, or None for all n.
    """
    context = context.with_labels(device)
    assert context.labels is not None
    counts = torch.zeros(len(context.supervision), dtype=torch.long, device=device)
    return objective.columns(ImageLabelTargets.of_images(context, counts, counts[:0]))


def image_label_losses(
    objective: RegionObjective,
    predictor: BoxPredictor,
    hidden: Tensor,
    regions: Sequence[Instances],
    context: BatchContext,
    columns: Tensor | None,
) -> dict[str, Tensor]:
    """Compute the losses of one stage.

    Args:
        objective: the objective of tags.
        predictor: the last layers of the stage.
        hidden: (R, input_size) float region features.
        regions: for every image ``proposal_boxes``, R together.
        context: the facts of the batch.
        columns: what ``image_label_columns`` returned.

    Returns:
        Loss name to scalar tensor, connected to the parameters of the predictor that it can train.
    """
    context = context.with_labels(hidden.device)
    counts = torch.tensor([len(r) for r in regions], device=hidden.device)
    areas = torch.cat([r.proposal_boxes.area() for r in regions])
    comparison = predictor.compare(hidden, columns)
    targets = ImageLabelTargets.of_images(context, counts, areas, comparison)
    return objective.losses(predictor.cls_score(hidden, columns), targets, columns)
