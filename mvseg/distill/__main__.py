"""Crop embeddings of a teacher, which a detector learns from.

    python -m mvseg.distill embed DATASET --proposals FOLDER --teacher TEACHER --output FOLDER
    torchrun --nproc-per-node 8 -m mvseg.distill embed ...      the same on eight processes
    python -m mvseg.distill check FOLDER                        looks through what is stored

A killed job goes on where it stood when it is started again; damaged shards are made anew.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import mvseg  # noqa: F401  (first: it makes detectron2 importable)

# isort: split
import torch
from detectron2.utils import comm

from mvseg.command_line import run_command
from mvseg.data.catalog import register_cards
from mvseg.distill.checking import check_folder
from mvseg.distill.embedding import EmbeddingJob, Selection, embed_dataset, embedding_width, estimate_size
from mvseg.inference.progress import clock_time
from mvseg.modeling.crop_teacher import SCALES, CropTeacher
from mvseg.modeling.crops import RESIZES
from mvseg.vocabulary.encoders import build_image_encoder

logger = logging.getLogger("mvseg.distill")
DTYPES = ("float32", "bfloat16", "float16")
TIMED_CROPS = 16  # for the estimate of the time


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line.

    Args:
        arguments: what stands behind the command; None takes it from the process.

    Returns:
        The arguments.
    """
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m mvseg.distill", description=__doc__, formatter_class=formatter)
    commands = parser.add_subparsers(dest="command", required=True)
    embed = commands.add_parser("embed", help="store what a teacher sees in the crops of proposals")
    add = embed.add_argument
    add("dataset", metavar="DATASET", help="the dataset")
    add("--proposals", required=True, type=Path, metavar="FOLDER", help="its stored proposals")
    add("--teacher", required=True, metavar="TEACHER", help="open_clip:ARCHITECTURE:CHECKPOINT_OR_TAG, "
        "or what else mvseg.vocabulary.build_image_encoder takes")  # fmt: skip
    add("--output", required=True, type=Path, metavar="FOLDER", help="where the embeddings lie")
    add("--topk", type=int, default=300, metavar="N", help="most crops of an image (300)")
    add("--score-threshold", type=float, default=0.0, metavar="P", help="scores of proposals are above it (0)")
    add("--min-size", type=float, default=0.0, metavar="PX", help="least shorter side of a proposal (0)")
    add("--at-least", type=int, default=0, metavar="N", help="an image with fewer proposals is an error (0)")
    add("--scales", type=float, nargs="+", default=list(SCALES), metavar="S", help="sizes of the crops (1 1.5)")
    add("--resize", choices=("teacher", *RESIZES), default="teacher", help="how crops become the teacher's input: "
        "squash, shortest (the middle of the crop), or as the teacher prepares images")  # fmt: skip
    add("--batch-size", type=int, default=256, metavar="N", help="crops at a time (256)")
    add("--dtype", choices=DTYPES, default="float32", help="type that the teacher computes in (float32)")
    add("--device", help="such as cuda or cpu; else cuda where there is one")
    add("--shard-images", type=int, default=250, metavar="N", help="images of a shard (250)")
    add("--num-workers", type=int, default=2, metavar="N", help="loading processes (2)")
    add("--cards", nargs="*", default=[], metavar="PLACE", help="further dataset cards, files or folders")
    check = commands.add_parser("check", help="look through stored embeddings")
    check.add_argument("folder", type=Path, metavar="FOLDER")
    return parser.parse_args(arguments)


def embed(args: argparse.Namespace) -> None:
    """Make the embeddings.

    Args:
        args: the command line.
    """
    register_cards(args.cards)
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    encoder = build_image_encoder(args.teacher, device)
    resize = "" if args.resize == "teacher" else args.resize
    teacher = CropTeacher(encoder, args.scales, resize, args.batch_size, getattr(torch, args.dtype))
    selection = Selection(args.topk, args.score_threshold, args.min_size, args.at_least)
    job = EmbeddingJob(
        args.dataset, args.proposals, args.output, args.teacher, selection, args.shard_images, args.num_workers
    )
    if comm.is_main_process():
        logger.info(estimate(teacher, job))
    made = embed_dataset(teacher, job)
    logger.info("%s: crops of %d images embedded by this process", args.output, made)


def estimate(teacher: CropTeacher, job: EmbeddingJob) -> str:
    """Say how large and long a job is, before it starts.

    Args:
        teacher: the teacher; it is timed on a few crops.
        job: the job.

    Returns:
        One line.
    """
    boxes, size = estimate_size(job, embedding_width(teacher))
    image = torch.randint(0, 255, (3, 128, 128), dtype=torch.uint8)
    corner = torch.rand(TIMED_CROPS, 2) * 64
    start = time.perf_counter()
    teacher([image], [torch.cat([corner, corner + 40], 1)])
    seconds = (time.perf_counter() - start) / TIMED_CROPS * boxes / comm.get_world_size()
    return (
        f"about {boxes} boxes, each cropped at {len(teacher.scales)} sizes: {size / 2**20:.1f} MiB on disk, about "
        f"{clock_time(seconds)} on {comm.get_world_size()} process(es) of this kind"
    )


def check(args: argparse.Namespace) -> int:
    """Look through stored embeddings.

    Args:
        args: the command line.

    Returns:
        The exit code.
    """
    complaints, line = check_folder(args.folder)
    print(line)
    for complaint in complaints:
        print(complaint, file=sys.stderr)
    if complaints:
        print("make what is damaged again: python -m mvseg.distill embed with the same arguments", file=sys.stderr)
    return 1 if complaints else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command, in this process of those of torchrun if there are several.

    Args:
        arguments: what stands behind the command; None takes it from the process.

    Returns:
        The exit code.
    """
    args = parse(arguments)
    logging.basicConfig(format="%(message)s")
    logger.setLevel(logging.INFO)
    if args.command == "check":
        return run_command(lambda: check(args), in_processes=False)
    return run_command(lambda: embed(args))


if __name__ == "__main__":
    sys.exit(main())
