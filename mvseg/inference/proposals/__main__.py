"""Store what a detector proposes for every image of a dataset.

    python -m mvseg.inference.proposals --config-file FILE --weights FILE --dataset NAME --output FOLDER
    torchrun --nproc-per-node 8 -m mvseg.inference.proposals ...        the same on eight processes
    python -m mvseg.inference.proposals --dataset NAME --output FOLDER --evaluate     recall of stored proposals

A killed job goes on where it stood when it is started again; damaged shards are made anew.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import mvseg  # noqa: F401  (first: it makes detectron2 importable)

# isort: split
import torch
from detectron2.utils import comm

from mvseg.command_line import run_command
from mvseg.config import load_config
from mvseg.data.catalog import get_records, register_cards
from mvseg.data.mappers import MultiDatasetMapper
from mvseg.data.proposal_files import BOXES, ProposalFolder
from mvseg.data.proposals import images_fingerprint
from mvseg.inference.building import build
from mvseg.inference.proposals.proposing import SOURCES, Proposer, weights_fingerprint
from mvseg.inference.proposals.storing import store_proposals

logger = logging.getLogger("mvseg.inference.proposals")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line.

    Args:
        arguments: what stands behind the command; None takes it from the process.

    Returns:
        The arguments.
    """
    parser = argparse.ArgumentParser(
        prog="python -m mvseg.inference.proposals",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--config-file", metavar="FILE", help="config of the detector; without it nothing is made")
    add("--weights", metavar="FILE", help="its weights; else MODEL.WEIGHTS of the config")
    add("--dataset", required=True, metavar="NAME", help="the dataset")
    add("--output", required=True, type=Path, metavar="FOLDER", help="where the proposals lie")
    add("--source", choices=SOURCES, default="auto", help="generator: what the proposal generator gives; detections: "
        "what the region heads make of it; auto: detections of class-agnostic heads, else generator")  # fmt: skip
    add("--topk", type=int, default=1000, metavar="N", help="most boxes of an image (1000)")
    add("--score-threshold", type=float, default=0.0, metavar="P", help="scores are above it (0)")
    add("--shard-images", type=int, default=1000, metavar="N", help="images of a shard (1000)")
    add("--device", help="such as cuda or cpu; else as in the config")
    add("--evaluate", action="store_true", help="print the average recall of what is stored")
    add("--opts", default=[], nargs=argparse.REMAINDER, help="last: config overrides, KEY VALUE ...")
    args = parser.parse_args(arguments)
    if args.config_file is None and not args.evaluate:
        parser.error("give --config-file to make proposals, or --evaluate to look at those that are there")
    return args


def store(args: argparse.Namespace) -> None:
    """Make the proposals.

    Args:
        args: the command line.
    """
    cfg = load_config(args.config_file, args.opts)
    register_cards(cfg.DATASETS.CARDS)
    model = build(cfg, args.weights, args.device)
    proposer = Proposer(model, args.source, args.topk, args.score_threshold)
    facts = {
        "weights": weights_fingerprint(model),
        "weights_file": cfg.MODEL.WEIGHTS,
        "config_file": str(args.config_file),
        "source": proposer.source,
        "topk": args.topk,
        "score_threshold": args.score_threshold,
        "input": [cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST],
    }
    made = store_proposals(
        proposer,
        MultiDatasetMapper(cfg, False),
        args.dataset,
        args.output,
        facts=facts,
        shard_images=args.shard_images,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )
    logger.info("%s: proposals of %d images made by this process", args.output, made)


def evaluate(args: argparse.Namespace) -> None:
    """Print the average recall of stored proposals.

    Args:
        args: the command line.
    """
    from mvseg.evaluation.proposals import LIMITS, ProposalEvaluator

    folder = ProposalFolder(args.output, f"dataset {args.dataset!r}")
    records = get_records(args.dataset)
    folder.check_dataset(args.dataset, images_fingerprint(records))
    evaluator = ProposalEvaluator(args.dataset, [limit for limit in LIMITS if limit <= folder.manifest["topk"]])
    for record in records:
        evaluator.add(record["image_id"], torch.from_numpy(folder.read(record["image_id"])[BOXES].copy()))
    logging.getLogger("mvseg.evaluation").setLevel(logging.INFO)
    evaluator.evaluate()


def run(args: argparse.Namespace) -> None:
    """Make proposals, measure their recall, or both.

    Args:
        args: the command line.
    """
    if args.config_file is not None:
        store(args)
    if args.evaluate and comm.is_main_process():
        evaluate(args)


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
    return run_command(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
