"""Checkpoints: whole files only, and a list of what did not load."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch import nn

from mvseg.checkpoints import AtomicCheckpointer, atomic_file


class Net(nn.Module):
    def __init__(self, hidden: int = 3, name: str = "head"):
        super().__init__()
        self.body = nn.Linear(2, hidden)
        setattr(self, name, nn.Linear(hidden, 1))


class Bad:
    """Cannot be pickled, as a stand-in for a process that dies while it writes."""

    def state_dict(self):
        return {"tensor": torch.zeros(1000), "bad": self}

    def load_state_dict(self, state):
        pass

    def __reduce__(self):
        raise InterruptedError


def test_failed_writing_leaves_the_last_checkpoint_as_it_was(tmp_path):
    model = Net()
    AtomicCheckpointer(model, str(tmp_path)).save("model", iteration=1)
    before = (tmp_path / "model.pth").read_bytes()
    with pytest.raises(InterruptedError):
        AtomicCheckpointer(model, str(tmp_path), bad=Bad()).save("model", iteration=2)
    assert (tmp_path / "model.pth").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last_checkpoint", "model.pth"]
    with pytest.raises(InterruptedError), atomic_file(tmp_path / "new" / "file") as file:
        file.write(b"half")
        raise InterruptedError
    assert not list((tmp_path / "new").iterdir())


def test_save_and_resume(tmp_path):
    first = Net()
    checkpointer = AtomicCheckpointer(first, str(tmp_path))
    checkpointer.save("model_0000001", iteration=1)
    checkpointer.save("model_0000002", iteration=2)
    checkpointer.save_model("model_best", iteration=1)
    second = Net()
    rest = AtomicCheckpointer(second, str(tmp_path)).resume_or_load("", resume=True)
    assert rest["iteration"] == 2
    assert torch.equal(first.body.weight, second.body.weight)
    AtomicCheckpointer(first, str(tmp_path / "none"), save_to_disk=False).save("x")
    assert not (tmp_path / "none").exists()


def test_what_does_not_fit_is_listed(tmp_path, caplog):
    torch.save({"model": Net(hidden=5, name="tail").state_dict()}, tmp_path / "other.pth")
    model = Net(hidden=5)
    model.body = nn.Linear(3, 5)
    checkpointer = AtomicCheckpointer(model)
    checkpointer.load(str(tmp_path / "other.pth"))
    report = checkpointer.report
    assert (report.loaded, report.complete) == (1, False)  # body.bias
    assert report.missing == ("head.bias", "head.weight")
    assert report.unexpected == ("tail.bias", "tail.weight")
    assert report.wrong_shape == (("body.weight", (5, 2), (5, 3)),)
    for text in ("1 entries loaded", "missing      head.bias", "body.weight: file (5, 2), model (5, 3)", "tail.weight"):
        assert text in caplog.text


def test_plain_state_dicts_load_and_complete_files_are_reported_as_complete(tmp_path):
    source, model = Net(), Net()
    torch.save(source.state_dict(), tmp_path / "plain.pth")
    checkpointer = AtomicCheckpointer(model)
    checkpointer.load(str(tmp_path / "plain.pth"))
    assert torch.equal(source.head.weight, model.head.weight)
    assert checkpointer.report.complete and checkpointer.report.loaded == 4


def test_a_file_of_another_model_is_an_error(tmp_path):
    torch.save({"model": {"stem.weight": torch.zeros(2)}}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"nothing in this file fits.*stem.weight.*body.bias"):
        AtomicCheckpointer(Net()).load(str(tmp_path / "other.pth"))
    with pytest.raises(FileNotFoundError, match=r"MODEL.WEIGHTS: weight file .*absent.pth"):
        AtomicCheckpointer(Net()).load(str(tmp_path / "absent.pth"))


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    torch.save({"model": Net().state_dict(), "extra": Net()}, tmp_path / "code.pth")
    with pytest.raises(ValueError, match=r"code.pth cannot be read.*not loaded for safety") as caught:
        AtomicCheckpointer(Net()).load(str(tmp_path / "code.pth"))
    assert isinstance(caught.value.__cause__, pickle.UnpicklingError)


def test_a_file_that_is_no_weight_file_is_said_by_name(tmp_path):
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(ValueError, match=r"text.pth cannot be read.*damaged"):
        AtomicCheckpointer(Net()).load(str(tmp_path / "text.pth"))
    torch.save([torch.zeros(2)], tmp_path / "list.pth")
    with pytest.raises(ValueError, match=r"list.pth holds a list"):
        AtomicCheckpointer(Net()).load(str(tmp_path / "list.pth"))


def test_statistics_alone_are_no_fitting_weights(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))
    torch.save({"model": {"foreign": torch.zeros(3)}}, tmp_path / "foreign.pth")
    with pytest.raises(ValueError, match=r"foreign.pth: nothing in this file fits"):
        AtomicCheckpointer(model).load(str(tmp_path / "foreign.pth"))
