"""The training loader keeps no second copy of the records."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
from coco_files import small_tree, write_coco

from mvseg.config import get_cfg
from mvseg.data.catalog import dataset_report, get_records, get_vocabulary, register_dataset, unregister_card
from mvseg.data.loader import build_train_loader

NAME = "memory_of_records"


@pytest.fixture
def dataset(tmp_path: Path):
    register_dataset(name=NAME, **write_coco(tmp_path, small_tree()))
    yield NAME
    unregister_card(NAME)


def living_records() -> int:
    gc.collect()
    return sum(type(o) is dict and o.get("dataset") == NAME and "annotations" in o for o in gc.get_objects())


def test_records_of_training_sets_are_released(dataset: str):
    before = get_records(dataset)[0]["annotations"][0]["bbox"]
    assert living_records() == 2
    cfg = get_cfg()
    cfg.DATASETS.TRAIN, cfg.DATALOADER.NUM_WORKERS, cfg.SOLVER.IMS_PER_BATCH, cfg.SEED = (dataset,), 0, 2, 0
    loader = build_train_loader(cfg)
    assert living_records() == 0
    assert len(next(iter(loader))) == 2
    assert get_vocabulary(dataset).names == ("cat", "dog", "traffic light")
    assert dataset_report(dataset).counts["images"] == 2
    assert get_records(dataset)[0]["annotations"][0]["bbox"] == before
