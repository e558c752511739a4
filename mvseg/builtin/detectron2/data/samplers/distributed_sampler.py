"""Samplers for one or several processes: all draw the same endless order, and each takes every world_size-th index."""

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
        self._shuffle, self._rank, self._world_size = shuffle, comm.get_rank(), comm.get_world_size()

    def __iter__(self) -> Iterator[int]:
        return itertools.islice(self._infinite_indices(), self._rank, None, self._world_size)

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self._seed)

    def _order(self, size: int, generator: torch.Generator) -> torch.Tensor:
        return torch.randperm(size, generator=generator) if self._shuffle else torch.arange(size)

    def _infinite_indices(self) -> Iterator[int]:
        raise NotImplementedError


class TrainingSampler(_EndlessSampler):
    """All indices, endlessly, reshuffled for each pass."""

    def __init__(self, size: int, shuffle: bool = True, seed: int | None = None) -> None:
        if not isinstance(size, int) or size <= 0:
            error = ValueError if isinstance(size, int) else TypeError
            raise error(f"TrainingSampler: the size must be an int above 0, not {size!r}")
        self._size = size
        super().__init__(seed, shuffle)

    def _infinite_indices(self) -> Iterator[int]:
        generator = self._generator()
        while True:
            yield from self._order(self._size, generator).tolist()


class RandomSubsetTrainingSampler(TrainingSampler):
    """As TrainingSampler, over a random share of the indices that is drawn once (to study small data)."""

    def __init__(self, size, subset_ratio, shuffle=True, seed_shuffle=None, seed_subset=None) -> None:
        super().__init__(size=size, shuffle=shuffle, seed=seed_shuffle)
        self._size_subset = int(size * subset_ratio)
        if not 0 < self._size_subset <= size:
            raise AssertionError(
                f"RandomSubsetTrainingSampler: a share of {subset_ratio} of {size} records is impossible"
            )
        self._seed_subset = comm.shared_random_seed() if seed_subset is None else int(seed_subset)
        order = torch.randperm(size, generator=torch.Generator().manual_seed(self._seed_subset))
        self._indexes_subset = order[: self._size_subset]
        logger.info("drawing from %d of %d records", self._size_subset, size)

    def _infinite_indices(self) -> Iterator[int]:
        generator = self._generator()
        while True:
            yield from self._indexes_subset[self._order(self._size_subset, generator)].tolist()


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
        factors = [max((of_category[category] for category in categories), default=1.0) for categories in per_image]
        return torch.tensor(factors, dtype=torch.float32)

    def _get_epoch_indices(self, generator: torch.Generator) -> torch.Tensor:
        round_up = torch.rand(len(self._frac_part), generator=generator) < self._frac_part
        times = (self._int_part + round_up.float()).long()
        return torch.repeat_interleave(torch.arange(len(times)), times)

    def _infinite_indices(self) -> Iterator[int]:
        generator = self._generator()
        while True:
            indices = self._get_epoch_indices(generator)
            yield from indices[self._order(len(indices), generator)].tolist()


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
