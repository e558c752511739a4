"""From dataset names to data loaders."""

from __future__ import annotations

import itertools
import logging
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.utils.data as torchdata
from detectron2._missing import missing
from detectron2.config import configurable
from detectron2.structures import BoxMode
from detectron2.utils.comm import get_world_size
from detectron2.utils.env import seed_all_rng
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import _log_api_usage, log_first_n
from detectron2.utils.serialize import load_plain_pickle
from tabulate import tabulate

from .catalog import DatasetCatalog, MetadataCatalog
from .common import AspectRatioGroupedDataset, DatasetFromList, MapDataset, ToIterableDataset
from .dataset_mapper import DatasetMapper
from .detection_utils import check_metadata_consistency
from .samplers import InferenceSampler, RandomSubsetTrainingSampler, RepeatFactorTrainingSampler, TrainingSampler

__all__ = [
    "build_batch_data_loader",
    "build_detection_test_loader",
    "build_detection_train_loader",
    "get_detection_dataset_dicts",
    "load_proposals_into_dataset",
    "print_instances_class_histogram",
]

logger = logging.getLogger(__name__)


# ---- records --------------------------------------------------------------------------------------------------------


def filter_images_with_only_crowd_annotations(dataset_dicts: list[dict]) -> list[dict]:
    """Keep records with at least one annotation that is no crowd (and those that have no "annotations" at all)."""

    def trains(record: dict) -> bool:
        return "annotations" not in record or any(not anno.get("iscrowd", 0) for anno in record["annotations"])

    kept = [record for record in dataset_dicts if trains(record)]
    logger.info("left out %d of %d images without an annotation", len(dataset_dicts) - len(kept), len(dataset_dicts))
    return kept


def filter_images_with_few_keypoints(dataset_dicts: list[dict], min_keypoints_per_image: int) -> list[dict]:
    """Not in the built-in provider."""
    raise missing("data.build.filter_images_with_few_keypoints")


def load_proposals_into_dataset(dataset_dicts: list[dict], proposal_file: str) -> list[dict]:
    """Add precomputed proposals to the records, best first.

    Args:
        dataset_dicts: records with image_id; changed in place.
        proposal_file: a pickle with "ids", "boxes", "objectness_logits" (one entry each for every image) and optionally
            "bbox_mode"; only numpy arrays and plain containers are read from it.

    Returns:
        The same records.
    """
    with PathManager.open(proposal_file, "rb") as file:
        content = load_plain_pickle(file)
    ids = content.get("ids", content.get("indexes"))
    scores = content.get("objectness_logits", content.get("scores"))
    place = {str(image_id): index for index, image_id in enumerate(ids)}
    mode = BoxMode(content.get("bbox_mode", BoxMode.XYXY_ABS))
    for record in dataset_dicts:
        index = place.get(str(record["image_id"]))
        if index is None:
            raise KeyError(f"{proposal_file} has no proposals for image {record['image_id']}")
        order = scores[index].argsort()[::-1]
        record["proposal_boxes"] = content["boxes"][index][order]
        record["proposal_objectness_logits"] = scores[index][order]
        record["proposal_bbox_mode"] = mode
    return dataset_dicts


def print_instances_class_histogram(dataset_dicts: Sequence[dict], class_names: Sequence[str]) -> None:
    """Log how many non-crowd instances each class has."""
    counts = np.zeros(len(class_names), dtype=int)
    for record in dataset_dicts:
        classes = [anno["category_id"] for anno in record.get("annotations", []) if not anno.get("iscrowd", 0)]
        outside = [number for number in classes if not 0 <= number < len(class_names)]
        if outside:
            raise AssertionError(
                f"image {record.get('file_name', record.get('image_id'))}: category_id {outside[0]} is not in "
                f"0..{len(class_names) - 1} (the dataset has {len(class_names)} classes)"
            )
        np.add.at(counts, np.asarray(classes, dtype=int), 1)
    rows = [(name if len(name) <= 13 else f"{name[:11]}..", count) for name, count in zip(class_names, counts.tolist())]
    columns = min(3, max(1, len(rows)))
    lines = [list(itertools.chain.from_iterable(rows[at : at + columns])) for at in range(0, len(rows), columns)]
    table = tabulate(
        [*lines, ["total", int(counts.sum())]],
        headers=["class", "instances"] * columns,
        tablefmt="pipe",
        numalign="left",
        stralign="center",
    )
    log_first_n(logging.INFO, f"Instances of each of the {len(rows)} classes:\n{table}", key="message")


def get_detection_dataset_dicts(
    names: str | Sequence[str],
    filter_empty: bool = True,
    min_keypoints: int = 0,
    proposal_files: Sequence[str] | None = None,
    check_consistency: bool = True,
) -> Any:
    """Load registered datasets as one list of records.

    Args:
        names: one or several dataset names.
        filter_empty: leave out images whose annotations are all crowd (or none).
        min_keypoints: only 0 is possible in the built-in provider.
        proposal_files: one file of precomputed proposals for each dataset.
        check_consistency: require equal thing_classes, and log the class histogram.

    Returns:
        The records; a ConcatDataset if every dataset is registered as a torch Dataset.
    """
    names = [names] if isinstance(names, str) else names
    if not len(names):
        raise AssertionError("get_detection_dataset_dicts needs at least one dataset name")
    if min_keypoints > 0:
        raise missing("data.build.filter_images_with_few_keypoints")
    datasets = [DatasetCatalog.get(name) for name in names]
    if all(isinstance(dataset, torchdata.Dataset) for dataset in datasets):
        return torchdata.ConcatDataset(datasets) if len(datasets) > 1 else datasets[0]
    for name, dataset in zip(names, datasets):
        if not len(dataset):
            raise AssertionError(f"dataset {name!r} is empty; does $DETECTRON2_DATASETS point to the right folder?")
    if proposal_files is not None:
        if len(proposal_files) != len(names):
            raise AssertionError(f"{len(names)} datasets need {len(names)} proposal files, not {len(proposal_files)}")
        datasets = [load_proposals_into_dataset(dataset, file) for dataset, file in zip(datasets, proposal_files)]
    records = list(itertools.chain.from_iterable(datasets))
    has_instances = any("annotations" in record for record in records)
    if filter_empty and has_instances:
        records = filter_images_with_only_crowd_annotations(records)
    if check_consistency and has_instances:
        check_metadata_consistency("thing_classes", names)
        class_names = MetadataCatalog.get(names[0]).get("thing_classes")
        if class_names is not None:
            print_instances_class_histogram(records, class_names)
    if not records:
        raise AssertionError(f"no image of {', '.join(names)} has an annotation to train from")
    return records


# ---- loaders --------------------------------------------------------------------------------------------------------


def trivial_batch_collator(batch: list) -> list:
    """Return the batch as it is: a list of records."""
    return batch


def worker_init_reset_seed(worker_id: int) -> None:
    """Give each loader worker its own seed for Python, numpy and torch."""
    seed_all_rng(torch.initial_seed() % 2**31 + worker_id)


def _batch_size(total_batch_size: int | None, single_gpu_batch_size: int | None) -> int:
    if single_gpu_batch_size:
        if total_batch_size:
            raise ValueError("give total_batch_size or single_gpu_batch_size, not both")
        return single_gpu_batch_size
    processes = get_world_size()
    if total_batch_size <= 0 or total_batch_size % processes:
        raise AssertionError(f"a total batch size of {total_batch_size} cannot be shared by {processes} processes")
    return total_batch_size // processes


def build_batch_data_loader(
    dataset: torchdata.Dataset,
    sampler: torchdata.Sampler | None,
    total_batch_size: int,
    *,
    aspect_ratio_grouping: bool = False,
    num_workers: int = 0,
    collate_fn: Callable | None = None,
    drop_last: bool = True,
    single_gpu_batch_size: int | None = None,
    prefetch_factor: int | None = 2,
    persistent_workers: bool = False,
    pin_memory: bool = False,
    seed: int | None = None,
    **kwargs: Any,
) -> Any:
    """Build a loader of batches.

    Args:
        dataset: indexable or iterable.
        sampler: order of an indexable dataset (endless for training); None for an iterable one.
        total_batch_size: over all processes.
        aspect_ratio_grouping: wide and tall images in separate batches (records need width and height).
        num_workers: loader processes.
        collate_fn: makes a batch from a list of records; default: the list itself.
        drop_last: leave out an incomplete last batch (without aspect_ratio_grouping).
        single_gpu_batch_size: batch size of one process, instead of total_batch_size.
        prefetch_factor: batches prefetched by each worker.
        persistent_workers: keep workers between passes.
        pin_memory: as in torch's DataLoader.
        seed: seed of the workers.
        kwargs: further arguments of torch's DataLoader.

    Returns:
        An iterable of batches.
    """
    batch_size = _batch_size(total_batch_size, single_gpu_batch_size)
    if isinstance(dataset, torchdata.IterableDataset):
        if sampler is not None:
            raise AssertionError("an iterable dataset has its own order; sampler must be None")
    else:
        dataset = ToIterableDataset(dataset, sampler, shard_chunk_size=batch_size)
    common = {
        "num_workers": num_workers,
        "worker_init_fn": worker_init_reset_seed,
        "prefetch_factor": prefetch_factor if num_workers > 0 else None,
        "persistent_workers": persistent_workers,
        "pin_memory": pin_memory,
        "generator": None if seed is None else torch.Generator().manual_seed(seed),
        **kwargs,
    }
    if not aspect_ratio_grouping:
        collate_fn = collate_fn or trivial_batch_collator
        return torchdata.DataLoader(dataset, batch_size, drop_last=drop_last, collate_fn=collate_fn, **common)
    # Records come one by one out of the workers and are grouped here.
    stream = torchdata.DataLoader(dataset, collate_fn=operator.itemgetter(0), **common)
    grouped = AspectRatioGroupedDataset(stream, batch_size)
    return grouped if collate_fn is None else MapDataset(grouped, collate_fn)


def _get_train_datasets_repeat_factors(cfg: Any) -> dict[str, float]:
    """Read cfg.DATASETS.TRAIN_REPEAT_FACTOR, a list of (dataset name, factor) that projects may add."""
    pairs = cfg.DATASETS.TRAIN_REPEAT_FACTOR
    if any(len(pair) != 2 for pair in pairs):
        raise AssertionError("DATASETS.TRAIN_REPEAT_FACTOR must be a list of (dataset name, factor)")
    factors = dict(pairs)
    if not factors.keys() <= set(cfg.DATASETS.TRAIN):
        raise AssertionError("DATASETS.TRAIN_REPEAT_FACTOR names a dataset that is not in DATASETS.TRAIN")
    return factors


def _build_weighted_sampler(cfg: Any, enable_category_balance: bool = False) -> RepeatFactorTrainingSampler:
    """Repeat every image by the factor of its dataset, optionally times its LVIS repeat factor."""
    of_dataset = _get_train_datasets_repeat_factors(cfg)
    factors = []
    for name in cfg.DATASETS.TRAIN:
        records = get_detection_dataset_dicts(name, filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS)
        own = torch.full((len(records),), float(of_dataset.get(name, 1.0)))
        if enable_category_balance:
            own *= _repeat_factors(cfg, records)
        factors.append(own)
    weights = torch.cat(factors)
    # With category balance the image that is seen least is seen once in a pass.
    return RepeatFactorTrainingSampler(weights / weights.min() if enable_category_balance else weights)


def _repeat_factors(cfg: Any, records: Sequence[dict]) -> torch.Tensor:
    return RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
        records, cfg.DATALOADER.REPEAT_THRESHOLD, sqrt=cfg.DATALOADER.REPEAT_SQRT
    )


def _build_sampler(cfg: Any, dataset: Any) -> torchdata.Sampler:
    makers: dict[str, Callable[[], torchdata.Sampler]] = {
        "TrainingSampler": lambda: TrainingSampler(len(dataset), seed=cfg.SEED),
        "RepeatFactorTrainingSampler": lambda: RepeatFactorTrainingSampler(
            _repeat_factors(cfg, dataset), seed=cfg.SEED
        ),
        "RandomSubsetTrainingSampler": lambda: RandomSubsetTrainingSampler(
            len(dataset), cfg.DATALOADER.RANDOM_SUBSET_RATIO
        ),
        "WeightedTrainingSampler": lambda: _build_weighted_sampler(cfg),
        "WeightedCategoryTrainingSampler": lambda: _build_weighted_sampler(cfg, enable_category_balance=True),
    }
    name = cfg.DATALOADER.SAMPLER_TRAIN
    if name not in makers:
        raise ValueError(f"DATALOADER.SAMPLER_TRAIN: {name!r} is unknown; choose one of {', '.join(makers)}")
    logger.info("training sampler: %s", name)
    return makers[name]()


def _train_loader_from_config(
    cfg: Any, mapper: Callable | None = None, *, dataset: Any = None, sampler: Any = None
) -> dict[str, Any]:
    if dataset is None:
        dataset = get_detection_dataset_dicts(
            cfg.DATASETS.TRAIN,
            filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
            min_keypoints=cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE if cfg.MODEL.KEYPOINT_ON else 0,
            proposal_files=cfg.DATASETS.PROPOSAL_FILES_TRAIN if cfg.MODEL.LOAD_PROPOSALS else None,
        )
        _log_api_usage("dataset." + cfg.DATASETS.TRAIN[0])
    if sampler is None and not isinstance(dataset, torchdata.IterableDataset):
        sampler = _build_sampler(cfg, dataset)
    return {
        "dataset": dataset,
        "sampler": sampler,
        "mapper": DatasetMapper(cfg, True) if mapper is None else mapper,
        "total_batch_size": cfg.SOLVER.IMS_PER_BATCH,
        "aspect_ratio_grouping": cfg.DATALOADER.ASPECT_RATIO_GROUPING,
        "num_workers": cfg.DATALOADER.NUM_WORKERS,
    }


def _mapped(dataset: Any, mapper: Callable | None, sampler: Any, default_sampler: type) -> tuple[Any, Any]:
    """Wrap records and mapper into one dataset, and choose the sampler if there is none (streams must have none)."""
    records = DatasetFromList(dataset, copy=False) if isinstance(dataset, list) else dataset
    mapped = records if mapper is None else MapDataset(records, mapper)
    is_stream = isinstance(mapped, torchdata.IterableDataset)
    if is_stream and sampler is not None:
        raise AssertionError("an iterable dataset has its own order; sampler must be None")
    return mapped, default_sampler(len(mapped)) if sampler is None and not is_stream else sampler


@configurable(from_config=_train_loader_from_config)
def build_detection_train_loader(
    dataset,
    *,
    mapper,
    sampler=None,
    total_batch_size,
    aspect_ratio_grouping=True,
    num_workers=0,
    collate_fn=None,
    **kwargs,
):
    """Build the training loader: records -> mapper -> batches.

    Also ``build_detection_train_loader(cfg, mapper=...)``. Args: a list of records or a dataset; the mapper (None: no
    mapping); the sampler (None: TrainingSampler); the rest as in build_batch_data_loader.
    """
    dataset, sampler = _mapped(dataset, mapper, sampler, TrainingSampler)
    if sampler is not None and not isinstance(sampler, torchdata.Sampler):
        raise AssertionError(f"sampler must be a torch Sampler, not {type(sampler).__name__}")
    return build_batch_data_loader(
        dataset,
        sampler,
        total_batch_size,
        aspect_ratio_grouping=aspect_ratio_grouping,
        num_workers=num_workers,
        collate_fn=collate_fn,
        **kwargs,
    )


def _test_loader_from_config(
    cfg: Any, dataset_name: str | Sequence[str], mapper: Callable | None = None
) -> dict[str, Any]:
    names = [dataset_name] if isinstance(dataset_name, str) else dataset_name
    proposals = None
    if cfg.MODEL.LOAD_PROPOSALS:
        proposals = [cfg.DATASETS.PROPOSAL_FILES_TEST[list(cfg.DATASETS.TEST).index(name)] for name in names]
    dataset = get_detection_dataset_dicts(names, filter_empty=False, proposal_files=proposals)
    return {
        "dataset": dataset,
        "mapper": DatasetMapper(cfg, False) if mapper is None else mapper,
        "num_workers": cfg.DATALOADER.NUM_WORKERS,
        "sampler": None if isinstance(dataset, torchdata.IterableDataset) else InferenceSampler(len(dataset)),
    }


@configurable(from_config=_test_loader_from_config)
def build_detection_test_loader(
    dataset: list[Any] | torchdata.Dataset,
    *,
    mapper: Callable[[dict[str, Any]], Any],
    sampler: torchdata.Sampler | None = None,
    batch_size: int = 1,
    num_workers: int = 0,
    collate_fn: Callable[[list[Any]], Any] | None = None,
) -> torchdata.DataLoader:
    """Build the test loader: every record once, in order, shared out over the processes.

    Also ``build_detection_test_loader(cfg, dataset_name, mapper=...)``.
    """
    dataset, sampler = _mapped(dataset, mapper, sampler, InferenceSampler)
    return torchdata.DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        drop_last=False,
        num_workers=num_workers,
        collate_fn=collate_fn or trivial_batch_collator,
    )
