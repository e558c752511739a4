"""``compare``: what several vocabularies share: the same words, the same meaning under other words, and conflicts."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..label_space import LabelSpace
from ..suggestions import normalize
from ..vocabulary import Vocabulary
from .common import SETS_HELP, add_encoder_arguments, read_vocabularies
from .drawing import draw_similarity

TITLES = {
    "name": "same words",
    "synonym": "one is a synonym of the other",
    "similar": "alike under other words",
    "conflict": "conflicts: the same word, but far apart or of different kinds",
}


@dataclass(frozen=True)
class Relation:
    """What two words of different vocabularies have to do with each other.

    Args:
        kind: "name", "synonym", "similar" or "conflict".
        first: label of the first vocabulary.
        first_word: its word.
        second: label of the second vocabulary.
        second_word: its word.
        cosine: of their embeddings, or None.
        note: what the conflict is.
    """

    kind: str
    first: str
    first_word: str
    second: str
    second_word: str
    cosine: float | None
    note: str = ""

    def line(self) -> str:
        """Write the relation for a person.

        Returns:
            One line of text.
        """
        cosine = "" if self.cosine is None else f" ({self.cosine:.2f})"
        note = f": {self.note}" if self.note else ""
        return f"{self.first_word} [{self.first}] = {self.second_word} [{self.second}]{cosine}{note}"


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command.

    Args:
        commands: the subparsers of the program.
    """
    parser = commands.add_parser("compare", help="what vocabularies share, and where they contradict each other")
    parser.add_argument("words", nargs="+", help=SETS_HELP)
    add_encoder_arguments(parser, required=False)
    parser.add_argument("--threshold", type=float, default=0.9, help="cosine of words that are alike (0.9 and above)")
    parser.add_argument("--conflict", type=float, default=0.7, help="cosine below which equal words conflict (0.7)")
    parser.add_argument("--top", type=int, default=10, help="length of the lists (10); the CSV file has everything")
    parser.add_argument("--csv", help="file for all relations")
    parser.add_argument("--picture", help="PNG file for the similarity matrix, as it is and rescaled")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Run the command.

    Args:
        args: the parsed command line.

    Raises:
        ValueError: if there is only one vocabulary.
    """
    if len(args.words) < 2:
        raise ValueError("compare takes at least two vocabularies; inspect looks into one")
    vocabularies = read_vocabularies(args.words, args)
    space = LabelSpace.concatenate(vocabularies)
    relations = find_relations(space, args.threshold, args.conflict)
    _print_table(space, relations)
    for kind, title in TITLES.items():
        lines = [relation.line() for relation in relations if relation.kind == kind]
        print(f"{title}: {len(lines)}")
        print("".join(f"  {line}\n" for line in lines[: args.top]), end="")
        if len(lines) > args.top:
            print(f"  and {len(lines) - args.top} more (--top, --csv)")
    if space.embeddings is None:
        print("no embeddings, so only names and synonyms were compared: add --encoder minilm, or WORDS@FILE")
    if args.csv:
        write_relations(relations, args.csv)
        print(f"{args.csv}: {len(relations)} relations")
    if args.picture:
        draw_similarity(space, args.picture)
        print(f"{args.picture}: similarity of {space.n} words")


def find_relations(space: LabelSpace, threshold: float = 0.9, conflict: float = 0.7) -> list[Relation]:
    """Find the words of different vocabularies that mean the same, or contradict each other.

    Args:
        space: the vocabularies side by side, each with columns of its own.
        threshold: cosine from which words are alike.
        conflict: cosine below which equal words are a conflict.

    Returns:
        Conflicts last; otherwise by kind, the most alike first.
    """
    words = [(d, i) for d in space.datasets for i in range(len(space.vocabularies[d]))]
    found = []
    for alias in space.aliases(None if space.embeddings is None else threshold):
        (first, i), (second, j) = words[alias.first], words[alias.second]
        a, b = space.vocabularies[first], space.vocabularies[second]
        relation = Relation(alias.reason, first, a.names[i], second, b.names[j], alias.similarity)
        note = ""
        if alias.reason == "name":
            note = _contradiction(a, i, b, j, alias.similarity, conflict)
        found.append(relation if not note else Relation("conflict", *_fields(relation), note))
    order = list(TITLES)
    return sorted(found, key=lambda r: (order.index(r.kind), -(r.cosine or 0.0)))


def write_relations(relations: Sequence[Relation], path: str | Path) -> None:
    """Write relations as a CSV file.

    Args:
        relations: the relations.
        path: file to write.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["kind", "first", "first_word", "second", "second_word", "cosine", "note"])
        for r in relations:
            cosine = "" if r.cosine is None else f"{r.cosine:.4f}"
            writer.writerow([r.kind, r.first, r.first_word, r.second, r.second_word, cosine, r.note])


def _fields(r: Relation) -> tuple[str, str, str, str, float | None]:
    return r.first, r.first_word, r.second, r.second_word, r.cosine


def _contradiction(a: Vocabulary, i: int, b: Vocabulary, j: int, cosine: float | None, limit: float) -> str:
    """Why two equal words may not mean the same, or an empty text."""
    if cosine is not None and cosine < limit:
        return f"embeddings are far apart (below {limit:g})"
    kinds = [{normalize(word) for word in v.ancestors(v.names[k])} for v, k in ((a, i), (b, j))]
    if all(kinds) and kinds[0].isdisjoint(kinds[1]):
        return f"{', '.join(a.parents[i])} against {', '.join(b.parents[j])}"
    if a.is_thing and b.is_thing and a.is_thing[i] != b.is_thing[j]:
        return "thing in one, stuff in the other"
    return ""


def _print_table(space: LabelSpace, relations: Sequence[Relation]) -> None:
    """Number of words that every pair of vocabularies shares."""
    labels = space.datasets
    shared: Mapping[tuple[str, str], set[str]] = {(a, b): set() for a in labels for b in labels}
    for r in relations:
        if r.kind != "conflict":
            shared[r.first, r.second].add(r.first_word)
            shared[r.second, r.first].add(r.second_word)
    width = max(len(label) for label in (*labels, "shared with"))
    print(" ".join([f"{'shared with':<{width}}", *(f"{label:>{max(len(label), 6)}}" for label in labels)]))
    for a in labels:
        cells = [len(space.vocabularies[a]) if a == b else len(shared[a, b]) for b in labels]
        print(" ".join([f"{a:<{width}}", *(f"{c:>{max(len(b), 6)}}" for c, b in zip(cells, labels))]))
