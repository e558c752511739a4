"""The loss of captions: a region that stands for its image is told apart from the other captions of the batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mvseg.modeling.context import BatchContext
from mvseg.modeling.objectives.registry import OBJECTIVES, RegionObjective
from mvseg.modeling.objectives.targets import RegionTargets
from mvseg.modeling.precision import at_least_float32

SAME = 1 - 1e-5  # cosine from which two captions are one


def caption_losses(
    logits: Tensor, own: Tensor, *, negative_weight: float = 1.0, ignored: Tensor | None = None
) -> Tensor:
    """Compare images with captions, each pair a binary decision.

    Args:
        logits: (M, C) float scores of M images for C captions.
        own: (M,) int64 the image's own caption.
        negative_weight: factor on the pairs that do not belong together.
        ignored: (M, C) bool, pairs that do not count; the own pair always does. None means none.

    Returns:
        (M,) float32, sums over the captions.

    Source: Zhou et al. 2022 (arXiv 2201.02605), section 5.5: the loss for image-text pairs.
    """
    logits = at_least_float32(logits)
    targets = torch.zeros_like(logits).scatter_(1, own[:, None], 1.0)
    loss = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    weights = targets + negative_weight * (1 - targets)
    if ignored is not None:
        weights = weights * (~ignored | targets.bool())
    return (loss * weights).sum(1)


def equal_captions(rows: Tensor, own: Tensor) -> Tensor:
    """Find captions that say the same as an image's own: they are no negatives.

    Args:
        rows: (C, D) float text embeddings of the captions.
        own: (M,) int64 the image's own caption.

    Returns:
        (M, C) bool, True for the own caption too.

    Source: our own derivation.
    """
    units = F.normalize(rows.float(), dim=1)
    return units[own] @ units.t() >= SAME


@dataclass(frozen=True)
class CaptionTargets(RegionTargets):
    """What is known about M regions that stand for their images, and C captions.

    ``classes`` is (M,), the caption that is the image's own, and ``images`` (M,) the index of the image.

    Attributes:
        ignored: (M, C) bool, captions that are no negatives of the image; None means none.
        num_images: images of the batch, also those without a caption.
    """

    ignored: Tensor | None = None
    num_images: int = 1

    @classmethod
    def of_images(cls, context: BatchContext, present: Tensor) -> CaptionTargets:
        """Read the captions of a batch.

        Args:
            context: the facts of the batch.
            present: (M',) bool, captions of the batch's images whose image has a region.

        Returns:
            The targets, (M,) of those that are present.

        Raises:
            ValueError: if the context brings no captions.

        Source: our own derivation.
        """
        if context.captions is None or context.own_captions is None or context.caption_images is None:
            raise ValueError("the batch has no captions: BatchContext.captions, own_captions and caption_images")
        own = context.own_captions[present]
        ignored = equal_captions(context.captions, own)
        images = context.caption_images[present]
        return cls(own, images, weights=context.weights, ignored=ignored, num_images=len(context.supervision))


@OBJECTIVES.register("contrast", supervision=("captions",))
class CaptionObjective(RegionObjective):
    """Tells the caption of an image from the others of the batch, with a region that stands for the whole image."""

    def __init__(self, num_classes: int, *, weight: float = 0.1, negative_weight: float = 0.125) -> None:
        """Build the objective.

        Args:
            num_classes: number n of label columns; not used.
            weight: factor on the loss.
            negative_weight: factor on the captions of other images.

        Source: Zhou et al. 2022 (arXiv 2201.02605), section 5.5.
        """
        super().__init__(num_classes)
        self.weight, self.negative_weight = weight, negative_weight

    @classmethod
    def from_config(cls, cfg: Any, num_classes: int, image_count: Tensor | None) -> CaptionObjective:
        """Read ``MODEL.CAPTIONS``.

        Args:
            cfg: the config tree.
            num_classes: number n of label columns.
            image_count: (n,) training images of every class, or None; not used.

        Returns:
            The objective.

        Source: Zhou et al. 2022 (arXiv 2201.02605), section 5.5.
        """
        node = cfg.MODEL.CAPTIONS
        return cls(num_classes, weight=node.WEIGHT, negative_weight=node.NEGATIVE_WEIGHT)

    def losses(self, logits: Tensor, targets: RegionTargets, columns: Tensor | None) -> dict[str, Tensor]:
        """Compute ``caption_loss``, an average over all images of the batch.

        Args:
            logits: (M, C) float scores of the regions for the captions.
            targets: a :class:`CaptionTargets`.
            columns: not used; captions are no label columns.

        Returns:
            caption_loss, a scalar tensor connected to the logits.

        Raises:
            TypeError: if the targets know of no captions.

        Source: Zhou et al. 2022 (arXiv 2201.02605), section 5.5.
        """
        if not isinstance(targets, CaptionTargets):
            raise TypeError("CaptionObjective learns from CaptionTargets")
        if logits.numel() == 0:
            return {"caption_loss": logits.flatten()[:0].sum()}
        losses = caption_losses(logits, targets.classes, negative_weight=self.negative_weight, ignored=targets.ignored)
        weights = targets.region_weights()
        losses = losses if weights is None else losses * weights
        return {"caption_loss": self.weight * losses.sum() / targets.num_images}
