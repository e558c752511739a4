"""``python -m mvseg.data list|show|stats|check|index``: look at datasets before training, and index tar files.

An entry point, as train_net.py is: it may import from every room.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mvseg  # noqa: F401  (first: it makes detectron2 importable)

# isort: split
from detectron2.data import DatasetCatalog, MetadataCatalog
from tabulate import tabulate

from mvseg.config import get_cfg, load_config
from mvseg.data.card import DatasetCard
from mvseg.data.card_sets import load_cards
from mvseg.data.catalog import get_card, get_records, get_vocabulary, register_cards
from mvseg.data.checks import Problem
from mvseg.data.index_file import INDEX_NAME
from mvseg.data.indexing import LABELS_FROM, make_index
from mvseg.data.inspection import inspect_card
from mvseg.data.statistics import dataset_statistics, write_class_csv
from mvseg.data.supervision import has_words

SHOWN_PROBLEMS = 50  # of each kind


def words_of(name: str) -> tuple[str, ...]:
    """Give the words of a dataset; sentences have none.

    Args:
        name: name of a registered dataset.

    Returns:
        The words in the order of the class indices.
    """
    return get_vocabulary(name, embeddings=False).names if has_words(get_card(name).supervision) else ()


def list_datasets(args: argparse.Namespace) -> int:
    """Print the registered datasets and whether their files are there.

    Args:
        args: the command line; ``only_present`` leaves out the others.

    Returns:
        Exit code 0.
    """
    rows = []
    for name in DatasetCatalog.list():
        card = get_card(name)
        missing = missing_places(card)
        if not missing or not args.only_present:
            rows.append([name, card.format, card.supervision, card.evaluator, "; ".join(missing) or "present"])
    print(tabulate(rows, headers=["dataset", "format", "supervision", "evaluator", "files"], tablefmt="simple"))
    return 0


def missing_places(card: DatasetCard) -> list[str]:
    """List the places of a card where nothing lies; single images are not looked up.

    Args:
        card: the card.

    Returns:
        One text for each missing place, such as "no coco/annotations/instances_val2017.json".
    """
    if card.format == "detectron2":  # registered by a function: at most its metadata tell where its files lie
        metadata = MetadataCatalog.get(card.name)
        known = [metadata.get(key) for key in ("json_file", "panoptic_json", "image_root", "image_dir")]
        known = [str(place) for place in known if place]
        return [f"no {p}" for p in known if not Path(p).exists()] if known else ["not known"]
    near = {card.split, *card.files.values()}
    places = [card.image_root, card.annotations, card.split, *card.files.values()]
    if card.format == "tar_shards" and not card.annotations:
        places.append(str(Path(card.image_root) / INDEX_NAME))
    return [f"no {p}" for p in places if p and not card.resolve(str(p), near_card=p in near).exists()]


def show(args: argparse.Namespace) -> int:
    """Draw images of a dataset as the mapper gives them, augmented ones beside them if asked, on one sheet.

    Args:
        args: the command line.

    Returns:
        Exit code: 0, or 1 if an image could not be drawn.
    """
    from mvseg.inference.data_sheet import choose_records, draw_sheet
    from mvseg.inference.drawing import save_picture

    cfg = _config(args)
    if not cfg.DATASETS.TRAIN:
        cfg.DATASETS.TRAIN = (args.dataset,)
    register_cards(cfg.DATASETS.CARDS)
    words = words_of(args.dataset)
    records = choose_records(get_records(args.dataset), args.images, args.count, args.dataset)
    picture, failed = draw_sheet(
        cfg, records, words, augmented=args.augmented, seed=args.seed, height=args.height, columns=args.columns
    )
    for text in failed:
        print(text, file=sys.stderr)
    if picture is None:
        return 1
    save_picture(picture, args.output)
    print(f"{args.output}: {len(records) - len(failed)} images of {args.dataset}")
    return int(bool(failed))


def _config(args: argparse.Namespace) -> Any:
    if args.config_file:
        return load_config(args.config_file, args.opts)
    cfg = get_cfg()
    cfg.MODEL.MASK_ON = True  # without a model's config everything that is annotated is drawn
    cfg.merge_from_list(list(args.opts))
    return cfg


def stats(args: argparse.Namespace) -> int:
    """Print counts, sizes and the long tail of datasets, and write the classes to a CSV file if asked.

    Args:
        args: the command line.

    Returns:
        Exit code 0.
    """
    found = []
    for name in args.datasets:
        supervision = get_card(name).supervision
        found.append(dataset_statistics(name, get_records(name), words_of(name), supervision, args.max_maps))
        print(found[-1].tables(args.top), end="\n\n")
    if args.csv:
        write_class_csv(args.csv, found)
        print(f"{args.csv}: {sum(len(f.class_names) for f in found)} classes")
    return 0


def check(args: argparse.Namespace) -> int:
    """Print every problem of datasets or of card files.

    Args:
        args: the command line.

    Returns:
        Exit code: 1 if a problem stops training or evaluation.
    """
    bad = False
    for text in args.datasets:
        for card in _cards(text):
            if isinstance(card, Problem):
                print(card.text, end="\n\n")
                bad = True
                continue
            found = inspect_card(card, args.max_images)
            bad |= found.fatal
            print(_listing(found.problems, None if args.all else SHOWN_PROBLEMS), end="")
            print(found.table(), end="\n\n")
    return int(bad)


def index(args: argparse.Namespace) -> int:
    """Index the tar files of a folder, so that a card can name it with ``format: tar_shards``.

    Args:
        args: the command line.

    Returns:
        Exit code 0.
    """
    start = time.perf_counter()
    made = make_index(args.folder, args.labels, args.output, args.workers)
    kinds = {"shards": "tar files", "images": "images", "labels": "image labels", "classes": "different labels"}
    kinds |= {"captions": "images with sentences", "without_label": "images without a label"}
    kinds |= {"other": "other members, left out", "empty": "empty images, left out"}
    kinds |= {"bad_sidecar": "labels or sentences that cannot be used, left out"}
    rows = [[text, f"{made.counts[kind]:,}"] for kind, text in kinds.items() if made.counts.get(kind)]
    print(tabulate(rows, headers=[str(args.output or Path(args.folder) / INDEX_NAME), "count"], disable_numparse=True))
    print(f"{time.perf_counter() - start:.1f} s")
    return 0


def _cards(text: str) -> list[DatasetCard | Problem]:
    """Cards that a word of the command line means: a file, a folder of files, or a registered dataset."""
    path = Path(text)
    if text in DatasetCatalog or not path.exists():
        card = get_card(text)
        if card.format != "detectron2":
            return [card]
        why = f"dataset {text!r} was registered by a function and has no card; check reads the files that a card names"
        return [Problem("error", f"{why}: write one (docs/add_a_dataset.md)", True)]
    files = sorted(path.glob("*.yaml")) if path.is_dir() else [path]
    cards: list[DatasetCard | Problem] = []
    for file in files:
        try:
            cards += load_cards(file)
        except (ValueError, OSError, TypeError) as error:
            cards.append(Problem("error", str(error), True))
    return cards or [Problem("error", f"folder {path} holds no dataset card (*.yaml)", True)]


def _listing(problems: Sequence[Problem], limit: int | None) -> str:
    lines = []
    kinds = dict.fromkeys(problem.kind for problem in sorted(problems, key=lambda p: not p.fatal))
    for kind in kinds:
        same = [problem for problem in problems if problem.kind == kind]
        lines += [f"{'ERROR' if p.fatal else 'note '} {p.text}" for p in same[:limit]]
        if limit is not None and len(same) > limit:
            lines.append(f"      ... {len(same) - limit} more of this kind; --all lists them")
    return "\n".join([*lines, ""]) + "\n" if lines else ""


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line.

    Args:
        arguments: what stands behind the command; None takes it from the process.

    Returns:
        The arguments, with ``run``, the function of the command.
    """
    parser = argparse.ArgumentParser(prog="python -m mvseg.data", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--cards", action="append", default=[], help="card file or folder of cards to register first")
    _add_show(commands.add_parser("show", parents=[shared], help="draw images with their annotations"))
    listing = commands.add_parser("list", parents=[shared], help="registered datasets, and which files are missing")
    listing.add_argument("--only-present", action="store_true", help="only datasets whose files are there")
    listing.set_defaults(run=list_datasets)
    counts = commands.add_parser("stats", parents=[shared], help="counts, sizes and the long tail of the classes")
    counts.add_argument("datasets", nargs="+", help="names of datasets")
    counts.add_argument("--top", type=int, default=10, help="most and least frequent classes listed (10)")
    counts.add_argument("--max-maps", type=int, default=500, help="semantic maps read at most (500)")
    counts.add_argument("--csv", help="file for the counts of all classes")
    counts.set_defaults(run=stats)
    checks = commands.add_parser("check", parents=[shared], help="list every problem of a dataset or a card file")
    checks.add_argument("datasets", nargs="+", help="names of datasets, card files or folders of cards")
    checks.add_argument("--max-images", type=int, help="open at most so many images, evenly spread; default: all")
    checks.add_argument("--all", action="store_true", help=f"list more than {SHOWN_PROBLEMS} problems of one kind")
    checks.set_defaults(run=check)
    _add_index(commands.add_parser("index", help="make the index of a folder of tar files with images"))
    return parser.parse_args(arguments)


def _add_index(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", help="folder of uncompressed tar files (*.tar), also in subfolders")
    parser.add_argument(
        "--labels",
        choices=LABELS_FROM,
        default="sidecar",
        help="where the label of an image is: in NAME.cls or NAME.json beside NAME.jpg (sidecar, the default), the "
        "first folder of its name (folder), or the name of the tar file (shard)",
    )
    parser.add_argument("--output", help=f"file to write; default: {INDEX_NAME} in the folder")
    parser.add_argument("--workers", type=int, default=0, help="processes that read tar files; 0: this one (0)")
    parser.set_defaults(run=index, cards=[])


def _add_show(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", help="name of the dataset")
    parser.add_argument("--output", required=True, help="picture to write, such as sheet.png")
    parser.add_argument("--config-file", help="take augmentation, masks and cards from this config")
    parser.add_argument("--augmented", action="store_true", help="draw original and augmented image side by side")
    parser.add_argument("--count", type=int, default=8, help="number of images, evenly spread (8)")
    parser.add_argument("--images", help="ids or file names of the images, separated by commas, instead of --count")
    parser.add_argument("--height", type=int, default=320, help="height of an image in the sheet in pixels (320)")
    parser.add_argument("--columns", type=int, default=0, help="images in a row; 0: 4, or 2 pairs")
    parser.add_argument("--seed", type=int, default=0, help="seed of the augmentation (0)")
    parser.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[], help="KEY VALUE pairs that override the config; at the end"
    )
    parser.set_defaults(run=show)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: what stands behind the command; None takes it from the process.

    Returns:
        Exit code; errors of the user's are one line on stderr and code 2.
    """
    args = parse(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        register_cards(args.cards)
        return int(args.run(args))
    except (ValueError, OSError, KeyError) as error:
        print(f"mvseg.data: {error.args[0] if isinstance(error, KeyError) else error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
