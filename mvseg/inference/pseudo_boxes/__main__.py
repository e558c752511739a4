"""Find objects of the classes that a training set does not annotate, for a training that goes on with them.

    python -m mvseg.inference.pseudo_boxes --config-file FILE --weights FILE --dataset NAME --output FILE.json
    torchrun --nproc-per-node 8 -m mvseg.inference.pseudo_boxes ...        the same on eight processes

The detector must have been trained with this dataset and with others that do annotate them. In DATASETS.MIX the field
pseudo_boxes of the dataset names the file.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mvseg  # noqa: F401  (first: it makes detectron2 importable)

# isort: split
import torch
import yaml
from detectron2.data import MetadataCatalog
from detectron2.utils import comm

from mvseg.command_line import run_command
from mvseg.config import load_config
from mvseg.data.catalog import register_cards
from mvseg.data.coco_file import write_json
from mvseg.data.loader import build_test_loader
from mvseg.data.proposals import images_fingerprint
from mvseg.data.records import load_records
from mvseg.inference.building import build
from mvseg.inference.progress import Progress
from mvseg.inference.proposals import weights_fingerprint
from mvseg.inference.pseudo_boxes.finding import Finder, other_columns, pseudo_tree, without_drawn
from mvseg.vocabulary import LabelSpace, did_you_mean

logger = logging.getLogger("mvseg.inference.pseudo_boxes")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line.

    Args:
        arguments: what stands behind the command; None takes it from the process.

    Returns:
        The arguments.
    """
    parser = argparse.ArgumentParser(
        prog="python -m mvseg.inference.pseudo_boxes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--config-file", metavar="FILE", required=True, help="config of the detector")
    add("--weights", metavar="FILE", help="its weights; else MODEL.WEIGHTS of the config")
    add("--dataset", required=True, metavar="NAME", help="the training set whose images are looked at")
    add("--output", required=True, type=Path, metavar="FILE", help="the file to write, .json")
    add("--score-threshold", type=float, default=0.5, metavar="P", help="scores are above it (0.5)")
    add("--class-thresholds", type=Path, metavar="FILE", help="YAML: word to a threshold of its own")
    add(
        "--passes",
        type=int,
        default=0,
        metavar="M",
        help="passes with dropout for the confidence in the place (0: none)",
    )
    add("--dropout", type=float, default=0.2, metavar="P", help="its probability (0.2)")
    add("--drawn-iou", type=float, default=0.5, metavar="IOU", help="leave out what overlaps a drawn box more (0.5)")
    add("--device", help="such as cuda or cpu; else as in the config")
    add("--opts", default=[], nargs=argparse.REMAINDER, help="last: config overrides, KEY VALUE ...")
    args = parser.parse_args(arguments)
    for name in ("score_threshold", "drawn_iou"):
        if not 0 <= getattr(args, name) <= 1:
            parser.error(f"--{name.replace('_', '-')} must be from 0 to 1")
    if args.passes < 0 or not 0 < args.dropout < 1:
        parser.error("--passes must be at least 0, and --dropout between 0 and 1")
    return args


def class_thresholds(space: LabelSpace, wanted: torch.Tensor, common: float, file: Path | None) -> torch.Tensor:
    """Say which score every label column must reach.

    Args:
        space: what the label columns mean.
        wanted: (n,) bool, columns that are looked for.
        common: threshold of words without one of their own.
        file: YAML, word to threshold, or None.

    Returns:
        (n,) float32, infinite where a column is not looked for.

    Raises:
        ValueError: if the file names a word that is not looked for, or a threshold is none.
    """
    own: Mapping[str, Any] = {} if file is None else yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    names = [name for name, asked in zip(space.names, wanted.tolist(), strict=True) if asked]
    for word, value in own.items():
        if word not in names:
            raise ValueError(f"{file}: {word!r} is no word that is looked for{did_you_mean(str(word), names)}")
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise ValueError(f"{file}: the threshold of {word!r} must be a number from 0 to 1, not {value!r}")
    limits = torch.tensor([float(own.get(name, common)) for name in space.names])
    return torch.where(wanted, limits, torch.inf)


def find(args: argparse.Namespace) -> None:
    """Make the file.

    Args:
        args: the command line.

    Raises:
        ValueError: if there is no class to look for.
    """
    cfg = load_config(args.config_file, args.opts)
    register_cards(cfg.DATASETS.CARDS)
    model = build(cfg, args.weights, args.device)
    space = getattr(model, "label_space", None)
    if space is None:
        raise ValueError(f"{args.config_file}: this detector has no label space; name its datasets in DATASETS.MIX")
    wanted = other_columns(space, args.dataset, cfg.MODEL.SAFE_THRESHOLD)
    if not wanted.any():
        raise ValueError(
            f"dataset {args.dataset!r} annotates all {space.n} words of this detector: nothing to look for"
        )
    limits = class_thresholds(space, wanted, args.score_threshold, args.class_thresholds)
    finder = Finder(model, limits, args.passes, args.dropout)
    records = load_records(args.dataset)
    drawn = {record["image_id"]: record.get("annotations", ()) for record in records}
    loader = build_test_loader(cfg, args.dataset)
    progress, found = Progress(len(loader), "images"), {}
    for batch in loader:
        for record, instances in zip(batch, finder(batch), strict=True):
            image = record["image_id"]
            found[image] = without_drawn(instances.to("cpu"), drawn[image], args.drawn_iou)
        progress.step(len(batch))
    progress.close()
    facts = {key: getattr(args, key) for key in ("dataset", "score_threshold", "passes", "dropout", "drawn_iou")}
    facts |= {"images_fingerprint": images_fingerprint(records), "weights": weights_fingerprint(model)}
    parts = comm.gather(found)
    if comm.is_main_process():
        joined = {image: rows for part in parts for image, rows in part.items()}
        tree = pseudo_tree(joined, space, facts, [_image(record, args.dataset) for record in records])
        write_json(args.output, tree)
        _report(args.output, tree, int(wanted.sum()))


def _image(record: Mapping[str, Any], dataset: str) -> dict[str, Any]:
    root = MetadataCatalog.get(dataset).get("image_root") or "."
    name = os.path.relpath(record["file_name"], root).replace(os.sep, "/")
    return {"id": record["image_id"], "file_name": name, **{k: record[k] for k in ("height", "width") if k in record}}


def _report(output: Path, tree: Mapping[str, Any], wanted: int) -> None:
    names = {category["id"]: category["name"] for category in tree["categories"]}
    counts = Counter(names[annotation["category_id"]] for annotation in tree["annotations"])
    most = ", ".join(f"{name} {count}" for name, count in counts.most_common(8))
    boxes, images = len(tree["annotations"]), len(tree["images"])
    logger.info("%s: %d boxes in %d images, of %d of %d words%s", output, boxes, images, len(names), wanted,
                f": {most}" if most else "; lower --score-threshold?")  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command, in this process of those of torchrun if there are several.

    Args:
        arguments: what stands behind the command; None takes it from the process.

    Returns:
        The exit code.
    """
    args = parse(arguments)
    logging.basicConfig(format="%(message)s")
    logging.getLogger("mvseg.inference").setLevel(logging.INFO)
    return run_command(lambda: find(args))


if __name__ == "__main__":
    sys.exit(main())
