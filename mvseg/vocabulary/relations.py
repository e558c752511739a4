"""How columns relate across datasets: aliases (the same thing twice) and ancestors (broader words)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from .similarity import similar_pairs, unit_rows
from .suggestions import normalize

if TYPE_CHECKING:
    from .label_space import LabelSpace

Reason = Literal["name", "synonym", "similar"]


@dataclass(frozen=True)
class Alias:
    """Two columns of different vocabularies that mean the same.

    Args:
        first: a column.
        second: a later column.
        reason: "name" (equal words), "synonym" (the word of one is a synonym of the other) or "similar" (cosine).
        similarity: cosine of the text embeddings; None without embeddings.
    """

    first: int
    second: int
    reason: Reason
    similarity: float | None = None


class _Words:
    """Names and synonyms of the columns, by spelling."""

    def __init__(self, space: LabelSpace) -> None:
        self.names: list[set[str]] = [set() for _ in range(space.n)]
        self.synonyms: list[set[str]] = [set() for _ in range(space.n)]
        self.parents: dict[tuple[int, str], set[str]] = defaultdict(set)  # (vocabulary, its word) -> words
        self.hypernyms: dict[str, set[str]] = defaultdict(set)  # words outside the vocabularies
        self.by_name: list[dict[str, set[int]]] = []  # for every vocabulary: spelling -> columns
        self.by_synonym: list[dict[str, set[int]]] = []
        self.word_of: list[dict[int, set[str]]] = []  # for every vocabulary: column -> its words
        for number, dataset in enumerate(space.representatives):
            self._read(space, number, dataset)

    def _read(self, space: LabelSpace, number: int, dataset: str) -> None:
        vocabulary = space.vocabularies[dataset]
        by_name, by_synonym, words = defaultdict(set), defaultdict(set), defaultdict(set)
        parents = getattr(vocabulary, "parents", ()) or ((),) * len(vocabulary)
        for row, column in enumerate(space.columns(dataset).tolist()):
            name = normalize(vocabulary.names[row])
            synonyms = {normalize(word) for word in vocabulary.synonyms[row]} - {name}
            self.names[column].add(name)
            self.synonyms[column] |= synonyms
            by_name[name].add(column)
            words[column].add(name)
            for synonym in synonyms:
                by_synonym[synonym].add(column)
            self.parents[number, name] |= {normalize(word) for word in parents[row]}
        for word, broader in getattr(vocabulary, "hypernyms", {}).items():
            self.hypernyms[normalize(word)] |= {normalize(b) for b in broader}
        self.by_name.append(by_name)
        self.by_synonym.append(by_synonym)
        self.word_of.append(words)

    def columns_of(self, number: int, spelling: str) -> set[int]:
        """Columns of one vocabulary that a spelling names; its synonyms count only where no word is spelled so."""
        return self.by_name[number].get(spelling) or self.by_synonym[number].get(spelling) or set()

    def broader(self, spelling: str) -> set[str]:
        found = set(self.hypernyms.get(spelling, ()))
        for number in range(len(self.by_name)):
            for column in self.columns_of(number, spelling):
                for word in self.word_of[number][column]:
                    found |= self.parents[number, word]
        return found


def find_aliases(space: LabelSpace, threshold: float | None = None, block: int = 1024) -> list[Alias]:
    """Find columns of different vocabularies that mean the same.

    Two columns that one vocabulary tells apart are never aliases.

    Args:
        space: the label space.
        threshold: cosine from which words count as the same; None: only words and synonyms.
        block: rows of the similarity matrix that are held at a time.

    Returns:
        The pairs in the order of their columns; of several reasons the first of name, synonym, similar.

    Raises:
        ValueError: if there is a threshold but there are no embeddings.
    """
    words, member = _Words(space), space.membership()
    owners = [frozenset(column.nonzero().flatten().tolist()) for column in member.t()]
    reasons: dict[tuple[int, int], Reason] = {}
    for reason in ("name", "synonym"):
        for number in range(len(words.by_name)):
            for column in range(space.n):
                spellings = words.names[column] if reason == "name" else words.synonyms[column]
                found = {c for s in spellings for c in words.by_name[number].get(s, ())}
                for other in found - {column}:
                    pair = (min(column, other), max(column, other))
                    if pair not in reasons and not owners[column] & owners[other]:
                        reasons[pair] = reason
    cosines: dict[tuple[int, int], float] = {}
    if threshold is not None:
        pairs, values = similar_pairs(unit_rows(space.require_embeddings("aliases by similarity")), threshold, block)
        apart = ~(member[:, pairs[:, 0]] & member[:, pairs[:, 1]]).any(0)
        for (first, second), value in zip(pairs[apart].tolist(), values[apart].tolist(), strict=True):
            cosines[first, second] = value
            reasons.setdefault((first, second), "similar")
    return _with_cosines(space, reasons, cosines)


def _with_cosines(
    space: LabelSpace, reasons: Mapping[tuple[int, int], Reason], cosines: Mapping[tuple[int, int], float]
) -> list[Alias]:
    ordered = sorted(reasons)
    missing = [pair for pair in ordered if pair not in cosines]
    known = dict(cosines)
    if space.embeddings is not None and missing:
        first, second = torch.tensor(missing).t()
        values = (unit_rows(space.embeddings[first]) * unit_rows(space.embeddings[second])).sum(1).clamp(-1, 1)
        known.update(zip(missing, values.tolist(), strict=True))
    return [Alias(a, b, reasons[a, b], known.get((a, b))) for a, b in ordered]


def find_ancestors(space: LabelSpace) -> Tensor:
    """Find for every column the columns of broader words, also those of other datasets.

    The way up leads from a word's parents to their parents, in whichever vocabulary a word of that spelling (or, where
    a vocabulary has none, with that synonym) stands. A word is no ancestor of its aliases, and of two words that are
    each above the other neither is.

    Args:
        space: the label space; its vocabularies say the ``parents`` of their words.

    Returns:
        (n, n) bool; True at [i, j] if the word of column j is broader than that of column i.
    """
    words = _Words(space)
    table = torch.zeros(space.n, space.n, dtype=torch.bool)
    if not any(words.parents.values()):
        return table
    above: dict[str, set[str]] = {}
    broader: list[set[int]] = []
    for column in range(space.n):
        spellings = words.names[column] | words.synonyms[column]
        found = {
            target
            for spelling in _climb(spellings, words, above)
            for number in range(len(words.by_name))
            for target in words.columns_of(number, spelling)
        }
        same = {t for number in range(len(words.by_name)) for s in spellings for t in words.columns_of(number, s)}
        broader.append(found - same - {column})
    for column, found in enumerate(broader):
        only = sorted(target for target in found if column not in broader[target])
        if only:
            table[column, only] = True
    return table


def _climb(spellings: Iterable[str], words: _Words, above: dict[str, set[str]]) -> set[str]:
    """All broader words of some spellings; ``above`` remembers the direct ones."""
    seen: set[str] = set()
    stack = list(spellings)
    while stack:
        spelling = stack.pop()
        if spelling not in above:
            above[spelling] = words.broader(spelling)
        stack += [word for word in above[spelling] if word not in seen]
        seen |= above[spelling]
    return seen
