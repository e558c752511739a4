"""From dataset names to data loaders."""

import itertools
import logging
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.utils.data as torchdata
from detectron2._missing import missing, module_getattr, placeholder
from detectron2.config import configurable
from detectron2.utils.comm import get_world_size
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import _log_api_usage, log_first_n, wide_table

from .catalog import DatasetCatalog, MetadataCatalog
from .common import AspectRatioGroupedDataset, DatasetFromList, MapDataset, ToIterableDataset
from .dataset_mapper import DatasetMapper
from .detection_utils import check_metadata_consistency
from .samplers import InferenceSampler, RandomSubsetTrainingSampler, RepeatFactorTrainingSampler, TrainingSampler

logger = logging.getLogger(__name__)
__getattr__ = module_getattr(__name__)
filter_images_with_few_keypoints = placeholder("data.build.filter_images_with_few_keypoints")


# ---- records --------------------------------------------------------------------------------------------------------


def filter_images_with_only_crowd_annotations(dataset_dicts: list[dict]) -> list[dict]:
    """Keep records with at least one annotation that is no crowd (and those that have no "annotations" at all)."""

    def trains(record: dict) -> bool:
        return "annotations" not in record or any(not anno.get("iscrowd", 0) for anno in record["annotations"])

    kept = list(filter(trains, dataset_dicts))
    logger.info("left out %d of %d images without an annotation", len(dataset_dicts) - len(kept), len(dataset_dicts))
    return kept


def print_instances_class_histogram(dataset_dicts: Sequence[dict], class_names: Sequence[str]) -> None:
    """Log how many non-crowd instances each class has."""
    counts = np.zeros(len(class_names), dtype=int)
    for record in dataset_dicts:
        classes = [anno["category_id"] for anno in record.get("annotations", []) if not anno.get("iscrowd", 0)]
        if not set(classes) <= set(range(len(class_names))):
            image = record.get("file_name", record.get("image_id"))
            raise AssertionError(
                f"image {image}: a category_id is not in 0..{len(class_names) - 1}: {sorted(set(classes))}"
            )
        np.add.at(counts, np.asarray(classes, dtype=int), 1)
    table = wide_table({name: int(count) for name, count in zip(class_names, counts)}, ("class", "instances"))
    log_first_n(logging.INFO, f"{counts.sum()} instances of {len(counts)} classes:\n{table}", key="message")


def get_detection_dataset_dicts(
    names, filter_empty=True, min_keypoints=0, proposal_files=None, check_consistency=True
) -> Any:
    """Load registered datasets as one list of records.

    Args:
        names: one or several dataset names.
        filter_empty: leave out images whose annotations are all crowd (or none).
        min_keypoints: only 0 is possible in the built-in provider.
        proposal_files: only None is possible in the built-in provider.
        check_consistency: require equal thing_classes, and log the class histogram.

    Returns:
        The records; a ConcatDataset if every dataset is registered as a torch Dataset.
    """
    names = [names] if isinstance(names, str) else names
    if not len(names):
        raise AssertionError("get_detection_dataset_dicts needs at least one dataset name")
    if min_keypoints > 0 or proposal_files:
        raise missing(
            "data.build." + ("filter_images_with_few_keypoints" if min_keypoints else "load_proposals_into_dataset")
        )
    datasets = [DatasetCatalog.get(name) for name in names]
    if all(isinstance(dataset, torchdata.Dataset) for dataset in datasets):
        return torchdata.ConcatDataset(datasets) if len(datasets) > 1 else datasets[0]
    for name, dataset in zip(names, datasets):
        if not len(dataset):
            raise AssertionError(f"dataset {name!r} is empty; does $DETECTRON2_DATASETS point to the right folder?")
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
    if single_gpu_batch_size and total_batch_size:
        raise ValueError("give total_batch_size or single_gpu_batch_size, not both")
    if single_gpu_batch_size:
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
    is_stream = isinstance(dataset, torchdata.IterableDataset)
    if is_stream and sampler is not None:
        raise AssertionError("an iterable dataset has its own order; sampler must be None")
    if not is_stream:
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


def _build_sampler(cfg: Any, dataset: Any) -> torchdata.Sampler:
    name, options = cfg.DATALOADER.SAMPLER_TRAIN, cfg.DATALOADER
    logger.info("training sampler: %s", name)
    if name == "TrainingSampler":
        return TrainingSampler(len(dataset), seed=cfg.SEED)
    if name == "RandomSubsetTrainingSampler":
        return RandomSubsetTrainingSampler(len(dataset), options.RANDOM_SUBSET_RATIO)
    if name == "RepeatFactorTrainingSampler":
        factors_of = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency
        factors = factors_of(dataset, options.REPEAT_THRESHOLD, sqrt=options.REPEAT_SQRT)
        return RepeatFactorTrainingSampler(factors, seed=cfg.SEED)
    known = "TrainingSampler, RandomSubsetTrainingSampler and RepeatFactorTrainingSampler"
    raise ValueError(f"DATALOADER.SAMPLER_TRAIN: {name!r} is unknown; there are {known}")


def _train_loader_from_config(
    cfg: Any, mapper: Callable | None = None, *, dataset: Any = None, sampler: Any = None
) -> dict[str, Any]:
    if dataset is None:
        keypoints = cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE if cfg.MODEL.KEYPOINT_ON else 0
        files = cfg.DATASETS.PROPOSAL_FILES_TRAIN if cfg.MODEL.LOAD_PROPOSALS else None
        filtering = (cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS, keypoints, files)
        dataset = get_detection_dataset_dicts(cfg.DATASETS.TRAIN, *filtering)
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
    if sampler is None and not isinstance(mapped, torchdata.IterableDataset):
        sampler = default_sampler(len(mapped))
    return mapped, sampler


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
    kwargs |= {"aspect_ratio_grouping": aspect_ratio_grouping, "num_workers": num_workers, "collate_fn": collate_fn}
    return build_batch_data_loader(dataset, sampler, total_batch_size, **kwargs)


def _test_loader_from_config(
    cfg: Any, dataset_name: str | Sequence[str], mapper: Callable | None = None
) -> dict[str, Any]:
    files = cfg.DATASETS.PROPOSAL_FILES_TEST if cfg.MODEL.LOAD_PROPOSALS else None
    dataset = get_detection_dataset_dicts(dataset_name, filter_empty=False, proposal_files=files)
    return {
        "dataset": dataset,
        "mapper": DatasetMapper(cfg, False) if mapper is None else mapper,
        "num_workers": cfg.DATALOADER.NUM_WORKERS,
        "sampler": None if isinstance(dataset, torchdata.IterableDataset) else InferenceSampler(len(dataset)),
    }


@configurable(from_config=_test_loader_from_config)
def build_detection_test_loader(
    dataset, *, mapper, sampler=None, batch_size: int = 1, num_workers: int = 0, collate_fn: Callable | None = None
) -> torchdata.DataLoader:
    """Build the test loader: every record once, in order, shared out over the processes.

    Also ``build_detection_test_loader(cfg, dataset_name, mapper=...)``.
    """
    dataset, sampler = _mapped(dataset, mapper, sampler, InferenceSampler)
    collate_fn = collate_fn or trivial_batch_collator
    return torchdata.DataLoader(dataset, batch_size, sampler=sampler, num_workers=num_workers, collate_fn=collate_fn)
