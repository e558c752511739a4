"""Samplers for one or several processes: all draw the same endless order, and each takes every world_size-th index."""

from __future__ import annotations

import itertools
import logging
import math
from collections import Counter
from collections.abc import Iterator, Sequence

import torch
from detectron2.utils import comm
from torch.utils.data.sampler import Sampler

logger = logging.getLogger(__name__)


class _EndlessSampler(Sampler):
    """Base: seed shared by all processes, and this process's share of ``_infinite_indices``."""

    def __init__(self, seed: int | None, shuffle: bool) -> None:
        self._seed = comm.shared_random_seed() if seed is None else int(seed)
        self._shuffle = shuffle
        self._rank = comm.get_rank()
        self._world_size = comm.get_world_size()

    def __iter__(self) -> Iterator[int]:
        return itertools.islice(self._infinite_indices(), self._rank, None, self._world_size)

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self._seed)

    def _infinite_indices(self) -> Iterator[int]:
        raise NotImplementedError


class TrainingSampler(_EndlessSampler):
    """All indices, endlessly, reshuffled for each pass."""

    def __init__(self, size: int, shuffle: bool = True, seed: int | None = None) -> None:
        if not isinstance(size, int):
            raise TypeError(f"TrainingSampler: size must be an int, not {type(size).__name__}")
        if size <= 0:
            raise ValueError(f"TrainingSampler: a dataset of size {size} has nothing to draw from")
        self._size = size
        super().__init__(seed, shuffle)

    def _infinite_indices(self) -> Iterator[int]:
        generator = self._generator()
        while True:
            yield from (
                torch.randperm(self._size, generator=generator) if self._shuffle else torch.arange(self._size)
            ).tolist()


class RandomSubsetTrainingSampler(TrainingSampler):
    """As TrainingSampler, over a random share of the indices that is drawn once (to study small data)."""

    def __init__(
        self,
        size: int,
        subset_ratio: float,
        shuffle: bool = True,
        seed_shuffle: int | None = None,
        seed_subset: int | None = None,
    ) -> None:
        super().__init__(size=size, shuffle=shuffle, seed=seed_shuffle)
        if not 0.0 < subset_ratio <= 1.0:
            raise AssertionError(f"RandomSubsetTrainingSampler: subset_ratio must lie in (0, 1], not {subset_ratio}")
        self._size_subset = int(size * subset_ratio)
        if self._size_subset == 0:
            raise AssertionError(f"RandomSubsetTrainingSampler: {subset_ratio} of {size} records is less than one")
        self._seed_subset = comm.shared_random_seed() if seed_subset is None else int(seed_subset)
        order = torch.randperm(size, generator=torch.Generator().manual_seed(self._seed_subset))
        self._indexes_subset = order[: self._size_subset]
        logger.info("drawing from %d of %d records", self._size_subset, size)

    def _infinite_indices(self) -> Iterator[int]:
        generator = self._generator()
        while True:
            subset = self._indexes_subset
            if self._shuffle:
                subset = subset[torch.randperm(self._size_subset, generator=generator)]
            yield from subset.tolist()


class RepeatFactorTrainingSampler(_EndlessSampler):
    """Indices with a repeat factor each: in a pass, index i comes floor(r_i) or ceil(r_i) times, r_i on average.

    Source: Gupta et al., LVIS, CVPR 2019, appendix B.2 (repeat factor sampling).
    """

    def __init__(self, repeat_factors: torch.Tensor, *, shuffle: bool = True, seed: int | None = None) -> None:
        super().__init__(seed, shuffle)
        self._int_part = torch.trunc(repeat_factors)
        self._frac_part = repeat_factors - self._int_part

    @staticmethod
    def repeat_factors_from_category_frequency(
        dataset_dicts: Sequence[dict], repeat_thresh: float, sqrt: bool = True
    ) -> torch.Tensor:
        """Compute the factor of each image: the largest max(1, sqrt(threshold / frequency)) of its categories.

        Args:
            dataset_dicts: records with annotations.
            repeat_thresh: categories in a smaller share of images than this are repeated.
            sqrt: take the square root (the LVIS rule) or the plain quotient.

        Returns:
            Factors, shape (images,), float32.
        """
        per_image = [{anno["category_id"] for anno in record["annotations"]} for record in dataset_dicts]
        images_with = Counter(itertools.chain.from_iterable(per_image))

        def factor(category: int) -> float:
            quotient = repeat_thresh / (images_with[category] / len(per_image))
            return max(1.0, math.sqrt(quotient) if sqrt else quotient)

        of_category = {category: factor(category) for category in images_with}
        return torch.tensor(
            [max((of_category[category] for category in categories), default=1.0) for categories in per_image],
            dtype=torch.float32,
        )

    def _get_epoch_indices(self, generator: torch.Generator) -> torch.Tensor:
        round_up = torch.rand(len(self._frac_part), generator=generator) < self._frac_part
        times = (self._int_part + round_up.float()).long()
        return torch.repeat_interleave(torch.arange(len(times)), times)

    def _infinite_indices(self) -> Iterator[int]:
        generator = self._generator()
        while True:
            indices = self._get_epoch_indices(generator)
            if self._shuffle:
                indices = indices[torch.randperm(len(indices), generator=generator)]
            yield from indices.tolist()


class InferenceSampler(Sampler):
    """Every index exactly once over all processes, each process a contiguous part."""

    def __init__(self, size: int) -> None:
        if size <= 0:
            raise AssertionError(f"InferenceSampler: a dataset of size {size} cannot be evaluated")
        self._size = size
        self._local_indices = self._get_local_indices(size, comm.get_world_size(), comm.get_rank())

    @staticmethod
    def _get_local_indices(total_size: int, world_size: int, rank: int) -> range:
        share, longer = divmod(total_size, world_size)
        begin = rank * share + min(rank, longer)
        return range(begin, begin + share + (rank < longer))

    def __iter__(self) -> Iterator[int]:
        yield from self._local_indices

    def __len__(self) -> int:
        return len(self._local_indices)
