"""What the parts of a detector need to know about the images of a training batch, beyond their boxes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from detectron2.structures import Instances
from torch import Tensor

from mvseg.data.supervision import has_places
from mvseg.vocabulary import ClassRules


@dataclass(frozen=True)
class BatchContext:
    """Facts about the I images of one training batch.

    Attributes:
        supervision: kind of annotation of every image, such as "boxes" or "masks".
        scope: (I, n) bool, the label columns that an image's annotation speaks about; None means all.
        weights: (I,) float32 loss weight of every image; None means 1.
        rules: what a region's class says beyond its own column, tables (T, n); None means nothing.
        first_rule: (I,) int64 rule of class 0 in every image, -1 where it has none; None without rules.
        groups: (I, n + 1) int32 group of every column and of the background; None: no two columns are one answer.
        labels: (T,) int64 label columns of what is in images of which no places are known; None: nobody said.
        label_images: (T,) int64 index of the image of every label, ascending.
        captions: (C, D) float32 text embeddings of captions, also of other processes; None: there are none.
        own_captions: (M,) int64 which of them belong to images of this batch.
        caption_images: (M,) int64 index of the image of every one of those, ascending.
        vocabularies: (I,) int64 place of every image's dataset in the label space; None: nobody said.
        distill: for every image ``proposal_boxes`` (k, 4), pixels, and ``gt_embeddings`` (k, D), what a teacher says of
            them, or None; None: of no image.
    """

    supervision: tuple[str, ...]
    scope: Tensor | None = None
    weights: Tensor | None = None
    rules: ClassRules | None = None
    first_rule: Tensor | None = None
    groups: Tensor | None = None
    labels: Tensor | None = None
    label_images: Tensor | None = None
    captions: Tensor | None = None
    own_captions: Tensor | None = None
    caption_images: Tensor | None = None
    vocabularies: Tensor | None = None
    distill: tuple[Instances | None, ...] | None = None

    @property
    def has_places(self) -> tuple[bool, ...]:
        """For every image whether its annotation says where the objects are."""
        return tuple(has_places(kind) for kind in self.supervision)

    def place_weights(self, device: torch.device | str) -> Tensor | None:
        """Weigh the images for what is learnt from places.

        Args:
            device: where the result shall lie.

        Returns:
            (I,) float32 weight of every image, 0 where no places are known; None where all weigh 1.
        """
        if all(self.has_places):
            return self.weights
        known = torch.tensor(self.has_places, dtype=torch.float32, device=device)
        return known if self.weights is None else known * self.weights

    def place_share(self) -> float:
        """Say how much of the batch has places.

        What is learnt from places is averaged over those images alone; times this share it is an average over the
        batch, so that the expected gradient does not depend on how a mixture spreads its datasets over batches.

        Returns:
            Images with places divided by all images; 1 where there are none, since their losses are 0 anyway.
        """
        known = sum(self.has_places)
        return known / len(self.supervision) if known else 1.0

    def with_labels(self, device: torch.device | str) -> BatchContext:
        """Fill in that the images have no labels where nobody said anything else.

        Args:
            device: where the labels shall lie.

        Returns:
            The context, whose ``labels`` and ``label_images`` are tensors.
        """
        if self.labels is not None:
            return self
        none = torch.zeros(0, dtype=torch.long, device=device)
        return dataclasses.replace(self, labels=none, label_images=none)

    @classmethod
    def plain(cls, targets: Sequence[object]) -> BatchContext:
        """Describe a batch of which only the targets are known: complete annotation, weight 1.

        Args:
            targets: ``Instances`` of every image.

        Returns:
            The context; an image with ``gt_masks`` has supervision "masks", others "boxes".
        """
        return cls(tuple("masks" if getattr(t, "has")("gt_masks") else "boxes" for t in targets))  # noqa: B009

    def with_captions(self, device: torch.device | str) -> BatchContext:
        """Fill in that the images have no captions where nobody said anything else.

        Args:
            device: where the captions shall lie.

        Returns:
            The context, whose ``captions``, ``own_captions`` and ``caption_images`` are tensors.

        Raises:
            ValueError: if images have captions, which nobody embedded.
        """
        if self.captions is not None:
            return self
        if "captions" in self.supervision:
            raise ValueError(
                "the batch has images with captions, but nobody embeds them: set MODEL.CLASSIFIER.NAME text and "
                "MODEL.CLASSIFIER.TEXT_ENCODER, and name the dataset of the captions in DATASETS.TRAIN"
            )
        none = torch.zeros(0, dtype=torch.long, device=device)
        rows = torch.zeros(0, 0, device=device)
        return dataclasses.replace(self, captions=rows, own_captions=none, caption_images=none)

    def rows(self, values: Tensor | None, counts: Sequence[int]) -> Tensor | None:
        """Repeat a value of every image for its regions.

        Args:
            values: (I, ...) per image, or None.
            counts: number of regions of every image.

        Returns:
            (R, ...) per region, R = sum of the counts; None if there are no values.
        """
        if values is None:
            return None
        repeats = torch.as_tensor(counts, device=values.device)
        return values.repeat_interleave(repeats, dim=0, output_size=sum(counts))
