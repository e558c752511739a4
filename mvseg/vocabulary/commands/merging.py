"""``merge``: one vocabulary from several, the mapping for DATASETS.LABEL_SPACE, and the evidence of each merge."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ..embedding_files import save_embeddings
from ..label_space import LabelSpace
from ..similarity import unit_rows
from ..suggestions import normalize
from ..vocabulary import Vocabulary
from .common import SETS_HELP, add_encoder_arguments, read_vocabularies

WAYS = ("name", "similarity", "mapping")


@dataclass(frozen=True)
class Unified:
    """One word of a merged vocabulary.

    Args:
        name: the word, different from all others.
        members: label of a vocabulary to its words.
        synonyms: other names of the members.
        parents: direct hypernyms that the members know.
        definition: the first definition that a member has, or an empty text.
        evidence: why the members are one word; empty for a word of one vocabulary.
    """

    name: str
    members: Mapping[str, tuple[str, ...]]
    synonyms: tuple[str, ...]
    parents: tuple[str, ...]
    definition: str
    evidence: str


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command.

    Args:
        commands: the subparsers of the program.
    """
    parser = commands.add_parser("merge", help="one vocabulary from several, with mapping and evidence")
    parser.add_argument("words", nargs="+", help=SETS_HELP)
    add_encoder_arguments(parser, required=False)
    parser.add_argument("--by", choices=WAYS, default="name", help="what makes two words one (name)")
    parser.add_argument("--threshold", type=float, default=0.95, help="--by similarity: cosine (0.95 and above)")
    parser.add_argument("--mapping", help="--by mapping: CSV, TSV or YAML file of unified words")
    parser.add_argument(
        "--out", required=True, help="folder for vocabulary.tsv, mapping.tsv, merges.csv and perhaps embeddings.npz"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Run the command.

    Args:
        args: the parsed command line.

    Raises:
        ValueError: if there is only one vocabulary, or --by mapping has no file.
    """
    if len(args.words) < 2:
        raise ValueError("merge takes at least two vocabularies")
    if (args.by == "mapping") != bool(args.mapping):
        raise ValueError("merge --by mapping and --mapping FILE go together")
    vocabularies = read_vocabularies(args.words, args)
    if args.by == "similarity":
        space = LabelSpace.merge_similar(vocabularies, args.threshold)
    elif args.by == "mapping":
        space = LabelSpace.merge_mapping(vocabularies, args.mapping)
    else:
        space = LabelSpace.merge_names(vocabularies)
    words = unify(space, args.mapping or "")
    folder = Path(args.out)
    write_merge(words, space, folder)
    merged = [word for word in words if word.evidence]
    print(f"{folder}: {sum(map(len, vocabularies.values()))} words became {len(words)}, {len(merged)} of them merged")
    print("".join(f"  {word.name}: {word.evidence}\n" for word in merged[:10]), end="")
    if len(merged) > 10:
        print(f"  and {len(merged) - 10} more (merges.csv)")
    print(f"use it with DATASETS.LABEL_SPACE {folder / 'mapping.tsv'}")


def unify(space: LabelSpace, mapping: str = "") -> list[Unified]:
    """Describe the columns of a label space as the words of one vocabulary.

    Args:
        space: the label space; its vocabularies are named like its datasets.
        mapping: file that says which words are one, if there was one.

    Returns:
        One word for every column, with different names: an equal one has its vocabulary added.
    """
    members: list[dict[str, list[int]]] = [{} for _ in range(space.n)]
    for dataset in space.datasets:
        for row, column in enumerate(space.columns(dataset).tolist()):
            members[column].setdefault(dataset, []).append(row)
    taken: set[str] = set()
    return [_unified(space, name, rows, taken, mapping) for name, rows in zip(space.names, members, strict=True)]


def write_merge(words: Sequence[Unified], space: LabelSpace, folder: Path) -> None:
    """Write a merged vocabulary.

    Args:
        words: the words in the order of the columns.
        space: the label space.
        folder: gets vocabulary.tsv, mapping.tsv, merges.csv, and with embeddings embeddings.npz.
    """
    folder.mkdir(parents=True, exist_ok=True)
    table = [["name", "synonyms", "parents", "definition"]]
    table += [[w.name, "|".join(w.synonyms), "|".join(w.parents), w.definition] for w in words]
    lines = ["\t".join(row) + "\n" for row in table]  # a table of names knows no quotes
    (folder / "vocabulary.tsv").write_text("".join(lines), encoding="utf-8")
    cells = [[w.name, *("|".join(w.members.get(d, ())) for d in space.datasets)] for w in words]
    _write(folder / "mapping.tsv", "\t", ["unified", *space.datasets], cells)
    merges = [[w.name, _listed(w.members), w.evidence] for w in words if w.evidence]
    _write(folder / "merges.csv", ",", ["unified", "members", "evidence"], merges)
    if space.embeddings is not None:
        save_embeddings(folder / "embeddings.npz", space.embeddings, [w.name for w in words])


def _unified(space: LabelSpace, name: str, rows: Mapping[str, Sequence[int]], taken: set[str], mapping: str) -> Unified:
    known = [(d, space.vocabularies[d], i) for d, indices in rows.items() for i in indices]
    spellings = [s for _, v, i in known for s in (v.names[i], *v.synonyms[i])]
    synonyms = {normalize(s): s for s in spellings if normalize(s) != normalize(name)}
    parents = {normalize(p): p for _, v, i in known for p in v.parents[i]}
    parents.pop(normalize(name), None)  # merged with its own parent
    definitions = [v.definitions[i] for _, v, i in known if v.definitions and v.definitions[i]]
    return Unified(
        _free_name(name, next(iter(rows), ""), taken),
        {d: tuple(space.vocabularies[d].names[i] for i in indices) for d, indices in rows.items()},
        tuple(synonyms.values()),
        tuple(parents.values()),
        " ".join(definitions[0].split()) if definitions else "",
        _evidence(known, mapping) if len(known) > 1 else "",
    )


def _free_name(name: str, owner: str, taken: set[str]) -> str:
    free, number = name, 2
    while normalize(free) in taken:
        free = f"{name} ({owner})" if number == 2 else f"{name} ({owner} {number})"
        number += 1
    taken.add(normalize(free))
    return free


def _evidence(known: Sequence[tuple[str, Vocabulary, int]], mapping: str) -> str:
    """Why every further member is the same word as the first."""
    (_, first, i), *others = known
    reasons = []
    for dataset, vocabulary, j in others:
        a, b = normalize(first.names[i]), normalize(vocabulary.names[j])
        if a == b:
            why = "same name"
        elif a in map(normalize, vocabulary.synonyms[j]) or b in map(normalize, first.synonyms[i]):
            why = "synonym"
        else:
            why = "mapping" if mapping else "similar"
        cosine = _cosine(first.embeddings, i, vocabulary.embeddings, j)
        reasons.append(f"{vocabulary.names[j]} [{dataset}] {why}{cosine}")
    return "; ".join(reasons)


def _cosine(a: Tensor | None, i: int, b: Tensor | None, j: int) -> str:
    if a is None or b is None:
        return ""
    return f" {float(unit_rows(a[[i]]) @ unit_rows(b[[j]]).T):.3f}"


def _listed(members: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(f"{', '.join(words)} [{dataset}]" for dataset, words in members.items())


def _write(path: Path, delimiter: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
