"""Matching by overlap and random sampling of labels."""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.sampling import subsample_labels

# Two ground truths (rows), five predictions.
QUALITY = torch.tensor([[0.9, 0.2, 0.3, 0.5, 0.0], [0.1, 0.6, 0.35, 0.69, 0.0]])


def test_thresholds_make_bands():
    matches, labels = Matcher([0.35, 0.7], [0, -1, 1])(QUALITY)
    assert matches.tolist() == [0, 1, 1, 1, 0]
    assert labels.tolist() == [1, -1, -1, -1, 0]
    assert (matches.dtype, labels.dtype) == (torch.int64, torch.int8)


def test_low_quality_matches_make_the_best_of_each_truth_positive():
    matches, labels = Matcher([0.35, 0.7], [0, -1, 1], allow_low_quality_matches=True)(QUALITY)
    assert labels.tolist() == [1, -1, -1, 1, 0]
    assert matches.tolist() == [0, 1, 1, 1, 0]
    # Ties count, and a prediction keeps its own best truth even when made positive for another one.
    _, labels = Matcher([0.7], [0, 1], allow_low_quality_matches=True)(torch.tensor([[0.3, 0.3], [0.0, 0.9]]))
    assert labels.tolist() == [1, 1]
    matches, labels = Matcher([0.95], [0, 1], allow_low_quality_matches=True)(torch.tensor([[0.3], [0.9]]))
    assert (matches.tolist(), labels.tolist()) == ([1], [1])


def test_without_truth_all_get_the_lowest_label():
    matches, labels = Matcher([0.3, 0.7], [0, -1, 1], allow_low_quality_matches=True)(torch.zeros(0, 4))
    assert matches.tolist() == [0] * 4
    assert labels.tolist() == [0] * 4


def test_matcher_checks_its_arguments():
    with pytest.raises(AssertionError):
        Matcher([0.5], [0, 1, 1])
    with pytest.raises(AssertionError):
        Matcher([0.7, 0.3], [0, -1, 1])
    with pytest.raises(AssertionError):
        Matcher([0.5], [0, 2])


@pytest.mark.parametrize(("positives", "negatives", "expected"), [(50, 50, (4, 12)), (2, 50, (2, 14)), (50, 3, (4, 3))])
def test_subsample_respects_the_share(positives, negatives, expected):
    labels = torch.cat((torch.full((positives,), 2), torch.full((negatives,), 7), torch.full((10,), -1)))
    labels = labels[torch.randperm(len(labels))]
    positive, negative = subsample_labels(labels, 16, 0.25, bg_label=7)
    assert (len(positive), len(negative)) == expected
    assert (labels[positive] == 2).all()
    assert (labels[negative] == 7).all()
    assert len(set(positive.tolist())) == len(positive)


def test_subsample_is_random_and_seeded():
    labels = torch.zeros(1000, dtype=torch.int64)
    draws = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append(subsample_labels(labels, 16, 0.5, bg_label=0)[1].tolist())
    assert draws[0] == draws[1] != draws[2]
