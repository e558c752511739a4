"""``learn``: the label space in which words share a column wherever a partitioned detector loses nothing by it."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..learning import LearnSettings, learn_label_space, read_facts, read_predictions, write_space
from ..learning.report import EVIDENCE, MAPPING, NEAR_MISSES, PAGE, display_name, summary
from ..learning.storage import MANIFEST

SHOWN_MERGES = 20
DEFAULTS = LearnSettings()
SCORE, DETECTIONS = 0.1, 300


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command.

    Args:
        commands: the subparsers of the program.
    """
    parser = commands.add_parser("learn", help="a label space from what a detector of many datasets finds")
    parser.add_argument("--config-file", help="the detector, with DATASETS.LABEL_SPACE concatenate and a test set each")
    parser.add_argument("--weights", help="its weights (as the config says)")
    parser.add_argument("--output", required=True, help=f"folder for {MAPPING}, {EVIDENCE}, {NEAR_MISSES}, {PAGE}")
    parser.add_argument("--predictions", help="folder of stored predictions, or where they go (OUTPUT/predictions)")
    parser.add_argument(
        "--score", type=float, help=f"detections with a score above it count ({SCORE}, or what is stored)"
    )
    parser.add_argument("--detections", type=int, default=DETECTIONS, help=f"at most so many per image ({DETECTIONS})")
    add = parser.add_argument
    add("--tau", type=float, default=DEFAULTS.tau, help="AP by which a foreign column may be worse (0.2)")
    add("--min-own", type=float, default=DEFAULTS.min_own, help="words whose own AP is not above it stay alone (0)")
    add("--max-cost", type=float, default=DEFAULTS.max_pair_cost, help="largest cost of a pair, in AP (0.05)")
    add("--max-set-cost", type=float, help="largest cost of three or more words (tau)")
    add("--best", type=int, default=DEFAULTS.best, help="cheapest sets kept for a word (1000)")
    add("--lambda", dest="penalty", type=float, default=DEFAULTS.penalty, help="cost of one more word, in AP (0.5)")
    add("--iou", type=float, default=DEFAULTS.iou, help="overlap of a right detection (0.5)")
    add("--nms", type=float, default=DEFAULTS.nms, help="overlap for suppression in a union (0.5)")
    add(
        "--images",
        choices=("present", "all"),
        default=DEFAULTS.images,
        help="where false detections count: in images that show the class, or in all that were judged for it (present)",
    )
    add("--time-limit", type=float, default=DEFAULTS.time_limit, help="seconds for the integer program (600)")
    add("overrides", nargs="*", metavar="KEY VALUE", help="config keys, such as DATASETS.TEST \"['coco_2017_val']\"")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Run the command.

    Args:
        args: the parsed command line.

    Raises:
        ValueError: if there are neither predictions nor a config to make them.
    """
    output = Path(args.output)
    folder = Path(args.predictions) if args.predictions else output / "predictions"
    settings = LearnSettings(
        tau=args.tau,
        min_own=args.min_own,
        max_pair_cost=args.max_cost,
        max_set_cost=args.tau if args.max_set_cost is None else args.max_set_cost,
        best=args.best,
        penalty=args.penalty,
        iou=args.iou,
        nms=args.nms,
        images=args.images,
        time_limit=args.time_limit,
    )
    if args.config_file:
        from .predictions import collect_predictions

        score = SCORE if args.score is None else args.score
        if (folder / MANIFEST).is_file():  # what is stored may go on, and is filtered afterwards
            stored = read_facts(folder)["header"]["score_threshold"]
            score = stored if args.score is None else min(stored, args.score)
        collect_predictions(args.config_file, args.overrides, args.weights, folder, score, args.detections)
    elif not (folder / MANIFEST).is_file():
        raise ValueError(
            f"{folder} holds no predictions: name the detector that makes them with --config-file and --weights"
        )
    space = learn_label_space(read_predictions(folder, args.score), settings)
    write_space(space, output, source_lines(folder, args.score))
    print("\n".join(summary(space)))
    merges = [label for label in space.labels if label.candidate is not None]
    for label in merges[:SHOWN_MERGES]:
        assert label.candidate is not None
        own, merged = (
            ", ".join(f"{v:.2f}" for v in values) for values in (label.candidate.own, label.candidate.merged)
        )
        print(f"  {display_name(space, label)}: cost {label.candidate.cost:+.3f}, AP50 {own} becomes {merged}")
    if len(merges) > SHOWN_MERGES:
        print(f"  and {len(merges) - SHOWN_MERGES} more")
    print(f"why: {output / PAGE}, {output / EVIDENCE}, {output / NEAR_MISSES}")
    print(f"use it with DATASETS.LABEL_SPACE {output / MAPPING}")


def source_lines(folder: Path, score: float | None) -> list[str]:
    """Say which predictions a label space is learned from.

    Args:
        folder: the stored predictions.
        score: detections with a score above it count; None: all that are stored.

    Returns:
        Lines for the page.
    """
    facts = read_facts(folder)
    header = facts["header"]
    lines = [f"predictions in `{folder}`: " + ", ".join(f"{key} `{value}`" for key, value in facts["note"].items())]
    lines[0] += f" (SHA-256 {header['weights'][:12]}), scores above {score or header['score_threshold']:g}"
    for name, entry in facts["sets"].items():
        counts = f"{entry['images']:,} images, {entry['detections']:,} stored detections"
        lines.append(f"{entry['vocabulary']} on {name}: {counts}")
    return lines
