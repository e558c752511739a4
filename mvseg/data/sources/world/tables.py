"""``python -m mvseg.data.sources.world.tables``: the name tables of the world's cards, from the tables of the world.

The tables are committed beside the cards, so that cards are complete without the data. The frequencies of the
long-tailed dataset are those of its training set with the default settings: ``--world DIR`` reads them from there.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .datasets import DATASETS
from .files_maps import map_words
from .grounds import GROUND_TABLE
from .things import ancestors, hypernyms, things
from .words import all_words, ground_words, known_synonyms, open_names, parents_of_open, word_list

Rows = list[dict[str, str]]


def table_rows(name: str) -> Rows:
    """Make the name table of a dataset, without frequencies.

    Args:
        name: name of the dataset.

    Returns:
        A row for every class: id, name, synonyms, parents and, where there are both, kind; then one with "-" as id
        for every word that stands above them.
    """
    dataset = DATASETS[name]
    words = word_list(dataset.words)
    rows = [_row(word, covered) for word, covered in zip(words.names, words.covers, strict=True)]
    if dataset.kind == "openimages":
        above = parents_of_open()
        rows += [_row(word, ()) for word in open_names()[len(rows) :]]
        for row in rows:
            row["parents"] = above.get(row["name"], row["parents"])
    if dataset.kind in ("ade", "panoptic"):
        grounds = map_words(dataset)[len(rows) :]
        rows = [{**row, "kind": "thing"} for row in rows]
        column = "parse" if dataset.kind == "ade" else "panoptic"
        rows += [{**_ground_row(word, column), "kind": "stuff"} for word in grounds]
    numbered = [{"id": str(number), **row} for number, row in enumerate(rows, start=1)]
    return numbered + _rows_above(numbered)


def _ground_row(word: str, column: str) -> dict[str, str]:
    """One class of stuff: as a thing's, from the grounds that it covers."""
    covered = [ground for ground in GROUND_TABLE if ground_words(column).get(ground.name) == word]
    if word in hypernyms():
        return {"name": word, "synonyms": "", "parents": "|".join(hypernyms()[word].parents)}
    synonyms = [s for s in (covered[0].name, *covered[0].synonyms) if s != word] if len(covered) == 1 else []
    return {"name": word, "synonyms": "|".join(synonyms), "parents": "|".join(covered[0].parents)}


def _rows_above(rows: Rows) -> Rows:
    """Rows for the words that are no classes, but stand above classes."""
    found: dict[str, tuple[str, ...]] = {}
    names = {row["name"] for row in rows}
    level = [parent for row in rows for parent in row["parents"].split("|") if parent]
    while level:
        word = level.pop(0)
        if word not in names and word not in found:
            found[word] = (things().get(word) or hypernyms()[word]).parents
            level += found[word]
    empty = dict.fromkeys(rows[0], "")
    return [{**empty, "id": "-", "name": word, "parents": "|".join(found[word])} for word in sorted(found)]


def _row(word: str, covered: Sequence[str]) -> dict[str, str]:
    """One class: other names if it is one thing, and the nearest words that stand above all that it covers."""
    synonyms: tuple[str, ...] = ()
    if word in hypernyms():
        parents = hypernyms()[word].parents
    elif len(covered) == 1:
        parents = things()[covered[0]].parents
        synonyms = tuple(s for s in (covered[0], *known_synonyms(covered[0])) if s != word)
    else:
        shared = [a for a in ancestors(covered[0]) if all(a in ancestors(thing) for thing in covered)]
        parents = tuple(shared[:1])
    return {"name": word, "synonyms": "|".join(synonyms), "parents": "|".join(parents)}


def lvis_rows(file: Path) -> Rows:
    """Make the name table of the long-tailed dataset, with the frequencies of a file of it.

    Args:
        file: ``lvis_v1_train.json``.

    Returns:
        A row for every class.
    """
    categories: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))["categories"]
    counted = [
        {key: str(c[key]) for key in ("frequency", "image_count", "instance_count")} | {"definition": c["def"]}
        for c in categories
    ]
    empty = dict.fromkeys(counted[0], "")
    rows = table_rows("world_lvis")
    return [{**row, **(counted[int(row["id"]) - 1] if row["id"] != "-" else empty)} for row in rows]


def table_text(rows: Rows, comment: str) -> str:
    """Write a name table as text.

    Args:
        rows: its rows, all with the same columns.
        comment: first line.

    Returns:
        The text of a TSV file.
    """
    lines = [f"# {comment}", "\t".join(rows[0]), *("\t".join(row.values()) for row in rows)]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the tables and the list of all words.

    Args:
        arguments: the command line without the program's name; None: that of the process.
    """
    parser = argparse.ArgumentParser(prog="python -m mvseg.data.sources.world.tables", description=__doc__)
    parser.add_argument("--out", required=True, help="folder of the cards")
    parser.add_argument("--world", default=None, help="folder with the whole world in its default settings")
    args = parser.parse_args(arguments)
    out = Path(args.out)
    for name in DATASETS:
        if name in ("world_captions", "world_phrases", "world_sketch"):
            continue
        rows = table_rows(name)
        if name == "world_lvis":
            if args.world is None:
                continue
            rows = lvis_rows(Path(args.world) / "lvis" / "lvis_v1_train.json")
        comment = f"Classes of {name}, written by python -m mvseg.data.sources.world.tables"
        (out / f"{name}.tsv").write_text(table_text(rows, comment), encoding="utf-8")
    (out / "world_words.txt").write_text("\n".join(all_words()) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
