"""Order inside one dataset: shuffled, repeat factors, class-aware; and the forecast of what a mixture draws."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from mvseg.data.mixture_report import forecast
from mvseg.data.streams import ClassAwareStream, ClassCounts, RepeatFactorStream, ShuffledStream, repeat_factors


def records(*labels: list[int]) -> list[dict]:
    return [{"annotations": [{"category_id": label} for label in image]} for image in labels]


def long_tail(num_images: int = 300, num_classes: int = 12, seed: int = 3) -> list[dict]:
    random = np.random.default_rng(seed)
    share = 0.5 / np.arange(1, num_classes + 1) ** 2
    drawn = [[c for c in range(num_classes) for _ in range(random.poisson(share[c]))] for _ in range(num_images)]
    return records(*drawn)


def test_counts_of_a_hand_case_ignore_crowds():
    data = records([0, 0, 2], [], [2])
    data[2]["annotations"].append({"category_id": 1, "iscrowd": 1})
    counts = ClassCounts.from_records(data, num_classes=4)
    assert counts.image_count().tolist() == [1, 0, 2, 0]
    assert counts.instance_count().tolist() == [2, 0, 2, 0]
    assert counts.num_images == 3


def test_counts_without_annotations():
    counts = ClassCounts.from_records(records([], []), num_classes=0)
    assert counts.num_classes == 0 and len(counts.images) == 0
    assert repeat_factors(counts, 0.1).tolist() == [1, 1]


def test_repeat_factors_by_hand():
    # Class 0 in 4 of 4 images, class 1 in 1 of 4: with t = 0.5 its factor is sqrt(0.5 / 0.25).
    counts = ClassCounts.from_records(records([0], [0], [0], [0, 1]))
    assert repeat_factors(counts, 0.5) == pytest.approx([1, 1, 1, 2**0.5])
    assert repeat_factors(counts, 0.5, sqrt=False) == pytest.approx([1, 1, 1, 2])


def test_repeat_factors_equal_detectron2():
    from detectron2.data.samplers import RepeatFactorTrainingSampler

    data = [r for r in long_tail() if r["annotations"]]
    theirs = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(data, 0.2)
    assert repeat_factors(ClassCounts.from_records(data), 0.2) == pytest.approx(np.asarray(theirs), rel=1e-6)


def test_shuffled_epochs_are_different_permutations():
    stream = ShuffledStream("a", 50)
    epochs = [stream.epoch(7, number).tolist() for number in range(3)]
    assert all(sorted(e) == list(range(50)) for e in epochs)
    assert len({tuple(e) for e in epochs}) == 3
    assert stream.epoch(7, 1).tolist() == epochs[1]
    assert ShuffledStream("b", 50).epoch(7, 1).tolist() != epochs[1]
    assert stream.epoch(8, 1).tolist() != epochs[1]


def test_repeat_factor_draws_follow_the_factors():
    factors = np.array([1.0, 1.25, 2.5, 3.0])
    stream = RepeatFactorStream("a", factors)
    epochs = [Counter(stream.epoch(0, n).tolist()) for n in range(2000)]
    assert {e[0] for e in epochs} == {1} and {e[3] for e in epochs} == {3}
    assert {e[1] for e in epochs} == {1, 2} and {e[2] for e in epochs} == {2, 3}
    mean = [np.mean([e[i] for e in epochs]) for i in range(4)]
    assert mean == pytest.approx(factors, abs=0.04)


def test_class_aware_draws_every_class_once_per_epoch_and_walks_through_its_images():
    counts = ClassCounts.from_records(records([0], [0], [0, 2], [2], [], [2]), num_classes=4)
    stream = ClassAwareStream("a", counts)
    epochs = np.stack([stream.epoch(1, n) for n in range(600)])
    assert epochs.shape == (600, 2)  # classes 0 and 2 have images
    assert stream.epoch(1, 5).tolist() == ClassAwareStream("a", counts).epoch(1, 5).tolist()
    assert stream.epoch(2, 5).tolist() == ClassAwareStream("a", counts).epoch(2, 5).tolist()
    drawn = Counter(epochs.ravel().tolist())
    # Images 0 and 1 hold class 0 alone, 3 and 5 class 2 alone: exactly a third of the 600 draws of their class each.
    assert [drawn[i] for i in (0, 1, 3, 5)] == [200, 200, 200, 200]
    assert drawn[2] == 400 and drawn[4] == 0
    assert stream.weights() * 600 == pytest.approx([drawn[i] for i in range(6)])


def test_class_aware_needs_objects():
    with pytest.raises(ValueError, match="'empty'"):
        ClassAwareStream("empty", ClassCounts.from_records(records([], [])))


def test_class_aware_balances_a_long_tail():
    counts = ClassCounts.from_records(long_tail())
    stream = ClassAwareStream("a", counts)
    epoch = np.concatenate([stream.epoch(0, n) for n in range(200)])
    present = np.zeros((counts.num_images, counts.num_classes), dtype=bool)
    present[counts.images, counts.classes] = True
    seen = present[epoch].sum(0)[counts.image_count() > 0]
    assert seen.min() >= 200  # at least its own turn
    assert seen.max() / seen.min() < (counts.image_count().max() / counts.image_count()[counts.image_count() > 0].min())


@pytest.mark.parametrize("kind", ["uniform", "repeat_factor", "class_aware"])
def test_forecast_equals_counted_draws(kind: str):
    counts = ClassCounts.from_records(long_tail(), num_classes=13)
    stream = {
        "uniform": lambda: ShuffledStream("long", counts.num_images),
        "repeat_factor": lambda: RepeatFactorStream("long", repeat_factors(counts, 0.3)),
        "class_aware": lambda: ClassAwareStream("long", counts),
    }[kind]()
    other = ClassCounts.from_records(records([0], [0, 0]))
    report = forecast(
        [stream, ShuffledStream("small", 2)],
        [counts, other],
        [[f"c{i}" for i in range(13)], ["x"]],
        shares=(0.75, 0.25),
        batch_sizes=(8, 8),
        left_out=(5, 0),
        grouping="mixed",
    )
    long, small = report.datasets
    assert report.epoch_images == 302 and report.images_per_step == 8
    assert long.images_per_epoch == pytest.approx(226.5)
    assert small.class_images.tolist() == pytest.approx([75.5])
    assert small.class_instances.tolist() == pytest.approx([75.5 * 1.5])
    instances = np.zeros((counts.num_images, 13))
    instances[counts.images, counts.classes] = counts.instances
    order = np.concatenate([stream.epoch(0, n) for n in range(400)])
    scale = long.images_per_epoch / len(order)
    assert long.class_images == pytest.approx((instances[order] > 0).sum(0) * scale, rel=0.02, abs=0.1)
    assert long.class_instances == pytest.approx(instances[order].sum(0) * scale, rel=0.02, abs=0.1)
    assert long.unseen_classes[-1] == "c12"
    table = report.table(max_classes=4)
    assert "long" in table and "75.0%" in table and "226.5" in table and "c12" in table
    assert long.distinct_never == (sum(not r["annotations"] for r in long_tail()) if kind == "class_aware" else 0)


def test_forecast_of_different_batch_sizes():
    streams = [ShuffledStream("a", 10), ShuffledStream("b", 10)]
    counts = [ClassCounts.from_records(records(*[[0]] * 10))] * 2
    report = forecast(
        streams, counts, [["x"], ["x"]], shares=(0.5, 0.5), batch_sizes=(2, 8), left_out=(0, 0), grouping="dataset"
    )
    # Half the images each: four batches of 2 for one of 8, so 16 images in 5 steps.
    assert report.images_per_step == pytest.approx(16 / 5)
