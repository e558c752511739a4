"""Draw the datasets shapes_a, shapes_b and shapes_all (``python datasets/prepare_shapes.py --output DIR``)."""

from __future__ import annotations

import argparse
import time

import mvseg  # noqa: F401  (lets detectron2 resolve)
from mvseg.data.card import datasets_root
from mvseg.data.sources.shapes import write_shapes


def main() -> None:
    """Read the command line, draw, and say how long it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", default=None, help="folder; default: shapes under $DETECTRON2_DATASETS")
    parser.add_argument("--images", type=int, default=400, help="training images of shapes_a, and as many of shapes_b")
    parser.add_argument(
        "--val-images", type=int, default=None, help="validation images; default: a quarter of --images"
    )
    parser.add_argument("--size", type=int, default=128, help="side of the pictures in pixels")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    output = args.output or datasets_root() / "shapes"
    start = time.perf_counter()
    if write_shapes(output, args.images, args.val_images, args.size, args.seed):
        print(f"drew the shapes data into {output} in {time.perf_counter() - start:.1f} s")
    else:
        print(f"{output} already holds the shapes data with these settings")


if __name__ == "__main__":
    main()
