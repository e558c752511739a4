"""What is known about the regions of a batch when they are classified."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mvseg.modeling.context import BatchContext
from mvseg.vocabulary import ClassRules


@dataclass(frozen=True)
class RegionTargets:
    """What is known about the R regions of some images when they are classified.

    Attributes:
        classes: (R,) int64 label column; n means background.
        images: (R,) int64 index of every region's image into what is known of the I images.
        scope: (I, n) bool, label columns that an image's annotation speaks about; None means all.
        weights: (I,) float loss weight of every image; None means 1.
        rules: what a region's class says beyond its own column, tables (T, n); None means nothing.
        first_rule: (I,) int64 rule of class 0 in every image, -1 where it has none; None without rules.
        groups: (I, n + 1) int32 group of every column and of the background; None: no two columns are one answer.
        factors: (R,) float further loss weight of every region; None means 1.
    """

    classes: Tensor
    images: Tensor
    scope: Tensor | None = None
    weights: Tensor | None = None
    rules: ClassRules | None = None
    first_rule: Tensor | None = None
    groups: Tensor | None = None
    factors: Tensor | None = None

    @classmethod
    def of(cls, classes: Tensor, images: Tensor, context: BatchContext, factors: Tensor | None = None) -> RegionTargets:
        """Join the classes of regions with the facts of their images.

        Args:
            classes: (R,) int64 label column; n means background.
            images: (R,) int64 index of every region's image.
            context: the facts of the images.
            factors: (R,) float loss weight of every region beside that of its image; None means 1.

        Returns:
            The targets.

        Source: our own derivation.
        """
        facts = (context.scope, context.weights, context.rules, context.first_rule, context.groups)
        return cls(classes, images, *facts, factors=factors)

    def scope_of(self, columns: Tensor | None) -> Tensor | None:
        """Say for every region which computed columns count for it.

        These are the columns in the scope of its image and what the rules of its class add, without what they ignore; a
        region's own class and the further positive columns always count.

        Args:
            columns: (k,) int64 label columns; None means all n.

        Returns:
            (R, k) bool, or None where everything counts.

        Source: our own derivation.
        """
        if self.scope is None and (self.rules is None or self.rules.ignored is None):
            return None
        if self.scope is not None:
            mask = (self.scope if columns is None else self.scope[:, columns])[self.images]
        else:
            assert self.rules is not None and self.rules.ignored is not None
            n = self.rules.ignored.shape[1]
            mask = self.classes.new_ones((len(self.classes), n if columns is None else len(columns)), dtype=torch.bool)
        if self.rules is not None:
            negative, ignored = self._rule(self.rules.negative, columns), self._rule(self.rules.ignored, columns)
            mask = mask if negative is None else mask | negative
            mask = mask if ignored is None else mask & ~ignored
        positive = self.positives_of(columns)
        mask = mask if positive is None else mask | positive
        if columns is None:
            columns = torch.arange(mask.shape[1], device=mask.device)
        return mask | (columns == self.classes[:, None])

    def positives_of(self, columns: Tensor | None) -> Tensor | None:
        """Say which computed columns are positive for every region beyond its own class.

        Args:
            columns: (k,) int64 label columns; None means all n.

        Returns:
            (R, k) bool, or None where there are none.

        Source: our own derivation.
        """
        return None if self.rules is None else self._rule(self.rules.positive, columns)

    def groups_of(self, columns: Tensor | None) -> Tensor | None:
        """Give for every region the group of the computed columns and of the background.

        Args:
            columns: (k,) int64 label columns; None means all n.

        Returns:
            (R, k + 1) int32, background last; None: no two columns are one answer.

        Source: our own derivation.
        """
        if self.groups is None:
            return None
        groups = self.groups
        if columns is not None:
            groups = torch.cat([groups[:, columns], groups[:, -1:]], 1)
        return groups[self.images]

    def relevant_columns(self) -> Tensor | None:
        """Say which columns count for some region.

        Returns:
            (n,) bool, or None for all.

        Source: our own derivation.
        """
        if self.scope is None:
            return None
        # A batch may hold images that have no regions here, such as those with tags, whose columns are many.
        asked = torch.zeros(len(self.scope), dtype=torch.bool, device=self.scope.device)
        asked[self.images] = True
        wanted = F.pad((self.scope & asked[:, None]).any(0), (0, 1))
        wanted[self.classes] = True  # the last entry is the background
        wanted = wanted[:-1]
        if self.rules is not None:
            present = self._rule_rows(self.rules).unique()
            for table in (self.rules.positive, self.rules.negative):
                wanted = wanted if table is None else wanted | table[present].any(0)
        return wanted

    def positive_columns(self) -> Tensor | None:
        """Say which columns are positive for some region beyond its own class.

        Returns:
            (n,) bool, or None where there are none.

        Source: our own derivation.
        """
        if self.rules is None or self.rules.positive is None:
            return None
        return self.rules.positive[self._rule_rows(self.rules).unique()].any(0)

    def _rule_rows(self, rules: ClassRules) -> Tensor:
        """Row (R,) of every region in the tables of the rules."""
        assert self.first_rule is not None
        table = next(t for t in (rules.positive, rules.negative, rules.ignored) if t is not None)
        last, n = len(table) - 1, table.shape[1]
        first = self.first_rule[self.images]
        return torch.where((first >= 0) & (self.classes < n), first + self.classes, last)

    def _rule(self, table: Tensor | None, columns: Tensor | None) -> Tensor | None:
        """Entries (R, k) of a table."""
        if table is None or self.rules is None:
            return None
        rows = self._rule_rows(self.rules)
        return table[rows] if columns is None else table[rows[:, None], columns]

    def region_weights(self) -> Tensor | None:
        """Give every region its weight: that of its image, times its own.

        Returns:
            (R,) float, or None where all are 1.

        Source: our own derivation.
        """
        if self.weights is None:
            return self.factors
        weights = self.weights[self.images]
        return weights if self.factors is None else weights * self.factors
