"""Several vocabularies side by side in one classifier: which column each dataset's class index means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from .suggestions import did_you_mean, normalize
from .vocabulary import Vocabulary

ScopeKind = Literal["all", "own"]


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

    def scope(self, datasets: Sequence[str], kind: ScopeKind = "own", device: torch.device | str = "cpu") -> Tensor:
        """Say which columns the annotation of each image speaks about.

        Args:
            datasets: dataset name of each of the B images.
            kind: "all": every column (what is not annotated is absent); "own": the columns of the image's dataset.
            device: device of the result.

        Returns:
            Mask (B, n), bool; True where a missing annotation means absence.

        Raises:
            ValueError: if the kind is neither of the two.
        """
        if kind not in ("all", "own"):
            raise ValueError(f"annotation scope {kind!r}: choose 'all' or 'own'")
        mask = torch.full((len(datasets), self.n), kind == "all", dtype=torch.bool)
        for row, dataset in enumerate(datasets):
            mask[row, self.columns(dataset)] = True
        return mask.to(device)

    def _gather_embeddings(self) -> Tensor | None:
        widths = {d: None if v.embeddings is None else v.embeddings.shape[1] for d, v in self.vocabularies.items()}
        if all(width is None for width in widths.values()):
            return None
        if len(set(widths.values())) > 1:
            listed = ", ".join(f"{d}: {'none' if width is None else width}" for d, width in widths.items())
            raise ValueError(f"the datasets of one label space need text embeddings of one width; found {listed}")
        table = torch.zeros(self.n, next(iter(widths.values())) or 0)
        for dataset in reversed(self.datasets):  # the first dataset of a shared column is written last
            embeddings = self.vocabularies[dataset].embeddings
            if embeddings is not None:
                table[self._columns[dataset]] = embeddings
        return table

    def _gather_image_count(self) -> Tensor | None:
        if any(vocabulary.image_count is None for vocabulary in self.vocabularies.values()):
            return None
        total = torch.zeros(self.n)
        seen: set[tuple[str, tuple[str, ...]]] = set()
        for dataset, vocabulary in self.vocabularies.items():
            key = (vocabulary.name, vocabulary.names)
            if key not in seen:  # train and val share one vocabulary and thus one count
                seen.add(key)
                total.index_add_(0, self._columns[dataset], vocabulary.image_counts())
        return total
