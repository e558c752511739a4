"""``match``: which words of a label space the words of a test set stand for, for a closed set to be tested on it."""

from __future__ import annotations

import argparse
import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ..label_space import LabelSpace
from ..matching import Match, mapping_rows, match_words
from .common import SETS_HELP, add_encoder_arguments, read_vocabularies

WAYS = {
    "name": "equal names",
    "synonym": "one is a synonym of the other",
    "ending": "the end of a name",
    "beginning": "the beginning of a name",
    "similar": "nearest meaning",
    "": "no match",
}


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command.

    Args:
        commands: the subparsers of the program.
    """
    parser = commands.add_parser("match", help="what words of a label space a test set's words stand for")
    parser.add_argument("words", nargs="+", help="words of the test sets: " + SETS_HELP)
    parser.add_argument("--to", nargs="+", required=True, metavar="WORDS", help="words of the training, in its order")
    parser.add_argument("--label-space", help="mapping of the training's words (DATASETS.LABEL_SPACE or TEST_MERGE)")
    add_encoder_arguments(parser, required=False)
    parser.add_argument("--whole-words", action="store_true", help="ends and beginnings of names are whole words")
    parser.add_argument("--largest", type=float, default=1.0, help="1 - cosine from which a meaning is no match (1.0)")
    parser.add_argument("--out", help="mapping file to write (.csv or .tsv), for MODEL.CLASSIFIER.TEST_WORDS")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Run the command.

    Args:
        args: the parsed command line.

    Raises:
        ValueError: if the file to write is of another kind.
    """
    if args.out and Path(args.out).suffix not in (".csv", ".tsv"):
        raise ValueError(f"--out {args.out}: a mapping file ends in .csv or .tsv")
    vocabularies = read_vocabularies([*args.to, *args.words], args)
    labels = list(vocabularies)
    trained = {label: vocabularies[label] for label in labels[: len(args.to)]}
    if args.label_space:
        space = LabelSpace.merge_mapping(trained, args.label_space)
    else:
        space = LabelSpace.concatenate(trained)
    matches: list[Match] = []
    for label in labels[len(args.to) :]:
        found = match_words(vocabularies[label], space, whole_words=args.whole_words, largest=args.largest)
        print_matches(label, found, space)
        matches += found
    if space.embeddings is None and any(not match.way for match in matches):
        print("no embeddings, so only names were compared: add --encoder minilm, or WORDS@FILE")
    if args.out:
        rows = mapping_rows(matches, space)
        with Path(args.out).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, delimiter="," if args.out.endswith(".csv") else "\t", lineterminator="\n")
            writer.writerows(rows)
        print(f"{args.out}: {len(rows) - 1} words; look through it, then use it with MODEL.CLASSIFIER.TEST_WORDS")


def print_matches(label: str, matches: Sequence[Match], space: LabelSpace) -> None:
    """Print every match, and how many there are of each kind.

    Args:
        label: what the test set is called.
        matches: the matches of its words.
        space: the label space.
    """
    width = max(len(match.word) for match in matches)
    for match in matches:
        target = ", ".join(_column(space, column) for column in match.columns) or "-"
        print(f"{match.word:<{width}}  {match.distance:.3f}  {WAYS[match.way]:<30} {target}")
    counts = Counter(match.way for match in matches)
    ties = sum(len(match.columns) > 1 for match in matches)
    listed = ", ".join(f"{counts[way]} {title}" for way, title in WAYS.items() if counts[way])
    print(f"{label}: {len(matches)} words: {listed}; {ties} with several columns, whose logits are averaged")


def _column(space: LabelSpace, column: int) -> str:
    """A column by its members, as columns apart may have equal names."""
    members = [
        f"{space.vocabularies[dataset].names[row]} [{space.vocabularies[dataset].name}]"
        for dataset in space.representatives
        for row in (space.columns(dataset) == column).nonzero()[:, 0].tolist()
    ]
    return " + ".join(members)
