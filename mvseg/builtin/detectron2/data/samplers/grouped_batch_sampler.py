"""Batches whose members share a group."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data.sampler import BatchSampler, Sampler


class GroupedBatchSampler(BatchSampler):
    """Collect a sampler's indices into batches of one group each, in the order in which batches fill up.

    Args:
        sampler: endless order of indices.
        group_ids: group of every index.
        batch_size: length of a batch.
    """

    def __init__(self, sampler: Sampler, group_ids: Sequence[int], batch_size: int) -> None:
        if not isinstance(sampler, Sampler):
            raise ValueError(f"GroupedBatchSampler needs a Sampler, not {type(sampler).__name__}")
        self.sampler = sampler
        self.group_ids = np.asarray(group_ids)
        if self.group_ids.ndim != 1:
            raise AssertionError(f"group_ids must be one number for each index, not of shape {self.group_ids.shape}")
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[list[int]]:
        waiting: dict[int, list[int]] = defaultdict(list)
        for index in self.sampler:
            group = waiting[self.group_ids[index]]
            group.append(index)
            if len(group) == self.batch_size:
                yield list(group)
                group.clear()

    def __len__(self) -> int:
        raise NotImplementedError("the number of batches depends on the drawing of an endless sampler")
