"""First passes: what is counted, how answers change with it, and where a prior may come from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.evaluation import DatasetEvaluator
from PIL import Image
from tiny_run import TRAINED, picture

from mvseg.data.catalog import get_vocabulary
from mvseg.data.reading import ImageReadError
from mvseg.evaluation import evaluate_dataset
from mvseg.inference import Predictor
from mvseg.inference.calibration import count_detections, first_pass
from mvseg.inference.prior import main
from mvseg.modeling.calibration import calibration_of, prior_factors, smoothed_prior
from mvseg.modeling.priors import read_prior

IMAGES = [picture(seed) for seed in range(3)]
LIMIT, BETA = 0.5, 0.9  # detections above the limit are counted


def calibrated(run: Path, prior: str, **options: Any) -> Predictor:
    node = {"ENABLED": True, "PRIOR": prior, "COUNT_THRESHOLD": LIMIT, "BETA": BETA}
    opts = [part for key, value in node.items() for part in (f"MODEL.CALIBRATION.{key}", value)]
    return Predictor.from_run(run, opts=[str(opt) for opt in opts], **{"score_threshold": LIMIT, **options})


def classes_of(found: list[Any]) -> torch.Tensor:
    return torch.bincount(torch.cat([instances.pred_classes for instances in found]), minlength=len(TRAINED))


def by_place(instances: Any) -> dict[tuple[Any, ...], float]:
    boxes = instances.pred_boxes.tensor.round(decimals=2).tolist()
    return {(*box, cls): s for box, cls, s in zip(boxes, instances.pred_classes.tolist(), instances.scores.tolist())}


@pytest.fixture(scope="module")
def plain(run: Path) -> list[Any]:
    return calibrated(run, "none")(IMAGES)


def test_first_pass_counts_what_the_detector_reports_without_a_prior(run: Path, plain: list[Any]):
    predictor = calibrated(run, "test", score_threshold=0.9)  # the threshold of answers does not decide what is counted
    prior = predictor.calibrate(IMAGES)
    assert [prior.counts[word] for word in TRAINED] == classes_of(plain).tolist()
    assert prior.images == 3 and classes_of(plain).sum() > 10
    again = predictor.calibrate(IMAGES)  # the prior of the first call plays no part
    assert again.counts == prior.counts


def test_scores_of_the_second_pass_follow_the_counts(run: Path, plain: list[Any]):
    predictor = calibrated(run, "test", nms="none", max_detections=10000, score_threshold=0.01)
    everything = calibrated(run, "none", nms="none", max_detections=10000, score_threshold=0.01)(IMAGES[:1])[0]
    predictor.calibrate(IMAGES)
    counts = calibration_of(predictor.model).counts
    factors = prior_factors(smoothed_prior(counts), 0.6) ** BETA
    before, after = by_place(everything), by_place(predictor(IMAGES[:1])[0])
    shared = set(before) & set(after)
    assert len(shared) > 20
    for place in shared:
        assert after[place] == pytest.approx(before[place] * float(factors[place[-1]]), rel=1e-3)


def test_frequent_words_are_reported_less_often(run: Path, plain: list[Any]):
    few = {"max_detections": 8}
    before = classes_of(calibrated(run, "none", **few)(IMAGES))
    predictor = calibrated(run, "test", **few)
    predictor.calibrate(IMAGES)
    counts = calibration_of(predictor.model).counts
    after = classes_of(predictor(IMAGES))
    most = int(counts.argmax())
    assert counts[most] > 10 * counts.min()
    assert after[most] < before[most]
    assert after[counts.argmin()] > before[counts.argmin()]


def test_running_prior_begins_without_one_and_forgets_with_new_words(run: Path):
    predictor, without = calibrated(run, "running"), calibrated(run, "none")
    first, second = predictor(IMAGES[0])[0], predictor(IMAGES[1])[0]
    torch.testing.assert_close(first.scores, without(IMAGES[0])[0].scores)
    plain = without(IMAGES[1])[0]
    assert len(second) != len(plain) or not torch.allclose(second.scores, plain.scores)
    counts = calibration_of(predictor.model).counts
    assert counts.tolist() == (classes_of(without(IMAGES[:1])) + classes_of([plain])).tolist()
    predictor.set_vocabulary(TRAINED)
    torch.testing.assert_close(predictor(IMAGES[0])[0].scores, first.scores)


class Recorder(DatasetEvaluator):
    """Keeps the answers."""

    def reset(self) -> None:
        self.found: list[Any] = []

    def process(self, inputs: Any, outputs: Any) -> None:
        self.found += [output["instances"].to("cpu") for output in outputs]

    def evaluate(self) -> dict[str, dict[str, float]]:
        return {"bbox": {"AP": 0.0}}


def test_evaluation_looks_at_the_test_set_first(run: Path, plain: list[Any], caplog: pytest.LogCaptureFixture):
    predictor = calibrated(run, "test")
    loader = list(predictor.records(IMAGES))
    evaluator = Recorder()
    with caplog.at_level("INFO"):
        evaluate_dataset(predictor.model, "tiny_run_train", loader, evaluator)
    assert "First pass over 3 images of tiny_run_train" in caplog.text
    predictor.calibrate(IMAGES)
    expected = predictor(IMAGES)
    for found, wanted in zip(evaluator.found, expected, strict=True):
        torch.testing.assert_close(found.scores, wanted.scores)
    caplog.clear()
    with caplog.at_level("INFO"):  # the vocabulary was set anew, and so the prior is made anew
        evaluate_dataset(predictor.model, "tiny_run_train", loader, evaluator)
    assert "First pass over 3 images" in caplog.text
    assert not predictor.model.training


def test_a_stream_of_images_cannot_be_seen_twice(run: Path):
    predictor = calibrated(run, "test")
    with pytest.raises(ValueError, match="give a list or a loader"):
        first_pass(predictor.model, predictor.records(IMAGES), "photos")
    with pytest.raises(ValueError, match=r"set MODEL.CALIBRATION.ENABLED True"):
        count_detections(Predictor.from_run(run).model, [])


def test_command_keeps_a_prior_that_another_vocabulary_can_use(
    run: Path, plain: list[Any], tmp_path: Path, capsys, caplog
):
    (tmp_path / "photos").mkdir()
    for number, image in enumerate(IMAGES):
        Image.fromarray(np.asarray(image)).save(tmp_path / "photos" / f"{number}.png")
    output = tmp_path / "prior.json"
    arguments = ["--config-file", str(run / "config.yaml"), "--weights", str(run / "model_final.pth")]
    arguments += ["--images", str(tmp_path / "photos"), "--output", str(output)]
    settings = ["MODEL.CALIBRATION.COUNT_THRESHOLD", str(LIMIT), "MODEL.CALIBRATION.BETA", str(BETA)]
    assert main([*arguments, "--opts", *settings]) == 0
    prior = read_prior(output)
    assert [prior.counts[word] for word in TRAINED] == classes_of(plain).tolist()
    assert prior.images == 3 and prior.source.endswith("photos") and prior.weights.endswith("model_final.pth")
    assert f"{output}: 3 images" in capsys.readouterr().out

    words = [TRAINED[1], "zebra", TRAINED[0]]
    predictor = calibrated(run, str(output), vocabulary=words)
    assert "of 1 of 3 words nobody has counted detections" in caplog.text and "zebra" in caplog.text
    assert calibration_of(predictor.model).counts.tolist() == [prior.counts[words[0]], 0, prior.counts[words[2]]]
    assert "prior from" in calibration_of(predictor.model).describe()
    output.write_text(json.dumps({"format": 1}))
    with pytest.raises(ValueError, match="no file of counts"):
        calibrated(run, str(output))
    assert main(["--config-file", str(tmp_path / "none.yaml"), "--images", ".", "--output", str(output)]) == 1
    assert "none.yaml does not exist" in capsys.readouterr().err


def test_soft_suppression_of_a_predictor(run: Path):
    opts = ["MODEL.ROI_HEADS.NMS", "gaussian"]
    soft = Predictor.from_run(run, score_threshold=0.05, opts=opts)(IMAGES[0])[0]
    hard = Predictor.from_run(run, score_threshold=0.05)(IMAGES[0])[0]
    assert soft.scores[0] == hard.scores[0]
    assert soft.scores.tolist() == sorted(soft.scores.tolist(), reverse=True)
    assert not np.array_equal(soft.scores.numpy(), hard.scores.numpy())
    none = Predictor.from_run(run, score_threshold=0.05, nms="none", opts=opts)
    assert none.model.roi_heads.soft_sigma is None
    with pytest.raises(ValueError, match=r"MODEL.ROI_HEADS.NMS 'soft': choose hard or gaussian"):
        Predictor.from_run(run, opts=["MODEL.ROI_HEADS.NMS", "soft"])
    assert get_vocabulary("tiny_run_train").names == tuple(TRAINED)


def test_counting_leaves_the_prior_of_a_file(run: Path, tmp_path: Path):
    counts = {word: 10.0 * place for place, word in enumerate(TRAINED)}
    (tmp_path / "prior.json").write_text(json.dumps({"format": 1, "counts": counts}))
    predictor = calibrated(run, str(tmp_path / "prior.json"))
    before = predictor(IMAGES[0])[0].scores
    found, images = count_detections(predictor.model, predictor.records(IMAGES))
    assert images == 3 and found.tolist() != list(counts.values())
    torch.testing.assert_close(predictor(IMAGES[0])[0].scores, before)
    with pytest.raises(ImageReadError):
        count_detections(predictor.model, predictor.records(["/nowhere.png"]))
    torch.testing.assert_close(predictor(IMAGES[0])[0].scores, before)
