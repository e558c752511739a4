"""Tables of sentences and images, one image a line, as Conceptual Captions has them."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mvseg.vocabulary import Vocabulary, did_you_mean

from ..card import DatasetCard, missing_message
from ..checks import LoadReport, complain
from ..columns import ColumnRecords, Columns, ListColumn, TextColumn
from .base import LoadedDataset, check_folder, check_images, count_images, read_split, register_format
from .caption_words import MATCH_OPTIONS, CaptionWords


@register_format(
    "caption_table",
    supervision=("captions", "tags"),
    options={
        "header": "the first line names the columns (false)",
        "caption": "column of the sentences, its number from 0 or its name (0)",
        "image": "column of the image's path or address, its number from 0 or its name (1)",
        "file_name": "the image's file below image_root from {value} (the column), {name} (its last part) and {row} "
        "(the line's number from 0, as {row:08d}.jpg); left out: {value}",
        "missing": "lines whose image is not there: error or skip; left out: error",
        **MATCH_OPTIONS,
    },
)
def load_caption_table(card: DatasetCard, vocabulary: Vocabulary | None) -> LoadedDataset:
    """Read a table of sentences and images, its columns divided by tabs; the text itself stays in the file.

    Args:
        card: the dataset's card; ``annotations`` is the table.
        vocabulary: words to be found in the sentences; supervision "tags" needs it, with "captions" it adds
            ``image_labels``.

    Returns:
        Records with ``captions``, a list of one sentence, and ``image_labels`` if there is a vocabulary. The image id
        is the number of the line from 1, the header not counted.

    Raises:
        FileNotFoundError: if the table or the image folder does not exist.
        ValueError: if an option is wrong, a column does not exist, a line has too few, or no image is left.
    """
    path = card.resolve(card.annotations)
    if not path.is_file():
        raise FileNotFoundError(missing_message(card, "table of captions", path))
    if card.supervision == "tags" and vocabulary is None:
        raise ValueError(f"{card.where}: to find tags in sentences, name their words (vocabulary: lvis_v1)")
    root = check_folder(card, card.resolve(card.image_root), "image folder")
    report = LoadReport(card.name)
    table = _Table(card, path, report)
    words = CaptionWords(card, vocabulary, report) if vocabulary is not None else None
    labels = ListColumn.of(table.read(words))
    columns = table.columns(str(root), labels if words is not None else None)
    records = _present(card, ColumnRecords(card.name, card.supervision, columns), report)
    report.add("captions", int((columns.captions.sizes() > 0).sum()) if columns.captions is not None else 0)
    check_images(card, records)
    count_images(records, report)
    return LoadedDataset(records, vocabulary, report)


class _Table:
    """Places of the columns' texts in the file, one after the other."""

    def __init__(self, card: DatasetCard, path: Path, report: LoadReport) -> None:
        self.card, self.path, self.report = card, path, report
        self.header = _flag(card, "header")
        self.caption: int = 0
        self.image: int = 1
        self._starts = [array("q"), array("q")]
        self._lengths = [array("i"), array("i")]

    def read(self, words: CaptionWords | None) -> Iterator[list[int]]:
        """Note the places of every line; gives the classes that its sentence names."""
        with self.path.open("rb") as file:
            start = len(b"\xef\xbb\xbf") if file.read(3) == b"\xef\xbb\xbf" else 0
            file.seek(start)
            head = file.readline() if self.header else b""
            self._find_columns(head.decode("utf-8").rstrip("\r\n").split("\t") if self.header else [])
            start += len(head)
            for number, line in enumerate(file, start=1 + self.header):
                cells = line.rstrip(b"\r\n").split(b"\t")
                self._add(cells, start, number)
                start += len(line)
                yield self._words(cells, words)

    def _find_columns(self, names: list[str]) -> None:
        for key, usual in (("caption", 0), ("image", 1)):
            column = self.card.options.get(key, usual)
            if isinstance(column, str) and self.header:
                if column not in names:
                    raise ValueError(
                        f"{self.card.where}: {self.path} has no column {column!r}{did_you_mean(column, names)}"
                    )
                column = names.index(column)
            if not isinstance(column, int) or isinstance(column, bool) or column < 0:
                raise ValueError(
                    f"{self.card.where}: options.{key} must be the number of a column from 0, or with header: true its "
                    f"name, not {column!r}"
                )
            setattr(self, key, column)

    def _add(self, cells: list[bytes], start: int, number: int) -> None:
        bad = ""
        if len(cells) <= max(self.caption, self.image):
            bad = f"{len(cells)} columns, {max(self.caption, self.image) + 1} are needed, divided by tabs"
        elif not cells[self.image].strip():
            bad = "no image is named"
        if bad:
            found = b" ".join(cells)[:80].decode(errors="replace")
            complain(f"{self.card.where}: {self.path}, line {number}: {bad}; found {found!r}")
            cells = [b""] * (max(self.caption, self.image) + 1)
        for place, column in enumerate((self.caption, self.image)):
            before = sum(len(cell) + 1 for cell in cells[:column])
            self._starts[place].append(start + before)
            self._lengths[place].append(len(cells[column]))

    def _words(self, cells: list[bytes], words: CaptionWords | None) -> list[int]:
        text = cells[self.caption] if len(cells) > self.caption else b""
        if not text.strip():
            self.report.add("empty_sentences")
            return []
        return words.find(text.decode("utf-8", errors="replace")) if words is not None else []

    def columns(self, root: str, labels: ListColumn | None) -> Columns:
        """Give the columns of the records."""
        size = self.path.stat().st_size
        data = np.memmap(self.path, np.uint8, "r", 0, (size,)) if size else np.zeros(0, np.uint8)
        captions, names = (
            TextColumn(data, np.array(starts, np.int64), np.array(lengths, np.int32))
            for starts, lengths in zip(self._starts, self._lengths, strict=True)
        )
        template = self.card.options.get("file_name", "")
        return Columns(names, root, labels=labels, captions=captions, file_name=_template(self.card, template))


def _flag(card: DatasetCard, key: str) -> bool:
    value = card.options.get(key, False)
    if not isinstance(value, bool):
        raise ValueError(f"{card.where}: options.{key} must be true or false, not {value!r}")
    return value


def _template(card: DatasetCard, template: Any) -> str:
    try:
        str(template).format(value="a/b", name="b", row=1)
    except (KeyError, ValueError, IndexError) as error:
        raise ValueError(
            f"{card.where}: options.file_name {template!r} is no template of {{value}}, {{name}} and {{row}}: {error}"
        ) from error
    return str(template)


def _present(card: DatasetCard, records: ColumnRecords, report: LoadReport) -> ColumnRecords:
    """Leave out what is not in the split or, if the card says so, not there; lines without an image too."""
    missing = card.options.get("missing", "error")
    if missing not in ("error", "skip"):
        raise ValueError(f"{card.where}: options.missing {missing!r}{did_you_mean(str(missing), ('error', 'skip'))}")
    split = read_split(card)
    kept = np.asarray(records.columns.names.sizes()) > 0
    if split is None and missing == "error":
        return records if kept.all() else records.select(np.flatnonzero(kept))
    for row in np.flatnonzero(kept).tolist():
        path = records.columns.path(row)
        if split is not None and Path(path).stem not in split:
            kept[row] = False
            report.counts["unlisted_images"] += 1
        elif missing == "skip" and not os.path.isfile(path):
            kept[row] = False
            report.counts["missing_images"] += 1
    return records.select(np.flatnonzero(kept))
