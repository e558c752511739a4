"""Class-name tables: the built-in ones and files of the user (txt, tsv, json, yaml), read into plain columns."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from .imagenet import imagenet_columns
from .suggestions import did_you_mean

NAMES_FOLDER = Path(__file__).parent / "names"

# Column name in a table or key of a category in JSON -> field of Vocabulary.
_FIELDS = {
    "id": "ids",
    "key": "keys",
    "name": "names",
    "synonyms": "synonyms",
    "spelling": "spellings",
    "parents": "parents",
    "kind": "is_thing",
    "isthing": "is_thing",
    "frequency": "frequency",
    "image_count": "image_count",
    "instance_count": "instance_count",
    "novel": "novel",
    "definition": "definitions",
    "def": "definitions",
}
_INTEGERS = {"ids", "image_count", "instance_count"}
_LISTS = {"synonyms", "spellings", "parents"}
_WHERE_LEFT_OUT: dict[str, Any] = {"synonyms": (), "spellings": (), "parents": (), "novel": False, "definitions": ""}
_KINDS = {"thing": True, "stuff": False}
# Tables whose names an installed package has; nothing is committed for them.
_AT_RUN_TIME = {"imagenet_1k": imagenet_columns}

Columns = dict[str, Any]


def builtin_tables() -> list[str]:
    """List the class-name tables that come with mvseg.

    Returns:
        Their names, sorted, such as ``"coco"`` and ``"lvis_v1"``.
    """
    return sorted([*_AT_RUN_TIME, *(path.stem for path in NAMES_FOLDER.glob("*.tsv"))])


def made_at_run_time(name: object) -> bool:
    """Say whether a table is put together from installed packages, whose import takes seconds.

    Args:
        name: what a card says under ``vocabulary``.

    Returns:
        True for such a built-in table.
    """
    return isinstance(name, str) and name in _AT_RUN_TIME


def read_builtin_table(name: str) -> Columns:
    """Read a class-name table that comes with mvseg.

    Args:
        name: one of :func:`builtin_tables`.

    Returns:
        Columns as :func:`read_table` returns them.
    """
    return _AT_RUN_TIME[name]() if name in _AT_RUN_TIME else read_table(builtin_table_path(name))


def builtin_table_path(name: str) -> Path:
    """Find a built-in class-name table.

    Args:
        name: one of :func:`builtin_tables` that has a file.

    Returns:
        Path of its TSV file.

    Raises:
        KeyError: if there is no such table, with the nearest names; or it has no file.
    """
    if name in _AT_RUN_TIME:
        raise KeyError(f"the built-in vocabulary {name!r} has no file: it is read from an installed package")
    path = NAMES_FOLDER / f"{name}.tsv"
    if not path.is_file():
        raise KeyError(f"no built-in vocabulary {name!r}{did_you_mean(name, builtin_tables())}")
    return path


def read_table(path: str | Path) -> Columns:
    """Read a class-name table.

    Args:
        path: ``.txt`` (one name a line), ``.tsv`` (header row; columns name, id, key, synonyms, spelling, parents, kind
            (thing or stuff), frequency, image_count, instance_count, novel, definition; ``#`` starts a comment line;
            several synonyms, spellings or parents are separated by ``|``; a row with ``-`` as id is no class, but gives
            the parents of a hypernym), ``.json`` or ``.yaml`` (list of names, list of categories with these keys, or
            such a list under the key ``names`` or ``categories``, beside it ``hypernyms``: word to its parents).

    Returns:
        Field of :class:`~mvseg.vocabulary.Vocabulary` to its values, one for each class; ``hypernyms`` to a mapping.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if the file holds no names, or has an unknown ending or column.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"vocabulary file {path} does not exist")
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix == ".txt":
        columns: Columns = {"names": [line.strip() for line in text.splitlines() if line.strip()]}
    elif path.suffix == ".tsv":
        columns = _columns_from_tsv(text, path)
    elif path.suffix in (".json", ".yaml", ".yml"):
        try:
            tree = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
        except (json.JSONDecodeError, yaml.YAMLError) as error:
            raise ValueError(f"{path} is not valid {path.suffix[1:].upper()}: {error}") from error
        columns = _columns_from_tree(tree, path)
    else:
        raise ValueError(f"{path}: a vocabulary file ends in .txt, .tsv, .json or .yaml")
    if not columns.get("names"):
        raise ValueError(f"{path} holds no class names")
    return columns


def columns_from_categories(categories: Sequence[Mapping[str, Any]], where: str) -> Columns:
    """Turn a list of categories, as COCO and LVIS files have it, into columns in the order of the ids.

    Args:
        categories: dicts with ``name`` and optionally ``id`` and the other keys of :func:`read_table`; other keys
            (``supercategory``, ``synset`` ...) are not read.
        where: what to call the source in errors.

    Returns:
        Field of Vocabulary to its values. A category without synonyms, parents, spelling, definition or novel has
        none of these.

    Raises:
        ValueError: if a category has no name, or only some have an id, a count, a group or a kind.
    """
    for number, category in enumerate(categories):
        if not isinstance(category, Mapping) or not category.get("name"):
            raise ValueError(f"{where}: category {number} has no name: {category!r}")
    if all(isinstance(c.get("id"), int) for c in categories):
        categories = sorted(categories, key=lambda c: c["id"])
    columns: Columns = {}
    for key, field in _FIELDS.items():
        lacking = [category["name"] for category in categories if key not in category]
        if field in columns or len(lacking) == len(categories):
            continue
        if lacking and field not in _WHERE_LEFT_OUT:
            raise ValueError(
                f"{where}: {len(lacking)} of {len(categories)} categories have no {key!r}, the first is "
                f"{lacking[0]!r}: give it to all or to none"
            )
        columns[field] = [category.get(key, _WHERE_LEFT_OUT.get(field)) for category in categories]
    for field in _LISTS & set(columns):
        columns[field] = [
            [s for s in ([words] if isinstance(words, str) else words) if s != name]
            for words, name in zip(columns[field], columns["names"], strict=True)
        ]
    if "is_thing" in columns:
        columns["is_thing"] = [_parse_kind(value, where) for value in columns["is_thing"]]
    columns["names"] = [str(name) for name in columns["names"]]
    return columns


def _columns_from_tree(tree: Any, path: Path) -> Columns:
    hypernyms = tree.get("hypernyms") if isinstance(tree, Mapping) else None
    if isinstance(tree, Mapping):
        tree = tree.get("names", tree.get("categories"))
    if not isinstance(tree, list):
        raise ValueError(f"{path}: expected a list of names or categories, or one under the key names or categories")
    if all(isinstance(item, str) for item in tree):
        columns: Columns = {"names": list(tree)}
    else:
        columns = columns_from_categories(tree, str(path))
    if hypernyms is not None:
        columns["hypernyms"] = _parse_hypernyms(hypernyms, path)
    return columns


def _parse_hypernyms(tree: Any, path: Path) -> dict[str, tuple[str, ...]]:
    if not isinstance(tree, Mapping):
        raise ValueError(f"{path}: hypernyms is a mapping from a word to its parents, found {type(tree).__name__}")
    return {str(w): tuple([parents] if isinstance(parents, str) else parents) for w, parents in tree.items()}


def _columns_from_tsv(text: str, path: Path) -> Columns:
    rows = [line.split("\t") for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if not rows:
        return {}
    header, body = [cell.strip() for cell in rows[0]], rows[1:]
    for column in header:
        if column not in _FIELDS:
            raise ValueError(f"{path}: unknown column {column!r}{did_you_mean(column, _FIELDS)}")
    columns: Columns = {_FIELDS[column]: [] for column in header}
    hypernyms: dict[str, tuple[str, ...]] = {}
    for number, row in enumerate(body, start=1):
        if len(row) != len(header):
            raise ValueError(f"{path}: row {number} has {len(row)} cells, the header has {len(header)}: {row}")
        cells = dict(zip(header, row, strict=True))
        if cells.get("id", "").strip() == "-":
            parents = _parse_cell("parents", cells.get("parents", ""), f"{path}, row {number}")
            hypernyms[cells.get("name", "").strip()] = tuple(parents)
            continue
        for column, cell in cells.items():
            columns[_FIELDS[column]].append(_parse_cell(_FIELDS[column], cell.strip(), f"{path}, row {number}"))
    if hypernyms:
        columns["hypernyms"] = hypernyms
    return columns


def _parse_cell(field: str, cell: str, where: str) -> Any:
    if field in _INTEGERS:
        try:
            return int(cell)
        except ValueError as error:
            raise ValueError(f"{where}: {cell!r} is not an integer") from error
    if field == "is_thing":
        return _parse_kind(cell, where)
    if field in _LISTS:
        return [word.strip() for word in cell.split("|") if word.strip()]
    if field == "novel":
        return cell.lower() in ("1", "true", "yes")
    return cell


def _parse_kind(value: Any, where: str) -> bool:
    if value in _KINDS:
        return _KINDS[value]
    if str(value) in ("0", "1", "True", "False"):  # as COCO panoptic writes isthing
        return str(value) in ("1", "True")
    raise ValueError(f"{where}: {value!r} is no kind of class: write thing or stuff")
