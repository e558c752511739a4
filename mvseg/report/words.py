"""The words of a run: which datasets share them, which are new at test time, and the map of their similarities."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from mvseg.data.catalog import get_card, get_vocabulary, register_cards
from mvseg.data.supervision import has_words
from mvseg.report.run import Run
from mvseg.vocabulary import Vocabulary
from mvseg.vocabulary.suggestions import normalize as spelling

logger = logging.getLogger(__name__)

MAP_CELLS = 640  # rows of the similarity map at most; of more words the map shows block means
BLOCK = 1024  # rows of the similarity matrix in memory at the same time


@dataclass
class Words:
    """The vocabularies of a run's datasets.

    Args:
        train: training set to its vocabulary, with embeddings if its card has them.
        test: test set to its vocabulary, without embeddings.
        missing: what could not be looked up, and why.
    """

    train: dict[str, Vocabulary] = field(default_factory=dict)
    test: dict[str, Vocabulary] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    @property
    def groups(self) -> dict[str, Vocabulary]:
        """The different vocabularies of training; train and val parts of a dataset have one.

        Returns:
            Names of the training sets that have it, joined by ", ", to the vocabulary.
        """
        names: dict[tuple[str, tuple[str, ...]], list[str]] = {}
        for dataset, words in self.train.items():
            names.setdefault((words.name, words.names), []).append(dataset)
        return {", ".join(datasets): self.train[datasets[0]] for datasets in names.values()}

    def known(self) -> set[str]:
        """All spellings of all training words, without synonyms.

        Returns:
            Normalised words.
        """
        return {spelling(word) for words in self.train.values() for word in words.names}

    def new_words(self, dataset: str) -> list[str] | None:
        """List the words of a test set that no training set has.

        Args:
            dataset: name of the test set.

        Returns:
            The words; None if the words of the test set or of the training are not known.
        """
        if dataset not in self.test or not self.train:
            return None
        known = self.known()
        return [word for word in self.test[dataset].names if spelling(word) not in known]


def look_up_words(run: Run) -> Words:
    """Look up the vocabularies of a run's datasets; what cannot be found is noted.

    Args:
        run: the run.

    Returns:
        The vocabularies.
    """
    found = Words()
    for place in run.setting("DATASETS.CARDS", []):
        try:
            register_cards(place)
        except (ValueError, OSError) as error:
            found.missing.append(f"cards of {place}: {error}")
    for names, target, embeddings in ((run.train_sets, found.train, True), (run.test_sets, found.test, False)):
        for name in names:
            try:
                if has_words(get_card(name).supervision):
                    target[name] = _vocabulary(name, embeddings)
            except Exception as error:  # cards and files may have changed since the run; the report goes on without
                text = error.args[0] if isinstance(error, KeyError) else error
                found.missing.append(f"words of {name}: {text}")
    return found


def _vocabulary(name: str, embeddings: bool) -> Vocabulary:
    try:
        return get_vocabulary(name, embeddings=embeddings)
    except (OSError, ValueError):
        return get_vocabulary(name, embeddings=False)  # raises what is wrong with the words themselves


def shared_words(groups: Mapping[str, Vocabulary]) -> list[tuple[str, list[str]]]:
    """List the words that stand in several vocabularies, by spelling or as a synonym.

    Args:
        groups: name to vocabulary.

    Returns:
        (word, one "name" or "name: its own word" for every vocabulary that has it), most shared first.
    """
    owners: dict[str, dict[str, str]] = {}
    for group, words in groups.items():
        for word in words.names:
            owners.setdefault(spelling(word), {})[group] = word
    for group, words in groups.items():
        for word, synonyms in zip(words.names, words.synonyms, strict=True):
            for synonym in map(spelling, synonyms):
                if synonym in owners:
                    owners[synonym].setdefault(group, word)
    # What is found under several spellings ("car" and "automobile") is one entry, under the commonest spelling.
    entries: list[tuple[str, dict[str, str]]] = []
    held: dict[tuple[str, str], list[set[tuple[str, str]]]] = {}  # (group, word) -> the entries that have it
    for found in sorted(owners.values(), key=len, reverse=True):
        pairs = set(found.items())
        if len(found) > 1 and not any(pairs <= known for known in held.get(next(iter(pairs)), ())):
            for pair in pairs:
                held.setdefault(pair, []).append(pairs)
            spellings = [spelling(word) for word in found.values()]
            entries.append((max(sorted(set(spellings)), key=spellings.count), found))
    entries.sort(key=lambda entry: (-len(entry[1]), entry[0]))
    return [
        (key, [group if spelling(own) == key else f"{group}: {own}" for group, own in sorted(found.items())])
        for key, found in entries
    ]


def unit_rows(groups: Mapping[str, Vocabulary]) -> Tensor | None:
    """Put the text embeddings of vocabularies below each other, each row of length 1.

    Args:
        groups: name to vocabulary.

    Returns:
        Rows (n, D), float32; None if a vocabulary has no embeddings or they differ in width.
    """
    tables = [words.embeddings for words in groups.values()]
    present = [table for table in tables if table is not None]
    if not present or len(present) < len(tables) or len({table.shape[1] for table in present}) > 1:
        return None
    return normalize(torch.cat(present).float(), dim=1)


def similarity_map(rows: Tensor, cells: int = MAP_CELLS) -> tuple[NDArray[np.float32], int]:
    """Compute the cosines of all pairs of words; of many words the means over blocks of neighbouring ones.

    The mean of the cosines of two blocks is the product of the blocks' mean rows, so the whole matrix is never needed.

    Args:
        rows: embeddings of length 1, (n, D).
        cells: rows of the result at most.

    Returns:
        The map (m, m), float32, and the number of words in a block (the last block may have fewer).
    """
    size = -(-len(rows) // cells)
    blocks = torch.stack([part.mean(dim=0) for part in rows.split(size)])
    return (blocks @ blocks.T).numpy(), size


def closest_pairs(groups: Mapping[str, Vocabulary], count: int = 12) -> list[tuple[float, str, str, str, str]]:
    """Find the words of different vocabularies whose embeddings are most alike though they are spelt differently.

    Args:
        groups: name to vocabulary, all with embeddings of one width.
        count: number of pairs.

    Returns:
        (cosine, vocabulary, word, other vocabulary, other word), most alike first.
    """
    rows = unit_rows(groups)
    if rows is None or len(groups) < 2:
        return []
    owner = torch.tensor([i for i, words in enumerate(groups.values()) for _ in words.names])
    names = [word for words in groups.values() for word in words.names]
    numbers: dict[str, int] = {}
    spelt = torch.tensor([numbers.setdefault(spelling(word), len(numbers)) for word in names])
    labels = list(groups)
    found: list[tuple[float, str, str, str, str]] = []
    for start in range(0, len(rows), BLOCK):
        part = slice(start, start + BLOCK)
        cosine = rows[part] @ rows.T
        cosine[(owner[part, None] >= owner[None]) | (spelt[part, None] == spelt[None])] = -2.0
        values, places = cosine.flatten().topk(min(count, cosine.numel()))
        for value, place in zip(values.tolist(), places.tolist()):
            i, j = start + place // len(names), place % len(names)
            if value > -1.5:
                found.append((value, labels[int(owner[i])], names[i], labels[int(owner[j])], names[j]))
    return sorted(found, reverse=True)[:count]


def boundaries(groups: Mapping[str, Vocabulary]) -> Sequence[tuple[str, int, int]]:
    """Say which rows of the joined embeddings belong to which vocabulary.

    Args:
        groups: name to vocabulary.

    Returns:
        (name, first row, row behind the last) of each.
    """
    ends = np.cumsum([len(words) for words in groups.values()]).tolist()
    return [(name, end - len(words), end) for (name, words), end in zip(groups.items(), ends, strict=True)]
