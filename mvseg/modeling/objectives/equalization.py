"""Equalization losses: rare classes are not pushed down by the many objects of other classes.

Version 1 spares classes with few training images. Version 2 watches the gradients that every class has received and
brings those of its positives and of its negatives into balance.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mvseg.modeling.objectives.classification import SigmoidObjective
from mvseg.modeling.objectives.processes import summed_over_processes
from mvseg.modeling.objectives.region import column_targets, positive_entries, sigmoid_classification_loss
from mvseg.modeling.objectives.registry import OBJECTIVES
from mvseg.modeling.objectives.targets import RegionTargets
from mvseg.modeling.precision import at_least_float32

FIRST_RATIO = 100.0  # of a class that has received no gradient: all its weights are 1
SMALL = 1e-10


def equalization_weights(image_count: Tensor, wanted: Tensor, objects: Tensor, least_images: int) -> Tensor:
    """Compute the weights of the equalization loss.

    Args:
        image_count: (k,) training images of every class.
        wanted: (R, k) 1 where a class is true for a region, else 0.
        objects: (R,) bool, regions that show an object.
        least_images: classes with fewer training images are rare.

    Returns:
        (R, k) 0 where a region that shows an object is a negative for a rare class, else 1.

    Source: Tan et al. 2020 (CVPR 2020), as in the authors' code (https://github.com/tztztztztz/eqlv2), with a
    count for the frequency.
    """
    spared = objects[:, None] & (image_count < least_images) & (wanted == 0)
    return (~spared).to(wanted.dtype)


def equalization_v2_weights(
    positive: Tensor, negative: Tensor, *, gamma: float = 12.0, mu: float = 0.8, alpha: float = 4.0
) -> tuple[Tensor, Tensor]:
    """Compute what the positives and negatives of every class are multiplied by.

    Args:
        positive: (k,) float, sum of the gradients of the class's positives so far, without sign.
        negative: (k,) float, the same of its negatives.
        gamma: steepness.
        mu: ratio of the two at which negatives count one half.
        alpha: how much more positives count when negatives count nothing.

    Returns:
        Weights of positives and of negatives, (k,) each.

    Source: Tan et al. 2021 (arXiv 2012.08548), as in the authors' code (https://github.com/tztztztztz/eqlv2).
    """
    ratio = positive / (negative + SMALL)
    ratio = torch.where((positive == 0) & (negative == 0), FIRST_RATIO, ratio)
    of_negatives = torch.sigmoid(gamma * (ratio - mu))
    return 1 + alpha * (1 - of_negatives), of_negatives


@OBJECTIVES.register("eql")
class EqualizationObjective(SigmoidObjective):
    """Sigmoid over the columns in scope; objects of other classes are no negatives for rare classes."""

    counts_images = True
    image_count: Tensor

    def __init__(
        self,
        num_classes: int,
        image_count: Tensor | None,
        ignore_zero: bool = False,
        *,
        average: str = "regions",
        least_images: int = 177,
    ) -> None:
        """Build the objective.

        Args:
            num_classes: number n of label columns.
            image_count: (n,) training images of every class.
            ignore_zero: leave classes without training images out of the loss.
            average: "regions": over all regions; "images": over those of an image, then over images.
            least_images: classes with fewer training images are rare.

        Raises:
            ValueError: if the image counts are not known.

        Source: Tan et al. 2020 (CVPR 2020).
        """
        if image_count is None:
            raise ValueError(
                "MODEL.CLASSIFIER.LOSS eql spares classes with few training images, but the vocabulary of "
                "DATASETS.TRAIN has no image_count"
            )
        super().__init__(num_classes, image_count, ignore_zero, average=average)
        self.register_buffer("image_count", image_count, persistent=False)
        self.least_images = least_images

    @classmethod
    def from_config(cls, cfg: Any, num_classes: int, image_count: Tensor | None) -> EqualizationObjective:
        """Read ``MODEL.LONG_TAIL`` and ``MODEL.CLASSIFIER``.

        Args:
            cfg: the config tree.
            num_classes: number n of label columns.
            image_count: (n,) training images of every class.

        Returns:
            The objective.

        Source: Tan et al. 2020 (CVPR 2020).
        """
        node = cfg.MODEL.CLASSIFIER
        least = cfg.MODEL.LONG_TAIL.EQL_IMAGES
        return cls(num_classes, image_count, node.IGNORE_ZERO_CATS, average=node.AVERAGE, least_images=least)

    def losses(self, logits: Tensor, targets: RegionTargets, columns: Tensor | None) -> dict[str, Tensor]:
        """Compute ``loss_cls``.

        Args:
            logits: (R, k) float logits.
            targets: the regions.
            columns: (k,) int64 label columns of the logits, or None for all n.

        Returns:
            loss_cls, a scalar tensor.

        Source: Tan et al. 2020 (CVPR 2020).
        """
        positions = column_targets(targets.classes, columns, self.num_classes)
        further = targets.positives_of(columns)
        wanted = positive_entries(at_least_float32(logits), positions, further)
        counts = self.image_count if columns is None else self.image_count[columns]
        counting = equalization_weights(counts, wanted, targets.classes < self.num_classes, self.least_images)
        scope = targets.scope_of(columns)
        loss = sigmoid_classification_loss(
            logits,
            positions,
            scope=counting if scope is None else counting * scope,
            weights=self._weights(targets),
            positives=further,
        )
        return {"loss_cls": loss}


@OBJECTIVES.register("eqlv2")
class EqualizationV2Objective(SigmoidObjective):
    """Sigmoid over the columns in scope, whose positives and negatives are weighed by the gradients of the past.

    The sums are stored in checkpoints, and are those of all processes and of all cascade stages together.
    """

    positive_gradients: Tensor
    negative_gradients: Tensor

    def __init__(
        self,
        num_classes: int,
        image_count: Tensor | None = None,
        ignore_zero: bool = False,
        *,
        average: str = "regions",
        gamma: float = 12.0,
        mu: float = 0.8,
        alpha: float = 4.0,
        objectness: bool = True,
    ) -> None:
        """Build the objective.

        Args:
            num_classes: number n of label columns.
            image_count: (n,) training images of every class; needed to ignore classes without any.
            ignore_zero: leave classes without training images out of the loss.
            average: "regions": over all regions; "images": over those of an image, then over images.
            gamma: steepness of the weights.
            mu: ratio of gradients at which negatives count one half.
            alpha: how much more positives count when negatives count nothing.
            objectness: one more column says whether a region is background; test scores are multiplied by 1 - it.

        Source: Tan et al. 2021 (arXiv 2012.08548).
        """
        super().__init__(num_classes, image_count, ignore_zero, average=average)
        self.gamma, self.mu, self.alpha = gamma, mu, alpha
        self.needs_background = self.one_background = objectness
        # Small numbers are added for a long time: float32 would lose them.
        self.register_buffer("positive_gradients", torch.zeros(num_classes, dtype=torch.float64))
        self.register_buffer("negative_gradients", torch.zeros(num_classes, dtype=torch.float64))

    @classmethod
    def from_config(cls, cfg: Any, num_classes: int, image_count: Tensor | None) -> EqualizationV2Objective:
        """Read ``MODEL.LONG_TAIL`` and ``MODEL.CLASSIFIER``.

        Args:
            cfg: the config tree.
            num_classes: number n of label columns.
            image_count: (n,) training images of every class, or None.

        Returns:
            The objective.

        Raises:
            ValueError: if a text classifier shall learn a background, for which it has no word.

        Source: Tan et al. 2021 (arXiv 2012.08548).
        """
        node, classifier = cfg.MODEL.LONG_TAIL, cfg.MODEL.CLASSIFIER
        if node.OBJECTNESS and classifier.NAME == "text":
            raise ValueError(
                "MODEL.LONG_TAIL.OBJECTNESS True: eqlv2 learns a background, whose logit is constant in a text "
                "classifier: set OBJECTNESS False, or MODEL.CLASSIFIER.NAME linear"
            )
        return cls(
            num_classes,
            image_count,
            classifier.IGNORE_ZERO_CATS,
            average=classifier.AVERAGE,
            gamma=node.EQLV2_GAMMA,
            mu=node.EQLV2_MU,
            alpha=node.EQLV2_ALPHA,
            objectness=node.OBJECTNESS,
        )

    @classmethod
    def further_columns(cls, cfg: Any) -> int:
        """Say how many columns of logits the loss needs behind those of the labels.

        Args:
            cfg: the config tree.

        Returns:
            1 with ``MODEL.LONG_TAIL.OBJECTNESS``, else 0.

        Source: Tan et al. 2021 (arXiv 2012.08548), the authors' code.
        """
        return int(cfg.MODEL.LONG_TAIL.OBJECTNESS)

    def losses(self, logits: Tensor, targets: RegionTargets, columns: Tensor | None) -> dict[str, Tensor]:
        """Compute ``loss_cls`` with the weights of the past, then remember the gradients.

        Args:
            logits: (R, k) float logits; (R, k + 1) with objectness, background last.
            targets: the regions.
            columns: (k,) int64 label columns of the logits, or None for all n.

        Returns:
            loss_cls, a scalar tensor.

        Source: Tan et al. 2021 (arXiv 2012.08548).
        """
        known = self.num_classes if columns is None else len(columns)
        positions = column_targets(targets.classes, columns, self.num_classes)
        classes, further = logits[:, :known], targets.positives_of(columns)
        wanted = positive_entries(at_least_float32(classes.detach()), positions, further)
        counting = self._counting(wanted, columns)
        scope, weights = targets.scope_of(columns), self._weights(targets)
        counting = counting if scope is None else counting * scope
        loss = sigmoid_classification_loss(classes, positions, scope=counting, weights=weights, positives=further)
        if self.needs_background:
            empty = (targets.classes < self.num_classes).long()  # position 0, the only column, where it is background
            loss = loss + sigmoid_classification_loss(logits[:, known:], empty, weights=weights)
        if self.training and torch.is_grad_enabled():
            self._remember(
                classes.detach(), wanted, counting if weights is None else counting * weights[:, None], columns
            )
        return {"loss_cls": loss}

    def _counting(self, wanted: Tensor, columns: Tensor | None) -> Tensor:
        """Weight (R, k) of every entry."""
        sums = self.positive_gradients, self.negative_gradients
        positive, negative = sums if columns is None else (total[columns] for total in sums)
        weights = equalization_v2_weights(positive, negative, gamma=self.gamma, mu=self.mu, alpha=self.alpha)
        of_positives, of_negatives = (of.to(wanted.dtype) for of in weights)
        return torch.where(wanted > 0, of_positives, of_negatives)

    def _remember(self, logits: Tensor, wanted: Tensor, counting: Tensor, columns: Tensor | None) -> None:
        """Add the sizes of the gradients of these regions, of all processes, to the sums."""
        sizes = ((at_least_float32(logits).sigmoid() - wanted).abs() * counting).double()
        of_columns = torch.stack([(sizes * wanted).sum(0), (sizes * (1 - wanted)).sum(0)])
        gradients = of_columns.new_zeros((2, self.num_classes))
        if columns is None:
            gradients += of_columns
        else:
            gradients[:, columns] = of_columns
        gradients = summed_over_processes(gradients)
        self.positive_gradients += gradients[0]
        self.negative_gradients += gradients[1]

    def probabilities(self, logits: Tensor) -> Tensor:
        """Turn test logits into class probabilities.

        Args:
            logits: (R, n) float logits; (R, n + 1) with objectness, background last.

        Returns:
            (R, n) float probabilities, with objectness those of the classes times that of an object.

        Source: Tan et al. 2021 (arXiv 2012.08548), the authors' code.
        """
        found = super().probabilities(logits)
        return found[:, :-1] * (1 - found[:, -1:]) if self.needs_background else found
