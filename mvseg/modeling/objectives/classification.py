"""The objectives for annotated boxes: sigmoid over the scope, federated sigmoid, softmax with a background class."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mvseg.modeling.objectives.federated import federated_columns
from mvseg.modeling.objectives.region import (
    column_targets,
    equal_image_weights,
    sigmoid_classification_loss,
    softmax_classification_loss,
)
from mvseg.modeling.objectives.registry import OBJECTIVES, RegionObjective
from mvseg.modeling.objectives.targets import RegionTargets

AVERAGES = ("regions", "images")
UNSEEN_LOGITS = ("compete", "masked", "zero")


def _with_images(image_count: Tensor | None, key: str = "IGNORE_ZERO_CATS") -> Tensor:
    """Which classes have training images, (n,) bool."""
    if image_count is None:
        raise ValueError(f"MODEL.CLASSIFIER.{key} needs the image counts of the vocabulary; it has none")
    return image_count > 0


@OBJECTIVES.register("sigmoid")
class SigmoidObjective(RegionObjective):
    """One independent binary classification per label column in scope."""

    multi_label = True
    kept: Tensor | None

    def __init__(
        self,
        num_classes: int,
        image_count: Tensor | None = None,
        ignore_zero: bool = False,
        *,
        average: str = "regions",
    ) -> None:
        """Build the objective.

        Args:
            num_classes: number n of label columns.
            image_count: (n,) training images of every class; needed to ignore classes without any.
            ignore_zero: leave classes without training images out of the loss.
            average: "regions": over all regions; "images": over those of an image, then over images.

        Raises:
            ValueError: if image counts are needed but not known, or there is no such average.

        Source: Zhou et al. 2022 (arXiv 2201.02605), section 5.1.
        """
        super().__init__(num_classes)
        if average not in AVERAGES:
            raise ValueError(f"MODEL.CLASSIFIER.AVERAGE {average!r}: choose {' or '.join(AVERAGES)}")
        self.average = average
        self.register_buffer("kept", _with_images(image_count) if ignore_zero else None, False)

    @classmethod
    def from_config(cls, cfg: Any, num_classes: int, image_count: Tensor | None) -> SigmoidObjective:
        """Read ``MODEL.CLASSIFIER``.

        Args:
            cfg: the config tree.
            num_classes: number n of label columns.
            image_count: (n,) training images of every class, or None.

        Returns:
            The objective.

        Source: Zhou et al. 2022 (arXiv 2201.02605), section 5.1.
        """
        node = cfg.MODEL.CLASSIFIER
        return cls(num_classes, image_count, node.IGNORE_ZERO_CATS, average=node.AVERAGE)

    def columns(self, targets: RegionTargets) -> Tensor | None:
        """Take the columns that some image's annotation speaks about.

        Args:
            targets: the regions.

        Returns:
            (k,) int64 label columns, or None for all n.

        Source: our own derivation.
        """
        columns = super().columns(targets)
        if self.kept is None:
            return columns
        return self.kept.nonzero()[:, 0] if columns is None else columns[self.kept[columns]]

    def losses(self, logits: Tensor, targets: RegionTargets, columns: Tensor | None) -> dict[str, Tensor]:
        """Compute ``loss_cls``.

        Args:
            logits: (R, k) float logits.
            targets: the regions.
            columns: (k,) int64 label columns of the logits, or None for all n.

        Returns:
            loss_cls, a scalar tensor.

        Source: Zhou et al. 2022 (arXiv 2201.02605), section 5.1.
        """
        loss = sigmoid_classification_loss(
            logits,
            column_targets(targets.classes, columns, self.num_classes),
            scope=targets.scope_of(columns),
            weights=self._weights(targets),
            positives=targets.positives_of(columns),
        )
        return {"loss_cls": loss}

    def _weights(self, targets: RegionTargets) -> Tensor | None:
        weights = targets.region_weights()
        if self.average == "regions" or not len(targets.images):
            return weights
        equal = equal_image_weights(targets.images, int(targets.images.max()) + 1)
        return equal if weights is None else equal * weights


@OBJECTIVES.register("federated")
class FederatedObjective(SigmoidObjective):
    """Sigmoid over the classes at hand and a few drawn ones, for annotation that is complete only for some classes."""

    draws_columns = True
    image_count: Tensor

    def __init__(
        self,
        num_classes: int,
        image_count: Tensor | None,
        ignore_zero: bool = False,
        num_columns: int = 50,
        power: float = 0.5,
        average: str = "regions",
    ) -> None:
        """Build the objective.

        Args:
            num_classes: number n of label columns.
            image_count: (n,) training images of every class.
            ignore_zero: leave classes without training images out of the loss.
            num_columns: size of the set of classes.
            power: exponent of the image count in the draw.
            average: "regions": over all regions; "images": over those of an image, then over images.

        Raises:
            ValueError: if the image counts are not known.

        Source: Zhou et al. 2021 (arXiv 2103.07461), section 5.1.
        """
        if image_count is None:
            raise ValueError(
                "MODEL.CLASSIFIER.LOSS federated draws classes by image count, but the vocabulary of DATASETS.TRAIN "
                "has none: give the vocabulary image_count, or set MODEL.CLASSIFIER.LOSS sigmoid"
            )
        super().__init__(num_classes, image_count, ignore_zero, average=average)
        self.register_buffer("image_count", image_count, persistent=False)
        self.num_columns, self.power = num_columns, power

    @classmethod
    def from_config(cls, cfg: Any, num_classes: int, image_count: Tensor | None) -> FederatedObjective:
        """Read ``MODEL.CLASSIFIER``.

        Args:
            cfg: the config tree.
            num_classes: number n of label columns.
            image_count: (n,) training images of every class.

        Returns:
            The objective.

        Raises:
            ValueError: if a draw for every image is asked for, which only the scope "federated" makes.

        Source: Zhou et al. 2021 (arXiv 2103.07461), section 5.1.
        """
        node = cfg.MODEL.CLASSIFIER
        if node.FED_LOSS_DRAW != "batch":
            raise ValueError(
                f"MODEL.CLASSIFIER.FED_LOSS_DRAW {node.FED_LOSS_DRAW}: the loss federated draws once for the batch; "
                "set MODEL.ANNOTATION_SCOPE federated and MODEL.CLASSIFIER.LOSS sigmoid"
            )
        size, power = node.FED_LOSS_NUM_CLASSES, node.FED_LOSS_FREQ_POWER
        return cls(num_classes, image_count, node.IGNORE_ZERO_CATS, size, power, node.AVERAGE)

    def columns(self, targets: RegionTargets) -> Tensor | None:
        """Draw the set of classes; override to fix the draw.

        Args:
            targets: the regions.

        Returns:
            (k,) int64 label columns, ascending.

        Source: Zhou et al. 2021 (arXiv 2103.07461), section 5.1.
        """
        scope = targets.relevant_columns()
        columns = federated_columns(
            targets.classes, self.image_count, num_columns=self.num_columns, power=self.power, scope=scope
        )
        further = targets.positive_columns()
        if further is not None:
            columns = torch.cat([columns, further.nonzero()[:, 0]]).unique()
        return columns if self.kept is None else columns[self.kept[columns]]


@OBJECTIVES.register("softmax")
class SoftmaxObjective(RegionObjective):
    """One class or background per region, among the columns in scope."""

    needs_background = True
    grouped = True
    class_weights: Tensor | None
    seen: Tensor | None

    def __init__(
        self,
        num_classes: int,
        class_weights: Tensor | None = None,
        *,
        seen: Tensor | None = None,
        unseen_logits: str = "masked",
    ) -> None:
        """Build the objective.

        Args:
            num_classes: number n of label columns.
            class_weights: (n + 1,) float weight of a region by its class, background last; None means 1.
            seen: (n,) bool, classes that training can show; None: all compete.
            unseen_logits: what the others do: "masked": they do not compete; "zero": they do with a logit of 0.

        Source: Ren et al. 2015, Faster R-CNN (arXiv 1506.01497), section 3.1.2; unseen classes: Gu et al. 2022, ViLD
        (arXiv 2104.13921), whose released code multiplies their logits by 0.
        """
        super().__init__(num_classes)
        self.register_buffer("class_weights", class_weights, persistent=False)
        self.register_buffer("seen", seen, persistent=False)
        self.unseen_logits = unseen_logits

    @classmethod
    def from_config(cls, cfg: Any, num_classes: int, image_count: Tensor | None) -> SoftmaxObjective:
        """Read ``MODEL.CLASSIFIER``.

        Args:
            cfg: the config tree.
            num_classes: number n of label columns.
            image_count: (n,) training images of every class, or None.

        Returns:
            The objective.

        Raises:
            ValueError: if classes without images shall be ignored but the counts are not known, or there is no such
                treatment of unseen classes.

        Source: our own derivation.
        """
        node = cfg.MODEL.CLASSIFIER
        if node.UNSEEN_LOGITS not in UNSEEN_LOGITS:
            raise ValueError(
                f"MODEL.CLASSIFIER.UNSEEN_LOGITS {node.UNSEEN_LOGITS!r}: choose {', '.join(UNSEEN_LOGITS)}"
            )
        seen = None if node.UNSEEN_LOGITS == "compete" else _with_images(image_count, "UNSEEN_LOGITS")
        weights = None
        if node.IGNORE_ZERO_CATS:
            kept = _with_images(image_count)
            weights = torch.cat([kept, kept.new_ones(1)]).float()
        return cls(num_classes, weights, seen=seen, unseen_logits=node.UNSEEN_LOGITS)

    def losses(self, logits: Tensor, targets: RegionTargets, columns: Tensor | None) -> dict[str, Tensor]:
        """Compute ``loss_cls``.

        Args:
            logits: (R, k + 1) float logits, background last.
            targets: the regions.
            columns: (k,) int64 label columns of the logits, or None for all n.

        Returns:
            loss_cls, a scalar tensor.

        Source: Ren et al. 2015 (arXiv 1506.01497), section 3.1.2.
        """
        class_weights = self.class_weights
        if class_weights is not None and columns is not None:
            class_weights = torch.cat([class_weights[columns], class_weights[-1:]])
        scope = targets.scope_of(columns)
        if self.seen is not None:
            seen = self.seen if columns is None else self.seen[columns]
            if self.unseen_logits == "zero":
                logits = logits * F.pad(seen, (0, 1), value=True)
            else:
                scope = seen.expand(len(logits), -1) if scope is None else scope & seen
        loss = softmax_classification_loss(
            logits,
            column_targets(targets.classes, columns, self.num_classes),
            scope=scope,
            class_weights=class_weights,
            weights=targets.region_weights(),
            groups=targets.groups_of(columns),
        )
        return {"loss_cls": loss}

    def probabilities(self, logits: Tensor) -> Tensor:
        """Turn test logits into class probabilities.

        Args:
            logits: (R, n + 1) float logits, background last.

        Returns:
            (R, n) float probabilities, without the background.

        Source: Ren et al. 2015 (arXiv 1506.01497), section 3.1.2.
        """
        return logits.float().softmax(-1)[:, :-1]
