"""What an annotation scope is, and the registry of the functions that make one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..label_space import LabelSpace

NEGATIVE, NOT_EXHAUSTIVE, VERIFIED = "neg_category_ids", "not_exhaustive_category_ids", "verified_category_ids"
RECORD_LISTS = (NEGATIVE, NOT_EXHAUSTIVE, VERIFIED)
KEY = "MODEL.ANNOTATION_SCOPE"


@dataclass(frozen=True)
class ImageFacts:
    """What a scope may know about one image.

    Args:
        dataset: name of its dataset.
        classes: label columns of its annotated objects, (N,) int64.
        lists: record key (``neg_category_ids``, ``not_exhaustive_category_ids``, ``verified_category_ids``) to label
            columns (m,) int64; a key that the record lacks is absent.
        where: how errors call the image.
    """

    dataset: str
    classes: Tensor
    lists: Mapping[str, Tensor] = field(default_factory=dict)
    where: str = "an image"


@dataclass(frozen=True)
class ScopeSettings:
    """Numbers that scopes need.

    Args:
        safe_threshold: cosine from which columns of other datasets are no negatives ("safe", "group").
        federated_columns: classes of a dataset that take part in one batch ("federated").
        federated_power: exponent of the image count in their draw.
        federated_draw: "batch": one draw for all images of a dataset in a batch; "image": one for every image.
    """

    safe_threshold: float = 0.95
    federated_columns: int = 50
    federated_power: float = 0.5
    federated_draw: str = "batch"


MaskFunction = Callable[[Sequence[ImageFacts]], Tensor]


@dataclass(frozen=True)
class Scope:
    """What a scope function returns.

    Args:
        mask: for some images (images, n) bool on the CPU; True where what is not annotated is absent.
        positive: (n, n) bool, columns that are positive for regions of the row's class, beyond the class itself.
        negative: (n, n) bool, columns outside the mask that are negative for them.
        ignored: (n, n) bool, columns that do not count for them.
        groups: dataset to the group (n + 1,) int32 of every column and, last, of the background; columns of one group
            are one answer. None: every column is a group of its own.
    """

    mask: MaskFunction
    positive: Tensor | None = None
    negative: Tensor | None = None
    ignored: Tensor | None = None
    groups: Mapping[str, Tensor] | None = None


ScopeFunction = Callable[[LabelSpace, Sequence[str], ScopeSettings], Scope]
SCOPES: dict[str, ScopeFunction] = {}
APART: set[str] = set()  # scopes whose tables hold for the datasets of one vocabulary


def register_scope(name: str, apart: bool = False) -> Callable[[ScopeFunction], ScopeFunction]:
    """Register a scope; use as a decorator.

    Args:
        name: value of ``MODEL.ANNOTATION_SCOPE`` that picks it, without ``+``.
        apart: the function is called for every vocabulary, with its datasets, because its tables hold for these alone.

    Returns:
        The decorator, for a function of the label space, the datasets that use the scope, and the settings.

    Raises:
        ValueError: if the name is taken or holds a ``+``.
    """

    def add(function: ScopeFunction) -> ScopeFunction:
        known = SCOPES.get(name)
        if "+" in name or (known is not None and known.__qualname__ != function.__qualname__):
            raise ValueError(f"annotation scope {name!r} is taken, or its name holds a '+'")
        SCOPES[name] = function
        if apart:
            APART.add(name)
        return function

    return add


def scope_names(text: str, where: str = KEY) -> tuple[str, ...]:
    """Take the text of a config apart.

    Args:
        text: name of a scope, or several joined by ``+``.
        where: what to call the text in the error.

    Returns:
        The names.

    Raises:
        ValueError: if there is no such scope; the message lists those that exist.
    """
    names = tuple(part.strip() for part in str(text).split("+"))
    for name in names:
        if name not in SCOPES:
            raise ValueError(f"{where} {text!r}: there is no annotation scope {name!r}; there are {', '.join(SCOPES)}")
    return names


def build_scope(
    text: str, space: LabelSpace, datasets: Sequence[str] | None = None, settings: ScopeSettings | None = None
) -> Scope:
    """Build a scope, or several that hold together: masks are intersected, tables united.

    Args:
        text: name of a scope, or several joined by ``+`` such as "verified+hierarchy".
        space: the label space.
        datasets: the datasets that use it; None: all of the space.
        settings: numbers that scopes need.

    Returns:
        The scope.
    """
    users = space.datasets if datasets is None else tuple(datasets)
    parts = [SCOPES[name](space, users, settings or ScopeSettings()) for name in scope_names(text)]
    if len(parts) == 1:
        return parts[0]

    masks = [part.mask for part in parts]  # the tables of the parts shall not live on with the mask

    def mask(images: Sequence[ImageFacts]) -> Tensor:
        return torch.stack([of(images) for of in masks]).all(0)

    groups = [part.groups for part in parts if part.groups is not None]
    return Scope(
        mask,
        positive=_united([part.positive for part in parts]),
        negative=_united([part.negative for part in parts]),
        ignored=_united([part.ignored for part in parts]),
        groups=groups[0] if groups else None,
    )


def _united(tables: Sequence[Tensor | None]) -> Tensor | None:
    known = [table for table in tables if table is not None]
    return functools.reduce(torch.logical_or, known) if known else None
