"""The mixture: entries and their errors, shares, determinism over processes, grouping, resume."""

from __future__ import annotations

import time
from collections import Counter

import numpy as np
import pytest
import torch

from mvseg.config import get_cfg
from mvseg.data.mixing import MixEntry, MixtureSampler, image_shares, mix_bits, mixture_from_config
from mvseg.data.streams import ClassAwareStream, ClassCounts, RepeatFactorStream, ShuffledStream


def sampler(**changes) -> MixtureSampler:
    arguments = {"shares": (0.5, 0.3, 0.2), "batch_sizes": (8, 8, 8), "seed": 11}
    streams = [ShuffledStream("a", 40), ShuffledStream("b", 25), RepeatFactorStream("c", np.linspace(1, 3, 30))]
    return MixtureSampler(streams, **{**arguments, **changes})


def orientations() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.random(n) < 0.7 for n in (40, 25, 30)]


VARIANTS = {
    "mixed": {},
    "mixed by orientation": {"landscape": orientations()},
    "by dataset": {"grouping": "dataset", "batch_sizes": (8, 4, 12)},
    "by dataset and orientation": {"grouping": "dataset", "batch_sizes": (8, 4, 12), "landscape": orientations()},
}


# ---- entries


def test_entry_from_a_struct():
    entry = MixEntry.from_dict({"name": "a", "ratio": 2, "image_size": [320, 400], "scale_range": [0.5, 1.5]})
    assert entry == MixEntry("a", ratio=2, image_size=(320, 400), scale_range=(0.5, 1.5))
    assert entry.sampler == "uniform" and entry.batch_size is None and entry.loss_weight == 1.0


@pytest.mark.parametrize(
    ("struct", "message"),
    [
        ({"name": "a", "ration": 1}, r"dataset 'a': unknown field 'ration'; nearest: ratio"),
        ({"name": "a", "sampler": "repeat-factor"}, r"sampler 'repeat-factor' does not exist; nearest: repeat_factor"),
        ({"name": "a", "augmentation": "resizecrop"}, r"'resizecrop' does not exist; nearest: resize_crop"),
        ({"name": "a", "ratio": -1}, r"dataset 'a': ratio must be larger than 0, got -1"),
        ({"name": "a", "ratio": 0}, r"ratio must be larger than 0"),
        ({"name": "a", "ratio": "2"}, r"ratio must be a number, got '2'"),
        ({"name": "a", "ratio": float("nan")}, r"ratio must be a number"),
        ({"name": "a", "batch_size": 2.5}, r"batch_size must be a whole number, got 2.5"),
        ({"name": "a", "batch_size": 0}, r"batch_size must be at least 1"),
        ({"name": "a", "loss_weight": -0.1}, r"loss_weight must be at least 0"),
        ({"name": "a", "image_size": [400, 320]}, r"image_size must be a whole number or a pair"),
        ({"name": "a", "image_size": [1, 2, 3]}, r"image_size"),
        ({"name": "a", "scale_range": 0.5}, r"scale_range must be a pair"),
        ({"name": ""}, r"needs the name"),
        ({"ratio": 1}, r"has no name"),
        ("a", r"an entry is a mapping"),
    ],
)
def test_wrong_entries_say_what_is_wrong(struct, message):
    with pytest.raises(ValueError, match=message):
        MixEntry.from_dict(struct)


def test_mixture_of_a_config():
    cfg = get_cfg()
    cfg.DATASETS.MIX = [{"name": "a", "ratio": 3.0}, {"name": "b"}]
    entries = mixture_from_config(cfg)
    assert [(e.name, e.ratio) for e in entries] == [("a", 3.0), ("b", 1.0)]
    assert image_shares(entries, (10, 1000)) == (0.75, 0.25)


def test_mixture_of_dataset_names_is_in_proportion_to_size():
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = ("a", "b")
    cfg.DATALOADER.SAMPLER_TRAIN = "RepeatFactorTrainingSampler"
    entries = mixture_from_config(cfg)
    assert {e.sampler for e in entries} == {"repeat_factor"}
    assert image_shares(entries, (10, 30)) == (0.25, 0.75)


def test_wrong_mixtures():
    cfg = get_cfg()
    with pytest.raises(ValueError, match=r"set DATASETS.MIX or DATASETS.TRAIN"):
        mixture_from_config(cfg)
    cfg.DATASETS.MIX = [{"name": "a"}, {"name": "b"}, {"name": "a"}]
    with pytest.raises(ValueError, match="names a more than once"):
        mixture_from_config(cfg)
    cfg.DATASETS.MIX = [{"name": "a", "ratio": None}, {"name": "b"}]
    with pytest.raises(ValueError, match="every entry a ratio or none; a has none"):
        mixture_from_config(cfg)
    cfg.DATASETS.MIX = []
    cfg.DATASETS.TRAIN = ("a",)
    cfg.DATALOADER.SAMPLER_TRAIN = "TrainingSampIer"
    with pytest.raises(ValueError, match="nearest: TrainingSampler"):
        mixture_from_config(cfg)


# ---- batches


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_two_processes_see_what_one_sees(variant: str):
    one = sampler(**VARIANTS[variant])
    two = [sampler(**VARIANTS[variant], rank=rank, world_size=2) for rank in range(2)]
    for _ in range(200):
        whole = one.next_batch()
        parts = [s.next_batch() for s in two]
        assert parts[0] + parts[1] == whole
        assert len(parts[0]) == len(parts[1])


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_shares_are_shares_of_images(variant: str):
    s = sampler(**VARIANTS[variant])
    drawn = Counter(draw.dataset for _ in range(2000) for draw in s.next_batch())
    total = sum(drawn.values())
    # Within one batch of the exact share, plus what waits for its batch.
    assert [drawn[d] for d in range(3)] == pytest.approx([0.5 * total, 0.3 * total, 0.2 * total], abs=40)


def test_no_dataset_runs_ahead_of_its_share_at_any_time():
    s = sampler()
    counts = np.zeros(3)
    for number in range(300):
        for draw in s.next_batch():
            counts[draw.dataset] += 1
        assert (counts <= 8 * (number + 1) * np.array([0.5, 0.3, 0.2]) + 1).all()


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_every_image_once_per_epoch(variant: str):
    s = sampler(**VARIANTS[variant])
    drawn = [draw for _ in range(400) for draw in s.next_batch()]
    for dataset, size in ((0, 40), (1, 25)):
        seen = Counter(d.record for d in drawn if d.dataset == dataset)
        assert set(seen) == set(range(size))
        # Grouping by orientation may hold some back, less than a batch of each orientation.
        assert max(seen.values()) - min(seen.values()) <= (1 if "orientation" not in variant else 2)


def test_grouping_by_dataset_and_orientation():
    landscape = orientations()
    s = sampler(**VARIANTS["by dataset and orientation"])
    sizes = Counter()
    for _ in range(300):
        batch = s.next_batch()
        (dataset,) = {d.dataset for d in batch}
        assert len({bool(landscape[dataset][d.record]) for d in batch}) == 1
        assert len(batch) == (8, 4, 12)[dataset]
        sizes[dataset] += 1
    assert set(sizes) == {0, 1, 2}


def test_mixed_batches_by_orientation_hold_several_datasets():
    landscape = orientations()
    s = sampler(landscape=landscape)
    batches = [s.next_batch() for _ in range(100)]
    assert all(len({bool(landscape[d.dataset][d.record]) for d in batch}) == 1 for batch in batches)
    assert sum(len({d.dataset for d in batch}) > 1 for batch in batches) > 90


def test_seeds_differ_per_draw_and_run():
    first, again, other = sampler(), sampler(), sampler(seed=12)
    batches = [first.next_batch() for _ in range(50)]
    seeds = [draw.seed for batch in batches for draw in batch]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert [again.next_batch() for _ in range(50)] == batches
    assert [other.next_batch() for _ in range(50)] != batches


def test_choice_of_the_dataset_is_random():
    first = Counter(sampler(seed=seed).next_batch()[0].dataset for seed in range(1500))
    assert [first[d] / 1500 for d in range(3)] == pytest.approx([0.5, 0.3, 0.2], abs=0.05)


def test_order_inside_a_dataset_does_not_depend_on_the_others():
    alone = MixtureSampler([ShuffledStream("b", 25)], shares=(1.0,), batch_sizes=(8,), seed=11)
    expected = [d.record for _ in range(10) for d in alone.next_batch()][:50]
    s = sampler()
    assert [d.record for _ in range(60) for d in s.next_batch() if d.dataset == 1][:50] == expected


def test_bits_are_spread():
    values = np.array([mix_bits(0, i) for i in range(4000)], dtype=np.float64) / 2**63
    assert abs(values.mean() - 0.5) < 0.02 and abs(values.var() - 1 / 12) < 0.005
    assert mix_bits(1, 2) != mix_bits(2, 1)


# ---- resume


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("stop", [0, 1, 137])
def test_resume_goes_on_at_the_next_image(variant: str, stop: int, tmp_path):
    straight = sampler(**VARIANTS[variant])
    batches = [straight.next_batch() for _ in range(stop + 60)]
    stopped = sampler(**VARIANTS[variant])
    for _ in range(stop):
        stopped.next_batch()
    torch.save(stopped.state_dict(), tmp_path / "state.pth")
    state = torch.load(tmp_path / "state.pth", weights_only=True)
    stopped.next_batch()  # what runs on after the writing must not change the state
    # Another seed of the new run gives way to the state's; another number of processes makes no difference.
    resumed = [sampler(**{**VARIANTS[variant], "seed": 99}, rank=rank, world_size=2) for rank in range(2)]
    for s in resumed:
        s.next_batch()
        s.load_state_dict(state)
        assert s.step == stop
    for expected in batches[stop:]:
        assert [draw for s in resumed for draw in s.next_batch()] == expected


def test_resume_at_a_late_step_is_fast():
    counts = ClassCounts.from_records([{"annotations": [{"category_id": i % 50}]} for i in range(20000)])
    streams = [ShuffledStream("a", 100_000), ClassAwareStream("b", counts)]
    s = MixtureSampler(streams, shares=(0.5, 0.5), batch_sizes=(16, 16))
    state = s.state_dict()
    state.update(step=100_000, images=[800_000, 800_000], cursors=[[8, 0], [16_000, 0]])
    fresh = MixtureSampler(streams, shares=(0.5, 0.5), batch_sizes=(16, 16))
    start = time.perf_counter()
    fresh.load_state_dict(state)
    fresh.next_batch()
    assert time.perf_counter() - start < 1.0  # replaying 1.6 million draws takes more than ten times as long


def test_state_of_another_mixture_is_refused():
    state = sampler().state_dict()
    with pytest.raises(ValueError, match=r"shares was \[0.5, 0.3, 0.2\], is \[0.4, 0.3, 0.3\]"):
        sampler(shares=(0.4, 0.3, 0.3)).load_state_dict(state)
    with pytest.raises(ValueError, match="aspect_ratio_grouping was False, is True"):
        sampler(landscape=orientations()).load_state_dict(state)
    with pytest.raises(ValueError, match="version"):
        sampler().load_state_dict({**state, "version": 0})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grouping": "datset"}, "nearest: dataset"),
        ({"batch_sizes": (8, 4, 8)}, "needs DATALOADER.GROUPING dataset"),
        ({"world_size": 3}, "dataset 'a': 8 images per step do not divide among 3 processes"),
    ],
)
def test_wrong_samplers(changes, message):
    with pytest.raises(ValueError, match=message):
        sampler(**changes)
