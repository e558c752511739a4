"""The learned label space: from what columns found to the words that become one, with every reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from ..suggestions import normalize
from .candidates import (
    Candidate,
    LearnSettings,
    MergeCosts,
    Precisions,
    candidate_pairs,
    conflict_table,
    keep_pairs,
    larger_sets,
    measure,
)
from .evidence import Evidence, first_columns
from .program import Choice, choose_sets, set_values


@dataclass(frozen=True)
class Link:
    """Two words of different vocabularies, and what speaks for their being one.

    Args:
        first: label column.
        second: label column.
        words: "same name", "synonym" or "".
        cosine: of the text embeddings, or None if they are not known.
        first_by_second: AP of the second word's column on the objects of the first; nan without an object.
        second_by_first: AP of the first word's column on the objects of the second.
    """

    first: int
    second: int
    words: str
    cosine: float | None
    first_by_second: float
    second_by_first: float


@dataclass(frozen=True)
class Label:
    """One word of the learned label space.

    Args:
        name: the unified word, different from all others.
        members: its label columns.
        candidate: what merging costs; None for a word alone.
    """

    name: str
    members: tuple[int, ...]
    candidate: Candidate | None = None


@dataclass(frozen=True)
class NearMiss:
    """Words that stay apart although something spoke for their being one.

    Args:
        members: label columns.
        reason: why they stay apart.
        candidate: what merging would cost, or None where it was not computed.
    """

    members: tuple[int, ...]
    reason: str
    candidate: Candidate | None = None


class LearnedSpace:
    """The labels that were learned, and how.

    Args:
        evidence: the vocabularies.
        settings: the settings.
        precisions: average precisions of all columns.
        choice: the solution of the integer program.
        candidates: the sets of words that it chose from.
        rejected: sets of words that cost too much.
    """

    def __init__(
        self,
        evidence: Sequence[Evidence],
        settings: LearnSettings,
        precisions: Precisions,
        choice: Choice,
        candidates: Sequence[Candidate],
        rejected: Sequence[Candidate],
    ) -> None:
        self.evidence, self.settings, self.precisions = tuple(evidence), settings, precisions
        self.choice, self.candidates = choice, tuple(candidates)
        self._starts = first_columns(evidence)
        self._embeddings = [_unit_rows(one) for one in evidence]
        self.merges = tuple(c for c, chosen in zip(candidates, choice.chosen, strict=True) if chosen)
        self.labels = self._name_labels()
        self.near_misses = [*self._not_chosen(), *self._too_dear(rejected), *self._same_words_apart(rejected)]

    @property
    def num_words(self) -> int:
        """Number of words of all vocabularies.

        Returns:
            N.
        """
        return self._starts[-1]

    @property
    def without_objects(self) -> tuple[int, ...]:
        """Words that have no object in their test set, so that nothing could be learned about them.

        Returns:
            Label columns.
        """
        return tuple(np.flatnonzero(np.isnan(self.precisions.own)).tolist())

    def is_weak(self, candidate: Candidate) -> bool:
        """Say whether a merge rests on little: for a word of small AP nearly any column is good enough.

        Args:
            candidate: a set of words.

        Returns:
            True if the own AP of one of its words is not above tau.
        """
        return min(candidate.own) <= self.settings.tau

    def owner(self, column: int) -> Evidence:
        """Give the vocabulary of a column.

        Args:
            column: label column.

        Returns:
            The vocabulary.
        """
        return self.evidence[self._number(column)]

    def word(self, column: int) -> str:
        """Give the word of a column.

        Args:
            column: label column.

        Returns:
            The word, as its vocabulary spells it.
        """
        return self.owner(column).words[self._index(column)]

    def num_objects(self, column: int) -> int:
        """Count the objects of a word in its test set.

        Args:
            column: label column.

        Returns:
            The number, without crowds.
        """
        return int(self.owner(column).totals[self._index(column)])

    def value(self, candidate: Candidate) -> float:
        """Give what the integer program sums up for a set.

        Args:
            candidate: a set of words.

        Returns:
            The value; smaller is better.
        """
        sizes = np.array([len(candidate.members)])
        return float(set_values(np.array([candidate.cost]), sizes, self.settings.penalty)[0])

    def link(self, first: int, second: int) -> Link:
        """Collect what speaks for two words being one.

        Args:
            first: label column.
            second: label column of another vocabulary.

        Returns:
            The facts.
        """
        a, b = self._number(first), self._number(second)
        cosine = None
        if self._embeddings[a].shape[1] == self._embeddings[b].shape[1] > 0:
            cosine = float(self._embeddings[a][self._index(first)] @ self._embeddings[b][self._index(second)])
        cross = self.precisions.cross
        return Link(
            first,
            second,
            self._relation(first, second),
            cosine,
            float(cross[a][second, self._index(first)]),
            float(cross[b][first, self._index(second)]),
        )

    def links(self, members: Sequence[int]) -> list[Link]:
        """Collect what speaks for words being one, pair by pair.

        Args:
            members: label columns of different vocabularies.

        Returns:
            The facts of every pair.
        """
        return [self.link(*pair) for pair in combinations(members, 2)]

    def _number(self, column: int) -> int:
        return int(np.searchsorted(self._starts, column, "right")) - 1

    def _index(self, column: int) -> int:
        return column - self._starts[self._number(column)]

    def _synonyms(self, column: int) -> tuple[str, ...]:
        synonyms = self.owner(column).synonyms
        return synonyms[self._index(column)] if synonyms else ()

    def _relation(self, first: int, second: int) -> str:
        one, other = normalize(self.word(first)), normalize(self.word(second))
        if one == other:
            return "same name"
        known = {normalize(s) for s in self._synonyms(first)} | {normalize(s) for s in self._synonyms(second)}
        return "synonym" if {one, other} & known else ""

    def _name_labels(self) -> tuple[Label, ...]:
        merged = {column for candidate in self.merges for column in candidate.members}
        groups: list[tuple[tuple[int, ...], Candidate | None]] = [
            (tuple(sorted(candidate.members)), candidate) for candidate in self.merges
        ]
        groups.sort()
        groups += [((column,), None) for column in range(self.num_words) if column not in merged]
        names = [self._commonest([self.word(column) for column in members]) for members, _ in groups]
        alike: dict[str, list[int]] = {}
        for number, name in enumerate(names):
            alike.setdefault(normalize(name), []).append(number)
        for numbers in alike.values():
            several = [number for number in numbers if len(groups[number][0]) > 1]
            for number in numbers if len(numbers) > 1 else ():
                if several != [number]:  # the only merged one of a name keeps it
                    owners = ", ".join(self.owner(column).name for column in groups[number][0])
                    names[number] = f"{names[number]} ({owners})"
        return tuple(
            Label(name, members, candidate)
            for name, (members, candidate) in zip(_made_different(names), groups, strict=True)
        )

    @staticmethod
    def _commonest(words: Sequence[str]) -> str:
        counts = Counter(map(normalize, words))
        return max(words, key=lambda word: counts[normalize(word)])  # of equal counts the first

    def _not_chosen(self) -> Iterator[NearMiss]:
        taken = {column: set(candidate.members) for candidate in self.merges for column in candidate.members}
        for candidate in self.candidates:
            chosen = [taken[column] for column in candidate.members if column in taken]
            if any(set(candidate.members) <= members for members in chosen):
                continue
            if self.value(candidate) >= 0:
                reason = "costs more than a word less is worth"
            else:
                words = sorted({self._written(tuple(sorted(members))) for members in chosen})
                reason = f"other merges are worth more: {'; '.join(words)}"
            yield NearMiss(candidate.members, reason, candidate)

    def _too_dear(self, rejected: Sequence[Candidate]) -> Iterator[NearMiss]:
        for candidate in sorted(rejected, key=lambda c: (c.cost, c.members)):
            pair = len(candidate.members) == 2
            limit = self.settings.max_pair_cost if pair else self.settings.max_set_cost
            if candidate.cost > limit:
                yield NearMiss(candidate.members, f"cost above {limit:g}", candidate)
            else:
                yield NearMiss(candidate.members, f"not among the {self.settings.best} cheapest", candidate)

    def _same_words_apart(self, rejected: Sequence[Candidate]) -> Iterator[NearMiss]:
        """Words of one spelling, or synonyms, that no prediction speaks for: the reader expects them to be merged."""
        known = {frozenset(candidate.members) for candidate in (*self.candidates, *rejected)}
        known |= {frozenset(pair) for c in self.merges for pair in combinations(c.members, 2)}
        by_name: dict[str, list[int]] = {}
        for column in range(self.num_words):
            by_name.setdefault(normalize(self.word(column)), []).append(column)
        pairs = {pair for columns in by_name.values() for pair in combinations(columns, 2)}
        for column in range(self.num_words):
            for synonym in self._synonyms(column):
                pairs |= {(min(column, c), max(column, c)) for c in by_name.get(normalize(synonym), ())}
        missing = set(self.without_objects)
        for pair in sorted(pairs):
            if self._number(pair[0]) == self._number(pair[1]) or frozenset(pair) in known:
                continue
            empty = [self.owner(column).name for column in pair if column in missing]
            if empty:
                why = f"no object in the test set of {' and '.join(empty)}"
            else:
                why = "the columns do not find each other's objects"
            yield NearMiss(pair, f"{self._relation(*pair)}, but {why}")

    def _written(self, members: Sequence[int]) -> str:
        return " + ".join(f"{self.word(column)} [{self.owner(column).name}]" for column in members)


def learn_label_space(evidence: Sequence[Evidence], settings: LearnSettings | None = None) -> LearnedSpace:
    """Find the words of different vocabularies that one column can serve without a loss of average precision.

    Words of one vocabulary are never merged: candidates hold one word of each at most.

    Args:
        evidence: at least two vocabularies with what a partitioned detector found in their test sets.
        settings: the settings; None: the published ones.

    Returns:
        The label space with its evidence.

    Raises:
        ValueError: if there are fewer than two vocabularies, two of one name, or a detection of no column.

    Source: Zhou et al. 2022, Simple multi-dataset detection (arXiv 2102.13086).
    """
    settings = settings or LearnSettings()
    names = [one.name for one in evidence]
    if len(names) < 2 or len(set(names)) < len(names):
        raise ValueError(f"a label space is learned from two or more vocabularies of different name, not from {names}")
    total = first_columns(evidence)[-1]
    for one in evidence:
        columns = one.detections.columns
        if len(columns) and not 0 <= columns.min() <= columns.max() < total:
            raise ValueError(
                f"evidence of {one.name!r}: detections of columns {columns.min()} to {columns.max()}, but the "
                f"vocabularies {', '.join(names)} have {total} words"
            )
    precisions = measure(evidence, settings)
    costs = MergeCosts(evidence, precisions, settings)
    tried = [costs(pair) for pair in candidate_pairs(evidence, precisions, settings.tau, settings.min_own)]
    pairs, dear = keep_pairs(tried, costs, settings)
    sets, dear_sets = larger_sets(pairs, costs, settings)
    candidates = sorted([*pairs, *sets], key=lambda c: costs.rank(c.members))
    sizes = np.array([len(c.members) for c in candidates])
    values = set_values(np.array([c.cost for c in candidates]), sizes, settings.penalty)
    choice = choose_sets(values, conflict_table(candidates, total), settings.time_limit)
    return LearnedSpace(evidence, settings, precisions, choice, candidates, [*dear, *dear_sets])


def _made_different(names: Sequence[str]) -> list[str]:
    taken: set[str] = set()
    result = []
    for name in names:
        free, number = name, 2
        while normalize(free) in taken:
            free, number = f"{name} {number}", number + 1
        taken.add(normalize(free))
        result.append(free)
    return result


def _unit_rows(one: Evidence) -> np.ndarray:
    """Embeddings of length 1, shape (n, D); of width 0 if there are none."""
    if one.embeddings is None:
        return np.empty((len(one.words), 0))
    rows = np.asarray(one.embeddings, dtype=np.float64)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
