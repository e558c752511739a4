"""What the parts of a detector need to know about the images of a training batch, beyond their boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

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
    """

    supervision: tuple[str, ...]
    scope: Tensor | None = None
    weights: Tensor | None = None
    rules: ClassRules | None = None
    first_rule: Tensor | None = None
    groups: Tensor | None = None

    @classmethod
    def plain(cls, targets: Sequence[object]) -> BatchContext:
        """Describe a batch of which only the targets are known: complete annotation, weight 1.

        Args:
            targets: ``Instances`` of every image.

        Returns:
            The context; an image with ``gt_masks`` has supervision "masks", others "boxes".
        """
        return cls(tuple("masks" if getattr(t, "has")("gt_masks") else "boxes" for t in targets))  # noqa: B009

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
