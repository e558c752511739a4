"""Which sets of words of different vocabularies could be one word, and what it would cost."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress

import numpy as np
import numpy.typing as npt

from .evidence import Bools, Evidence, Floats, ImageRule, first_columns
from .precision import MergedPrecision, cross_precision, own_precision


@dataclass(frozen=True)
class LearnSettings:
    """Numbers of the search; the defaults are the published ones.

    Args:
        tau: a column of another vocabulary may be worse than the class's own by less than this AP.
        min_own: words whose own AP is not above it stay alone.
        max_pair_cost: largest cost of a pair.
        max_set_cost: largest cost of a set of three or more words.
        best: this many of the cheapest are kept for every word (pairs) or every smaller set (larger sets).
        penalty: lambda, the cost in AP of one more word in the label space.
        iou: smallest overlap of a right detection.
        nms: overlap for the suppression in the union of several columns.
        images: in which images the detections of a class count.
        time_limit: seconds for the integer program.

    Raises:
        ValueError: if a number is out of its range.

    Source: Zhou et al. 2022, Simple multi-dataset detection (arXiv 2102.13086), and the notebook
        UniDet_learn_labelspace_mAP of github.com/xingyizhou/UniDet (commit 94cd0e8).
    """

    tau: float = 0.2
    min_own: float = 0.0
    max_pair_cost: float = 0.05
    max_set_cost: float = 0.2
    best: int = 1000
    penalty: float = 0.5
    iou: float = 0.5
    nms: float = 0.5
    images: ImageRule = "present"
    time_limit: float = 600.0

    def __post_init__(self) -> None:
        for name in ("tau", "iou", "nms"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must be above 0 and at most 1, not {getattr(self, name)}")
        for name in ("penalty", "time_limit", "best"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")
        if self.images not in ("present", "all"):
            raise ValueError(f"images must be 'present' or 'all', not {self.images!r}")


@dataclass(frozen=True)
class Candidate:
    """A set of words of different vocabularies that could be one.

    Args:
        members: their label columns.
        own: AP of each with its own column.
        merged: AP of each with the union of all columns.
    """

    members: tuple[int, ...]
    own: tuple[float, ...]
    merged: tuple[float, ...]

    @property
    def cost(self) -> float:
        """What the words lose together.

        Returns:
            The sum of the AP of each with its own column, less the AP with the union; negative: they gain.
        """
        return sum(self.own) - sum(self.merged)


@dataclass(frozen=True)
class Precisions:
    """The average precision of all columns on all vocabularies.

    Args:
        cross: for every vocabulary the AP of all columns against its classes, shape ``(N, n)``, float.
        own: AP of every column against its own class, shape ``(N,)``, float; nan without an object.
    """

    cross: tuple[Floats, ...]
    own: Floats


def measure(evidence: Sequence[Evidence], settings: LearnSettings) -> Precisions:
    """Compute the average precision of every column against every class of the other vocabularies, and its own.

    Args:
        evidence: the vocabularies with what was found in their test sets.
        settings: the settings.

    Returns:
        The average precisions.
    """
    starts = first_columns(evidence)
    cross = []
    for number, one in enumerate(evidence):
        start, end = starts[number], starts[number + 1]
        wanted = np.ones((starts[-1], len(one.words)), dtype=bool)
        wanted[start:end] = np.eye(len(one.words), dtype=bool)
        cross.append(cross_precision(one, wanted, settings.iou, settings.images))
    own = [own_precision(matrix, start) for matrix, start in zip(cross, starts)]
    return Precisions(tuple(cross), np.concatenate(own))


class MergeCosts:
    """Costs of sets of words, each computed once.

    Args:
        evidence: the vocabularies.
        precisions: their average precisions.
        settings: the settings.
    """

    def __init__(self, evidence: Sequence[Evidence], precisions: Precisions, settings: LearnSettings) -> None:
        self._starts = first_columns(evidence)
        self._own = precisions.own
        self._merged = [
            MergedPrecision(one, self._starts[-1], settings.iou, settings.nms, settings.images) for one in evidence
        ]
        # Sums and ties must not depend on the order in which the vocabularies are given.
        names = sorted(range(len(evidence)), key=lambda number: evidence[number].name)
        self._rank = {c: (names.index(n), c) for n in range(len(evidence)) for c in range(*self._starts[n : n + 2])}
        self.known: dict[tuple[int, ...], Candidate] = {}

    def ordered(self, members: Sequence[int]) -> tuple[int, ...]:
        """Bring words into the order of the names of their vocabularies.

        Args:
            members: label columns.

        Returns:
            The same columns.
        """
        return tuple(sorted(members, key=self._rank.__getitem__))

    def rank(self, members: Sequence[int]) -> tuple[tuple[int, int], ...]:
        """Give a key that sorts sets of words, whatever the order of the vocabularies.

        Args:
            members: label columns.

        Returns:
            The key.
        """
        return tuple(self._rank[column] for column in self.ordered(members))

    def owner(self, column: int) -> int:
        """Say of which vocabulary a column is.

        Args:
            column: label column.

        Returns:
            Number of the vocabulary.
        """
        return int(np.searchsorted(self._starts, column, "right")) - 1

    def __call__(self, members: Sequence[int]) -> Candidate:
        """Compute what words would lose as one.

        Args:
            members: label columns of different vocabularies, each with objects in its test set.

        Returns:
            The candidate with its AP.
        """
        key = self.ordered(members)
        if key not in self.known:
            merged = []
            for column in key:
                owner = self.owner(column)
                merged.append(self._merged[owner](key, column - self._starts[owner]))
            self.known[key] = Candidate(key, tuple(float(self._own[c]) for c in key), tuple(merged))
        return self.known[key]


def candidate_pairs(
    evidence: Sequence[Evidence], precisions: Precisions, tau: float, min_own: float = 0.0
) -> list[tuple[int, int]]:
    """Find the pairs of words of which each column finds the objects of the other nearly as well as its own.

    Args:
        evidence: the vocabularies.
        precisions: their average precisions.
        tau: the AP by which the other column must be less than worse.
        min_own: words whose own AP is not above it are in no pair.

    Returns:
        Pairs of label columns of different vocabularies.
    """
    starts, own = first_columns(evidence), precisions.own
    least = np.where(own > min_own, np.maximum(own - tau, 0), np.nan)  # nothing is above nan
    found = []
    for a, first in enumerate(precisions.cross):
        for b in range(a + 1, len(evidence)):
            mine, other = slice(*starts[a : a + 2]), slice(*starts[b : b + 2])
            passes = (first[other] > least[mine]).T & (precisions.cross[b][mine] > least[other])
            found += [(starts[a] + i, starts[b] + j) for i, j in np.argwhere(passes).tolist()]
    return found


def keep_pairs(
    candidates: Sequence[Candidate], costs: MergeCosts, settings: LearnSettings
) -> tuple[list[Candidate], list[Candidate]]:
    """Keep the pairs that cost little and are among the cheapest of one of their words.

    Args:
        candidates: pairs.
        costs: knows the order of words.
        settings: the largest cost and the number of the cheapest.

    Returns:
        The kept pairs and the others.
    """
    by_word: dict[tuple[int, int], list[Candidate]] = defaultdict(list)  # (word, other vocabulary) -> pairs
    for candidate in sorted(candidates, key=lambda c: (c.cost, costs.rank(c.members))):
        one, other = candidate.members
        by_word[one, costs.owner(other)].append(candidate)
        by_word[other, costs.owner(one)].append(candidate)
    cheapest = {candidate.members for pairs in by_word.values() for candidate in pairs[: settings.best]}
    fits = [c.cost <= settings.max_pair_cost and c.members in cheapest for c in candidates]
    return list(compress(candidates, fits)), [c for c, kept in zip(candidates, fits) if not kept]


def larger_sets(
    pairs: Sequence[Candidate], costs: MergeCosts, settings: LearnSettings
) -> tuple[list[Candidate], list[Candidate]]:
    """Grow sets of three and more words, of different vocabularies and all of whose pairs were kept.

    Args:
        pairs: the kept pairs.
        costs: computes what a set costs.
        settings: the largest cost and the number of the cheapest.

    Returns:
        The kept sets and those that cost too much.
    """
    beside: dict[int, set[int]] = defaultdict(set)
    for pair in pairs:
        one, other = pair.members
        beside[one].add(other)
        beside[other].add(one)
    kept: dict[tuple[int, ...], Candidate] = {}
    dear: dict[tuple[int, ...], Candidate] = {}
    grown = list(pairs)
    while grown:
        following: dict[tuple[int, ...], Candidate] = {}
        for base in grown:
            common = set.intersection(*(beside[column] for column in base.members))
            wider = [costs((*base.members, column)) for column in common]  # never of the same vocabulary: no such pair
            wider.sort(key=lambda c: (c.cost, costs.rank(c.members)))
            following |= {c.members: c for c in wider[: settings.best] if c.cost <= settings.max_set_cost}
            dear |= {c.members: c for c in wider if c.cost > settings.max_set_cost}
        kept |= following
        grown = list(following.values())
    return list(kept.values()), list(dear.values())


def conflict_table(candidates: Sequence[Candidate], num_columns: int) -> Bools:
    """Say which words are in which set.

    Args:
        candidates: S sets of words.
        num_columns: number N of label columns.

    Returns:
        Table, shape ``(N, S)``, bool.
    """
    table: npt.NDArray[np.bool_] = np.zeros((num_columns, len(candidates)), dtype=bool)
    for number, candidate in enumerate(candidates):
        table[list(candidate.members), number] = True
    return table
