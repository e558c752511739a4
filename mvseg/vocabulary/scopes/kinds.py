"""The annotation scopes that exist: which columns an annotation speaks about, and what an object's class adds to that.

A scope is one function, registered by name, that is called once with the label space, the datasets that use the scope,
and the numbers that scopes need. It answers two questions:

* ``mask`` (images, n): the columns in which a region that shows no object of theirs is a negative;
* tables (n, n), row = class of an object: further columns that are ``positive`` for its regions, further ``negative``
  columns, and columns that are ``ignored`` for them. Background regions follow the mask alone.

A region's own class is always positive for it, whatever the mask says.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..label_space import LabelSpace
from ..relations import find_aliases
from ..similarity import cosine_blocks, unit_rows
from .registry import (
    KEY,
    NEGATIVE,
    NOT_EXHAUSTIVE,
    VERIFIED,
    ImageFacts,
    MaskFunction,
    Scope,
    ScopeSettings,
    register_scope,
)


def _own_mask(space: LabelSpace) -> MaskFunction:
    """The columns of each image's own dataset, without the classes that it does not annotate exhaustively."""

    def mask(images: Sequence[ImageFacts]) -> Tensor:
        table = torch.zeros(len(images), space.n, dtype=torch.bool)
        for row, image in zip(table, images, strict=True):
            row[space.columns(image.dataset)] = True
        return _without_unsure(table, images)

    return mask


def _without_unsure(mask: Tensor, images: Sequence[ImageFacts]) -> Tensor:
    """Take out, in place, the classes of which an image may show more objects than are annotated."""
    for row, image in zip(mask, images, strict=True):
        if NOT_EXHAUSTIVE in image.lists:
            row[image.lists[NOT_EXHAUSTIVE]] = False
    return mask


@register_scope("all")
def _all(space: LabelSpace, datasets: Sequence[str], settings: ScopeSettings) -> Scope:
    """Every column: what is not annotated is absent, whatever dataset would have annotated it.

    Source: ScaleDet as its abstract and reviews describe it (Chen et al. 2023, arXiv 2306.04849).
    """
    return Scope(lambda images: torch.ones(len(images), space.n, dtype=torch.bool))


@register_scope("own")
def _own(space: LabelSpace, datasets: Sequence[str], settings: ScopeSettings) -> Scope:
    """The columns of the image's own dataset.

    Source: Zhou et al. 2022, UniDet (arXiv 2102.13086); Yao et al. 2020 (arXiv 2001.04621).
    """
    return Scope(_own_mask(space))


@register_scope("safe")
def _safe(space: LabelSpace, datasets: Sequence[str], settings: ScopeSettings) -> Scope:
    """The own columns, and for an object those of other datasets whose words surely mean something else.

    Not safe are words whose cosine to the object's word reaches ``safe_threshold``, equal words and synonyms (their
    embeddings may come from other prompts), and words above or below it. Of background regions other datasets' columns
    say nothing: they may show what only another dataset annotates.

    Source: our own derivation, after the measurements of docs/label_spaces.md.
    """
    units = unit_rows(space.require_embeddings(f"{KEY} safe"))
    member = space.membership().float()
    ancestors = space.ancestors()
    negative = torch.empty(space.n, space.n, dtype=torch.bool)
    for first, cosines in cosine_blocks(units):
        rows = slice(first, first + len(cosines))
        # Words that one vocabulary tells apart are no business of this table: the mask knows what of them was checked.
        apart = member[:, rows].t() @ member == 0
        negative[rows] = (cosines < settings.safe_threshold) & apart & ~(ancestors[rows] | ancestors[:, rows].t())
    for alias in find_aliases(space):
        negative[alias.first, alias.second] = negative[alias.second, alias.first] = False
    return Scope(_own_mask(space), negative=negative)


@register_scope("federated")
def _federated(space: LabelSpace, datasets: Sequence[str], settings: ScopeSettings) -> Scope:
    """The classes that the batch shows of the image's dataset, filled up with drawn ones, frequent ones more often.

    Or those that the image itself shows, filled up by a draw for every image.

    Source: Zhou et al. 2021 (arXiv 2103.07461), section 5.1; here drawn for each dataset on its own. For every image:
    Wang et al. 2023, UniDetector (arXiv 2303.11749), its released code.
    """
    weights = {}
    for dataset in datasets:
        vocabulary = space.vocabularies[dataset]
        if vocabulary.image_count is None:
            raise ValueError(
                f"{KEY} federated draws classes by their image counts, but vocabulary {vocabulary.name!r} of dataset "
                f"{dataset!r} has none: give it image_count, or give the dataset another scope (annotation_scope in "
                "its entry of DATASETS.MIX)"
            )
        counts = torch.zeros(space.n).index_add_(0, space.columns(dataset), vocabulary.image_counts())
        weights[dataset] = counts**settings.federated_power * (counts > 0)
    if settings.federated_draw not in ("batch", "image"):
        raise ValueError(f"MODEL.CLASSIFIER.FED_LOSS_DRAW {settings.federated_draw!r}: choose batch or image")
    own = _own_mask(space)

    def draw(dataset: str, shown: Sequence[Tensor]) -> Tensor:
        chosen = torch.zeros(space.n, dtype=torch.bool)
        chosen[torch.cat([classes.cpu() for classes in shown])] = True
        rest = weights[dataset] * ~chosen
        count = min(settings.federated_columns - int(chosen.sum()), int((rest > 0).sum()))
        if count > 0:
            chosen[torch.multinomial(rest, count)] = True
        return chosen

    def mask(images: Sequence[ImageFacts]) -> Tensor:
        if settings.federated_draw == "image":
            return own(images) & torch.stack([draw(image.dataset, [image.classes]) for image in images])
        names = dict.fromkeys(image.dataset for image in images)
        drawn = {name: draw(name, [image.classes for image in images if image.dataset == name]) for name in names}
        return own(images) & torch.stack([drawn[image.dataset] for image in images])

    return Scope(mask)


@register_scope("verified")
def _verified(space: LabelSpace, datasets: Sequence[str], settings: ScopeSettings) -> Scope:
    """The classes whose presence or absence people have checked in the image.

    These are the annotated classes and the lists ``neg_category_ids`` and ``verified_category_ids``, without
    ``not_exhaustive_category_ids``.

    Source: Gupta et al. 2019, LVIS (arXiv 1908.03195), section 3; Kuznetsova et al. 2020, Open Images V4 (arXiv
    1811.00982), section 3.
    """

    def mask(images: Sequence[ImageFacts]) -> Tensor:
        table = torch.zeros(len(images), space.n, dtype=torch.bool)
        for row, image in zip(table, images, strict=True):
            if NEGATIVE not in image.lists and VERIFIED not in image.lists:
                raise ValueError(
                    f"{KEY} verified reads the lists {NEGATIVE} and {VERIFIED} of each record, but {image.where} has "
                    "neither: give the dataset another scope (annotation_scope in its entry of DATASETS.MIX), or keep "
                    "the lists in your mapper"
                )
            for checked in (image.classes.cpu(), image.lists.get(NEGATIVE), image.lists.get(VERIFIED)):
                if checked is not None:
                    row[checked] = True
        return _without_unsure(table, images)

    return Scope(mask)


@register_scope("hierarchy")
def _hierarchy(space: LabelSpace, datasets: Sequence[str], settings: ScopeSettings) -> Scope:
    """The own columns; an object is also an example of all broader words, and says nothing of narrower ones.

    Broader words of other datasets become positive too: a cat is an animal in any of them.

    Source: Zhou et al. 2022, UniDet (arXiv 2102.13086), the hierarchy of Open Images in its released code.
    """
    ancestors = space.ancestors()
    if not ancestors.any():
        raise ValueError(
            f"{KEY} hierarchy needs vocabularies with parents, but of {', '.join(space.datasets)} no word is above "
            "another: give a vocabulary the column parents, or choose another scope"
        )
    return Scope(_own_mask(space), positive=ancestors, ignored=ancestors.t().contiguous())


@register_scope("group")
def _group(space: LabelSpace, datasets: Sequence[str], settings: ScopeSettings) -> Scope:
    """All columns compete in one softmax, but those that the image's dataset does not tell apart are one answer.

    A column that the dataset does not have joins the column of its own that means the same or is the nearest above it;
    otherwise the background, where the dataset leaves such objects.

    Source: GroupSoftmax cross entropy (https://github.com/chengzhengxin/groupsoftmax-simpledet), the table made from
    the words.
    """
    ancestors = space.ancestors()
    aliases = find_aliases(space, settings.safe_threshold if space.embeddings is not None else None)
    aliases.sort(key=lambda a: (("name", "synonym", "similar").index(a.reason), -(a.similarity or 0)))
    groups = {}
    for dataset in datasets:
        own = torch.zeros(space.n, dtype=torch.bool)
        own[space.columns(dataset)] = True
        group = torch.full((space.n + 1,), space.n, dtype=torch.int32)
        group[:-1][own] = torch.arange(space.n, dtype=torch.int32)[own]
        above = ancestors[:, own]
        depth = above[own].sum(1).int() + 1  # own words above each own column: the narrowest of several has the most
        below = ~own & above.any(1)
        nearest = torch.where(above[below], depth, 0).argmax(1)
        group[:-1][below] = own.nonzero()[nearest, 0].int()
        for alias in reversed(aliases):  # the best reason is written last
            for outside, inside in ((alias.first, alias.second), (alias.second, alias.first)):
                if own[inside] and not own[outside]:
                    group[outside] = inside
        groups[dataset] = group

    def mask(images: Sequence[ImageFacts]) -> Tensor:
        return _without_unsure(torch.ones(len(images), space.n, dtype=torch.bool), images)

    return Scope(mask, groups=groups)


@register_scope("own_hierarchy", apart=True)
def _own_hierarchy(space: LabelSpace, datasets: Sequence[str], settings: ScopeSettings) -> Scope:
    """The own columns; of the own words, broader ones are positive too for an object, and narrower ones say nothing.

    Unlike "hierarchy" other datasets' columns learn nothing, and only the own vocabulary says what is broader.

    Source: Zhou et al. 2022, UniDet (arXiv 2102.13086), the hierarchy of Open Images in its released code: targets
    y + y A and weights 1 - D[y], with A and D (n, n) the ancestors and descendants of the dataset's classes.
    """
    vocabulary, columns = space.vocabularies[datasets[0]], space.columns(datasets[0])
    if any(space.vocabularies[d].names != vocabulary.names for d in datasets):
        raise ValueError(
            f"{KEY} own_hierarchy is built for the datasets of one vocabulary, not for {', '.join(datasets)}"
        )
    own = LabelSpace.concatenate({datasets[0]: vocabulary}).ancestors()
    if not own.any():
        raise ValueError(
            f"{KEY} own_hierarchy needs a vocabulary with parents, but in {vocabulary.name!r} of dataset "
            f"{datasets[0]!r} no word is above another: give it the column parents, or choose the scope own"
        )
    ancestors = torch.zeros(space.n, space.n, dtype=torch.bool)
    below, above = own.nonzero().t()
    ancestors[columns[below], columns[above]] = True
    ancestors.fill_diagonal_(False)  # two words of the vocabulary may share a column
    ancestors &= ~ancestors.t()
    return Scope(_own_mask(space), positive=ancestors, ignored=ancestors.t().contiguous())
