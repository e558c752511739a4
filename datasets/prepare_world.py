"""Draw the datasets of the world (``python datasets/prepare_world.py --output DIR --datasets world_coco``)."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import mvseg  # noqa: F401  (lets detectron2 resolve)
from mvseg.data.card import datasets_root
from mvseg.data.sources.world.datasets import DATASETS
from mvseg.data.sources.world.write import write_world


def overrides(entries: Sequence[str]) -> dict[str, dict[str, int]]:
    """Read the options of single datasets.

    Args:
        entries: texts such as "world_lvis.images=2000".

    Returns:
        Dataset to option to value.

    Raises:
        ValueError: if an entry has another form.
    """
    result: dict[str, dict[str, int]] = {}
    for entry in entries:
        key, _, value = entry.partition("=")
        dataset, _, option = key.partition(".")
        if not (dataset and option and value.lstrip("-").isdecimal()):
            raise ValueError(f"--set {entry!r}: write DATASET.OPTION=NUMBER, such as world_lvis.images=2000")
        result.setdefault(dataset, {})[option] = int(value)
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line, draw, and say how long it took.

    Args:
        arguments: the command line without the program's name; None: that of the process.

    Returns:
        Exit status.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", default=None, help="folder; default: world under $DETECTRON2_DATASETS")
    parser.add_argument(
        "--datasets", nargs="+", default=None, metavar="NAME", help=f"of {', '.join(DATASETS)}; default: all"
    )
    parser.add_argument("--images", type=int, default=1000, help="training images of each dataset (1000)")
    parser.add_argument("--val-images", type=int, default=200, help="validation images of each dataset (200)")
    parser.add_argument("--size", type=int, default=256, help="side of the pictures in pixels (256)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same files (0)")
    parser.add_argument("--workers", type=int, default=2, help="drawing processes; 0: draw in this process (2)")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="DATASET.OPTION=NUMBER", help="options of single datasets"
    )
    args = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    output = Path(args.output) if args.output else datasets_root() / "world"
    try:
        done = write_world(
            output, args.datasets, args.images, args.val_images, args.size, args.seed, args.workers, overrides(args.set)
        )
    except (ValueError, OSError, RuntimeError) as error:
        print(f"prepare_world: {error}", file=sys.stderr)
        return 1
    if not done.datasets:
        print(f"{output} already holds these datasets with these settings")
    else:
        rate = done.images / done.seconds
        print(
            f"drew {len(done.datasets)} datasets, {done.images} images, into {output} in {done.seconds:.1f} s: "
            f"{rate:.0f} images/s"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
