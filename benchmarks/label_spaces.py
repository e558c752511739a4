"""Scopes and similarities of many words, and steps with one and with four datasets.

    python benchmarks/label_spaces.py
    python benchmarks/label_spaces.py --tasks step --size 320 --repeats 5

Words: four vocabularies of equal size with random embeddings; every word has one parent in its own vocabulary (trees of
ten branches) and every hundredth is a word of the others too. Every task runs in a process of its own; shown are the
wall time, the CPU time and how far the process's memory rose above what it held before.

Steps: forward and backward of the config's detector on the same images, once as images of one dataset, once as images
of four datasets with other words each, in turns in one process; shown are medians of the CPU time.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mvseg

# isort: split
import numpy as np
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from detic_worker import annotated, peak, pictures, reset_peak

import mvseg.modeling  # noqa: F401
from mvseg.config import load_config
from mvseg.data.catalog import register_dataset
from mvseg.modeling.objectives import RegionTargets
from mvseg.training.setup import keep_freed_memory
from mvseg.vocabulary import AnnotationScopes, ImageFacts, LabelSpace, Vocabulary

CONFIG = Path(__file__).resolve().parents[1] / "configs/detector/BoxSup_LVIS_R50.yaml"
DATASETS = ("one", "two", "three", "four")
SCOPES = ("own", "safe", "hierarchy", "safe+hierarchy")
IMAGES, REGIONS, COLUMNS = 8, 512, 50  # of a step; regions of every image


def many_words(count: int, width: int = 512) -> LabelSpace:
    """Words of four vocabularies, side by side."""
    each = count // len(DATASETS)
    vocabularies = {}
    for number, dataset in enumerate(DATASETS):
        draw = np.random.default_rng(number)
        rows = draw.normal(size=(each, width)).astype(np.float32) / np.sqrt(width)
        rows[:, 0] += 1.0
        names = tuple(f"shared {i}" if i % 100 == 0 else f"{dataset} {i}" for i in range(each))
        parents = tuple((names[i // 10],) if i else () for i in range(each))
        embeddings = torch.from_numpy(rows)
        vocabularies[dataset] = Vocabulary(name=dataset, names=names, parents=parents, embeddings=embeddings)
    return LabelSpace.concatenate(vocabularies)


def facts_of(space: LabelSpace) -> list[ImageFacts]:
    """Images of all datasets in turn with twenty objects each."""
    result = []
    for number in range(IMAGES):
        columns = space.columns(DATASETS[number % len(DATASETS)])
        classes = columns[torch.randint(len(columns), (20,))]
        result.append(ImageFacts(DATASETS[number % len(DATASETS)], classes, {}, f"image {number}"))
    return result


def masks_of_step(scopes: AnnotationScopes, facts: list[ImageFacts]) -> None:
    """What a step asks of the scopes: the mask of the batch, and of its regions for the columns of a federated loss."""
    found = scopes.of(facts)
    images = torch.arange(IMAGES).repeat_interleave(REGIONS)
    classes = torch.cat([image.classes[torch.randint(20, (REGIONS,))] for image in facts])
    targets = RegionTargets(classes, images, found.mask, None, scopes.rules, found.first_rule)
    columns = torch.randperm(scopes.space.n)[:COLUMNS]
    targets.relevant_columns()
    targets.scope_of(columns)
    targets.positives_of(columns)


def word_task(name: str, words: int) -> None:
    """Run one task on many words, and print what it took."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    space = many_words(words)
    reset_peak()
    before = peak("cpu")
    if name == "similarity":
        show("50 rows of the rescaled similarity", before, lambda: space.similarity_rows(torch.arange(50), "minmax"))
        show("50 further rows", before, lambda: space.similarity_rows(torch.arange(50, 100), "minmax"))
        return
    built: list[AnnotationScopes] = []
    show(f"scope {name}", before, lambda: built.append(AnnotationScopes(space, name)))
    facts = facts_of(space)
    masks_of_step(built[0], facts)
    show(f"masks of a step, scope {name}", before, lambda: masks_of_step(built[0], facts))


def show(what: str, before: float, task: Callable[[], Any]) -> None:
    """Run something and print its times and the rise of the memory."""
    reset_peak()
    wall, cpu = time.perf_counter(), time.process_time()
    task()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"  {what:45s} {cpu:8.3f} s CPU {wall:8.3f} s wall  memory +{peak('cpu') - before:5.2f} GiB", flush=True)


def step_model(names: tuple[str, ...], folder: Path, words: int) -> torch.nn.Module:
    """The detector for some datasets, each with words of its own."""
    for name in names:
        rows = folder / f"{name}.npy"
        np.save(rows, np.random.default_rng(len(name)).normal(size=(words, 512)).astype(np.float32))
        vocabulary = [f"{name} {i}" for i in range(words)]
        paths = {"image_root": ".", "annotations": "none.json", "embeddings": str(rows)}
        register_dataset(name=name, format="coco", vocabulary=vocabulary, **paths)
    options = ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "DATASETS.TRAIN", repr(names), "DATASETS.MIX", "[]"]
    options += ["MODEL.CLASSIFIER.LOSS", "sigmoid"]
    return build_model(load_config(CONFIG, options)).train()


def steps(size: int, repeats: int, words: int) -> None:
    """Compare steps on the same images of one and of four datasets."""
    torch.set_num_threads(1)
    keep_freed_memory()
    shown = pictures(4, size, 8, words, 1)
    cases = []
    with tempfile.TemporaryDirectory() as folder:
        for names in (("alone",), DATASETS):
            torch.manual_seed(0)
            model = step_model(names, Path(folder), words)
            records = [annotated(p, dataset=names[i % len(names)], supervision="masks") for i, p in enumerate(shown)]
            cases.append((len(names), model, records, []))
    for repetition in range(repeats + 1):
        for _, model, records, times in cases:
            torch.manual_seed(repetition)
            model.zero_grad()
            start = time.process_time()
            with EventStorage(0):
                torch.stack(list(model(records).values())).sum().backward()
            times.append(time.process_time() - start)
    medians = [statistics.median(times[1:]) for *_, times in cases]
    for (count, *_), value in zip(cases, medians):
        print(f"  {count} datasets, {count * words} columns: {value:.2f} s CPU a step of 4 images of {size} px")
    print(f"  four datasets: {medians[1] / medians[0]:.3f} times the time of one")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=["words", "step"], choices=("words", "step"))
    parser.add_argument("--words", type=int, default=22000)
    parser.add_argument("--step-words", type=int, default=500, help="words of each dataset in the steps")
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    for name in ("similarity", *SCOPES) if "words" in args.tasks else ():
        process = context.Process(target=word_task, args=(name, args.words))
        process.start()
        process.join()
        if process.exitcode:
            raise SystemExit(f"{name} failed")
    if "step" in args.tasks:
        steps(args.size, args.repeats, args.step_words)


if __name__ == "__main__":
    main()
