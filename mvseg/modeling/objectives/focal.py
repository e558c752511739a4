"""The focal loss: binary decisions that count less the better they already are, over the columns in scope.

With the scope ``own`` it is the loss of cross-dataset training (Yao et al. 2020): a region without an object of the
image's dataset is a negative for the classes of that dataset alone.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from mvseg.modeling.objectives.classification import SigmoidObjective
from mvseg.modeling.objectives.processes import mean_over_processes
from mvseg.modeling.objectives.region import column_targets, positive_entries
from mvseg.modeling.objectives.registry import OBJECTIVES
from mvseg.modeling.objectives.targets import RegionTargets
from mvseg.modeling.precision import at_least_float32

Normalizer = Literal["objects", "regions"]


def sigmoid_focal_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    alpha: float = 0.25,
    gamma: float = 2.0,
    scope: Tensor | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """Sum the focal loss of every region and column.

    Args:
        logits: (R, k) float logits.
        targets: (R, k) float, 1 where a column is true, else 0.
        alpha: weight of positives, 1 - alpha of negatives; negative values leave both at 1.
        gamma: exponent of 1 - p_t; 0: plain cross-entropy.
        scope: (R, k) bool, the entries that count; None means all.
        weights: (R,) float weight of every region; None means 1.

    Returns:
        The sum, a scalar tensor; not divided by anything.

    Source: Lin et al. 2017 (arXiv 1708.02002), equation 5.
    """
    logits = at_least_float32(logits)
    toward = logits * (2 * targets - 1)  # p_t = sigmoid(toward)
    loss = F.softplus(-toward) * torch.exp(-gamma * F.softplus(toward))
    if alpha >= 0:
        loss = loss * (alpha * targets + (1 - alpha) * (1 - targets))
    if scope is not None:
        loss = loss * scope
    if weights is not None:
        loss = loss * weights[:, None]
    return loss.sum()


@OBJECTIVES.register("focal")
class FocalObjective(SigmoidObjective):
    """Focal loss over the columns in scope."""

    def __init__(
        self,
        num_classes: int,
        image_count: Tensor | None = None,
        ignore_zero: bool = False,
        *,
        alpha: float = 0.25,
        gamma: float = 2.0,
        normalizer: Normalizer = "objects",
    ) -> None:
        """Build the objective.

        Args:
            num_classes: number n of label columns.
            image_count: (n,) training images of every class; needed to ignore classes without any.
            ignore_zero: leave classes without training images out of the loss.
            alpha: weight of positives, 1 - alpha of negatives; negative values leave both at 1.
            gamma: focusing exponent.
            normalizer: the sum is divided by the regions that show an object ("objects", at least 1; of several
                processes the mean), or by all "regions" as the loss ``sigmoid`` is.

        Raises:
            ValueError: if there is no such normaliser, or the exponent is negative.

        Source: Lin et al. 2017 (arXiv 1708.02002), section 4.1.
        """
        super().__init__(num_classes, image_count, ignore_zero)
        if normalizer not in get_args(Normalizer):
            choices = " or ".join(get_args(Normalizer))
            raise ValueError(f"MODEL.LONG_TAIL.FOCAL_NORMALIZER {normalizer!r}: choose {choices}")
        if gamma < 0 or alpha > 1:
            raise ValueError(
                f"MODEL.LONG_TAIL: FOCAL_GAMMA {gamma} must not be negative, FOCAL_ALPHA {alpha} at most 1"
            )
        self.alpha, self.gamma, self.normalizer = alpha, gamma, normalizer

    @classmethod
    def from_config(cls, cfg: Any, num_classes: int, image_count: Tensor | None) -> FocalObjective:
        """Read ``MODEL.LONG_TAIL`` and ``MODEL.CLASSIFIER``.

        Args:
            cfg: the config tree.
            num_classes: number n of label columns.
            image_count: (n,) training images of every class, or None.

        Returns:
            The objective.

        Raises:
            ValueError: if averages over images are wanted.

        Source: Lin et al. 2017 (arXiv 1708.02002), section 4.1.
        """
        node, classifier = cfg.MODEL.LONG_TAIL, cfg.MODEL.CLASSIFIER
        if classifier.AVERAGE != "regions":
            raise ValueError(
                f"MODEL.CLASSIFIER.AVERAGE {classifier.AVERAGE}: the loss focal is divided as "
                "MODEL.LONG_TAIL.FOCAL_NORMALIZER says; leave AVERAGE regions"
            )
        return cls(
            num_classes,
            image_count,
            classifier.IGNORE_ZERO_CATS,
            alpha=node.FOCAL_ALPHA,
            gamma=node.FOCAL_GAMMA,
            normalizer=node.FOCAL_NORMALIZER,
        )

    def losses(self, logits: Tensor, targets: RegionTargets, columns: Tensor | None) -> dict[str, Tensor]:
        """Compute ``loss_cls``.

        Args:
            logits: (R, k) float logits.
            targets: the regions.
            columns: (k,) int64 label columns of the logits, or None for all n.

        Returns:
            loss_cls, a scalar tensor.

        Source: Lin et al. 2017 (arXiv 1708.02002), section 4.1; with the scope ``own`` Yao et al. 2020 (arXiv
        2001.04621) in the code of its authors (https://github.com/yqyao/cross_focal_loss).
        """
        positions = column_targets(targets.classes, columns, self.num_classes)
        total = sigmoid_focal_loss(
            logits,
            positive_entries(at_least_float32(logits), positions, targets.positives_of(columns)),
            alpha=self.alpha,
            gamma=self.gamma,
            scope=targets.scope_of(columns),
            weights=targets.region_weights(),
        )
        if self.normalizer == "regions":
            return {"loss_cls": total / max(len(logits), 1)}
        objects = mean_over_processes((targets.classes < self.num_classes).sum())
        return {"loss_cls": total / objects.clamp(min=1)}
