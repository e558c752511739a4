"""How long a label space of the size of COCO, Objects365 and Open Images takes to learn, and how much memory.

    python benchmarks/learned_label_space.py

The predictions are made up: things that two or three vocabularies know are found by all their columns, with noise, and
every column has false detections. Sizes are those of the validation sets: 945 classes, 85,000 images.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Sequence

import numpy as np

from mvseg.vocabulary.learning import Detections, Evidence, LearnSettings, Objects, learn_label_space

# name, words, images, objects in an image
SETS = (("objects365", 365, 38_000, 16), ("coco", 80, 5_000, 7), ("openimages", 500, 42_000, 7))
SIDE = 640.0


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark.

    Args:
        arguments: the command line; None: that of the process.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=1.0, help="share of the images (1)")
    parser.add_argument("--false", type=float, default=20, help="false detections in an image (20)")
    parser.add_argument("--images", choices=("present", "all"), default="present", help="as for the command (present)")
    args = parser.parse_args(arguments)
    started = time.monotonic()
    evidence = make_evidence(np.random.default_rng(0), args.share, args.false)
    for one in evidence:
        print(
            f"{one.name}: {one.num_images:,} images, {len(one.objects):,} objects, {len(one.detections):,} detections"
        )
    print(f"made up in {time.monotonic() - started:.1f} s, {memory():.2f} GiB")
    started, cpu = time.monotonic(), time.process_time()
    space = learn_label_space(evidence, LearnSettings(images=args.images))
    print(
        f"learned in {time.monotonic() - started:.1f} s ({time.process_time() - cpu:.1f} s CPU), largest memory "
        f"{memory():.2f} GiB: {space.num_words} words became {len(space.labels)}, chosen from {len(space.candidates)} "
        f"sets in {space.choice.seconds:.2f} s"
    )


def memory() -> float:
    """Give the largest memory of this process so far.

    Returns:
        GiB.
    """
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def make_evidence(rng: np.random.Generator, share: float, false: float) -> list[Evidence]:
    """Make up what a partitioned detector finds.

    Args:
        rng: random numbers.
        share: share of the images.
        false: mean number of false detections in an image.

    Returns:
        The evidence of three vocabularies.
    """
    meanings = []  # what each word means: the first 250 meanings are shared by vocabularies
    for number, (_, words, _, _) in enumerate(SETS, start=1):
        shared = rng.permutation(250)[: words // 2]
        meanings.append(np.concatenate([shared, 1000 * number + np.arange(words - len(shared))]))
    owner = np.concatenate([np.full(len(m), number) for number, m in enumerate(meanings)])
    column_meaning = np.concatenate(meanings)
    evidence = []
    for number, (name, words, images, objects) in enumerate(SETS):
        images = max(int(images * share), 1)
        count = rng.poisson(objects * images)
        frequency = 1 / (np.arange(words) + 5.0)
        classes = rng.choice(words, count, p=rng.permutation(frequency) / frequency.sum())
        place = rng.integers(images, size=count)
        boxes = random_boxes(rng, count)
        found = []
        for other in range(len(SETS)):  # every vocabulary's head finds what it has a word for
            own = np.flatnonzero(owner == other)
            column_of = {int(column_meaning[column]): int(column) for column in own}
            columns = np.array([column_of.get(int(m), -1) for m in meanings[number]])[classes]
            seen = (columns >= 0) & (rng.random(count) < 0.8)
            moved = boxes[seen] + rng.normal(scale=0.05 * SIDE / 8, size=(int(seen.sum()), 4))
            found.append((place[seen], columns[seen], np.sort(moved.reshape(-1, 2, 2), axis=1).reshape(-1, 4)))
        wrong = rng.poisson(false * images)
        found.append((rng.integers(images, size=wrong), rng.integers(len(owner), size=wrong), random_boxes(rng, wrong)))
        scores = [rng.uniform(0.3, 1, len(f[0])) for f in found[:-1]] + [rng.uniform(0.1, 0.6, wrong)]
        arrays = [np.concatenate(parts) for parts in zip(*found)]
        detections = Detections(arrays[0], arrays[1], arrays[2].astype(np.float32), np.concatenate(scores))
        truth = Objects(place, classes, boxes.astype(np.float32), rng.random(count) < 0.01)
        evidence.append(Evidence(name, tuple(f"word {m}" for m in meanings[number]), detections, truth, images))
    return evidence


def random_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """Draw boxes.

    Args:
        rng: random numbers.
        count: number N of boxes.

    Returns:
        Corners, shape ``(N, 4)``, float64.
    """
    corner, size = rng.uniform(0, SIDE * 0.8, (count, 2)), rng.uniform(16, SIDE / 3, (count, 2))
    return np.concatenate([corner, corner + size], axis=1)


if __name__ == "__main__":
    main()
