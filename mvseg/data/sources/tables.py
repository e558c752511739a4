"""Tables in text files: CSV with a header, line numbers and named columns, and lists of class names."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from ..card import DatasetCard, missing_message
from ..checks import complain

Label = TypeVar("Label")  # a text such as a MID, or a number
_HEADERS = {"labelname", "label", "id", "mid", "wnid", "class", "folder"}


def read_class_names(card: DatasetCard, path: Path) -> dict[str, str]:
    """Read the names of labels, such as Open Images' class descriptions or ImageNet's list of synsets.

    Args:
        card: the card named in errors.
        path: CSV or TSV file of label and name, with or without a header; in a .txt file the first space or tab divides
            them, and of several names divided by commas the first counts.

    Returns:
        Label to name, in the order of the file.

    Raises:
        ValueError: if a line does not have both, or a label occurs twice; the message names the line.
    """
    names: dict[str, str] = {}
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix.lower() == ".txt":
        rows: Iterator[list[str]] = iter([line.split(maxsplit=1) for line in text.splitlines()])
    else:
        rows = csv.reader(text.splitlines(), delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
    for number, row in enumerate(rows, start=1):
        if not any(cell.strip() for cell in row):
            continue
        if number == 1 and row[0].strip().lower() in _HEADERS:
            continue
        label, name = row[0].strip(), row[1].strip() if len(row) > 1 else ""
        name = name.split(",")[0].strip() if path.suffix.lower() == ".txt" else name
        if not label or not name:
            complain(f"{card.where}: {path}, line {number}: needs a label and its name, found {','.join(row)!r}")
        elif label in names:
            complain(f"{card.where}: {path}, line {number}: label {label} occurs twice", "duplicate_id")
        else:
            names[label] = name
    return names


def unique_names(names: Mapping[Label, str]) -> dict[Label, str]:
    """Tell labels apart that have the same name (ImageNet's two cranes): their label is put behind it.

    Args:
        names: label to name.

    Returns:
        Label to a name that no other label has.
    """
    counts = Counter(names.values())
    return {label: f"{name} ({label})" if counts[name] > 1 else name for label, name in names.items()}


def read_rows(
    card: DatasetCard, path: Path, columns: Sequence[str], optional: Sequence[str] = ()
) -> Iterator[tuple[int, list[str]]]:
    """Read the lines of a CSV file with a header.

    Args:
        card: the card named in errors.
        path: the file.
        columns: names of the columns to read.
        optional: further columns, whose cells are empty where the file does not have them.

    Yields:
        Line number, and the cells of ``columns`` and ``optional``.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if it lacks a column, or a line has fewer cells than the header.
    """
    if not path.is_file():
        raise FileNotFoundError(missing_message(card, "annotation file", path))
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        header = [name.strip() for name in next(reader, [])]
        lacking = [name for name in columns if name not in header]
        if lacking:
            raise ValueError(
                f"{card.where}: {path} has no column {', '.join(lacking)}; it has {', '.join(header) or 'nothing'}"
            )
        places = [header.index(name) if name in header else -1 for name in (*columns, *optional)]
        least = max(places)
        for row in reader:
            if len(row) <= least:
                if row:
                    complain(f"{card.where}: {path}, line {reader.line_num}: {len(row)} cells, {least + 1} are needed")
                continue
            yield reader.line_num, [row[place] if place >= 0 else "" for place in places]
