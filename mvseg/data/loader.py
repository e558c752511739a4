"""The loaders of training and test: records shared between workers, a seed per image, a state that resumes exactly."""

from __future__ import annotations

import functools
import gc
import logging
import random
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetFromList, MetadataCatalog, build_detection_test_loader
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset

from mvseg.data.catalog import get_card, release_records
from mvseg.data.columns import ColumnRecords
from mvseg.data.mappers import MultiDatasetMapper
from mvseg.data.mixing import Draw, MixEntry, MixtureSampler, image_shares, mix_bits, mixture_from_config
from mvseg.data.mixture_report import MixtureReport, forecast
from mvseg.data.reading import BadImage, BadImages, ImageReadError, list_files
from mvseg.data.records import Record, load_records, usable_records
from mvseg.data.streams import ClassAwareStream, ClassCounts, ImageStream, RepeatFactorStream, ShuffledStream
from mvseg.data.streams import repeat_factors as compute_repeat_factors
from mvseg.data.supervision import lists_classes

logger = logging.getLogger(__name__)

Sample = dict[str, Any]
Mapper = Callable[[Record], Sample | None]

# Of so many images in a row one must be readable, whatever DATALOADER.MAX_BAD_IMAGES allows in total.
ATTEMPTS_PER_IMAGE = 100
# LVIS's threshold, where a mixture entry asks for repeat factors and DATALOADER.REPEAT_THRESHOLD is left at 0.
LVIS_REPEAT_THRESHOLD = 0.001


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Give ``random``, numpy and torch (CPU) a seed within the block and put their states back after it.

    Args:
        seed: any whole number from 0.
    """
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed the GPUs as well
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def shared_records(records: Sequence[Record]) -> Any:
    """Keep records so that worker processes share their memory.

    Args:
        records: a list, which is serialised, or records in columns, which need not be.

    Returns:
        A sequence of the records.
    """
    if isinstance(records, ColumnRecords):
        return records
    return DatasetFromList(records, copy=False, serialize=True)


class MappedMixture(Dataset[tuple[Sample, list[BadImage]]]):
    """The datasets of a mixture, mapped; an unreadable image is replaced by another one of its dataset.

    Args:
        names: dataset names.
        records: the records of each dataset; lists are stored serialised, so that workers share them.
        mapper: record to model input; None as its result asks for another image.
    """

    def __init__(self, names: Sequence[str], records: Sequence[Sequence[Record]], mapper: Mapper) -> None:
        self.names = tuple(names)
        self.records = [shared_records(r) for r in records]
        self.mapper = mapper

    def __len__(self) -> int:
        return sum(len(records) for records in self.records)

    def __getitem__(self, draw: Draw) -> tuple[Sample, list[BadImage]]:
        """Map one image; the result depends on nothing but the draw.

        Args:
            draw: which image, and the seed of its augmentation.

        Returns:
            The model input, and the files that were tried before it and could not be read.

        Raises:
            ImageReadError: if 100 images in a row give no input.
        """
        records = self.records[draw.dataset]
        bad: list[BadImage] = []
        for attempt in range(ATTEMPTS_PER_IMAGE):
            index = draw.record if attempt == 0 else mix_bits(draw.seed, attempt) % len(records)
            record = records[index]
            try:
                with seeded(draw.seed):
                    sample = self.mapper(record)
            except ImageReadError as error:
                bad.append(BadImage(draw.dataset, str(record["file_name"]), str(error)))
                continue
            except Exception as error:
                error.add_note(
                    f"while loading dataset {self.names[draw.dataset]!r}, image {record.get('image_id')!r}, "
                    f"{record.get('file_name')}"
                )
                raise
            if sample is not None:
                return sample, bad
        raise ImageReadError(
            f"dataset {self.names[draw.dataset]!r}: {ATTEMPTS_PER_IMAGE} images in a row gave no input. "
            f"Is the image folder complete?\n{list_files([b.reason for b in bad]) or '  (the mapper returned None)'}"
        )


class _Feed:
    """Hands the sampler's batches to the DataLoader and remembers the position after each."""

    def __init__(self, sampler: MixtureSampler) -> None:
        self.sampler = sampler
        self.positions: deque[dict[str, Any]] = deque()

    def __iter__(self) -> Iterator[list[Draw]]:
        for batch in self.sampler:
            self.positions.append(self.sampler.state_dict())
            yield batch


def _start_worker(worker: int) -> None:
    cv2.setNumThreads(0)  # the workers are the parallelism
    gc.freeze()  # else every garbage collection would copy the parent's pages into this process


class TrainLoader:
    """Endless batches of model inputs whose state counts the batches handed out, not those prefetched.

    Args:
        dataset: the mapped mixture.
        sampler: the order.
        num_workers: loading processes; 0 loads in this one. The batches are the same for any number.
        max_bad_images: share of a dataset's images, 0 to 1, that may be unreadable before loading stops.
        prefetch_factor: batches that each worker prepares ahead.
        report: what the mixture will draw.
    """

    def __init__(
        self,
        dataset: MappedMixture,
        sampler: MixtureSampler,
        *,
        num_workers: int = 0,
        max_bad_images: float = 0.0,
        prefetch_factor: int = 2,
        report: MixtureReport | None = None,
    ) -> None:
        self.dataset = dataset
        self.sampler = sampler
        self.report = report
        self.bad_images = BadImages(dataset.names, [len(r) for r in dataset.records], max_bad_images)
        self._position = sampler.state_dict()
        self._feed = _Feed(sampler)
        self._turn = 0
        self._loader: DataLoader[Any] = DataLoader(
            dataset,
            batch_sampler=self._feed,
            num_workers=num_workers,
            collate_fn=list,
            worker_init_fn=_start_worker,
            persistent_workers=num_workers > 0,
            prefetch_factor=prefetch_factor if num_workers > 0 else None,
            generator=torch.Generator(),  # else starting the iteration would draw from the global one
        )

    def __iter__(self) -> Iterator[list[Sample]]:
        """Go on after the last batch handed out.

        Returns:
            An endless iterator of batches; a list of model inputs each. It ends the iterators given out before.
        """
        self._turn += 1
        return self._batches(self._turn)

    def _batches(self, turn: int) -> Iterator[list[Sample]]:
        self.sampler.load_state_dict(self._position)
        self._feed.positions.clear()
        batches = iter(self._loader)
        while True:
            if turn != self._turn:
                raise RuntimeError(
                    "this iterator ended when a newer one or a loaded state took over: call iter() again"
                )
            results = next(batches)
            self._position = self._feed.positions.popleft()
            for _, unreadable in results:
                for bad in unreadable:
                    self.bad_images.add(bad)
            yield [sample for sample, _ in results]

    @property
    def step(self) -> int:
        """Number of batches handed out since the start of the run, resumed parts included."""
        return self._position["step"]

    def state_dict(self) -> dict[str, Any]:
        """Write down the position after the last batch handed out; the same in every process.

        Returns:
            Plain numbers, strings, lists and dicts.
        """
        return {"sampler": self._position, "bad_images": self.bad_images.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a written position; iterators given out before end.

        Args:
            state: from :meth:`state_dict`.
        """
        self.sampler.load_state_dict(state["sampler"])
        self._position = self.sampler.state_dict()
        self.bad_images.load_state_dict(state["bad_images"])
        self._turn += 1


def build_stream(
    entry: MixEntry, counts: ClassCounts, repeat_threshold: float, repeat_sqrt: bool = True
) -> ImageStream:
    """Build the order inside one dataset.

    Args:
        entry: the mixture entry.
        counts: class counts of its images.
        repeat_threshold: threshold of repeat factors where the entry has none; 0 stands for LVIS's 0.001.
        repeat_sqrt: whether repeat factors are square roots.

    Returns:
        The order that ``entry.sampler`` names.

    Raises:
        ValueError: if it goes by classes, and the records do not say which classes their images show.
    """
    if entry.sampler != "uniform" and not len(counts.images):
        raise ValueError(
            f"DATASETS.MIX, dataset {entry.name!r}: sampler {entry.sampler} goes by the classes of the images, which "
            f"its {counts.num_images} records do not say; use sampler: uniform"
        )
    if entry.sampler == "repeat_factor":
        threshold = entry.repeat_threshold or repeat_threshold or LVIS_REPEAT_THRESHOLD
        return RepeatFactorStream(entry.name, compute_repeat_factors(counts, threshold, repeat_sqrt))
    if entry.sampler == "class_aware":
        return ClassAwareStream(entry.name, counts)
    return ShuffledStream(entry.name, counts.num_images)


def build_train_loader(cfg: CfgNode, *, mapper: Mapper | None = None) -> TrainLoader:
    """Build the loader of the training mixture.

    Args:
        cfg: the config; its cards must be registered.
        mapper: record to model input; None: :class:`MultiDatasetMapper` from the config.

    Returns:
        The loader of this process, with the forecast of what it will draw as ``report``.
    """
    entries = mixture_from_config(cfg)
    loaded = [usable_records(entry.name, cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS) for entry in entries]
    records = [usable for usable, _ in loaded]
    names = [_counted_classes(entry.name) for entry in entries]
    counts = [ClassCounts.from_records(r, len(n)) for r, n in zip(records, names, strict=True)]
    streams = [
        build_stream(entry, count, cfg.DATALOADER.REPEAT_THRESHOLD, cfg.DATALOADER.REPEAT_SQRT)
        for entry, count in zip(entries, counts, strict=True)
    ]
    shares = image_shares(entries, [float(stream.weights().sum()) for stream in streams])
    batch_sizes = [entry.batch_size or cfg.SOLVER.IMS_PER_BATCH for entry in entries]
    sampler = MixtureSampler(
        streams,
        shares=shares,
        batch_sizes=batch_sizes,
        grouping=cfg.DATALOADER.GROUPING,
        landscape=[_landscape(r) for r in records] if cfg.DATALOADER.ASPECT_RATIO_GROUPING else None,
        seed=cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed(),
        rank=comm.get_rank(),
        world_size=comm.get_world_size(),
    )
    dataset = MappedMixture([entry.name for entry in entries], records, mapper or MultiDatasetMapper(cfg, True))
    for entry in entries:
        release_records(entry.name)  # the loader has its own serialised copy, which its workers share
    return TrainLoader(
        dataset,
        sampler,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        max_bad_images=cfg.DATALOADER.MAX_BAD_IMAGES,
        report=forecast(
            streams,
            counts,
            names,
            shares=shares,
            batch_sizes=batch_sizes,
            left_out=[count for _, count in loaded],
            grouping=cfg.DATALOADER.GROUPING,
        ),
    )


def _counted_classes(name: str) -> list[str]:
    """Words of a dataset; none where its records do not say what their images show."""
    if not lists_classes(get_card(name).supervision):
        return []
    return list(MetadataCatalog.get(name).get("thing_classes", []))


def _landscape(records: Sequence[Record]) -> np.ndarray:
    if isinstance(records, ColumnRecords):
        return np.zeros(len(records), dtype=bool)  # nobody knows the sizes
    return np.array([record.get("width", 0) > record.get("height", 0) for record in records], dtype=bool)


def _map_for_test(name: str, mapper: Mapper, record: Record) -> Sample | None:
    try:
        return mapper(record)
    except ImageReadError as error:
        raise ImageReadError(
            f"test set {name!r}, image {record.get('image_id')!r}: {error}. Every image counts in the results: repair "
            "it, or take it out of the annotations"
        ) from error


def build_test_loader(
    cfg: CfgNode, dataset_name: str, *, mapper: Mapper | None = None, with_annotations: bool = False
) -> DataLoader[Any]:
    """Build the loader of one test set: every image once, in order, divided among the processes.

    Args:
        cfg: the config; its cards must be registered.
        dataset_name: dataset name.
        mapper: record to model input; None: :class:`MultiDatasetMapper` from the config.
        with_annotations: give ``instances`` as well, for a validation loss.

    Returns:
        A loader of batches of one image. An unreadable image is an error here: results would not be comparable.
    """
    mapper = mapper or MultiDatasetMapper(cfg, False, with_annotations=with_annotations)
    records = shared_records(load_records(dataset_name))
    mapper = functools.partial(_map_for_test, dataset_name, mapper)
    return build_detection_test_loader(records, mapper=mapper, num_workers=cfg.DATALOADER.NUM_WORKERS)
