"""Datasets that stand between records and batches: list storage, mapping, grouping by shape, iterable views."""

import copy as copy_module
import itertools
import logging
import pickle
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
import torch.utils.data as data
from detectron2.utils.serialize import PicklableWrapper
from torch.utils.data.sampler import Sampler

logger = logging.getLogger(__name__)


def _own_share(iterable: Iterable, chunk_size: int = 1) -> Iterator:
    """Every worker's part of a stream that all workers see: chunks of chunk_size dealt out in turn."""
    worker = data.get_worker_info()
    if worker is None or worker.num_workers == 1:
        yield from iterable
        return
    stream = iter(iterable)
    for number in itertools.count():
        chunk = list(itertools.islice(stream, chunk_size))
        if not chunk:
            return
        if number % worker.num_workers == worker.id:
            yield from chunk


class _MapIterableDataset(data.IterableDataset):
    """MapDataset over a stream: records for which the function returns None are left out."""

    def __init__(self, dataset: data.IterableDataset, map_func: Callable) -> None:
        self._dataset, self._map_func = dataset, PicklableWrapper(map_func)

    def __len__(self) -> int:
        return len(self._dataset)

    def __iter__(self) -> Iterator:
        return (mapped for mapped in map(self._map_func, self._dataset) if mapped is not None)


class MapDataset(data.Dataset):
    """Apply a function to the records of a dataset.

    Where it returns None (an unusable record), another record is taken at random instead.
    Over an IterableDataset the result is one, too.
    """

    def __new__(cls, dataset: data.Dataset, map_func: Callable) -> Any:
        if isinstance(dataset, data.IterableDataset):
            return _MapIterableDataset(dataset, map_func)
        return super().__new__(cls)

    def __getnewargs__(self) -> tuple:
        return self._dataset, self._map_func

    def __init__(self, dataset: data.Dataset, map_func: Callable) -> None:
        self._dataset, self._map_func = dataset, PicklableWrapper(map_func)
        self._rng = random.Random(42)
        self._fallback_candidates = set(range(len(dataset)))

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, idx: int) -> Any:
        index = int(idx)
        for attempt in itertools.count(1):
            mapped = self._map_func(self._dataset[index])
            if mapped is not None:
                self._fallback_candidates.add(index)
                return mapped
            self._fallback_candidates.discard(index)
            if not self._fallback_candidates:
                raise RuntimeError(f"the mapper returned None for every one of {len(self)} records")
            if attempt >= 3:
                logger.warning("the mapper returned None for record %d and %d before it", index, attempt - 1)
            index = self._rng.sample(list(self._fallback_candidates), k=1)[0]


class _TorchSerializedList:
    """A list pickled into one tensor: worker processes share its memory instead of copying it object by object."""

    def __init__(self, lst: list) -> None:
        pieces = [np.frombuffer(pickle.dumps(item, protocol=-1), dtype=np.uint8) for item in lst]
        self._ends = torch.from_numpy(np.cumsum([len(piece) for piece in pieces], dtype=np.int64))
        self._bytes = torch.from_numpy(np.concatenate(pieces) if pieces else np.zeros(0, np.uint8))
        logger.info("serialised %d records into %.2f MiB", len(lst), len(self._bytes) / 2**20)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, idx: int) -> Any:
        start = self._ends[idx - 1].item() if idx else 0
        return pickle.loads(memoryview(self._bytes[start : self._ends[idx].item()].numpy()))


class DatasetFromList(data.Dataset):
    """A list as a dataset.

    Args:
        lst: the items.
        copy: hand out deep copies, so that users may change them in place (only without serialisation).
        serialize: keep the items pickled in one buffer; or a function that makes such a storage from the list.
    """

    def __init__(self, lst: list, copy: bool = True, serialize: bool | Callable[[list], Any] = True) -> None:
        storage = _TorchSerializedList if serialize is True else serialize
        self._serialize = serialize is not False
        self._copy = copy
        self._lst = storage(lst) if storage else lst

    def __len__(self) -> int:
        return len(self._lst)

    def __getitem__(self, idx: int) -> Any:
        item = self._lst[idx]
        return copy_module.deepcopy(item) if self._copy and not self._serialize else item


class ToIterableDataset(data.IterableDataset):
    """Stream of ``dataset[i]`` for the indices of a sampler.

    Args:
        dataset: indexable records.
        sampler: the order, the same in every worker.
        shard_sampler: let each worker take its own part of the indices; turn it off where something later does it.
        shard_chunk_size: how many neighbouring indices go to the same worker.
    """

    def __init__(
        self, dataset: data.Dataset, sampler: Sampler, shard_sampler: bool = True, shard_chunk_size: int = 1
    ) -> None:
        if isinstance(dataset, data.IterableDataset) or not isinstance(sampler, Sampler):
            raise AssertionError(
                f"ToIterableDataset needs an indexable dataset and a Sampler, not {dataset}, {sampler}"
            )
        self.dataset, self.sampler = dataset, sampler
        self.shard_sampler, self.shard_chunk_size = shard_sampler, shard_chunk_size

    def __iter__(self) -> Iterator:
        indices = _own_share(self.sampler, self.shard_chunk_size) if self.shard_sampler else self.sampler
        return (self.dataset[index] for index in indices)

    def __len__(self) -> int:
        return len(self.sampler)


class AspectRatioGroupedDataset(data.IterableDataset):
    """Turn a stream of records with "width" and "height" into lists of batch_size: all wide, or all tall."""

    def __init__(self, dataset: Iterable[dict], batch_size: int) -> None:
        self.dataset, self.batch_size = dataset, batch_size
        self._buckets: list[list[dict]] = [[], []]

    def __iter__(self) -> Iterator[list[dict]]:
        for record in self.dataset:
            bucket = self._buckets[0 if record["width"] > record["height"] else 1]
            bucket.append(record)
            if len(bucket) == self.batch_size:
                # The bucket is emptied before it is handed out: a consumer may stop here for good.
                batch = bucket[:]
                bucket.clear()
                yield batch
