"""What is checked around the training, and what the terminal shows of long messages."""

from __future__ import annotations

import io
import logging
import sys

import pytest
import torch
from tiny import shared_sets, tiny_config
from torch import nn

from mvseg.data import register_dataset
from mvseg.data.catalog import unregister_card
from mvseg.data.reading import BadImage, BadImages
from mvseg.training import Trainer
from mvseg.training.parts import check_test_sets, report_unreadable
from mvseg.training.setup import TERMINAL_HEAD, prepare_datasets, shorten_terminal


class OnlyKnows(nn.Module):
    """Speaks vocabularies of two words."""

    def use_vocabulary(self, vocabulary):
        if len(vocabulary) != 2:
            raise ValueError(f"{len(vocabulary)} words are too many")
        return torch.no_grad()


def config(tmp_path, *opts):
    cfg = tiny_config(shared_sets(), tmp_path, *opts)
    prepare_datasets(cfg)
    return cfg


def test_test_sets_are_checked_before_training(tmp_path):
    check_test_sets(config(tmp_path, "DATASETS.TEST", ("tiny_a",)), OnlyKnows())
    with pytest.raises(ValueError, match=r"test set 'tiny_b': 3 words are too many"):
        check_test_sets(config(tmp_path, "DATASETS.TEST", ("tiny_a", "tiny_b")), OnlyKnows())
    files = {"image_root": str(tmp_path), "annotations": str(tmp_path / "absent.json"), "prepare": "Ask Anna."}
    register_dataset(name="tiny_absent", format="coco", vocabulary=["a", "b"], **files)
    try:
        with pytest.raises(FileNotFoundError, match=r"tiny_absent.*absent.json does not exist.*Ask Anna"):
            Trainer(config(tmp_path, "DATASETS.TEST", ("tiny_absent",)))
    finally:
        unregister_card("tiny_absent")


@pytest.mark.parametrize(
    ("key", "name", "nearest"),
    [
        ("MODEL.META_ARCHITECTURE", "MultiDatasetRCN", "MultiDatasetRCNN"),
        ("MODEL.BACKBONE.NAME", "build_timm_fpn", "build_timm_fpn_backbone"),
    ],
)
def test_unknown_part_is_said_with_its_key(tmp_path, key, name, nearest):
    cfg = config(tmp_path, "MODEL.META_ARCHITECTURE", "GeneralizedRCNN", key, name)
    with pytest.raises(KeyError, match=rf"{key} '{name}' is not registered; nearest: {nearest}"):
        Trainer.build_model(cfg)


def test_other_key_errors_of_a_model_stay_as_they_are(tmp_path, monkeypatch):
    monkeypatch.setattr("tiny.TinyDetector.to", lambda self, device: {}["a key"])
    with pytest.raises(KeyError, match=r"^'a key'$"):
        Trainer.build_model(config(tmp_path))


def test_unreadable_images_are_listed_at_the_end(caplog):
    class Loader:
        bad_images = BadImages(["d"], [10], 0.5)

    report_unreadable(object())
    report_unreadable(Loader())
    assert not caplog.records
    Loader.bad_images.add(BadImage(0, "x.jpg", "x.jpg: truncated"))
    caplog.clear()
    report_unreadable(Loader())
    assert "dataset 'd': 1 of 10 images unreadable:\n  x.jpg: truncated" in caplog.text


def test_long_messages_are_shortened_on_the_terminal_only(monkeypatch):
    terminal, file = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", terminal)
    target = logging.Logger("shortened")
    for stream in (terminal, file):
        target.addHandler(logging.StreamHandler(stream))
        target.handlers[-1].setFormatter(logging.Formatter("%(message)s"))
    for _ in range(2):  # a second call changes nothing
        shorten_terminal(target, "out/log.txt")
    target.info("\n".join(map(str, range(100))))
    target.warning("\n".join(map(str, range(100))))
    target.info("short\ntable")
    shown = terminal.getvalue().splitlines()
    assert shown[:TERMINAL_HEAD] == [str(i) for i in range(TERMINAL_HEAD)]
    assert shown[TERMINAL_HEAD] == f"... {100 - TERMINAL_HEAD} more lines are in out/log.txt"
    assert len(shown) == TERMINAL_HEAD + 1 + 100 + 2 and len(file.getvalue().splitlines()) == 202


def test_settings_that_the_model_would_ignore(tmp_path):
    cfg = config(tmp_path, "DATASETS.TEST", ("tiny_a",), "MODEL.CALIBRATION.ENABLED", True)
    with pytest.raises(ValueError, match="does not calibrate its scores; set it to False"):
        check_test_sets(cfg, OnlyKnows())
    model = OnlyKnows()
    model.roi_heads = nn.Module()
    model.roi_heads.class_agnostic = True
    cfg.MODEL.CALIBRATION.ENABLED = False
    with pytest.raises(ValueError, match=r"compares classes, but this model knows none; set TEST.EVALUATOR proposals"):
        check_test_sets(cfg, model)
    cfg.TEST.EVALUATOR = "proposals"
    check_test_sets(cfg, model)
