"""The words of one dataset, in the order of its class indices, with what is known about each."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .embedding_files import read_embeddings
from .embeddings import check_embeddings, match_rows
from .suggestions import did_you_mean, is_blank, normalize
from .tables import columns_from_categories, read_builtin_table, read_table

# fmt: off
_PER_WORD = (
    "ids", "keys", "synonyms", "spellings", "parents", "definitions", "is_thing",
    "image_count", "instance_count", "frequency", "novel",
)
# fmt: on


@dataclass(frozen=True, eq=False, repr=False)
class Vocabulary:
    """The n words of one dataset; position in every field is the dataset's own 0-based class index.

    Args:
        name: name of the vocabulary; two datasets with equal name and words share the columns of a label space.
        names: the n words of any language, none empty, all different; upper and lower case, underscores and spaces do
            not make a difference, because annotation files and people mix them.
        ids: category ids of the annotation files; empty: 1..n.
        keys: the dataset's own text id of each word (Open Images' MID, ImageNet's WordNet id), or None.
        synonyms: other names of each word, which may be said to a text encoder; empty: none.
        spellings: how annotation files write the word where that differs (``"tree-merged"`` for tree); it is found by
            them, and they are never said to a text encoder; empty: none.
        parents: direct hypernyms of each word, words of the vocabulary or other words; empty: none.
        hypernyms: parents of words that are parents, but not in the vocabulary.
        definitions: one sentence for each word, or None.
        is_thing: whether the class is countable (thing) or a region (stuff), or None if the set does not say.
        image_count: number of training images that show the class, or None.
        instance_count: number of training instances of the class, or None.
        frequency: "r", "c" or "f" (rare, common, frequent) as in LVIS, or None.
        novel: whether the class is meant to be held out of training; empty: where ``frequency`` is "r", if given.
        embeddings: text embeddings (n, D), float32, or None.

    Raises:
        ValueError: if there are no words, a word is empty, two are equal, a word is its own parent, the parents go
            round in a circle, or a field has another length than ``names``.
    """

    name: str
    names: tuple[str, ...]
    ids: tuple[int, ...] = ()
    keys: tuple[str, ...] | None = None
    synonyms: tuple[tuple[str, ...], ...] = ()
    spellings: tuple[tuple[str, ...], ...] = ()
    parents: tuple[tuple[str, ...], ...] = ()
    hypernyms: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    definitions: tuple[str, ...] | None = None
    is_thing: tuple[bool, ...] | None = None
    image_count: tuple[int, ...] | None = None
    instance_count: tuple[int, ...] | None = None
    frequency: tuple[str, ...] | None = None
    novel: tuple[bool, ...] = ()
    embeddings: Tensor | None = None

    def __post_init__(self) -> None:
        n = len(self.names)
        if n == 0:
            raise ValueError(f"vocabulary {self.name!r} has no words")
        self._complete("names", tuple(self.names))
        self._complete("ids", tuple(self.ids) or tuple(range(1, n + 1)))
        for group in ("synonyms", "spellings", "parents"):
            self._complete(group, tuple(tuple(words) for words in getattr(self, group)) or ((),) * n)
        rare = tuple(f == "r" for f in self.frequency) if self.frequency else (False,) * n
        self._complete("novel", tuple(self.novel) or rare)
        for column in _PER_WORD:
            values = getattr(self, column)
            if values is not None and len(values) != n:
                raise ValueError(f"vocabulary {self.name!r}: {n} words but {len(values)} values in {column}")
        self._check_words()
        if self.embeddings is not None:
            check_embeddings(self.embeddings, n, f"vocabulary {self.name!r}")
            self._complete("embeddings", self.embeddings.float())

    def _complete(self, field: str, value: Any) -> None:
        object.__setattr__(self, field, value)

    def _check_words(self) -> None:
        where = f"vocabulary {self.name!r}"
        empty = [str(number) for number, word in enumerate(self.names, start=1) if is_blank(word)]
        if empty:
            raise ValueError(f"{where}: word {', '.join(empty[:10])} of {len(self)} is empty; leave it out or name it")
        for what, values in (("name", self.names), ("id", self.ids)):
            twice = sorted(str(value) for value, count in Counter(values).items() if count > 1)
            if twice:
                raise ValueError(f"{where} has the same {what} twice: {', '.join(twice[:10])}")
        if len(self.positions) < len(self):
            alike: dict[str, list[str]] = {}
            for word in self.names:
                alike.setdefault(normalize(word), []).append(word)
            listed = "; ".join(" = ".join(words) for words in alike.values() if len(words) > 1)
            raise ValueError(
                f"{where} has words that differ only in case, underscores or spaces: {listed}. "
                f"Keep one of each, or rename it (two meanings: add the meaning, as in 'mouse (animal)')"
            )
        for word, parents in zip(self.names, self.parents, strict=True):
            if normalize(word) in map(normalize, parents):
                raise ValueError(f"{where}: {word!r} is given as its own parent")
        circle = self._circle()
        if circle:
            raise ValueError(f"{where}: the parents go round in a circle: {' -> '.join(circle)}; take one of them out")

    def _circle(self) -> list[str]:
        """Words each of which is a parent of the one before it, the first being the last; empty if there are none."""
        if not (self.hypernyms or any(self.parents)):
            return []
        above = {normalize(word): [normalize(p) for p in parents] for word, parents in self.hypernyms.items()}
        above |= {normalize(w): [normalize(p) for p in ps] for w, ps in zip(self.names, self.parents, strict=True)}
        done: set[str] = set()
        for start in above:
            path: dict[str, None] = {start: None}
            waiting = [iter(above[start])]
            while waiting and start not in done:
                parent = next(waiting[-1], None)
                if parent is None:
                    done.add(path.popitem()[0])
                    waiting.pop()
                elif parent in path:
                    words = list(path)
                    return [*words[words.index(parent) :], parent]
                elif parent in above and parent not in done:
                    path[parent] = None
                    waiting.append(iter(above[parent]))
        return []

    @cached_property
    def positions(self) -> Mapping[str, int]:
        """Class index of every word by its spellings in the form of :func:`mvseg.vocabulary.suggestions.normalize`.

        Returns:
            Reduced name or spelling to class index; a name goes before another word's spelling. Made once.
        """
        found: dict[str, int] = {}
        for index, word in enumerate(self.names):
            found.setdefault(normalize(word), index)
        for index, spellings in enumerate(self.spellings):
            for spelling in spellings:
                found.setdefault(normalize(spelling), index)
        return found

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        words = ", ".join(self.names[:3]) + (", ..." if len(self) > 3 else "")
        width = "" if self.embeddings is None else f", embeddings of width {self.embeddings.shape[1]}"
        return f"Vocabulary({self.name!r}, {len(self)} word{'s' * (len(self) > 1)}: {words}{width})"

    @classmethod
    def from_names(cls, names: Iterable[str], name: str = "words") -> Vocabulary:
        """Make a vocabulary from a list of words.

        Args:
            names: the words.
            name: name of the vocabulary.

        Returns:
            A vocabulary with ids 1..n and no embeddings.
        """
        return cls(name=name, names=tuple(str(word) for word in names))

    @classmethod
    def from_table(cls, name: str) -> Vocabulary:
        """Read a vocabulary that comes with mvseg.

        Args:
            name: ``"coco"``, ``"lvis_v1"``, ``"ade20k_150"`` ...; see :func:`mvseg.vocabulary.builtin_tables`.

        Returns:
            The vocabulary of that name, without embeddings.
        """
        return cls.from_columns(read_builtin_table(name), name)

    @classmethod
    def from_file(cls, path: str | Path, name: str | None = None) -> Vocabulary:
        """Read a vocabulary from a file of names; see :func:`mvseg.vocabulary.read_table` for the formats.

        Args:
            path: txt, tsv, json or yaml file.
            name: name of the vocabulary; None: the file's name without its ending.

        Returns:
            The vocabulary, without embeddings.
        """
        return cls.from_columns(read_table(path), name or Path(path).stem)

    @classmethod
    def from_categories(cls, categories: Sequence[Mapping[str, Any]], name: str) -> Vocabulary:
        """Make a vocabulary from the ``categories`` of a COCO or LVIS file, in the order of their ids.

        Args:
            categories: dicts with ``id`` and ``name``, and for LVIS frequency, counts, synonyms and definition.
            name: name of the vocabulary.

        Returns:
            The vocabulary, without embeddings.
        """
        return cls.from_columns(columns_from_categories(categories, f"categories of {name}"), name)

    @classmethod
    def from_columns(cls, columns: Mapping[str, Any], name: str) -> Vocabulary:
        """Make a vocabulary from columns as :func:`mvseg.vocabulary.read_table` returns them.

        Args:
            columns: field name to its n values; ``names`` is needed; ``hypernyms`` is a mapping.
            name: name of the vocabulary.

        Returns:
            The vocabulary, without embeddings.
        """
        fields: dict[str, Any] = {
            column: dict(values) if isinstance(values, Mapping) else tuple(values) for column, values in columns.items()
        }
        return cls(name=name, **fields)

    def index(self, name: str) -> int:
        """Look up a word; case, underscores and spaces are not told apart.

        Args:
            name: one of the words, or a spelling of it in annotation files.

        Returns:
            Its class index, 0-based.

        Raises:
            KeyError: if there is no such word; the message lists the nearest words, or whose synonym it is.
        """
        word = normalize(name)
        if word in self.positions:
            return self.positions[word]
        owners = [n for n, words in zip(self.names, self.synonyms, strict=True) if word in map(normalize, words)]
        hint = f"; it is a synonym of {', '.join(owners)}" if owners else did_you_mean(name, self.names)
        raise KeyError(f"vocabulary {self.name!r} has no word {name!r}{hint}")

    def ancestors(self, name: str) -> tuple[str, ...]:
        """List everything that a word is a kind of.

        Args:
            name: one of the words.

        Returns:
            Its parents, their parents and so on, nearest first, each once; words of the vocabulary in its spelling.
        """
        outside = self._outside_parents
        start = self.index(name)
        found: dict[str, str] = {normalize(self.names[start]): self.names[start]}
        waiting = list(self.parents[start])
        for parent in waiting:  # grows while it is walked: breadth first
            word = normalize(parent)
            if word in found:
                continue
            index = self.positions.get(word)
            found[word] = parent if index is None else self.names[index]
            waiting += outside.get(word, ()) if index is None else self.parents[index]
        return tuple(found.values())[1:]

    @cached_property
    def _outside_parents(self) -> Mapping[str, tuple[str, ...]]:
        return {normalize(word): tuple(parents) for word, parents in self.hypernyms.items()}

    def subset(self, names: Iterable[str], name: str | None = None) -> Vocabulary:
        """Keep some of the words, in the given order, with everything known about them.

        Args:
            names: the words to keep.
            name: name of the new vocabulary; None keeps the name.

        Returns:
            A vocabulary with these words; ids and embeddings go along.
        """
        rows = [self.index(word) for word in names]
        fields = {f: getattr(self, f) for f in ("names", *_PER_WORD)}
        kept: dict[str, Any] = {
            f: None if values is None else tuple(values[r] for r in rows) for f, values in fields.items()
        }
        embeddings = None if self.embeddings is None else self.embeddings[rows]
        dropped = {word: parents for word, parents in zip(self.names, self.parents, strict=True) if parents}
        hypernyms = {**self.hypernyms, **dropped}  # what is no word any more still leads from a word to its ancestors
        return dataclasses.replace(self, name=name or self.name, embeddings=embeddings, hypernyms=hypernyms, **kept)

    def with_embeddings(
        self,
        source: str | Path | Tensor,
        rows: Vocabulary | Sequence[str] | None = None,
        width: int | None = None,
    ) -> Vocabulary:
        """Attach text embeddings from a file or a tensor.

        Args:
            source: ``.npy``, ``.npz`` or ``.safetensors`` file, or a tensor (m, D).
            rows: the m words that the rows stand for, if they are not this vocabulary's words in their order: the
                row of each word is then found by name or synonym. An ``.npz`` file may carry its own row names.
            width: expected D; None: any.

        Returns:
            A copy with ``embeddings`` (n, D), float32, as in the file (not normalised).

        Raises:
            ValueError: if the number of rows, the width or a value is wrong, or a word has no row; the message names
                the file, what was expected and what was found.
        """
        own_rows: tuple[str, ...] | None = None
        if isinstance(source, Tensor):
            table, where = source.detach().float(), f"embeddings for vocabulary {self.name!r}"
        else:
            where = f"embedding file {source}, vocabulary {self.name!r}"
            table, own_rows = read_embeddings(source)
        rows = own_rows if rows is None else rows
        check_embeddings(table, len(self) if rows is None else len(rows), where, width)
        if rows is not None:
            row_names = rows.names if isinstance(rows, Vocabulary) else tuple(rows)
            row_others = rows._other_spellings if isinstance(rows, Vocabulary) else None
            table = table[match_rows(self.names, self._other_spellings, row_names, row_others, where)]
        return dataclasses.replace(self, embeddings=table.contiguous())

    @property
    def _other_spellings(self) -> tuple[tuple[str, ...], ...]:
        return tuple((*spelt, *said) for spelt, said in zip(self.spellings, self.synonyms, strict=True))

    def image_counts(self) -> Tensor:
        """Give the number of training images of each class as a tensor.

        Returns:
            Counts (n,), float32.

        Raises:
            ValueError: if the vocabulary has no counts.
        """
        if self.image_count is None:
            raise ValueError(f"vocabulary {self.name!r} has no image counts")
        return torch.tensor(self.image_count, dtype=torch.float32)
