"""Several vocabularies side by side in one classifier: which column each dataset's class index means."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from .merging import WordMapping, mapped_groups, similar_groups
from .relations import Alias, find_aliases, find_ancestors
from .similarity import Rescale, SimilarityRange, cosine_blocks, rescale_similarity, similarity_range, unit_rows
from .suggestions import did_you_mean, normalize
from .vocabulary import Vocabulary


class LabelSpace:
    """The n columns of a classifier that serves several datasets.

    Args:
        vocabularies: dataset name to its vocabulary.
        columns: dataset name to a LongTensor (n_dataset,), the column of each of its class indices.
        names: the word of each column; words of different datasets may be equal.

    Raises:
        ValueError: if the two mappings name different datasets, a column is out of range, or only some vocabularies
            have embeddings, or embeddings of different width.
    """

    def __init__(
        self, vocabularies: Mapping[str, Vocabulary], columns: Mapping[str, Tensor], names: Sequence[str]
    ) -> None:
        if not vocabularies or set(vocabularies) != set(columns):
            raise ValueError(f"label space of {sorted(vocabularies)} with columns for {sorted(columns)}")
        self.vocabularies = dict(vocabularies)
        self.names = tuple(names)
        self._columns = {dataset: columns[dataset].long() for dataset in self.vocabularies}
        for dataset, index in self._columns.items():
            if len(index) != len(self.vocabularies[dataset]) or not 0 <= int(index.min()) <= int(index.max()) < self.n:
                raise ValueError(f"dataset {dataset!r}: {index.tolist()} are no columns of a space of {self.n}")
        self.embeddings = self._gather_embeddings()
        self.image_count = self._gather_image_count()

    @classmethod
    def concatenate(cls, vocabularies: Mapping[str, Vocabulary]) -> LabelSpace:
        """Give every vocabulary its own columns, one after the other.

        Datasets whose vocabularies have the same name and words (train and val of one dataset) share their columns.

        Args:
            vocabularies: dataset name to its vocabulary.

        Returns:
            A space with as many columns as the different vocabularies have words.
        """
        names: list[str] = []
        starts: dict[tuple[str, tuple[str, ...]], int] = {}
        columns = {}
        for dataset, vocabulary in vocabularies.items():
            key = (vocabulary.name, vocabulary.names)
            if key not in starts:
                starts[key] = len(names)
                names += vocabulary.names
            columns[dataset] = torch.arange(len(vocabulary)) + starts[key]
        return cls(vocabularies, columns, names)

    @classmethod
    def merge_all(cls, vocabularies: Mapping[str, Vocabulary], name: str = "object") -> LabelSpace:
        """Let all words share one column, for models that know objects but no classes.

        Args:
            vocabularies: dataset name to its vocabulary.
            name: the word of the column.

        Returns:
            A space with one column, without embeddings and image counts.
        """
        plain = {d: dataclasses.replace(v, embeddings=None, image_count=None) for d, v in vocabularies.items()}
        return cls(plain, {d: torch.zeros(len(v), dtype=torch.long) for d, v in plain.items()}, [name])

    @classmethod
    def merge_names(cls, vocabularies: Mapping[str, Vocabulary]) -> LabelSpace:
        """Let words of the same spelling share a column (case, underscores and spaces are not told apart).

        Args:
            vocabularies: dataset name to its vocabulary. The spelling and the embedding of a shared column are
                those of the first dataset that has the word.

        Returns:
            A space with one column for each different word, in the order of first appearance.
        """
        position: dict[str, int] = {}
        names: list[str] = []
        columns = {}
        for dataset, vocabulary in vocabularies.items():
            for word in vocabulary.names:
                if normalize(word) not in position:
                    position[normalize(word)] = len(names)
                    names.append(word)
            columns[dataset] = torch.tensor([position[normalize(word)] for word in vocabulary.names])
        return cls(vocabularies, columns, names)

    @classmethod
    def merge_mapping(cls, vocabularies: Mapping[str, Vocabulary], mapping: str | Path | WordMapping) -> LabelSpace:
        """Let words share a column where a hand-written mapping says so; other words keep columns of their own.

        Args:
            vocabularies: dataset name to its vocabulary.
            mapping: file (:func:`mvseg.vocabulary.read_mapping`), or unified word -> dataset or name of a vocabulary ->
                its word or words. The column has the unified word; its embedding is that of the first dataset's word.

        Returns:
            A space with the unified words first, in the order of the mapping.
        """
        different = _different(vocabularies)
        groups = mapped_groups({dataset: vocabularies[dataset] for dataset in different.values()}, mapping)
        names = [unified for unified, _ in groups]
        position = {member: column for column, (_, members) in enumerate(groups) for member in members}
        for dataset in different.values():
            for index, word in enumerate(vocabularies[dataset].names):
                if (dataset, index) not in position:
                    position[dataset, index] = len(names)
                    names.append(word)
        return cls(vocabularies, _columns_from(vocabularies, different, position), names)

    @classmethod
    def merge_similar(
        cls, vocabularies: Mapping[str, Vocabulary], threshold: float = 0.98, block: int = 1024
    ) -> LabelSpace:
        """Let words of different vocabularies share a column if their text embeddings are alike.

        The most similar pairs are joined first; two words of one vocabulary never share a column.

        Args:
            vocabularies: dataset name to its vocabulary, with embeddings. The spelling and the embedding of a shared
                column are those of the first dataset.
            threshold: smallest cosine (not rescaled) of a pair that joins.
            block: rows of the similarity matrix that are held at a time.

        Returns:
            A space whose columns are in the order of first appearance.
        """
        different = _different(vocabularies)
        groups = similar_groups({d: vocabularies[d] for d in different.values()}, threshold, block)
        words = [(d, i) for d in different.values() for i in range(len(vocabularies[d]))]
        position = {words[word]: column for column, members in enumerate(groups) for word in members}
        first = [words[members[0]] for members in groups]
        names = [vocabularies[dataset].names[index] for dataset, index in first]
        return cls(vocabularies, _columns_from(vocabularies, different, position), names)

    @property
    def n(self) -> int:
        """Number of columns.

        Returns:
            n.
        """
        return len(self.names)

    @property
    def datasets(self) -> tuple[str, ...]:
        """Names of the datasets in the space.

        Returns:
            The names, in the order in which they were given.
        """
        return tuple(self.vocabularies)

    def __len__(self) -> int:
        return self.n

    def columns(self, dataset: str) -> Tensor:
        """Give the column of each class index of a dataset.

        Args:
            dataset: name of a dataset of the space.

        Returns:
            Columns (n_dataset,), int64.

        Raises:
            KeyError: if the space has no such dataset; the message lists the nearest names.
        """
        if dataset not in self._columns:
            raise KeyError(f"the label space has no dataset {dataset!r}{did_you_mean(dataset, self.datasets)}")
        return self._columns[dataset]

    def to_columns(self, dataset: str, classes: Tensor) -> Tensor:
        """Translate class indices of a dataset into columns of the space.

        Args:
            dataset: name of a dataset of the space.
            classes: indices into the dataset's vocabulary, (N,) or any other shape, int64.

        Returns:
            Columns, of the same shape and device, int64.
        """
        return self.columns(dataset).to(classes.device)[classes]

    @cached_property
    def representatives(self) -> tuple[str, ...]:
        """One dataset for every different vocabulary (train and val of one dataset share theirs).

        Returns:
            Names of datasets, in the order in which they were given.
        """
        return tuple(_different(self.vocabularies).values())

    def membership(self) -> Tensor:
        """Say which vocabularies tell which columns apart.

        Returns:
            (V, n) bool for the V different vocabularies in the order of ``representatives``; True where the vocabulary
            has a word in the column.
        """
        table = torch.zeros(len(self.representatives), self.n, dtype=torch.bool)
        for row, dataset in enumerate(self.representatives):
            table[row, self.columns(dataset)] = True
        return table

    def require_embeddings(self, purpose: str) -> Tensor:
        """Give the text embeddings of the columns.

        Args:
            purpose: what needs them, for the error.

        Returns:
            (n, D) float32, as in the files (not normalised).

        Raises:
            ValueError: if the vocabularies have none.
        """
        if self.embeddings is None:
            raise ValueError(
                f"{purpose} needs text embeddings, but {', '.join(self.datasets)} have none: name a file of embeddings "
                "in their cards (python -m mvseg.vocabulary embed makes one), or attach them with with_embeddings"
            )
        return self.embeddings

    @cached_property
    def similarity_limits(self) -> SimilarityRange:
        """Smallest, mean and largest cosine of two different columns, computed once.

        Returns:
            The three numbers.
        """
        return similarity_range(self._units)

    def similarity(
        self, rescale: Rescale | None = None, block: int = 1024, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Compare all columns by the cosine of their text embeddings, in blocks of rows.

        Args:
            rescale: None: the cosine; "minmax": the smallest cosine becomes 0; "centered": the mean becomes 0 and all
                below it too. 1 stays 1.
            block: number of rows held beside the result.
            dtype: type of the result; bfloat16 halves its memory.

        Returns:
            (n, n), symmetric.
        """
        result = torch.empty(self.n, self.n, dtype=dtype)
        for first, cosines in cosine_blocks(self._units, block):
            result[first : first + len(cosines)] = self._rescaled(cosines, rescale)
        return result

    def similarity_rows(
        self, columns: Tensor, rescale: Rescale | None = None, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Compare some columns with all; nothing of size (n, n) is made.

        Args:
            columns: (k,) int64 columns.
            rescale: as for ``similarity``.
            dtype: type of the result.

        Returns:
            (k, n).
        """
        cosines = (self._units[columns] @ self._units.t()).clamp_(-1, 1)
        return self._rescaled(cosines, rescale).to(dtype)

    def aliases(self, threshold: float | None = None) -> list[Alias]:
        """Find columns of different vocabularies that mean the same: equal words, synonyms, or similar text embeddings.

        Args:
            threshold: cosine from which words count as the same; None: only words and synonyms.

        Returns:
            The pairs with their reason and cosine, in the order of their columns.
        """
        return find_aliases(self, threshold)

    def ancestors(self) -> Tensor:
        """Find broader words by the parents that the vocabularies know, across datasets.

        Returns:
            (n, n) bool; True at [i, j] if the word of column j is broader than that of column i.
        """
        return find_ancestors(self)

    @cached_property
    def _units(self) -> Tensor:
        return unit_rows(self.require_embeddings("the similarity of columns"))

    def _rescaled(self, cosines: Tensor, kind: Rescale | None) -> Tensor:
        return cosines if kind is None else rescale_similarity(cosines, self.similarity_limits, kind)

    def _gather_embeddings(self) -> Tensor | None:
        widths = {d: None if v.embeddings is None else v.embeddings.shape[1] for d, v in self.vocabularies.items()}
        if all(width is None for width in widths.values()):
            return None
        if len(set(widths.values())) > 1:
            listed = ", ".join(f"{d}: {'none' if width is None else width}" for d, width in widths.items())
            raise ValueError(f"the datasets of one label space need text embeddings of one width; found {listed}")
        rows = torch.cat([v.embeddings for v in self.vocabularies.values() if v.embeddings is not None])
        columns = torch.cat(list(self._columns.values()))
        first = torch.full((self.n,), len(rows)).scatter_reduce(0, columns, torch.arange(len(rows)), "amin")
        rows = torch.cat([rows, rows.new_zeros(1, rows.shape[1])])  # for columns that no dataset has
        return rows[first]  # a shared column has the row of its first dataset

    def _gather_image_count(self) -> Tensor | None:
        if any(vocabulary.image_count is None for vocabulary in self.vocabularies.values()):
            return None
        total = torch.zeros(self.n)
        for dataset in self.representatives:  # train and val share one vocabulary and thus one count
            total.index_add_(0, self._columns[dataset], self.vocabularies[dataset].image_counts())
        return total


def _different(vocabularies: Mapping[str, Vocabulary]) -> dict[tuple[str, tuple[str, ...]], str]:
    """The first dataset of every different vocabulary, by the vocabulary's name and words."""
    found: dict[tuple[str, tuple[str, ...]], str] = {}
    for dataset, vocabulary in vocabularies.items():
        found.setdefault((vocabulary.name, vocabulary.names), dataset)
    return found


def _columns_from(
    vocabularies: Mapping[str, Vocabulary],
    different: Mapping[tuple[str, tuple[str, ...]], str],
    position: Mapping[tuple[str, int], int],
) -> dict[str, Tensor]:
    """Columns (n_dataset,) of every dataset from the column of every (first dataset of a vocabulary, class index)."""
    owners = {dataset: different[v.name, v.names] for dataset, v in vocabularies.items()}
    return {d: torch.tensor([position[owners[d], i] for i in range(len(v))]) for d, v in vocabularies.items()}
