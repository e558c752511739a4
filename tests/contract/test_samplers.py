"""Order of training and test images, against the definitions written out with torch."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from detectron2.data.samplers import (
    InferenceSampler,
    RandomSubsetTrainingSampler,
    RepeatFactorTrainingSampler,
    TrainingSampler,
)
from detectron2.utils import comm


def take(sampler, count: int) -> list[int]:
    return [int(index) for index in itertools.islice(iter(sampler), count)]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_training_order_is_one_permutation_after_the_other():
    source = generator(42)
    expected = torch.cat([torch.randperm(30, generator=source) for _ in range(3)]).tolist()
    assert take(TrainingSampler(30, seed=42), 90) == expected
    assert take(TrainingSampler(5, shuffle=False), 12) == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1]
    with pytest.raises(ValueError):
        TrainingSampler(-1)
    with pytest.raises(TypeError):
        TrainingSampler(0.5)


def test_processes_share_the_order_out(monkeypatch):
    whole = take(TrainingSampler(11, seed=3), 40)
    monkeypatch.setattr(comm, "get_world_size", lambda: 4)
    for rank in range(4):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        assert take(TrainingSampler(11, seed=3), 10) == whole[rank::4]


def test_a_random_subset_is_drawn_once():
    source = generator(7)
    subset = torch.randperm(40, generator=source)[:10]
    order = take(RandomSubsetTrainingSampler(40, 0.25, seed_shuffle=1, seed_subset=7), 30)
    for epoch in range(3):
        assert sorted(order[epoch * 10 : epoch * 10 + 10]) == sorted(subset.tolist())
    assert order[:10] == subset[torch.randperm(10, generator=generator(1))].tolist()


def test_repeat_factors_of_lvis():
    # Class 0 is in all four images, class 1 in one of four, class 2 in two of four.
    categories = [[0, 1], [0, 2], [0, 2, 2], [0]]
    records = [{"annotations": [{"category_id": c} for c in row]} for row in categories]
    compute = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency
    root = compute(records, 0.64)
    torch.testing.assert_close(root, torch.tensor([1.6, (0.64 / 0.5) ** 0.5, (0.64 / 0.5) ** 0.5, 1.0]))
    torch.testing.assert_close(compute(records, 0.64, sqrt=False), torch.tensor([2.56, 1.28, 1.28, 1.0]))
    assert compute([*records, {"annotations": []}], 0.1)[-1] == 1


def test_repeated_images_come_as_often_as_their_factor():
    factors = torch.tensor([1.0, 2.5, 1.3])
    source = generator(9)
    expected = []
    for _ in range(5):
        times = (factors.floor() + (torch.rand(3, generator=source) < factors - factors.floor())).long()
        indices = torch.tensor([i for i, n in enumerate(times.tolist()) for _ in range(n)])
        expected += indices[torch.randperm(len(indices), generator=source)].tolist()
    assert take(RepeatFactorTrainingSampler(factors, seed=9), len(expected)) == expected
    epochs, source = [], generator(0)
    sampler = RepeatFactorTrainingSampler(factors, seed=9)
    for _ in range(2000):
        epochs.append(np.bincount(np.asarray(sampler._get_epoch_indices(source)).astype(int), minlength=3))
    assert np.allclose(np.mean(epochs, axis=0), factors, atol=0.05)
    assert take(RepeatFactorTrainingSampler(torch.tensor([1.0, 2.0]), shuffle=False, seed=0), 4) == [0, 1, 1, 0]


@pytest.mark.parametrize("size,world", [(10, 1), (10, 3), (7, 4), (3, 5), (16, 4)])
def test_inference_covers_every_index_once(size, world):
    parts = [list(InferenceSampler._get_local_indices(size, world, rank)) for rank in range(world)]
    assert list(itertools.chain.from_iterable(parts)) == list(range(size))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert list(InferenceSampler(size)) == list(range(size)) and len(InferenceSampler(size)) == size
