"""Records of millions of images: kept as a few arrays, in memory or mapped from a file, instead of as dictionaries.

A dictionary takes about a kilobyte, a row of these arrays twenty bytes and its name. A record is made when it is asked
for. Mapped arrays are not even read before that, and all processes share their pages.
"""

from __future__ import annotations

import mmap
import operator
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from .tar_files import member_url

_PART = 1 << 19  # records

Record = dict[str, Any]
Integers = npt.NDArray[Any]


class _Mapped:
    """Pickles mapped arrays as the place in their file: a worker maps them again instead of getting a copy."""

    def __getstate__(self) -> dict[str, Any]:
        return {key: _place(value) for key, value in self.__dict__.items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({key: v.open() if isinstance(v, _Place) else v for key, v in state.items()})


@dataclass(frozen=True)
class _Place:
    path: str
    dtype: str
    offset: int
    count: int

    def open(self) -> Integers:
        return np.memmap(self.path, self.dtype, "r", self.offset, (self.count,))


def _place(value: Any) -> Any:
    if isinstance(value, np.memmap) and isinstance(value.base, mmap.mmap):  # the array itself, not a part of one
        return _Place(str(value.filename), value.dtype.str, value.offset, len(value))
    return value


@dataclass(eq=False)
class TextColumn(_Mapped):
    """A text for each of n rows.

    Args:
        data: the UTF-8 bytes, shape ``(bytes,)``, uint8.
        starts: where each text starts in it, shape ``(n,)`` or longer, int64.
        lengths: bytes of each text, shape ``(n,)``, int32; None: up to the next start, of which there are n + 1.
    """

    data: Integers
    starts: Integers
    lengths: Integers | None = None

    def __getitem__(self, row: int) -> str:
        start = int(self.starts[row])
        end = int(self.starts[row + 1]) if self.lengths is None else start + int(self.lengths[row])
        return bytes(self.data[start:end]).decode("utf-8", errors="replace")

    def sizes(self) -> Integers:
        """Measure the texts.

        Returns:
            Bytes of each text, shape ``(n,)``.
        """
        return np.diff(self.starts) if self.lengths is None else self.lengths


@dataclass(eq=False)
class ListColumn(_Mapped):
    """A list of whole numbers for each of n rows.

    Args:
        values: the lists one after the other, shape ``(values,)``, int32.
        starts: where each list starts, and the end of the last, shape ``(n + 1,)``, int64.
    """

    values: Integers
    starts: Integers

    def __getitem__(self, row: int) -> Integers:
        return self.values[int(self.starts[row]) : int(self.starts[row + 1])]

    @classmethod
    def of(cls, lists: Iterable[Iterable[int]]) -> ListColumn:
        """Put lists one after the other.

        Args:
            lists: the lists.

        Returns:
            The column.
        """
        values, starts = array("i"), array("q", [0])
        for numbers in lists:
            values.extend(numbers)
            starts.append(len(values))
        return cls(
            np.frombuffer(values, np.int32) if values else np.zeros(0, np.int32), np.frombuffer(starts, np.int64)
        )


@dataclass(eq=False)
class Members(_Mapped):
    """Where each of n images lies inside tar files.

    Args:
        files: paths of the tar files.
        shard: number of the file, shape ``(n,)``, int32.
        offset: first byte of the image in it, shape ``(n,)``, int64.
        size: bytes of the image, shape ``(n,)``, int32 or int64.
    """

    files: Sequence[str]
    shard: Integers
    offset: Integers
    size: Integers


@dataclass(eq=False)
class Columns(_Mapped):
    """What is known about n images, column by column; a column that is None does not exist.

    Args:
        names: name of each image: a path relative to ``root``, or the member's name in its tar file.
        root: folder of the images.
        members: where the images lie inside tar files; None: they are files of their own.
        labels: labels of each image: class indices, or numbers that ``classes`` turns into them.
        classes: class index of each label, shape ``(labels,)``; negative: the label is left out. None: the labels are
            class indices.
        negatives: class indices that somebody looked for and did not find.
        captions: the sentences of each image, divided by line breaks.
        file_name: template of the file's name below ``root`` from ``value`` (the name), ``name`` (what stands behind
            the last slash of its path) and ``row`` (number of the row); "": the name as it is.
        named_ids: image ids are the names without folder and ending; False: the numbers of the rows from 1.
    """

    names: TextColumn
    root: str = ""
    members: Members | None = None
    labels: ListColumn | None = None
    classes: Integers | None = None
    negatives: ListColumn | None = None
    captions: TextColumn | None = None
    file_name: str = ""
    named_ids: bool = False

    def path(self, row: int) -> str:
        """Say where an image lies.

        Args:
            row: number of the row.

        Returns:
            Path of its file, or address in its tar file.
        """
        name = self.names[row]
        if self.members is not None:
            m = self.members
            return member_url(m.files[int(m.shard[row])], int(m.offset[row]), int(m.size[row]), name)
        if self.file_name:
            name = self.file_name.format(value=name, name=name.split("?")[0].rsplit("/", 1)[-1], row=row)
        return os.path.join(self.root, name)


class ColumnRecords(_Mapped, Sequence[Record]):
    """The records of a dataset of tags or captions as a sequence that makes each one when it is asked for.

    Args:
        dataset: name of the dataset.
        supervision: its kind of supervision, "tags" or "captions".
        columns: what is known about the images.
        rows: number of the row of each record, shape ``(records,)``; None: all rows in their order.
    """

    def __init__(self, dataset: str, supervision: str, columns: Columns, rows: Integers | None = None) -> None:
        self.dataset, self.supervision, self.columns, self.rows = dataset, supervision, columns, rows
        self._count = len(columns.names.sizes()) if rows is None else len(rows)

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> ColumnRecords: ...
    def __getitem__(self, index: int | slice) -> Record | ColumnRecords:
        if isinstance(index, slice):
            return self.select(np.arange(*index.indices(len(self))))
        place = operator.index(index)
        if not -len(self) <= place < len(self):
            raise IndexError(f"dataset {self.dataset!r} has {len(self)} records, there is no record {place}")
        place %= len(self)
        return self._record(place if self.rows is None else int(self.rows[place]))

    def __iter__(self) -> Iterator[Record]:
        return (self[place] for place in range(len(self)))

    def _record(self, row: int) -> Record:
        columns = self.columns
        path = columns.path(row)
        record: Record = {
            "file_name": path,
            "image_id": PurePath(path).stem if columns.named_ids else row + 1,
            "dataset": self.dataset,
            "supervision": self.supervision,
            "annotations": [],
        }
        if columns.labels is not None:
            labels = columns.labels[row]
            labels = labels if columns.classes is None else columns.classes[labels]
            record["image_labels"] = sorted({label for label in labels.tolist() if label >= 0})
        if columns.negatives is not None:
            record["verified_category_ids"] = list(record["image_labels"])
            record["neg_category_ids"] = columns.negatives[row].tolist()
        if columns.captions is not None:
            record["captions"] = [text for text in columns.captions[row].split("\n") if text]
        return record

    def select(self, places: Integers) -> ColumnRecords:
        """Choose some records; the columns are shared.

        Args:
            places: their places in this sequence, shape ``(chosen,)``.

        Returns:
            The chosen records.
        """
        rows = places if self.rows is None else self.rows[places]
        return ColumnRecords(self.dataset, self.supervision, self.columns, rows)

    def label_counts(self) -> Integers:
        """Count the labels of each record that are not left out.

        Returns:
            Counts, shape ``(records,)``, int64; a class that has two labels counts twice.
        """
        labels, classes = self.columns.labels, self.columns.classes
        if labels is None:
            return np.zeros(len(self), np.int64)
        starts = np.asarray(labels.starts)
        if classes is not None and (classes < 0).any():
            kept = np.concatenate([[0], np.cumsum(classes[labels.values] >= 0)])
            starts = kept[starts]
        counts = np.diff(starts)
        return counts if self.rows is None else counts[self.rows]

    def annotated(self) -> npt.NDArray[np.bool_]:
        """Say which records teach something.

        Returns:
            Shape ``(records,)``: whether there is a label, or with supervision "captions" a sentence.
        """
        if self.supervision != "captions":
            return self.label_counts() > 0
        if self.columns.captions is None:
            return np.zeros(len(self), dtype=bool)
        found = self.columns.captions.sizes() > 0
        return found if self.rows is None else found[self.rows]

    def without_empty(self) -> ColumnRecords:
        """Leave out the records that teach nothing.

        Returns:
            The others; the sequence itself if that is all.
        """
        kept = self.annotated()
        return self if kept.all() else self.select(np.flatnonzero(kept))

    def class_pairs(self) -> tuple[Integers, Integers]:
        """List which class occurs in which record.

        Returns:
            Places of the records, ascending, and class indices, shape ``(pairs,)`` each, every pair once.
        """
        labels, classes = self.columns.labels, self.columns.classes
        if labels is None:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        parts = [  # in parts, since sorting takes several times the memory of the result
            self._pairs(labels, classes, np.arange(first, min(first + _PART, len(self))))
            for first in range(0, max(len(self), 1), _PART)
        ]
        return np.concatenate([rows for rows, _ in parts]), np.concatenate([found for _, found in parts])

    def _pairs(self, labels: ListColumn, classes: Integers | None, places: Integers) -> tuple[Integers, Integers]:
        rows = places if self.rows is None else self.rows[places]
        starts = labels.starts[rows]
        counts = labels.starts[rows + 1] - starts
        first = np.repeat(starts - np.cumsum(counts) + counts, counts)
        found = labels.values[first + np.arange(len(first))]
        indices = found if classes is None else classes[found]
        width = int(indices.max(initial=0)) + 1
        pairs = np.unique((np.repeat(places, counts) * width + indices)[indices >= 0])
        return pairs // width, pairs % width

    def with_columns(self, **columns: Any) -> ColumnRecords:
        """Exchange columns.

        Args:
            **columns: fields of :class:`Columns`.

        Returns:
            The same records with the new columns.
        """
        return ColumnRecords(self.dataset, self.supervision, replace(self.columns, **columns), self.rows)


def text_column(texts: Iterable[str]) -> TextColumn:
    """Put texts one after the other.

    Args:
        texts: one for each row.

    Returns:
        The column.
    """
    data, starts = bytearray(), array("q", [0])
    for text in texts:
        data += text.encode("utf-8", errors="surrogateescape")
        starts.append(len(data))
    return TextColumn(np.frombuffer(data, np.uint8) if data else np.zeros(0, np.uint8), np.frombuffer(starts, np.int64))
