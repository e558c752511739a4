"""The table of the things that the world can show, and of the more general words above them.

``things.tsv`` has a line for everything that can be drawn, ``hypernyms.tsv`` one for every word that is only a parent.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from .outlines import Outline, read_outline

_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Thing:
    """Something the world can show.

    Args:
        name: its usual English name.
        synonyms: other names for the same thing; no two things share a name or synonym.
        parents: direct hypernyms, names of other things or of ``hypernyms()``.
        definition: one sentence.
        group: the part of the universe it belongs to, such as "animal" or "tool".
        turn: it is drawn rotated by at most this many degrees to either side.
        flip: whether its mirror image is still the same thing.
        drawing: its outline in the notation of ``outlines``.
    """

    name: str
    synonyms: tuple[str, ...]
    parents: tuple[str, ...]
    definition: str
    group: str
    turn: int
    flip: bool
    drawing: str

    @property
    def outline(self) -> Outline:
        """Read the outline, kept for the life of the process.

        Returns:
            The outline.
        """
        return read_outline(self.drawing)


@dataclass(frozen=True)
class Hypernym:
    """A general word that cannot be drawn itself.

    Args:
        name: the word.
        parents: direct hypernyms, names of other hypernyms.
        definition: one sentence.
    """

    name: str
    parents: tuple[str, ...]
    definition: str


@functools.cache
def things() -> Mapping[str, Thing]:
    """List everything that can be drawn.

    Returns:
        The things by name, in the order of ``things.tsv``.
    """
    table = {}
    for row in _rows("things.tsv"):
        thing = Thing(
            name=row["name"],
            synonyms=_words(row["synonyms"]),
            parents=_words(row["parents"]),
            definition=row["definition"],
            group=row["group"],
            turn=int(row["turn"]),
            flip=row["flip"] == "yes",
            drawing=row["outline"],
        )
        table[thing.name] = thing
    return MappingProxyType(table)


@functools.cache
def hypernyms() -> Mapping[str, Hypernym]:
    """List the general words that occur only as parents.

    Returns:
        The words by name.
    """
    rows = _rows("hypernyms.tsv")
    return MappingProxyType({r["name"]: Hypernym(r["name"], _words(r["parents"]), r["definition"]) for r in rows})


def ancestors(name: str) -> tuple[str, ...]:
    """Follow the parents of a word upwards.

    Args:
        name: a thing or hypernym.

    Returns:
        All more general words, nearest first.

    Raises:
        KeyError: if the word is neither a thing nor a hypernym.
    """
    if name not in things() and name not in hypernyms():
        raise KeyError(f"the world has no word {name!r}")
    found: dict[str, None] = {}
    level = [name]
    while level:
        above = [parent for word in level for parent in (things().get(word) or hypernyms()[word]).parents]
        level = [word for word in dict.fromkeys(above) if word not in found]
        found.update(dict.fromkeys(level))
    return tuple(found)


def _rows(file: str) -> list[dict[str, str]]:
    with (_FOLDER / file).open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))


def _words(text: str) -> tuple[str, ...]:
    return tuple(word for word in text.split("|") if word)
