"""The scopes of a mixture: one for each dataset, their tables in one, and the masks of a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..label_space import LabelSpace
from .registry import APART, ImageFacts, Scope, ScopeSettings, build_scope, scope_names


@dataclass(frozen=True)
class ClassRules:
    """What the class of a region says beyond its own column, as tables of T rules; the last rule says nothing.

    The rule of a region of class c is row ``first + c``, where ``first`` belongs to the region's image; the last row
    where the region is background or ``first`` is negative.

    Args:
        positive: (T, n) bool, further positive columns, or None.
        negative: (T, n) bool, further negative columns, or None.
        ignored: (T, n) bool, columns that do not count, or None.
    """

    positive: Tensor | None = None
    negative: Tensor | None = None
    ignored: Tensor | None = None


@dataclass(frozen=True)
class BatchScope:
    """The scope of the I images of a batch.

    Args:
        mask: (I, n) bool, the columns that the annotation speaks about; None means all.
        first_rule: (I,) int64, rule of class 0 for the image's regions, -1 for none; None: no image has rules.
        groups: (I, n + 1) int32, group of every column and of the background; None: no image has groups.
    """

    mask: Tensor | None = None
    first_rule: Tensor | None = None
    groups: Tensor | None = None

    def to(self, device: torch.device) -> BatchScope:
        """Copy to a device.

        Args:
            device: the device.

        Returns:
            The scope there, mask (I, n).
        """
        return BatchScope(*(None if t is None else t.to(device) for t in (self.mask, self.first_rule, self.groups)))


class AnnotationScopes:
    """The scope of every dataset of a label space.

    Args:
        space: the label space.
        default: scope of the datasets, such as "own" or "verified+hierarchy".
        by_dataset: dataset name to its scope, where it has another.
        settings: numbers that scopes need.
    """

    def __init__(
        self,
        space: LabelSpace,
        default: str = "own",
        by_dataset: Mapping[str, str] | None = None,
        settings: ScopeSettings | None = None,
    ) -> None:
        self.space = space
        self.names = {dataset: (by_dataset or {}).get(dataset) or default for dataset in space.datasets}
        self._keys = {dataset: self._key(dataset, name) for dataset, name in self.names.items()}
        self._scopes: dict[str, Scope] = {}
        for key in dict.fromkeys(self._keys.values()):
            users = [dataset for dataset, chosen in self._keys.items() if chosen == key]
            self._scopes[key] = build_scope(self.names[users[0]], space, users, settings)
        self._first_rule: dict[str, int] = {}
        self.rules = self._stack_rules()
        self.has_groups = any(scope.groups is not None for scope in self._scopes.values())

    def _key(self, dataset: str, name: str) -> str:
        """Datasets of one key share a scope: those of one vocabulary where its tables hold for these alone."""
        if not APART.intersection(scope_names(name)):
            return name
        words = self.space.vocabularies[dataset]
        alike = (d for d, v in self.space.vocabularies.items() if (v.name, v.names) == (words.name, words.names))
        return f"{name} of {next(alike)}"

    def _stack_rules(self) -> ClassRules | None:
        """One table of each kind for all scopes, n rows for each scope that has rules and one row for no rule.

        The scopes give their own tables away: one of 22,000 words has half a gigabyte.
        """
        n, kinds = self.space.n, ("positive", "negative", "ignored")
        ruled = [name for name, s in self._scopes.items() if any(getattr(s, kind) is not None for kind in kinds)]
        if not ruled:
            return None
        self._first_rule = {name: number * n for number, name in enumerate(ruled)}
        tables: dict[str, Tensor] = {}
        for kind in kinds:
            if all(getattr(self._scopes[name], kind) is None for name in ruled):
                continue
            tables[kind] = torch.zeros(len(ruled) * n + 1, n, dtype=torch.bool)
            for name in ruled:
                if getattr(self._scopes[name], kind) is not None:
                    tables[kind][self._first_rule[name] :][:n] = getattr(self._scopes[name], kind)
                    self._scopes[name] = replace(self._scopes[name], **{kind: None})  # type: ignore[arg-type]
        return ClassRules(**tables)

    def of(self, images: Sequence[ImageFacts]) -> BatchScope:
        """Compute the scope of a batch, on the CPU.

        Args:
            images: facts of the I images; annotation of a dataset without a vocabulary, such as one of captions, speaks
                about no column.

        Returns:
            Mask (I, n), rules and groups of the images.
        """
        names = [self._keys.get(image.dataset, "") for image in images]
        mask = torch.zeros(len(images), self.space.n, dtype=torch.bool)
        for name in dict.fromkeys(name for name in names if name):
            rows = [row for row, chosen in enumerate(names) if chosen == name]
            mask[rows] = self._scopes[name].mask([images[row] for row in rows])
        first = torch.tensor([self._first_rule.get(name, -1) for name in names]) if self.rules is not None else None
        groups = None
        if self.has_groups and images:
            groups = torch.stack([self._groups_of(image, name) for image, name in zip(images, names, strict=True)])
        return BatchScope(None if bool(mask.all()) else mask, first, groups)

    def _groups_of(self, image: ImageFacts, name: str) -> Tensor:
        groups = self._scopes[name].groups if name else None
        if groups is None:
            return torch.arange(self.space.n + 1, dtype=torch.int32)
        return groups[image.dataset]
