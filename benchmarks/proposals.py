"""How long it takes to read stored proposals, beside reading and augmenting the image: CPU time, one thread.

python benchmarks/proposals.py --images 2000 --boxes 1000
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import mvseg  # noqa: F401  (first: it makes detectron2 importable)

# isort: split
import cv2
import numpy as np
from detectron2.data import transforms as T

from mvseg.data.augmentation import AugmentationSettings, build_augmentations
from mvseg.data.proposal_files import ProposalFolder, finish_job, start_job, write_shard
from mvseg.data.proposals import proposals_of
from mvseg.data.reading import read_image

HEIGHT, WIDTH = 480, 640


def seconds(job: Callable[[int], object], repeats: int) -> float:
    """Mean CPU seconds of a job that is given numbers from 0."""
    start = time.process_time()
    for number in range(repeats):
        job(number)
    return (time.process_time() - start) / repeats


def own_memory() -> float:
    """MiB of this process without mapped files."""
    fields = Path("/proc/self/statm").read_text().split()
    return (int(fields[1]) - int(fields[2])) * resource.getpagesize() / 2**20


def main() -> None:
    """Write proposals of so many images, and read them at random."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--boxes", type=int, default=1000)
    args = parser.parse_args()
    cv2.setNumThreads(0)
    draw = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corner = draw.random((args.boxes, 2)) * [WIDTH / 2, HEIGHT / 2]
        boxes = np.concatenate([corner, corner + 20], 1).astype(np.float32)
        arrays = {"boxes": boxes, "scores": np.sort(draw.random(args.boxes).astype(np.float32))[::-1]}
        start_job(folder, {"dataset": "drawn", "images_fingerprint": ""})
        shards = -(-args.images // 1000)
        began = time.process_time()
        for number in range(shards):
            rows = range(number * 1000, min((number + 1) * 1000, args.images))
            write_shard(folder, number, [(row, arrays) for row in rows])
        finish_job(folder, shards)
        size = sum(path.stat().st_size for path in folder.iterdir()) / 2**20
        written = 1e3 * (time.process_time() - began) / args.images
        print(f"writing {args.images} images: {written:.3f} ms an image, {size:.0f} MiB")
        before = own_memory()
        order = draw.permutation(args.images).tolist()
        stored = ProposalFolder(folder)
        first = seconds(lambda i: stored.read(order[i]), args.images)
        again = seconds(lambda i: stored.read(order[i]), args.images)
        print(
            f"reading at random: {1e3 * first:.3f} ms an image the first time (checksums), {1e3 * again:.3f} after it"
        )
        print(f"own memory: {own_memory() - before:.1f} MiB more")
        cv2.imwrite(
            str(folder / "a.jpg"),
            draw.integers(0, 255, (HEIGHT // 8, WIDTH // 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1),
        )
        recipe = T.AugmentationList(build_augmentations("resize_crop", AugmentationSettings()))

        def augment(_: int) -> T.TransformList:
            given = T.AugInput(read_image(str(folder / "a.jpg"), "BGR"))
            return recipe(given)

        moves = augment(0)
        moving = seconds(lambda i: proposals_of(stored.read(order[i]), moves, (640, 640), 2000), min(args.images, 500))
        image = seconds(augment, 100)
        print(f"reading and moving {args.boxes} boxes: {1e3 * moving:.3f} ms")
        print(f"reading and augmenting an image of {WIDTH} x {HEIGHT}: {1e3 * image:.1f} ms")


if __name__ == "__main__":
    main()
