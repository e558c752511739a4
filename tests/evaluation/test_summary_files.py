"""The summary: one table, one JSON file, per-class CSV files."""

from __future__ import annotations

import json
import math

from mvseg.evaluation import overall, summary, summary_table, write_per_class, write_results
from mvseg.report import sections

A = {"bbox": {"AP": 12.346, "AP50": 40.0, "APs": math.nan, "AP-cat": 20.0, "AP-dog, small": math.nan},
     "segm": {"AP": 10.0, "AP-cat": 8.0}}  # fmt: skip
B = {"bbox": {"AP": 1.0, "APr": 2.0}, "loss": {"total": 3.5, "loss_cls": 3.0}}


def test_table_has_a_row_for_each_set_and_a_column_for_each_metric():
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in summary_table({"a": A, "b": B}).split("\n")
    ]
    assert lines[0] == ["dataset", "bbox AP", "bbox AP50", "bbox APs", "bbox APr", "loss total", "segm AP"]
    assert lines[2] == ["a", "12.35", "40.00", "-", "-", "-", "10.00"]
    assert lines[3] == ["b", "1.00", "-", "-", "2.00", "3.50", "-"]


def test_overall_leaves_out_the_classes():
    assert overall(B) == B
    assert set(overall(A)["bbox"]) == {"AP", "AP50", "APs"}


def test_json_is_valid_and_complete(tmp_path):
    write_results(tmp_path / "new" / "results.json", {"a": A}, iteration=7)
    content = json.loads((tmp_path / "new" / "results.json").read_text(), parse_constant=lambda name: 1 / 0)
    assert content["iteration"] == 7
    assert content["results"]["a"]["bbox"]["AP-cat"] == 20.0 and content["results"]["a"]["bbox"]["APs"] is None


def test_csv_has_a_column_for_each_task(tmp_path):
    write_per_class(tmp_path / "a.csv", A)
    assert (tmp_path / "a.csv").read_text() == 'class,bbox AP,segm AP\ncat,20.0000,8.0000\n"dog, small",,\n'
    write_per_class(tmp_path / "b.csv", B)
    assert not (tmp_path / "b.csv").exists()


def test_values_of_classes_are_known_under_every_evaluators_names(tmp_path):
    metrics = {"mIoU": 40.0, "IoU-sky": 30.0, "ACC-sky": 50.0, "BoundaryIoU-sky": 1.0, "min(IoU, B-Iou)-sky": 1.0}
    assert overall({"sem_seg": metrics}) == {"sem_seg": {"mIoU": 40.0}}
    assert summary.PER_CLASS == sections.PER_CLASS  # the report reads results without importing evaluators
    write_per_class(tmp_path / "c.csv", {"bbox": {"AP50": 3.0, "AP-b": 2.0}, "sem_seg": {"IoU-a": 1.0, "ACC-b": 4.0}})
    lines = (tmp_path / "c.csv").read_text().splitlines()
    assert lines == ["class,bbox AP,sem_seg IoU,sem_seg ACC", "b,2.0000,,4.0000", "a,,1.0000,"]
