"""Mean and median over several test sets as rows of the summary."""

from __future__ import annotations

import json
import math

import pytest
from detectron2.data import DatasetCatalog

from mvseg.config import get_cfg, load_config
from mvseg.evaluation import average_rows, read_averages, summary_table
from mvseg.training import trainer
from mvseg.training.setup import prepare_datasets

NAMES = ["zoo_a_test", "zoo_b_test", "zoo_c_test", "coco_2017_val"]
RESULTS = {
    "zoo_a_test": {"bbox": {"AP": 10.0, "AP50": 30.0, "APs": 1.0, "AP-cat": 99.0}, "loss": {"total": 3.0}},
    "zoo_b_test": {"bbox": {"AP": 20.0, "AP50": 40.0, "APs": math.nan, "AP75": 1.0}, "loss": {"total": 4.0}},
    "zoo_c_test": {"bbox": {"AP": 60.0, "AP50": 80.0, "APs": 2.0}, "loss": {"total": 5.0}},
    "coco_2017_val": {"bbox": {"AP": 5.0}},
}


def test_mean_and_median_of_what_all_sets_have():
    groups = read_averages([{"name": "zoo", "datasets": ["zoo_*_test"]}], NAMES)
    assert groups == {"zoo": tuple(NAMES[:3])}
    rows = average_rows(RESULTS, groups)
    assert rows["zoo"]["bbox"]["AP"] == 30 and rows["zoo (median)"]["bbox"]["AP"] == 20
    assert rows["zoo"]["bbox"]["AP50"] == 50 and rows["zoo (median)"]["bbox"]["AP50"] == 40
    assert math.isnan(rows["zoo"]["bbox"]["APs"]) and math.isnan(rows["zoo (median)"]["bbox"]["APs"])
    assert set(rows["zoo"]) == {"bbox"} and set(rows["zoo"]["bbox"]) == {"AP", "AP50", "APs"}
    lines = summary_table({**RESULTS, **rows}).splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == [*NAMES, "zoo", "zoo (median)"]
    both = read_averages([{"name": "x", "datasets": ["coco_2017_val", "zoo_a_test", "zoo_[a]_test"]}], NAMES)
    assert both == {"x": ("coco_2017_val", "zoo_a_test")}
    assert average_rows(RESULTS, both)["x"] == {"bbox": {"AP": 7.5}}


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([{"name": "zoo"}], r"every entry is a struct with a name and a list of test sets"),
        ([{"name": "zoo", "datasets": "zoo_a_test"}], r"every entry is a struct"),
        (["zoo"], r"every entry is a struct"),
        ([{"name": "zoo", "datasets": []}], r"TEST.AVERAGES 'zoo' has no datasets"),
        ([{"name": "zoo", "datasets": ["zoo_d_test"]}], r"'zoo_d_test' is not in DATASETS.TEST; nearest: zoo_"),
        ([{"name": "zoo", "datasets": ["odinw_*"]}], r"'odinw_\*' is not in DATASETS.TEST"),
        ([{"name": "zoo_a_test", "datasets": ["zoo_*"]}], r"name 'zoo_a_test' is taken"),
        ([{"name": "z", "datasets": ["zoo_*"]}] * 2, r"name 'z' is taken by another average"),
    ],
)
def test_wrong_averages(entries, message):
    with pytest.raises(ValueError, match=message):
        read_averages(entries, NAMES)


def test_the_config_is_checked_before_anything_starts(tmp_path):
    (tmp_path / "c.yaml").write_text(
        "DATASETS: {TRAIN: [coco_2017_train], TEST: [coco_2017_val, lvis_v1_val]}\n"
        "TEST: {AVERAGES: [{name: both, datasets: [coco_2017_val, lvis_v1_val]}]}\n"
    )
    cfg = load_config(tmp_path / "c.yaml")
    prepare_datasets(cfg)
    cfg.DATASETS.TEST = ("coco_2017_val",)
    with pytest.raises(ValueError, match=r"TEST.AVERAGES 'both': 'lvis_v1_val' is not in DATASETS.TEST"):
        prepare_datasets(cfg)


def test_the_trainer_writes_and_returns_the_rows(tmp_path, monkeypatch):
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(tmp_path)
    cfg.DATASETS.TEST = tuple(NAMES)
    cfg.TEST.AVERAGES = [{"name": "zoo", "datasets": ["zoo_*"]}]
    monkeypatch.setattr(trainer.Trainer, "_evaluate_all", classmethod(lambda cls, *_: dict(RESULTS)))
    found = trainer.Trainer.evaluate(cfg, object())
    assert found["zoo"]["bbox"]["AP"] == 30 and found["zoo (median)"]["bbox"]["AP"] == 20
    written = json.loads((tmp_path / "results.json").read_text())["results"]
    assert list(written) == [*NAMES, "zoo", "zoo (median)"] and written["zoo"]["bbox"]["APs"] is None
    assert "zoo" not in DatasetCatalog.list()
