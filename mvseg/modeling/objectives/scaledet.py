"""The objective of ScaleDet: a region is its own label (hard loss) and as near to all labels as its label is (soft).

The body of the paper was not available to us and there is no public code: what is compared, how the similarity is
normalised, the weights and the reduction are our choices, each of them a key of ``MODEL.SCALEDET``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from mvseg.modeling.classifier import TextClassifier
from mvseg.modeling.objectives.classification import SigmoidObjective
from mvseg.modeling.objectives.registry import OBJECTIVES
from mvseg.modeling.objectives.targets import RegionTargets
from mvseg.modeling.precision import at_least_float32
from mvseg.vocabulary.similarity import RESCALES, SimilarityRange, rescale_similarity, similarity_range

Compared = Literal["cosine", "probability"]
Reduction = Literal["sum", "mean"]
SoftColumns = Literal["scope", "all"]
UNSCALED = "none"


def similarity_loss(
    found: Tensor,
    wanted: Tensor,
    *,
    num_regions: int,
    scope: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "sum",
) -> Tensor:
    """Square the difference between how near a region is to every label and how near its own label is.

    Args:
        found: (P, k) float nearness of P regions with an object to k labels.
        wanted: (P, k) float similarity of the region's label to the labels.
        num_regions: what is divided by: all regions of the batch, also those of the background, which have no label and
            so no term here.
        scope: (P, k) bool, the entries that count; None means all.
        weights: (P,) float weight of every region; None means 1.
        reduction: "sum" of a region's entries, or their "mean" over those that count.

    Returns:
        The loss, a scalar tensor; 0, still connected to ``found``, without regions.

    Raises:
        ValueError: if there is no such reduction.

    Source: Chen et al. 2023, ScaleDet (arXiv 2306.04849) is described as a mean squared error between a region's
    similarities to all labels and its label's row of the label-to-label similarity, for objects; the sum over the
    columns, the divisor and the scope are our choice, those of the hard loss.
    """
    if reduction not in get_args(Reduction):
        raise ValueError(f"MODEL.SCALEDET.REDUCTION {reduction!r}: choose {' or '.join(get_args(Reduction))}")
    found = at_least_float32(found)
    squares = (found - wanted).square()
    if scope is not None:
        squares = squares * scope
    losses = squares.sum(1)
    if reduction == "mean":
        losses = losses / (found.shape[1] if scope is None else scope.sum(1).clamp(min=1))
    if weights is not None:
        losses = losses * weights
    return losses.sum() / max(num_regions, 1)


@OBJECTIVES.register("scaledet")
class ScaleDetObjective(SigmoidObjective):
    """The sigmoid loss in the annotation's scope, and the distance to the label's similarities to the other labels."""

    watched_ratios = {"soft_to_hard": ("loss_soft", "loss_cls")}

    def __init__(
        self,
        num_classes: int,
        image_count: Tensor | None = None,
        ignore_zero: bool = False,
        *,
        average: str = "regions",
        hard_weight: float = 1.0,
        soft_weight: float = 0.1,
        similarity: str = "minmax",
        compared: Compared = "cosine",
        reduction: Reduction = "sum",
        soft_columns: SoftColumns = "scope",
    ) -> None:
        """Build the objective.

        Args:
            num_classes: number n of label columns.
            image_count: (n,) training images of every class; needed to ignore classes without any.
            ignore_zero: leave classes without training images out of the loss.
            average: "regions": over all regions; "images": over those of an image, then over images.
            hard_weight: factor on the binary decisions; 0 leaves the soft loss alone.
            soft_weight: factor lambda on the soft loss; 0 is the objective ``sigmoid``.
            similarity: how the cosines of labels become the similarity: "none", "minmax" or "centered".
            compared: what of a region is compared with it: its "cosine" to every label, or the "probability".
            reduction: "sum" or "mean" over the columns of a region.
            soft_columns: columns of the soft loss: those of the hard loss ("scope"), or "all".

        Raises:
            ValueError: if a choice does not exist, or nothing is left to learn from.

        Source: Chen et al. 2023, ScaleDet (arXiv 2306.04849): two losses; the numbers and choices are ours.
        """
        super().__init__(num_classes, image_count, ignore_zero, average=average)
        _check_choice("SIMILARITY", similarity, (UNSCALED, *RESCALES))
        _check_choice("COMPARE", compared, get_args(Compared))
        _check_choice("REDUCTION", reduction, get_args(Reduction))
        _check_choice("SOFT_COLUMNS", soft_columns, get_args(SoftColumns))
        if min(hard_weight, soft_weight) < 0 or hard_weight == soft_weight == 0:
            raise ValueError(
                f"MODEL.SCALEDET: HARD_WEIGHT {hard_weight} and SOFT_WEIGHT {soft_weight} must not be negative, and not"
                " both 0"
            )
        if compared == "probability" and similarity == UNSCALED:
            raise ValueError(
                "MODEL.SCALEDET.COMPARE probability needs similarities from 0 to 1: set SIMILARITY minmax or centered"
            )
        self.hard_weight, self.soft_weight = hard_weight, soft_weight
        self.similarity, self.compared = similarity, compared
        self.reduction, self.soft_columns = reduction, soft_columns
        self._limits: SimilarityRange | None = None

    @classmethod
    def from_config(cls, cfg: Any, num_classes: int, image_count: Tensor | None) -> ScaleDetObjective:
        """Read ``MODEL.SCALEDET``.

        Args:
            cfg: the config tree.
            num_classes: number n of label columns.
            image_count: (n,) training images of every class, or None.

        Returns:
            The objective.

        Raises:
            ValueError: if the classifier does not compare regions with fixed text embeddings by their cosine.

        Source: our own derivation.
        """
        node, classifier = cfg.MODEL.SCALEDET, cfg.MODEL.CLASSIFIER
        if node.SOFT_WEIGHT and (classifier.NAME != "text" or not classifier.NORMALIZE or classifier.CONTEXT_LENGTH):
            raise ValueError(
                "MODEL.CLASSIFIER.LOSS scaledet compares cosines of text embeddings that stay as they are: set "
                "MODEL.CLASSIFIER.NAME text, NORMALIZE True and CONTEXT_LENGTH 0, or MODEL.SCALEDET.SOFT_WEIGHT 0.0"
            )
        return cls(
            num_classes,
            image_count,
            classifier.IGNORE_ZERO_CATS,
            average=classifier.AVERAGE,
            hard_weight=node.HARD_WEIGHT,
            soft_weight=node.SOFT_WEIGHT,
            similarity=node.SIMILARITY,
            compared=node.COMPARE,
            reduction=node.REDUCTION,
            soft_columns=node.SOFT_COLUMNS,
        )

    def columns(self, targets: RegionTargets) -> Tensor | None:
        """Take the columns of the hard loss, or all where the soft loss covers them.

        Args:
            targets: the regions.

        Returns:
            (k,) int64 label columns, or None for all n.

        Source: our own derivation.
        """
        if self.soft_weight == 0 or self.soft_columns == "scope":
            return super().columns(targets)
        return None if self.kept is None else self.kept.nonzero()[:, 0]

    def losses(self, logits: Tensor, targets: RegionTargets, columns: Tensor | None) -> dict[str, Tensor]:
        """Compute ``loss_cls``, the hard loss alone.

        Args:
            logits: (R, k) float logits.
            targets: the regions.
            columns: (k,) int64 label columns of the logits, or None for all n.

        Returns:
            loss_cls, a scalar tensor connected to the logits; 0 if its weight is.

        Source: Chen et al. 2023, ScaleDet (arXiv 2306.04849): binary cross-entropy with the label.
        """
        if self.hard_weight == 0:
            return {"loss_cls": logits.flatten()[:0].sum()}
        return {"loss_cls": self.hard_weight * super().losses(logits, targets, columns)["loss_cls"]}

    def losses_of_features(
        self, classifier: Callable[..., Tensor], features: Tensor, targets: RegionTargets, columns: Tensor | None
    ) -> dict[str, Tensor]:
        """Compute ``loss_cls`` and, unless its weight is 0, ``loss_soft``.

        Args:
            classifier: the text classifier of the stage.
            features: (R, input_size) float region features.
            targets: the regions.
            columns: (k,) int64, what ``columns`` returned.

        Returns:
            The losses, scalar tensors.

        Raises:
            TypeError: if the classifier is no text classifier.

        Source: Chen et al. 2023, ScaleDet (arXiv 2306.04849): the sum of both losses.
        """
        if self.soft_weight == 0:
            return super().losses_of_features(classifier, features, targets, columns)
        if not isinstance(classifier, TextClassifier):
            raise TypeError(f"the soft loss needs a TextClassifier, not a {type(classifier).__name__}")
        cosines = classifier.cosines(features, columns)
        logits = classifier.logits_of(cosines)
        losses = self.losses(logits, targets, columns)
        losses["loss_soft"] = self.soft_weight * self._soft_loss(classifier, cosines, logits, targets, columns)
        return losses

    def _soft_loss(
        self,
        classifier: TextClassifier,
        cosines: Tensor,
        logits: Tensor,
        targets: RegionTargets,
        columns: Tensor | None,
    ) -> Tensor:
        rows = (targets.classes < self.num_classes).nonzero()[:, 0]
        weights = self._weights(targets)
        factors = None if targets.factors is None else targets.factors[rows]
        objects = dataclasses.replace(
            targets, classes=targets.classes[rows], images=targets.images[rows], factors=factors
        )
        # Rows of the labels at hand only: for 22,000 words the whole similarity has 2 GB.
        wanted = self._rescaled(classifier, classifier.word_cosines(objects.classes, columns))
        return similarity_loss(
            cosines[rows] if self.compared == "cosine" else logits[rows].sigmoid(),
            wanted,
            num_regions=len(targets.classes),
            scope=objects.scope_of(columns) if self.soft_columns == "scope" else None,
            weights=None if weights is None else weights[rows],
            reduction=self.reduction,
        )

    @torch.no_grad()
    def _rescaled(self, classifier: TextClassifier, cosines: Tensor) -> Tensor:
        if self.similarity == UNSCALED:
            return cosines
        if self._limits is None:  # once: the text rows are fixed
            self._limits = similarity_range(classifier.rows)
        return rescale_similarity(cosines, self._limits, self.similarity)


def _check_choice(key: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"MODEL.SCALEDET.{key} {value!r}: choose {', '.join(choices)}")
