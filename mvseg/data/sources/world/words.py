"""Which dataset of the world knows which things, and by which words.

``words.tsv`` has a line for every thing, the most frequent first, and a column for every list of words: the word that
this list has for the thing, ``=`` if it is the thing's own name, nothing if the list has no word for it. One word on
several lines is a coarser class. ``grounds.tsv`` has the same for the grounds, and ``general.tsv`` the hypernyms that
are classes of the OpenImages-like dataset.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from mvseg.vocabulary import did_you_mean

from .grounds import GROUND_TABLE
from .things import ancestors, hypernyms, things

LISTS = ("common", "objects", "open", "parse", "all", "new")  # columns of words.tsv, and all things by their names
RARE_SHARE = 0.28  # the last lines of words.tsv are the long tail's rare things, as many as in LVIS v1 (337 of 1203)

_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class WordList:
    """The words of a dataset for things.

    Args:
        name: one of ``LISTS``.
        names: the words, all different; position is the class index.
        covers: for each word the things that it names.
    """

    name: str
    names: tuple[str, ...]
    covers: tuple[tuple[str, ...], ...]

    @functools.cached_property
    def index(self) -> Mapping[str, int]:
        """Class index of every thing that the list has a word for.

        Returns:
            Thing to class index.
        """
        return MappingProxyType({thing: i for i, covered in enumerate(self.covers) for thing in covered})


@functools.cache
def word_list(name: str) -> WordList:
    """Read one of the lists of words.

    Args:
        name: one of ``LISTS``; "all" has every thing by its own name, the most frequent first.

    Returns:
        The list.

    Raises:
        KeyError: if there is no such list.
    """
    if name not in LISTS:
        raise KeyError(f"the world has no list of words {name!r}{did_you_mean(name, LISTS)}")
    covers: dict[str, list[str]] = {}
    for row in _rows("words.tsv"):
        cell = "=" if name == "all" else row[name]
        if cell:
            covers.setdefault(row["thing"] if cell == "=" else cell, []).append(row["thing"])
    return WordList(name, tuple(covers), tuple(map(tuple, covers.values())))


def rare_things() -> frozenset[str]:
    """Name the things that are rare in the long-tailed dataset, whatever its size, and annotated nowhere else by name.

    Returns:
        The last lines of the table.
    """
    names = word_list("all").names
    return frozenset(names[len(names) - round(RARE_SHARE * len(names)) :])


@functools.cache
def ground_words(name: str) -> Mapping[str, str]:
    """Read the words of a dataset for grounds.

    Args:
        name: "parse" or "panoptic".

    Returns:
        Ground to word, in the order of the class indices.
    """
    rows = ((row["ground"], row[name]) for row in _rows("grounds.tsv"))
    return MappingProxyType({ground: ground if word == "=" else word for ground, word in rows if word})


@functools.cache
def open_names() -> tuple[str, ...]:
    """List the classes of the OpenImages-like dataset.

    Returns:
        Its words for things, then those more general words that it also has.
    """
    return tuple(dict.fromkeys([*word_list("open").names, *(row["word"] for row in _rows("general.tsv"))]))


@functools.cache
def open_line(thing: str) -> tuple[str, ...]:
    """Name the classes of the OpenImages-like dataset that are true of a thing.

    Args:
        thing: a thing.

    Returns:
        The classes, the most specific first; boxes carry that one. Empty if there is none.
    """
    words = word_list("open")
    own = [words.names[words.index[thing]]] if thing in words.index else []
    return tuple(dict.fromkeys([*own, *(word for word in ancestors(thing) if word in open_names())]))


@functools.cache
def parents_of_open() -> Mapping[str, str]:
    """Build the hierarchy of the OpenImages-like dataset: the nearest class that is true of everything a class covers.

    Returns:
        Word to the word above it; words without an entry are at the top.
    """
    lines: dict[str, list[tuple[str, ...]]] = {}
    for thing in things():
        line = open_line(thing)
        for position, word in enumerate(line):
            lines.setdefault(word, []).append(line[position + 1 :])
    above = {w: [p for p in found[0] if all(p in line for line in found)] for w, found in lines.items()}
    return MappingProxyType({word: found[0] for word, found in above.items() if found})


def training_words() -> frozenset[str]:
    """Collect the words that some training set of the world has in its vocabulary.

    Returns:
        Names of all classes, things and grounds.
    """
    names = {word for name in LISTS if name != "new" for word in word_list(name).names}
    grounds = {word for name in ("parse", "panoptic") for word in ground_words(name).values()}
    return frozenset(names | grounds | set(open_names()))


def known_synonyms(thing: str) -> tuple[str, ...]:
    """List the other names of a thing that training sets may use: those that the list of new words does not keep.

    Args:
        thing: a thing.

    Returns:
        Its synonyms without the new words.
    """
    new = set(word_list("new").names)
    return tuple(word for word in things()[thing].synonyms if word not in new)


def all_words() -> tuple[str, ...]:
    """Collect every word of the world, for which embeddings are committed.

    Returns:
        Names, synonyms and parents of all things, the words of all datasets and the grounds; sorted, all different.
    """
    words: set[str] = set(training_words()) | set(word_list("new").names) | set(hypernyms())
    for thing in things().values():
        words.update((thing.name, *thing.synonyms, *ancestors(thing.name)))
    for ground in GROUND_TABLE:
        words.update((ground.name, *ground.synonyms, *ground.parents))
    return tuple(sorted(words))


def conflicts() -> dict[str, dict[str, frozenset[str]]]:
    """Find the words that do not mean the same things in all datasets.

    Returns:
        Word to the lists that have it with the things that it covers there.
    """
    found: dict[str, dict[str, frozenset[str]]] = {}
    for name in LISTS:
        for word, covered in zip(word_list(name).names, word_list(name).covers, strict=True):
            found.setdefault(word, {})[name] = frozenset(covered)
    return {word: meanings for word, meanings in found.items() if len(set(meanings.values())) > 1}


def _rows(file: str) -> Iterable[dict[str, str]]:
    with (_FOLDER / file).open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
