"""Saving, loading, resuming, and matching of names."""

from __future__ import annotations

import argparse
import logging
import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch
from detectron2.checkpoint import Checkpointer, DetectionCheckpointer, PeriodicCheckpointer
from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts
from detectron2.utils.file_io import PathHandler
from iopath.common.file_io import PathManager as PathManagerBase
from torch import nn

from mvseg.provider import detectron2_provider

only_builtin = pytest.mark.skipif(detectron2_provider() != "builtin", reason="about mvseg's own provider")


def small(width=3):
    return nn.Sequential(OrderedDict(first=nn.Linear(2, width), second=nn.Linear(width, 1)))


def nested():
    """A model whose names end like those of a file that was saved from its parts."""
    model = nn.Module()
    model.block1 = nn.Module()
    model.block1.layer1 = nn.Linear(2, 3)
    model.layer2 = nn.Linear(3, 2)
    model.res = nn.Module()
    model.res.layer2 = nn.Linear(3, 2)
    return model


def part_weights():
    return OrderedDict(
        (name, torch.rand(shape))
        for name, shape in {
            "layer1.weight": (3, 2),
            "layer1.bias": (3,),
            "layer2.weight": (2, 3),
            "layer2.bias": (2,),
            "res.layer2.weight": (2, 3),
            "res.layer2.bias": (2,),
        }.items()
    )


@pytest.fixture
def log():
    """Text of what the checkpointers log."""
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record):
            lines.append(record.getMessage())

    handler = Keep()
    loggers = [logging.getLogger(name) for name in ("fvcore", "detectron2")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    yield lambda: "\n".join(lines)
    for logger, level in zip(loggers, levels):
        logger.removeHandler(handler)
        logger.setLevel(level)


def test_save_and_load_with_checkpointables(tmp_path):
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    saver = DetectionCheckpointer(model, str(tmp_path), optimizer=optimizer)
    assert not saver.has_checkpoint()
    saver.save("model_a", iteration=7, note="hello")
    assert saver.has_checkpoint() and saver.get_checkpoint_file() == str(tmp_path / "model_a.pth")

    other = small()
    other_optimizer = torch.optim.SGD(other.parameters(), lr=0.1, momentum=0.9)
    extra = DetectionCheckpointer(other, str(tmp_path), optimizer=other_optimizer).load(str(tmp_path / "model_a.pth"))
    assert {key: extra[key] for key in ("iteration", "note")} == {"iteration": 7, "note": "hello"}
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values()))
    assert other_optimizer.param_groups[0]["lr"] == 0.5
    assert all("momentum_buffer" in state for state in other_optimizer.state.values())


def test_resume_or_load(tmp_path):
    first, second = small(), small()
    (tmp_path / "pretrained").mkdir()
    DetectionCheckpointer(first, str(tmp_path / "pretrained")).save("weights")
    run = DetectionCheckpointer(second, str(tmp_path / "run"), tag=torch.optim.SGD(second.parameters(), lr=3.0))
    weights = str(tmp_path / "pretrained" / "weights.pth")

    fresh = small()
    optimizer = torch.optim.SGD(fresh.parameters(), lr=1.0)
    checkpointer = DetectionCheckpointer(fresh, str(tmp_path / "run"), tag=optimizer)
    assert checkpointer.resume_or_load(weights, resume=True).get("iteration") is None  # nothing to resume: weights only
    assert torch.equal(fresh.first.weight, first.first.weight) and optimizer.param_groups[0]["lr"] == 1.0

    (tmp_path / "run").mkdir()
    run.save("last", iteration=4)
    assert checkpointer.resume_or_load(weights, resume=True)["iteration"] == 4
    assert torch.equal(fresh.first.weight, second.first.weight) and optimizer.param_groups[0]["lr"] == 3.0
    checkpointer.resume_or_load(weights, resume=False)
    assert torch.equal(fresh.first.weight, first.first.weight)


def test_empty_path_loads_nothing():
    assert DetectionCheckpointer(small()).load("") == {}


def test_missing_file_is_named(tmp_path):
    with pytest.raises((AssertionError, OSError), match=r"nothing\.pth"):
        DetectionCheckpointer(small()).load(str(tmp_path / "nothing.pth"))


def test_bare_state_dict_and_ddp_prefix(tmp_path):
    model, other = small(), small()
    torch.save({f"module.{name}": value for name, value in model.state_dict().items()}, tmp_path / "bare.pth")
    DetectionCheckpointer(other).load(str(tmp_path / "bare.pth"))
    assert torch.equal(model.second.weight, other.second.weight)


def test_what_does_not_load_is_listed(tmp_path, log):
    weights = small(width=4).state_dict() | {"third.weight": torch.zeros(1), "third.bias": torch.zeros(1)}
    del weights["second.bias"]
    torch.save({"model": weights}, tmp_path / "w.pth")
    model = small(width=3)
    before = model.first.weight.clone()
    DetectionCheckpointer(model).load(str(tmp_path / "w.pth"))
    assert torch.equal(model.first.weight, before)
    text = log()
    assert "first.weight" in text and "(4, 2)" in text and "(3, 2)" in text  # shapes
    assert "second.bias" in text or "second.{bias" in text  # not in the file
    assert "third" in text  # not in the model


def test_pixel_statistics_may_be_missing(tmp_path, log):
    model = small()
    torch.save({"model": model.state_dict()}, tmp_path / "w.pth")
    model.register_buffer("pixel_mean", torch.zeros(3))
    model.register_buffer("pixel_std", torch.ones(3))
    DetectionCheckpointer(model).load(str(tmp_path / "w.pth"))
    assert "pixel_mean" not in log() and "pixel_std" not in log()


@pytest.mark.parametrize("wrapped", [False, True])
def test_names_are_matched_by_their_endings(wrapped):
    model, weights = nested(), part_weights()
    target = {f"model.{name}" if wrapped else name: value for name, value in model.state_dict().items()}
    matched = align_and_update_state_dicts(target, weights, c2_conversion=False)
    assert set(matched) == set(target)
    prefix = "model." if wrapped else ""
    for name, source in {
        "block1.layer1.weight": "layer1.weight",
        "layer2.weight": "layer2.weight",
        "layer2.bias": "layer2.bias",
        "res.layer2.weight": "res.layer2.weight",
    }.items():
        assert torch.equal(matched[prefix + name], weights[source])


def test_matching_keeps_what_nobody_takes():
    model = {"backbone.conv.weight": torch.zeros(2), "head.weight": torch.zeros(3)}
    weights = {"conv.weight": torch.ones(2), "weight": torch.ones(5), "other.bias": torch.ones(1)}
    matched = align_and_update_state_dicts(model, weights, c2_conversion=False)
    assert set(matched) == {"backbone.conv.weight", "weight", "other.bias"}  # "weight" has another shape than head's


def test_ambiguous_matching_is_refused():
    model = {"a.conv.weight": torch.zeros(2), "b.conv.weight": torch.zeros(2)}
    with pytest.raises(ValueError, match=r"conv\.weight|Cannot match"):
        align_and_update_state_dicts(model, {"conv.weight": torch.ones(2)}, c2_conversion=False)


def test_matching_heuristics_in_the_path(tmp_path):
    model, weights = nested(), part_weights()
    torch.save({"model": weights}, tmp_path / "w.pth")
    with torch.no_grad():
        model.block1.layer1.weight.fill_(1)
    DetectionCheckpointer(model).load(str(tmp_path / "w.pth"))
    assert torch.equal(model.block1.layer1.weight, torch.ones(3, 2))
    DetectionCheckpointer(model).load(str(tmp_path / "w.pth") + "?matching_heuristics=True")
    assert torch.equal(model.block1.layer1.weight, weights["layer1.weight"])


def test_pickle_of_arrays(tmp_path):
    model, weights = nested(), part_weights()
    content = {
        "model": {name: value.numpy() for name, value in weights.items()},
        "__author__": "somebody",
        "matching_heuristics": True,
    }
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(content))
    DetectionCheckpointer(model).load(str(tmp_path / "w.pkl"))
    assert torch.equal(model.block1.layer1.weight, weights["layer1.weight"])
    assert torch.equal(model.res.layer2.bias, weights["res.layer2.bias"])


def test_own_path_manager(tmp_path):
    class Handler(PathHandler):
        def _get_supported_prefixes(self):
            return ["contract_ckpt://"]

        def _get_local_path(self, path, **kwargs):
            return str(tmp_path / path.removeprefix("contract_ckpt://"))

        def _open(self, path, mode="r", **kwargs):
            return open(self._get_local_path(path), mode)

    manager = PathManagerBase()
    manager.register_handler(Handler())
    model, other = small(), small()
    torch.save({"model": model.state_dict()}, tmp_path / "w.pth")
    for path in ("contract_ckpt://w.pth", "contract_ckpt://w.pth?matching_heuristics=True"):
        checkpointer = DetectionCheckpointer(other)
        checkpointer.path_manager = manager
        checkpointer.load(path)
        assert torch.equal(model.first.weight, other.first.weight)


def test_save_to_disk_can_be_turned_off(tmp_path):
    DetectionCheckpointer(small(), str(tmp_path), save_to_disk=False).save("model")
    assert list(tmp_path.iterdir()) == []


def test_periodic_checkpointer_keeps_the_newest(tmp_path):
    periodic = PeriodicCheckpointer(DetectionCheckpointer(small(), str(tmp_path)), 2, max_iter=9, max_to_keep=2)
    for iteration in range(9):
        periodic.step(iteration)
    names = {path.name for path in tmp_path.glob("*.pth")}
    assert names == {"model_0000005.pth", "model_0000007.pth", "model_final.pth"}
    assert issubclass(DetectionCheckpointer, Checkpointer)


@only_builtin
def test_numpy_content_loads(tmp_path):
    model, other = small(), small()
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    content = {"model": weights, "score": np.float64(0.5), "table": {"a": np.int64(3), "b": np.array(["x", "y"])}}
    torch.save(content, tmp_path / "numpy.pth")
    extra = DetectionCheckpointer(other).load(str(tmp_path / "numpy.pth"))
    assert torch.equal(model.first.weight, other.first.weight)
    assert extra["score"] == 0.5 and extra["table"]["a"] == 3 and extra["table"]["b"].tolist() == ["x", "y"]


@only_builtin
def test_code_in_a_file_is_not_run(tmp_path):
    torch.save({"model": small().state_dict(), "args": argparse.Namespace(a=1)}, tmp_path / "foreign.pth")
    with pytest.raises(pickle.UnpicklingError, match=r"foreign\.pth.*Namespace"):
        DetectionCheckpointer(small()).load(str(tmp_path / "foreign.pth"))
    (tmp_path / "foreign.pkl").write_bytes(pickle.dumps({"model": {}, "__author__": argparse.Namespace(a=1)}))
    with pytest.raises(pickle.UnpicklingError, match="Namespace"):
        DetectionCheckpointer(small()).load(str(tmp_path / "foreign.pkl"))


@only_builtin
def test_caffe2_names_are_refused(tmp_path):
    (tmp_path / "c2.pkl").write_bytes(
        pickle.dumps({"blobs": {"conv1_w": np.zeros(1), "res2_0_branch2a_bn_s": np.zeros(1)}})
    )
    with pytest.raises(ValueError, match=r"Caffe2.*conv1_w.*install Detectron2"):
        DetectionCheckpointer(small()).load(str(tmp_path / "c2.pkl"))


@only_builtin
def test_unknown_option_in_the_path(tmp_path):
    torch.save({"model": small().state_dict()}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="nothing"):
        DetectionCheckpointer(small()).load(str(tmp_path / "w.pth") + "?nothing=1")
