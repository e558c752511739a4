"""The objective for image tags: for every tag one region of the image, or all of them together, learns the class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mvseg.modeling.context import BatchContext
from mvseg.modeling.objectives.image_labels import (
    best_scoring_regions,
    image_probability_terms,
    label_rows,
    largest_regions,
    mean_of_images,
    region_costs,
    region_table,
    sampled_columns,
    sigmoid_terms,
    softmax_terms,
    summed_scores,
)
from mvseg.modeling.objectives.region import column_targets
from mvseg.modeling.objectives.registry import OBJECTIVES, RegionObjective
from mvseg.modeling.objectives.targets import RegionTargets

CHOICES = ("max_size", "max_score", "min_loss", "first", "image")
TOGETHER = ("wsddn", "wsod")  # two names of one loss


@dataclass(frozen=True)
class ImageLabelTargets(RegionTargets):
    """What is known about the R regions of images of which only labels are known.

    ``classes`` and ``images`` are (T,): the label columns of the T pairs of an image and one of its labels, and the
    index of the image.

    Attributes:
        counts: (I,) int64 number of regions of every image; 0 for images that are not tagged.
        areas: (R,) float area of every region, square pixels; within an image by descending proposal score, the whole
            image last where it was added.
        proposal_logits: (R, k) float logits that compare the regions of an image, k as of the class logits; or None.
        chosen: (T,) int64 row of the region that answers for every label, -1 where the image has none; None: not chosen
            yet. Where it is given, the R regions may be those alone.
    """

    counts: Tensor | None = None
    areas: Tensor | None = None
    proposal_logits: Tensor | None = None
    chosen: Tensor | None = None

    @classmethod
    def of_images(
        cls, context: BatchContext, counts: Tensor, areas: Tensor, proposal_logits: Tensor | None = None
    ) -> ImageLabelTargets:
        """Join the labels of the images of a batch with their regions.

        Args:
            context: the facts of the I images.
            counts: (I,) int64 number of regions of every image.
            areas: (R,) float area of every region.
            proposal_logits: (R, k) float logits of the branch that compares regions, or None.

        Returns:
            The targets.

        Raises:
            ValueError: if the context brings no labels.

        Source: our own derivation.
        """
        if context.labels is None or context.label_images is None:
            raise ValueError("the batch has no image labels: BatchContext.labels and label_images are missing")
        plain = RegionTargets.of(context.labels, context.label_images, context)
        facts = (plain.scope, plain.weights, plain.rules, plain.first_rule, plain.groups)
        return cls(plain.classes, plain.images, *facts, plain.factors, counts, areas, proposal_logits)


class ImageLabelObjective(RegionObjective):
    """Learns class scores of regions from the labels of their image; ``MODEL.IMAGE_LABELS.LOSS`` says how.

    ``max_size``: the largest region of the image is taken for every label. ``max_score``: the region that has the
    highest score for the label. ``min_loss``: the region that makes the loss smallest. ``first``: the region with the
    highest proposal score. ``image``: the whole image. ``wsddn`` and ``wsod``: all regions, weighed by a branch of the
    predictor that compares them.
    """

    multi_label = True

    def __init__(
        self,
        num_classes: int,
        choice: str = "max_size",
        *,
        weight: float = 0.1,
        softmax: bool = False,
        num_columns: int = 0,
    ) -> None:
        """Build the objective.

        Args:
            num_classes: number n of label columns.
            choice: which region answers for a label; see the class.
            weight: factor on the loss.
            softmax: cross-entropy over the columns and the background instead of one binary decision per column.
            num_columns: compare the labels of a batch with so many columns at most, drawn anew for every batch; 0: all.

        Raises:
            ValueError: if there is no such choice, or it cannot do without binary decisions.

        Source: Zhou et al. 2022 (arXiv 2201.02605), section 4.2 and equation 4.
        """
        super().__init__(num_classes)
        if choice not in CHOICES + TOGETHER:
            raise ValueError(f"MODEL.IMAGE_LABELS.LOSS {choice!r}: choose {', '.join(CHOICES + TOGETHER)}")
        if softmax and choice in TOGETHER:
            raise ValueError(
                f"MODEL.IMAGE_LABELS.SOFTMAX_LOSS needs one region per label; {choice} adds up all regions"
            )
        self.choice, self.weight, self.softmax, self.num_columns = choice, weight, softmax, num_columns

    @property
    def chooses_by_scores(self) -> bool:
        """Whether ``choose`` needs the logits."""
        return self.choice in ("max_score", "min_loss")

    @property
    def compares_regions(self) -> bool:
        """Whether it needs ``ImageLabelTargets.proposal_logits``."""
        return self.choice in TOGETHER

    @classmethod
    def from_config(cls, cfg: Any, num_classes: int, image_count: Tensor | None) -> ImageLabelObjective:
        """Read ``MODEL.IMAGE_LABELS``.

        Args:
            cfg: the config tree.
            num_classes: number n of label columns.
            image_count: (n,) training images of every class, or None; not used.

        Returns:
            The objective.

        Raises:
            ValueError: if the loss needs the whole image as a region but none is added.

        Source: Zhou et al. 2022 (arXiv 2201.02605), section 4.2.
        """
        node = cfg.MODEL.IMAGE_LABELS
        if node.LOSS == "image" and not node.ADD_IMAGE_BOX:
            raise ValueError("MODEL.IMAGE_LABELS.LOSS image needs the image as a region: set ADD_IMAGE_BOX True")
        return cls(num_classes, node.LOSS, weight=node.WEIGHT, softmax=node.SOFTMAX_LOSS, num_columns=node.NUM_COLUMNS)

    def columns(self, targets: RegionTargets) -> Tensor | None:
        """Take the columns that the images' annotation speaks about, or draw some; called once per batch.

        Args:
            targets: the labels.

        Returns:
            (k,) int64 label columns, ascending, or None for all n; none without labels.

        Source: Zhou et al. 2022 (arXiv 2201.02605), section 5.1.
        """
        if len(targets.classes) == 0:
            return targets.classes
        if not self.num_columns:
            return super().columns(targets)
        labels, further = targets.classes, targets.positive_columns()
        if further is not None:
            labels = torch.cat([labels, further.nonzero()[:, 0]])
        return sampled_columns(labels, self.num_classes, self.num_columns, targets.relevant_columns())

    @torch.no_grad()
    def choose(self, logits: Tensor | None, targets: ImageLabelTargets, columns: Tensor | None) -> Tensor:
        """Choose the region that answers for every label; no other region learns anything.

        Args:
            logits: (R, k) float logits of the regions; None where ``chooses_by_scores`` is False.
            targets: labels and regions.
            columns: (k,) int64 label columns of the logits, or None for all n.

        Returns:
            (T,) int64 row of the region, -1 where the image has none.

        Raises:
            TypeError: if the targets know of no regions.

        Source: Zhou et al. 2022 (arXiv 2201.02605), section 4.2.
        """
        if targets.counts is None or targets.areas is None:
            raise TypeError("regions are chosen among ImageLabelTargets with counts and areas of the regions")
        if len(targets.areas) == 0 or len(targets.classes) == 0:
            return torch.full_like(targets.classes, -1)
        positions = column_targets(targets.classes, columns, self.num_classes)
        wanted, scope = None, None
        if logits is not None and self.choice == "min_loss":
            wanted, scope = self._wanted(logits, targets, columns, positions)
        return self._choose(logits, targets, positions, wanted, scope, region_table(targets.counts))

    def losses(self, logits: Tensor, targets: RegionTargets, columns: Tensor | None) -> dict[str, Tensor]:
        """Compute ``image_loss``: the mean over the labels of an image, averaged over all images of the batch.

        Args:
            logits: (R, k) float logits of the regions; (R, k + 1) if the classifier has a background column.
            targets: labels and regions, an :class:`ImageLabelTargets`.
            columns: (k,) int64 label columns of the logits, or None for all n.

        Returns:
            image_loss, a scalar tensor connected to the logits.

        Raises:
            TypeError: if the targets know of no regions.

        Source: Zhou et al. 2022 (arXiv 2201.02605), equation 4.
        """
        if not isinstance(targets, ImageLabelTargets) or targets.counts is None or targets.areas is None:
            raise TypeError("ImageLabelObjective learns from ImageLabelTargets with counts and areas of the regions")
        if len(logits) == 0 or len(targets.classes) == 0:
            nothing = logits.flatten()[:0].sum()
            if targets.proposal_logits is not None:
                nothing = nothing + targets.proposal_logits.flatten()[:0].sum()
            return {"image_loss": nothing}
        images = len(targets.counts)
        terms = self._terms(logits, targets, columns, region_table(targets.counts))
        losses = mean_of_images(terms.masked_fill(targets.counts[targets.images] == 0, 0.0), targets.images, images)
        if targets.weights is not None:
            losses = losses * targets.weights
        return {"image_loss": self.weight * losses.sum() / images}

    def _terms(self, logits: Tensor, targets: ImageLabelTargets, columns: Tensor | None, table: Tensor) -> Tensor:
        """Loss (T,) of every pair of image and label."""
        background = logits.shape[1] > (self.num_classes if columns is None else len(columns))
        positions = column_targets(targets.classes, columns, self.num_classes)
        wanted, scope = self._wanted(logits, targets, columns, positions)
        if self.compares_regions:
            if targets.proposal_logits is None:
                raise TypeError(f"the loss {self.choice} needs logits of the branch that compares regions")
            found = summed_scores(logits, targets.proposal_logits, table)[targets.images]
            return image_probability_terms(found, wanted, scope, background)
        rows = targets.chosen
        if rows is None:
            rows = self._choose(logits, targets, positions, wanted, scope, table)
        terms = softmax_terms if self.softmax else sigmoid_terms
        return terms(logits[rows.clamp(min=0)], wanted, scope, background=background)

    def _wanted(
        self, logits: Tensor, targets: RegionTargets, columns: Tensor | None, positions: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """What the scores of every pair of image and label should be, and which of them count, both (T, k)."""
        known = self.num_classes if columns is None else len(columns)
        background = logits.shape[1] > known
        if logits.shape[1] > known + 1:
            raise ValueError(
                f"image labels cannot teach the {logits.shape[1] - known} columns behind those of the labels: set "
                "MODEL.CLASSIFIER.LOSS to one that has at most a background, such as sigmoid or softmax"
            )
        precise = torch.promote_types(logits.dtype, torch.float32)
        wanted = label_rows(positions, known, targets.positives_of(columns), background, precise)
        scope = targets.scope_of(columns)
        return wanted, F.pad(scope, (0, 1), value=True) if scope is not None and background else scope

    def _choose(
        self,
        logits: Tensor | None,
        targets: ImageLabelTargets,
        positions: Tensor,
        wanted: Tensor | None,
        scope: Tensor | None,
        table: Tensor,
    ) -> Tensor:
        """Row (T,) of the region that answers for every label, -1 where the image has none."""
        of_terms = table[targets.images]
        if self.choice == "max_size":
            assert targets.areas is not None
            return largest_regions(targets.areas, table)[targets.images]
        if self.choice == "max_score":
            assert logits is not None
            scores = logits.detach()[of_terms.clamp(min=0), positions[:, None]]
            return best_scoring_regions(scores, of_terms)
        if self.choice == "min_loss":
            assert logits is not None and wanted is not None
            with torch.no_grad():
                return best_scoring_regions(-region_costs(logits, wanted, of_terms, scope), of_terms)
        if self.choice == "first":
            return of_terms[:, 0]
        assert targets.counts is not None
        last = (targets.counts[targets.images] - 1).clamp(min=0)
        return of_terms.gather(1, last[:, None])[:, 0]


for _name in CHOICES + TOGETHER:
    OBJECTIVES.register(_name, supervision=("tags",))(ImageLabelObjective)
