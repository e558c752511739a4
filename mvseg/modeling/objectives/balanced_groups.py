"""Balanced group softmax: classes compete only with classes of about their own frequency.

The classes are sorted into groups by their number of training images. Every group is a softmax of its classes and of
"others"; one more softmax tells objects from background.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mvseg.modeling.objectives.region import column_targets
from mvseg.modeling.objectives.registry import OBJECTIVES, RegionObjective
from mvseg.modeling.objectives.seesaw import refuse_ignored
from mvseg.modeling.objectives.targets import RegionTargets
from mvseg.modeling.precision import at_least_float32


def frequency_groups(image_count: Tensor, edges: Sequence[int]) -> Tensor:
    """Sort classes into groups by their frequency.

    Args:
        image_count: (n,) training images of every class.
        edges: ascending counts at which a new group begins.

    Returns:
        (n,) int64 group, 0 is the rarest.

    Source: Li et al. 2020 (CVPR 2020); in the authors' code
    (https://github.com/FishYuLi/BalancedGroupSoftmax) by the number of instances, not of images.
    """
    return torch.bucketize(image_count.long(), torch.tensor(edges, device=image_count.device), right=True)


def sampled_regions(members: Tensor, ratio: float) -> Tensor:
    """Draw the regions that a group learns from: its own, and a number of others in proportion to them.

    Args:
        members: (R,) bool, regions that show a class of the group.
        ratio: others for each member; where there are fewer, all of them.

    Returns:
        (R,) bool; none without members.

    Source: Li et al. 2020 (CVPR 2020).
    """
    draw = torch.rand(len(members), device=members.device).masked_fill(members, 2.0)
    place = torch.empty_like(draw, dtype=torch.long)
    place[draw.argsort()] = torch.arange(len(members), device=members.device)
    return members | (place < (ratio * members.sum()).long())


@OBJECTIVES.register("balanced_group_softmax")
class BalancedGroupSoftmaxObjective(RegionObjective):
    """A softmax for every group of classes of similar frequency, and one that tells objects from background.

    Behind the columns of the labels are those of background and object, then the "others" of every group.
    """

    needs_background = True
    counts_images = True
    one_background = True
    groups: Tensor
    test_groups: Tensor | None

    def __init__(
        self,
        num_classes: int,
        image_count: Tensor | None,
        *,
        edges: Sequence[int] = (10, 100, 1000),
        ratio: float = 8.0,
    ) -> None:
        """Build the objective.

        Args:
            num_classes: number n of label columns.
            image_count: (n,) training images of every class. A checkpoint brings the groups that it was trained with.
            edges: ascending image counts at which a new group begins.
            ratio: regions without a class of the group for each that has one.

        Raises:
            ValueError: if the image counts are not known, or the edges do not ascend.

        Source: Li et al. 2020 (CVPR 2020).
        """
        if image_count is None:
            raise ValueError(
                "MODEL.CLASSIFIER.LOSS balanced_group_softmax groups classes by image count, but the vocabulary of "
                "DATASETS.TRAIN has none: give the vocabulary image_count"
            )
        if list(edges) != sorted(set(edges)) or ratio < 0:
            raise ValueError(
                f"MODEL.LONG_TAIL: BAGS_EDGES {list(edges)} must ascend, BAGS_RATIO {ratio} must not be negative"
            )
        super().__init__(num_classes)
        self.num_groups, self.ratio = len(edges) + 1, ratio
        self.register_buffer("groups", frequency_groups(image_count, edges))
        self.register_buffer("test_groups", None, persistent=False)

    @classmethod
    def from_config(cls, cfg: Any, num_classes: int, image_count: Tensor | None) -> BalancedGroupSoftmaxObjective:
        """Read ``MODEL.LONG_TAIL``.

        Args:
            cfg: the config tree.
            num_classes: number n of label columns.
            image_count: (n,) training images of every class.

        Returns:
            The objective.

        Raises:
            ValueError: if classes without images shall be ignored.

        Source: Li et al. 2020 (CVPR 2020).
        """
        refuse_ignored(cfg, "balanced_group_softmax")
        node = cfg.MODEL.LONG_TAIL
        return cls(num_classes, image_count, edges=node.BAGS_EDGES, ratio=node.BAGS_RATIO)

    @classmethod
    def further_columns(cls, cfg: Any) -> int:
        """Say how many columns of logits the loss needs behind those of the labels.

        Args:
            cfg: the config tree.

        Returns:
            Background, object, and one for each group.

        Source: Li et al. 2020 (CVPR 2020).
        """
        return 2 + len(cfg.MODEL.LONG_TAIL.BAGS_EDGES) + 1

    def set_test_columns(self, columns: Tensor | Sequence[Tensor] | None) -> None:
        """Choose the words of the evaluation mode.

        Args:
            columns: (m,) int64 label columns, or those (k,) of each of m words; None: all n.

        Raises:
            ValueError: if a word has columns of several groups: their logits do not compare.

        Source: our own derivation.
        """
        if columns is None:
            self.test_groups = None
            return
        found = []
        for columns_of_word in columns:
            groups = self.groups[columns_of_word.view(-1).to(self.groups.device)].unique().tolist()
            if len(groups) > 1:
                raise ValueError(
                    "MODEL.CLASSIFIER.LOSS balanced_group_softmax: a word of the test stands for label columns of "
                    "different frequency groups, whose logits do not compare; give it columns of one group"
                )
            found.append(groups[0] if groups else 0)
        self.test_groups = torch.tensor(found, dtype=torch.long, device=self.groups.device)

    def losses(self, logits: Tensor, targets: RegionTargets, columns: Tensor | None) -> dict[str, Tensor]:
        """Compute ``loss_cls``, the sum over the groups and the softmax of objects and background.

        Args:
            logits: (R, k + 2 + G) float logits: k label columns, background, object, the others of each of G groups.
            targets: the regions.
            columns: (k,) int64 label columns of the logits, or None for all n.

        Returns:
            loss_cls, a scalar tensor; every softmax is an average over the regions that it learns from.

        Source: Li et al. 2020 (CVPR 2020).
        """
        logits = at_least_float32(logits)
        groups = self.groups if columns is None else self.groups[columns]
        known, weights, scope = len(groups), targets.region_weights(), targets.scope_of(columns)
        positions = column_targets(targets.classes, columns, self.num_classes)
        shows = (targets.classes < self.num_classes).long()
        total = _mean(F.cross_entropy(logits[:, known : known + 2], shows, reduction="none"), None, weights)
        group_of_region = F.pad(self.groups, (0, 1), value=-1)[targets.classes]
        for group in range(self.num_groups):
            of_group = (groups == group).nonzero()[:, 0]
            classes = logits[:, of_group]
            if scope is not None:
                classes = classes.masked_fill(~scope[:, of_group], -torch.inf)
            place = torch.full((known + 1,), len(of_group), device=logits.device)
            place[of_group] = torch.arange(len(of_group), device=logits.device)
            answers = torch.cat([classes, logits[:, known + 2 + group, None]], 1)
            losses = F.cross_entropy(answers, place[positions], reduction="none")
            total = total + _mean(losses, sampled_regions(group_of_region == group, self.ratio), weights)
        return {"loss_cls": total}

    def probabilities(self, logits: Tensor) -> Tensor:
        """Turn test logits into class probabilities.

        Args:
            logits: (R, m + 2 + G) float logits of the words of the test, else as for ``losses``.

        Returns:
            (R, m) float: the probability of the class in its group times that of an object.

        Source: Li et al. 2020 (CVPR 2020), as in the authors' code.
        """
        logits = logits.float()
        groups = self.groups if self.training or self.test_groups is None else self.test_groups
        found = torch.zeros_like(logits[:, : len(groups)])
        for group in range(self.num_groups):
            of_group = (groups == group).nonzero()[:, 0]
            answers = torch.cat([logits[:, of_group], logits[:, len(groups) + 2 + group, None]], 1)
            found[:, of_group] = answers.softmax(1)[:, :-1]
        return found * logits[:, len(groups) : len(groups) + 2].softmax(1)[:, 1:]


def _mean(losses: Tensor, chosen: Tensor | None, weights: Tensor | None) -> Tensor:
    """Average of the chosen regions, 0 where there are none."""
    count = len(losses) if chosen is None else chosen.sum()
    losses = losses if chosen is None else losses * chosen
    losses = losses if weights is None else losses * weights
    return losses.sum() / (max(count, 1) if isinstance(count, int) else count.clamp(min=1))
