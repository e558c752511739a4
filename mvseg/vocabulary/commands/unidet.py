"""``unidet``: a label space in UniDet's JSON format as a mapping file for DATASETS.LABEL_SPACE."""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..merging import read_mapping
from ..suggestions import did_you_mean, normalize
from ..vocabulary import Vocabulary
from .common import read_words


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command.

    Args:
        commands: the subparsers of the program.
    """
    parser = commands.add_parser("unidet", help="a mapping file from a label space in UniDet's JSON format")
    parser.add_argument("json", help="file with categories, label_map_dict and raw_data")
    parser.add_argument("--out", required=True, help="the mapping file (.csv or .tsv)")
    parser.add_argument(
        "--words",
        action="append",
        default=[],
        metavar="DATASET=VOCABULARY",
        help="built-in table or file of names whose spelling and name the mapping is to use for a dataset of the file, "
        "such as oid=openimages_500; repeat it. Without it the words and the name stay those of the file",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Run the command.

    Args:
        args: the parsed command line.

    Raises:
        ValueError: if the output is no table, or --words is no DATASET=VOCABULARY.
    """
    out = Path(args.out)
    if out.suffix not in (".csv", ".tsv"):
        raise ValueError(f"--out {out}: a mapping table ends in .csv or .tsv")
    if not all("=" in text for text in args.words):
        raise ValueError(f"--words {' '.join(args.words)}: expected DATASET=VOCABULARY, such as oid=openimages_500")
    vocabularies = {name: read_words(text) for name, _, text in (text.partition("=") for text in args.words)}
    mapping = read_unidet(args.json, vocabularies)
    names = list(dict.fromkeys(name for words_of in mapping.values() for name in words_of))
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="," if out.suffix == ".csv" else "\t", lineterminator="\n")
        writer.writerow(["unified", *names])
        writer.writerows([word, *(words_of.get(name, "") for name in names)] for word, words_of in mapping.items())
    assert len(read_mapping(out)) == len(mapping)  # what the table holds can be read
    merged = sum(len(words_of) > 1 for words_of in mapping.values())
    print(f"{out}: {len(mapping)} words for {', '.join(names)}, {merged} of them shared")


def read_unidet(path: str | Path, vocabularies: Mapping[str, Vocabulary] | None = None) -> dict[str, dict[str, str]]:
    """Read a label space in UniDet's JSON format.

    Args:
        path: the file; it has the unified words under ``categories``, a table of the datasets' words under
            ``raw_data``, and the column of every class of a dataset under ``label_map_dict``.
        vocabularies: dataset of the file to the vocabulary whose name and words are to stand in the mapping. Words are
            found by the key that the file has for them (Open Images' MID), else by spelling.

    Returns:
        Unified word to dataset, or name of the vocabulary, to its word.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if it has another form, or a vocabulary does not have the words.
    """
    path, vocabularies = Path(path), dict(vocabularies or {})
    if not path.is_file():
        raise FileNotFoundError(f"label space {path} does not exist")
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        header, *rows = tree["raw_data"]
        unified = [str(category["name"]) for category in tree["categories"]]
        columns_of = {dataset: set(columns.values()) for dataset, columns in tree["label_map_dict"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no label space of UniDet's format: {error!r}") from error
    if len(rows) != len(unified):
        raise ValueError(f"{path}: {len(unified)} categories, but raw_data has {len(rows)} rows")
    unknown = [name for name in vocabularies if name not in columns_of]
    if unknown:
        raise ValueError(f"{path} has no dataset {unknown[0]!r}{did_you_mean(unknown[0], columns_of)}")
    rows = [[str(cell).strip() for cell in row] for row in rows]
    names = _different([_unified(text, row) for text, row in zip(unified, rows, strict=True)])
    mapping: dict[str, dict[str, str]] = {name: {} for name in names}
    for dataset, columns in columns_of.items():
        # The cells of a dataset are those that are filled exactly where the dataset has a class: words, perhaps keys.
        cells = [j for j in range(1, len(header)) if {k for k, row in enumerate(rows) if row[j]} == columns]
        if not cells:
            raise ValueError(f"{path}: no column of raw_data fits label_map_dict of {dataset!r}; it has {header[1:]}")
        found, missing = {}, []
        for k in sorted(columns):
            texts = [rows[k][j] for j in cells]
            word = _find(vocabularies.get(dataset), texts)
            found[names[k]] = word
            if not word:
                missing.append(texts[-1])
        if missing:
            known = vocabularies[dataset]
            raise ValueError(
                f"{path}, {dataset!r}: vocabulary {known.name!r} has none of {len(missing)} words: "
                f"{', '.join(missing[:8])}{did_you_mean(missing[0], known.names)}"
            )
        for name, word in found.items():
            mapping[name][vocabularies[dataset].name if dataset in vocabularies else dataset] = word
    return mapping


def _find(vocabulary: Vocabulary | None, texts: Sequence[str]) -> str:
    """The vocabulary's word for a row; the last text is a word, those before it may be keys."""
    if vocabulary is None:
        return texts[-1]
    if vocabulary.keys is not None:
        for text in texts:
            if text in vocabulary.keys:
                return vocabulary.names[vocabulary.keys.index(text)]
    try:
        return vocabulary.names[vocabulary.index(texts[-1])]
    except KeyError:
        return ""


def _unified(text: str, row: Sequence[str]) -> str:
    """A readable name: of one made of the datasets' words with _ between them every different word once."""
    parts = [part for part in text.split("_") if part]
    if not parts:
        return [cell for cell in row if cell][-1]  # a category without a name
    words = set(map(normalize, row))
    if all(normalize(part) in words for part in parts):
        different = {normalize(part): part for part in reversed(parts)}
        return "/".join(reversed(different.values()))
    return " ".join(parts)


def _different(unified: Sequence[str]) -> list[str]:
    names, taken = [], set()
    for name in unified:
        free, number = name, 2
        while normalize(free) in taken:
            free, number = f"{name} {number}", number + 1
        taken.add(normalize(free))
        names.append(free)
    return names
