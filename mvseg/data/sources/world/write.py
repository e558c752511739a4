"""Writing the world to disk: in parallel, the same for a seed whatever the number of processes, each set as a whole.

A dataset is drawn into a folder beside its own and put in place by renaming when it is complete, with a stamp of the
settings and of the code that drew it. A killed run so leaves either the old dataset, or the new one, or none.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import cv2

from mvseg.vocabulary import did_you_mean

from .datasets import DATASETS, WorldDataset, WorldSettings
from .drawing import Job, draw_picture, folders_of
from .facts import ImageFacts
from .files_coco import write_captions, write_coco, write_json, write_lvis, write_phrases
from .files_maps import write_ade, write_panoptic
from .files_openimages import write_openimages
from .files_tags import write_tags
from .things import things

logger = logging.getLogger(__name__)

STAMP = "world.json"
MIN_SIZE = 64
_CHUNK = 8  # pictures handed to a process at a time
_BYTES_PER_PIXEL = 2.0  # of a textured picture as PNG; measured: 1.2 at 256 pixels, 1.9 at 128

Writer = Callable[[WorldDataset, Path, Mapping[str, Sequence[ImageFacts]], WorldSettings], None]


WRITERS: dict[str, Writer] = {
    "coco": write_coco,
    "lvis": write_lvis,
    "captions": write_captions,
    "phrases": write_phrases,
    "openimages": write_openimages,
    "tags": write_tags,
    "ade": write_ade,
    "panoptic": write_panoptic,
}


@dataclass(frozen=True)
class Written:
    """What one call wrote.

    Args:
        datasets: names of the datasets that were drawn.
        images: number of pictures.
        seconds: wall-clock time.
    """

    datasets: tuple[str, ...]
    images: int
    seconds: float


def write_world(
    output: str | Path,
    datasets: Sequence[str] | None = None,
    images: int = 1000,
    val_images: int = 200,
    size: int = 256,
    seed: int = 0,
    workers: int = 0,
    overrides: Mapping[str, Mapping[str, int]] | None = None,
) -> Written:
    """Draw datasets of the world and write them in their real formats; what is there already is left alone.

    Args:
        output: folder, normally ``$DETECTRON2_DATASETS/world``, where the built-in cards look.
        datasets: names such as "world_coco"; None: all.
        images: training images of each dataset.
        val_images: validation images of each dataset.
        size: side of the pictures in pixels.
        seed: the same seed gives the same files.
        workers: number of drawing processes; 0: draw in this one.
        overrides: dataset to options of its own: images, val_images, size or seed.

    Returns:
        What was drawn; nothing if the folder already holds exactly this.

    Raises:
        ValueError: if a dataset or option does not exist, or a number is too small.
        OSError: if the disk is full or the folder cannot be written.
    """
    plans = _plans(datasets, WorldSettings(images, val_images, size, seed), overrides or {})
    if workers < 0:
        raise ValueError(f"world: workers must be 0 or more, got {workers}")
    output = Path(output)
    start = time.perf_counter()
    try:
        output.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time(output):
            wanted = {n: s for n, s in plans.items() if not is_written(output, n, s)}
            _check_disk(output, wanted)
            with _processes(workers if wanted else 0) as pool:
                for name, settings in wanted.items():
                    _write_dataset(output, DATASETS[name], settings, pool)
    except OSError as error:
        raise _explained(error, output) from error
    total = sum(s.count(split) for n, s in wanted.items() for split in DATASETS[n].splits)
    return Written(tuple(wanted), total, time.perf_counter() - start)


def _plans(
    names: Sequence[str] | None, settings: WorldSettings, overrides: Mapping[str, Mapping[str, int]]
) -> dict[str, WorldSettings]:
    names = list(DATASETS) if names is None else list(names)
    if not names:
        raise ValueError(f"world: no dataset is named; there are: {', '.join(DATASETS)}")
    for name in [*names, *overrides]:
        if name not in DATASETS:
            raise ValueError(f"world: no dataset {name!r}{did_you_mean(name, DATASETS, show_all=len(DATASETS))}")
    plans = {}
    for name in dict.fromkeys(names):
        own = overrides.get(name, {})
        for key in own:
            if key not in asdict(settings):
                raise ValueError(f"world: {name} has no option {key!r}{did_you_mean(key, asdict(settings))}")
        plans[name] = replace(settings, **own)
        made = plans[name]
        if min(made.images, made.val_images) < 1 or made.size < MIN_SIZE or made.seed < 0:
            raise ValueError(
                f"world: {name} needs images and val_images >= 1, size >= {MIN_SIZE} and seed >= 0, "
                f"got {made.images}, {made.val_images}, {made.size}, {made.seed}"
            )
    return plans


def is_written(output: str | Path, name: str, settings: WorldSettings) -> bool:
    """Say whether a folder already holds a dataset with these settings, drawn by this code.

    Args:
        output: folder of the world.
        name: name of the dataset.
        settings: options of the world.

    Returns:
        True if nothing is to be done.
    """
    try:
        stamp = json.loads((Path(output) / DATASETS[name].folder / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(stamp == _stamp(name, settings))


def _stamp(name: str, settings: WorldSettings) -> dict[str, Any]:
    pictures = {split: settings.count(split) for split in DATASETS[name].splits}  # others do not matter to this dataset
    return {"dataset": name, "pictures": pictures, "size": settings.size, "seed": settings.seed, "code": _code()}


@cache
def _code() -> str:
    """Hash of everything that decides what is drawn, so that cached data is never that of other code."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*")):
        if path.suffix in (".py", ".tsv"):
            digest.update(path.name.encode() + b"\0" + path.read_bytes().replace(b"\r\n", b"\n"))
    return digest.hexdigest()[:16]


def _write_dataset(output: Path, dataset: WorldDataset, settings: WorldSettings, pool: Executor | None) -> None:
    start = time.perf_counter()
    target, partial = output / dataset.folder, output / f".{dataset.folder}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        for folder in folders_of(dataset):
            (partial / folder).mkdir(parents=True, exist_ok=True)
        facts = {split: _draw(dataset, split, settings, partial, pool) for split in dataset.splits}
        WRITERS[dataset.kind](dataset, partial, facts, settings)
        write_json(partial / STAMP, _stamp(dataset.name, settings))
        if target.exists():
            shutil.rmtree(target)
        os.replace(partial, target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    number, seconds = sum(map(len, facts.values())), time.perf_counter() - start
    logger.info("Drew %s: %d pictures in %.1f s (%.0f a second)", dataset.name, number, seconds, number / seconds)


def _draw(
    dataset: WorldDataset, split: str, settings: WorldSettings, folder: Path, pool: Executor | None
) -> list[ImageFacts]:
    jobs = [Job(dataset.name, split, number, settings, str(folder)) for number in range(1, settings.count(split) + 1)]
    if pool is None:
        return [draw_picture(job) for job in jobs]
    try:
        return list(pool.map(draw_picture, jobs, chunksize=_CHUNK))
    except BrokenProcessPool as error:
        raise RuntimeError(
            f"world: a drawing process of {dataset.name} died (killed, or out of memory); use fewer workers"
        ) from error


@contextmanager
def _processes(workers: int) -> Iterator[Executor | None]:
    if workers == 0:
        yield None
        return
    for thing in things().values():
        thing.outline  # read before forking, once for all processes  # noqa: B018
    # Forking is quick because the children have everything imported. They use no thread of the parent's.
    context = multiprocessing.get_context("fork" if sys.platform.startswith("linux") else "spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_process, initargs=(os.getpid(),))
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_process(parent: int) -> None:
    """Draw with one thread, and end with the parent: after a kill -9 nobody else would tell the processes to stop."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _one_at_a_time(output: Path) -> Iterator[None]:
    """Let a second run on the same folder wait for the first; what a killed one left is then nobody's."""
    from iopath.common.file_io import file_lock

    with file_lock(str(output / ".world")) if os.access(output, os.W_OK) else nullcontext():
        yield


def _check_disk(output: Path, plans: Mapping[str, WorldSettings]) -> None:
    pixels = sum(s.size**2 * s.count(split) for n, s in plans.items() for split in DATASETS[n].splits)
    needed, free = pixels * _BYTES_PER_PIXEL, shutil.disk_usage(output).free
    if needed > free:
        raise OSError(
            errno.ENOSPC,
            f"the world needs about {needed / 1e9:.1f} GB there and {free / 1e9:.1f} GB are free; "
            "choose another folder, fewer images or a smaller size",
        )


def _explained(error: OSError, output: Path) -> OSError:
    if error.errno == errno.ENOSPC and error.filename is None and "world" in str(error):
        return OSError(error.errno, f"{output}: {error.strerror}")
    where = error.filename or output
    return OSError(error.errno, f"world: {where} cannot be written: {error.strerror or error}")
