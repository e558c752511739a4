"""UniDet's sampling of mixtures: image weights by brute force from its formula, against streams and real draws."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest

from mvseg.data.mixing import MixtureSampler
from mvseg.data.streams import ClassAwareStream, ClassCounts, ShuffledStream


def dataset(images: int, classes: int, seed: int) -> list[dict]:
    """Records with a long tail of classes; some classes several times in an image."""
    random = np.random.default_rng(seed)
    share = 1.0 / np.arange(1, classes + 1)
    draws = [random.choice(classes, size=random.integers(1, 6), p=share / share.sum()) for _ in range(images)]
    return [{"annotations": [{"category_id": int(c)} for c in drawn]} for drawn in draws]


def unidet_probabilities(datasets: list[list[dict]], ratios: list[float], class_aware: list[bool]) -> list[list[float]]:
    """Image weight (max N / N_k) (r_k / sum r) CAS, CAS = sum over its classes of 1 / their images, mean 1; normed."""
    largest = max(map(len, datasets))
    weights = []
    for records, ratio, aware in zip(datasets, ratios, class_aware, strict=True):
        images_of: dict[int, int] = defaultdict(int)
        for record in records:
            for c in {a["category_id"] for a in record["annotations"]}:
                images_of[c] += 1
        cas = [sum(1 / images_of[c] for c in {a["category_id"] for a in r["annotations"]}) for r in records]
        cas = [value * len(records) / sum(cas) if aware else 1.0 for value in cas]
        weights.append([largest / len(records) * ratio / sum(ratios) * value for value in cas])
    total = sum(map(sum, weights))
    return [[w / total for w in of] for of in weights]


def test_image_weights_are_those_of_unidet():
    datasets = [dataset(40, 6, 1), dataset(150, 30, 2), dataset(90, 12, 3)]
    ratios, aware = [1.0, 1.0, 2.0], [False, True, True]
    expected = unidet_probabilities(datasets, ratios, aware)
    streams = [
        ClassAwareStream(str(k), ClassCounts.from_records(d)) if aware[k] else ShuffledStream(str(k), len(d))
        for k, d in enumerate(datasets)
    ]
    shares = [ratio / sum(ratios) for ratio in ratios]
    for stream, share, probabilities in zip(streams, shares, expected, strict=True):
        weights = stream.weights()
        assert share * weights / weights.sum() == pytest.approx(probabilities, rel=1e-9)
        assert sum(probabilities) == pytest.approx(share)  # a large dataset gets no more than its ratio

    sampler = MixtureSampler(streams, shares=shares, batch_sizes=[8, 8, 8], grouping="mixed", seed=5)
    drawn = Counter((d.dataset, d.record) for _ in range(6000) for d in sampler.next_batch())
    total = sum(drawn.values())
    for k, probabilities in enumerate(expected):
        assert sum(drawn[k, i] for i in range(len(probabilities))) / total == pytest.approx(shares[k], abs=1e-3)
        found = np.array([drawn[k, i] / total for i in range(len(probabilities))])
        # Turns are more even than UniDet's draws with replacement, so its spread bounds ours.
        spread = np.sqrt(np.array(probabilities) / total)
        assert (abs(found - probabilities) < 5 * spread + 1e-4).all()
