"""Probability calibration: the formula by hand, what it cannot change, and where the prior comes from."""

from __future__ import annotations

import json
import math

import pytest
import torch

from mvseg.config import get_cfg
from mvseg.modeling.calibration import (
    Calibration,
    calibrate,
    calibration_from_config,
    prior_factors,
    smoothed_prior,
)
from mvseg.modeling.priors import Prior, read_prior


def test_formula_by_hand():
    """Counts 7 and 0: prior 8/9 and 1/9; f = 9/8 ** 0.6 and 9 ** 0.6, divided by their mean."""
    prior = smoothed_prior(torch.tensor([7.0, 0.0]))
    assert prior.tolist() == pytest.approx([8 / 9, 1 / 9])
    raw = [(9 / 8) ** 0.6, 9**0.6]
    mean = sum(raw) / 2
    factors = prior_factors(prior, 0.6)
    assert factors.tolist() == pytest.approx([raw[0] / mean, raw[1] / mean])
    scores = calibrate(torch.tensor([[0.5, 0.2]]), torch.tensor([0.7]), factors, beta=0.3)
    expected = [(p * f / mean) ** 0.3 * 0.7**0.7 for p, f in zip((0.5, 0.2), raw)]
    assert scores.tolist() == [pytest.approx(expected)]


def test_constant_of_the_mean_moves_all_scores_alike():
    torch.manual_seed(0)
    counts = torch.randint(0, 50, (6,)).float()
    prior = smoothed_prior(counts)
    plain = prior**-0.6
    probabilities, objectness = torch.rand(5, 6).double(), torch.rand(5).double()
    ours = calibrate(probabilities, objectness, prior_factors(prior, 0.6), beta=0.3)
    paper = calibrate(probabilities, objectness, plain, beta=0.3)
    torch.testing.assert_close(ours / paper, torch.full((5, 6), float(plain.mean()) ** -0.3).double())
    assert float(prior_factors(prior, 0.6).mean()) == pytest.approx(1.0)


def test_ranking_within_a_class_stays_and_rare_classes_rise():
    torch.manual_seed(1)
    probabilities, objectness = torch.rand(20, 3), torch.rand(20)
    factors = prior_factors(smoothed_prior(torch.tensor([1000.0, 10.0, 0.0])), 0.6)
    scores = calibrate(probabilities, objectness, factors, beta=1.0)
    assert scores.argsort(0).equal(probabilities.argsort(0))
    gain = (scores / probabilities).mean(0)
    assert gain[0] < 1 < gain[2] and gain[0] < gain[1] < gain[2]
    with_objectness = calibrate(probabilities, objectness, factors, beta=0.3)
    without_prior = calibrate(probabilities, objectness, None, beta=0.3)
    assert with_objectness.argsort(0).equal(without_prior.argsort(0))


def test_beta_half_without_a_prior_is_the_geometric_mean():
    probabilities, objectness = torch.tensor([[0.09, 0.64]]), torch.tensor([0.25])
    assert calibrate(probabilities, objectness, beta=0.5).tolist() == [pytest.approx([0.15, 0.4])]
    assert calibrate(probabilities, objectness, beta=0.0).tolist() == [pytest.approx([0.25, 0.25])]


@pytest.mark.parametrize("counts", [[0.0, 0.0, 0.0], [5.0], [0.0], [1e9, 0.0], []])
def test_classes_that_never_occur_and_small_vocabularies_are_no_trouble(counts):
    given = torch.tensor(counts)
    factors = prior_factors(smoothed_prior(given), 0.6)
    assert factors.isfinite().all() and (factors > 0).all()
    if len(set(counts)) == 1:
        assert factors.tolist() == pytest.approx([1.0] * len(counts))
    scores = calibrate(torch.rand(4, len(counts)), torch.rand(4), factors)
    assert scores.shape == (4, len(counts)) and scores.isfinite().all()


def test_prior_of_zero_is_refused():
    with pytest.raises(ValueError, match="positive for every class"):
        prior_factors(torch.tensor([0.5, 0.0]))


def test_order_of_the_words_does_not_matter():
    torch.manual_seed(2)
    counts, probabilities, objectness = torch.randint(0, 9, (7,)).float(), torch.rand(3, 7), torch.rand(3)
    order = torch.randperm(7)
    straight, shuffled = Calibration("test"), Calibration("test")
    straight.set_words([f"w{i}" for i in range(7)])
    shuffled.set_words([f"w{i}" for i in order.tolist()])
    straight.set_counts(counts)
    shuffled.set_counts(counts[order])
    torch.testing.assert_close(
        straight.scores(probabilities, objectness)[:, order], shuffled.scores(probabilities[:, order], objectness)
    )


def test_running_prior_knows_only_the_images_before():
    calibration = Calibration("running", decay=0.5)
    calibration.set_words(["a", "b"])
    assert calibration.watches and not calibration.waits
    probabilities, objectness = torch.tensor([[0.4, 0.4]]), torch.tensor([1.0])
    first = calibration.scores(probabilities, objectness)
    assert first.tolist() == [pytest.approx([0.4**0.3] * 2)]
    calibration.observe(torch.tensor([0, 0, 0]), 2)
    assert calibration.counts.tolist() == [3, 0]
    calibration.observe(torch.tensor([1]), 2)
    assert calibration.counts.tolist() == [1.5, 1]
    expected = prior_factors(torch.tensor([2.5, 2.0]) / 4.5, 0.6)
    scores = calibration.scores(probabilities, objectness)
    assert scores.tolist() == [pytest.approx([(0.4 * float(f)) ** 0.3 for f in expected])]
    calibration.set_words(["a", "c"])
    assert calibration.counts is None and calibration.factors is None


def test_counting_leaves_the_prior_out_and_adds_up():
    calibration = Calibration("test", decay=0.5)
    calibration.set_words(["a", "b"])
    assert calibration.waits
    calibration.set_counts(torch.tensor([9.0, 0.0]))
    assert not calibration.waits
    with calibration.count():
        assert calibration.watches
        calibration.observe(torch.tensor([0, 1, 1]), 2)
        calibration.observe(torch.tensor([1]), 2)
        assert calibration.factors is None
    assert calibration.counts.tolist() == [1, 3] and not calibration.watches


def test_file_of_counts_is_read_by_word(tmp_path):
    path = tmp_path / "prior.json"
    made = Prior({"dog": 3.0, "cat": 12.0, "ox": 0.0}, 4, "dataset zoo", "model.pth", 1e-4)
    path.write_text(made.to_json())
    assert read_prior(path) == made
    assert list(json.loads(path.read_text())["counts"]) == ["cat", "dog", "ox"]
    cfg = get_cfg()
    assert calibration_from_config(cfg) is None
    cfg.MODEL.CALIBRATION.ENABLED, cfg.MODEL.CALIBRATION.PRIOR = True, str(path)
    calibration = calibration_from_config(cfg)
    assert not calibration.waits and not calibration.watches
    assert calibration.describe() == f"prior from {path} (dataset zoo); gamma 0.6, beta 0.3"
    assert calibration.set_words(["cat", "eel", "dog"]) == ["eel"]
    assert calibration.counts.tolist() == [12, 0, 3]


@pytest.mark.parametrize(
    ("text", "trouble"),
    [
        ("[1, 2]", "no file of counts"),
        ('{"format": 1}', "no file of counts"),
        ('{"format": 9, "counts": {"a": 1}}', "counts of format 9"),
        ('{"format": 1, "counts": {"a": -1}}', "the count of 'a' is -1.0"),
        ('{"format": 1, "counts": {"a": NaN}}', "the count of 'a' is nan"),
        ('{"format": 1, "counts": {}}', "it names no word"),
    ],
)
def test_wrong_files_say_what_is_wrong(tmp_path, text, trouble):
    path = tmp_path / "prior.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=trouble):
        read_prior(path)


def test_wrong_settings_name_their_keys():
    cfg = get_cfg()
    cfg.MODEL.CALIBRATION.ENABLED, cfg.MODEL.CALIBRATION.PRIOR = True, "runing"
    with pytest.raises(FileNotFoundError, match=r"MODEL.CALIBRATION.PRIOR 'runing' is none of none, test, running"):
        calibration_from_config(cfg)
    for wrong in ({"beta": 1.5}, {"gamma": -1.0}, {"decay": 0.0}):
        with pytest.raises(ValueError, match=r"MODEL.CALIBRATION: BETA"):
            Calibration("none", **wrong)
    calibration = Calibration("test")
    calibration.set_words(["a"])
    with pytest.raises(ValueError, match="counts of 2 words for a vocabulary of 1"):
        calibration.set_counts(torch.ones(2))
    assert math.isclose(Calibration("none").scores(torch.ones(1, 1), torch.ones(1)).item(), 1.0)
