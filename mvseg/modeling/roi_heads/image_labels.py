"""Regions of images of which only labels are known, and their way through the heads of any architecture."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor

from mvseg.modeling.columns import training_kinds
from mvseg.modeling.context import BatchContext
from mvseg.modeling.objectives import CaptionTargets, ImageLabelObjective, ImageLabelTargets, RegionObjective
from mvseg.modeling.roi_heads.box_predictor import BoxPredictor

SURE = 1 - 1e-6  # proposal score of the whole image


@dataclass(frozen=True)
class ImageLabelSettings:
    """How regions of images without boxes are chosen.

    Attributes:
        num_proposals: regions of an image with labels, those with the highest proposal scores.
        add_image_box: one more region in the middle of the image; where there is a caption it is added in any case.
        image_box_size: its height and width, as a share of the image's.
        reported: kinds of supervision whose losses every batch reports, also one that has no such images.
    """

    num_proposals: int = 128
    add_image_box: bool = False
    image_box_size: float = 1.0
    reported: tuple[str, ...] = ()

    @classmethod
    def from_config(cls, cfg: Any) -> ImageLabelSettings:
        """Read ``MODEL.IMAGE_LABELS``.

        Args:
            cfg: the config tree; the datasets of training say whether there are image labels.

        Returns:
            The settings.
        """
        node, kinds = cfg.MODEL.IMAGE_LABELS, training_kinds(cfg)
        reported = ("tags",) * bool(kinds & {"tags", "captions"}) + ("captions",) * ("captions" in kinds)
        return cls(node.NUM_PROPOSALS, node.ADD_IMAGE_BOX, float(node.IMAGE_BOX_SIZE), reported)

    def kinds(self, context: BatchContext) -> tuple[str, ...]:
        """List the kinds of supervision of which a batch reports losses; images with captions may also have labels.

        Args:
            context: the facts of the batch.

        Returns:
            Of "tags" and "captions" those that are reported.
        """
        present = set(context.supervision)
        found = {"tags"} if present & {"tags", "captions"} else set()
        return tuple(kind for kind in ("tags", "captions") if kind in found | present or kind in self.reported)


def best_proposals(
    proposals: Sequence[Instances], context: BatchContext, settings: ImageLabelSettings
) -> list[Instances]:
    """Take the regions from which labels and captions of images are learnt.

    Args:
        proposals: for every image ``proposal_boxes`` and ``objectness_logits`` by descending score.
        context: the facts of the images.
        settings: how many, and whether the image is one of them.

    Returns:
        For every image its regions, clipped to it, the image itself last; none where there is nothing to learn.
    """
    labelled = set() if context.label_images is None else set(context.label_images.tolist())
    captioned = set() if context.caption_images is None else set(context.caption_images.tolist())
    chosen = []
    for index, image in enumerate(proposals):
        count = settings.num_proposals if index in labelled else 0
        boxes = image.proposal_boxes.tensor[:count].detach().clone()
        scores = image.objectness_logits[:count]
        if index in captioned or (index in labelled and settings.add_image_box):
            middle = _middle(image.image_size, settings.image_box_size)
            boxes = torch.cat([boxes, boxes.new_tensor([middle])])
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


@torch.no_grad()
def answering_regions(
    objective: ImageLabelObjective,
    predictor: BoxPredictor,
    hidden: Tensor,
    regions: Sequence[Instances],
    context: BatchContext,
    columns: Tensor | None,
) -> Tensor:
    """Choose the region that answers for every label of an image.

    Args:
        objective: the objective of tags, one that chooses regions.
        predictor: the last layers of the stage.
        hidden: (R, input_size) float region features.
        regions: for every image ``proposal_boxes``, R together.
        context: the facts of the batch.
        columns: what ``image_label_columns`` returned.

    Returns:
        (T,) int64 row of the region, -1 where the image has none.
    """
    context = context.with_labels(hidden.device)
    counts = torch.tensor([len(r) for r in regions], device=hidden.device)
    areas = torch.cat([r.proposal_boxes.area() for r in regions])
    targets = ImageLabelTargets.of_images(context, counts, areas)
    needed = objective.chooses_by_scores and len(hidden)
    return objective.choose(predictor.cls_score(hidden, columns) if needed else None, targets, columns)


def caption_regions(regions: Sequence[Instances], context: BatchContext, device: torch.device) -> Tensor:
    """Find the region that answers for every caption: the last one of its image.

    Args:
        regions: for every image its regions, R together.
        context: the facts of the batch.
        device: where the rows shall lie.

    Returns:
        (M,) int64 row of the region of every image with a caption that has regions.
    """
    if context.caption_images is None:
        return torch.zeros(0, dtype=torch.long, device=device)
    counts = torch.tensor([len(r) for r in regions], device=device)
    images = context.caption_images[counts[context.caption_images] > 0]
    return counts.cumsum(0)[images] - 1


def boxes_of_rows(regions: Sequence[Instances], rows: Tensor) -> list[Boxes]:
    """Take some regions of a batch.

    Args:
        regions: for every image ``proposal_boxes``, R together.
        rows: (K,) int64, ascending, which of the R.

    Returns:
        For every image its boxes among them.
    """
    taken, first = [], 0
    for image in regions:
        inside = (rows >= first) & (rows < first + len(image))
        taken.append(image.proposal_boxes[rows[inside] - first])
        first += len(image)
    return taken


def image_label_losses(
    objective: RegionObjective,
    predictor: BoxPredictor,
    hidden: Tensor,
    regions: Sequence[Instances],
    context: BatchContext,
    columns: Tensor | None,
    chosen: Tensor | None = None,
) -> dict[str, Tensor]:
    """Compute the losses of one stage.

    Args:
        objective: the objective of tags.
        predictor: the last layers of the stage.
        hidden: (R, input_size) float region features; with ``chosen`` perhaps only of regions that answer for labels.
        regions: for every image ``proposal_boxes``, all of them.
        context: the facts of the batch.
        columns: what ``image_label_columns`` returned.
        chosen: (T,) int64 row of ``hidden`` that answers for every label, -1 for none; None: the objective chooses.

    Returns:
        Loss name to scalar tensor, connected to the parameters of the predictor that it can train.
    """
    context = context.with_labels(hidden.device)
    counts = torch.tensor([len(r) for r in regions], device=hidden.device)
    areas = torch.cat([r.proposal_boxes.area() for r in regions])
    comparison = predictor.compare(hidden, columns)
    targets = ImageLabelTargets.of_images(context, counts, areas, comparison)
    targets = dataclasses.replace(targets, chosen=chosen)
    return objective.losses(predictor.cls_score(hidden, columns), targets, columns)


def caption_losses(
    objective: RegionObjective,
    predictor: BoxPredictor,
    hidden: Tensor,
    regions: Sequence[Instances],
    context: BatchContext,
    chosen: Tensor | None = None,
) -> dict[str, Tensor]:
    """Compute the losses of one stage.

    Args:
        objective: the objective of captions.
        predictor: the last layers of the stage, with a text classifier.
        hidden: (R, input_size) float region features; with ``chosen`` perhaps only of regions that answer for captions.
        regions: for every image ``proposal_boxes``, all of them; the last one stands for the image.
        context: the facts of the batch.
        chosen: (M,) int64 row of ``hidden`` for every caption whose image has regions; None: ``caption_regions``.

    Returns:
        Loss name to scalar tensor, connected to the parameters of the classifier.
    """
    context = context.with_captions(hidden.device)
    assert context.captions is not None and context.caption_images is not None
    counts = torch.tensor([len(r) for r in regions], device=hidden.device)
    present = counts[context.caption_images] > 0
    targets = CaptionTargets.of_images(context, present)
    last = caption_regions(regions, context, hidden.device) if chosen is None else chosen
    logits = predictor.cls_score(hidden[last], embeddings=context.captions)[:, : len(context.captions)]
    return objective.losses(logits, targets, None)
