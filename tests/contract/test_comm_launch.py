"""Ranks and collective calls, alone and in two gloo processes started by launch; data-parallel training on the CPU."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.utils import comm

from mvseg.provider import detectron2_provider

only_builtin = pytest.mark.skipif(detectron2_provider() != "builtin", reason="upstream's create_ddp_model needs GPUs")


def test_a_single_process_needs_no_group():
    assert (comm.get_world_size(), comm.get_rank(), comm.get_local_rank(), comm.get_local_size()) == (1, 0, 0, 1)
    assert comm.is_main_process()
    comm.synchronize()
    assert comm.all_gather("x") == ["x"]
    assert comm.gather({"a": 1}) == [{"a": 1}]
    values = {"loss": torch.tensor(2.0)}
    assert comm.reduce_dict(values) == values
    assert 0 <= comm.shared_random_seed() < 2**31


def test_launch_with_one_process_calls_directly():
    from detectron2.engine import launch

    called = []
    launch(lambda *args: called.append((os.getpid(), args)), 1, args=(1, "two"))
    assert called == [(os.getpid(), (1, "two"))]


class TinyModel(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(2, 1)

    def forward(self, x):
        return {"loss": self.linear(x).square().mean()}


def batches(rows: slice):
    """The same endless batches of four rows everywhere, of which a process takes its part."""
    generator = torch.Generator().manual_seed(0)
    while True:
        yield torch.rand(4, 2, generator=generator)[rows]


def train(model, rows: slice):
    from detectron2.engine import SimpleTrainer

    trainer = SimpleTrainer(model, batches(rows), torch.optim.SGD(model.parameters(), lr=0.1))
    trainer.train(0, 3)
    return trainer


def use_collectives(folder: Path) -> dict:
    rank = comm.get_rank()
    np.random.seed(rank)  # the shared seed must not depend on it
    got = {
        "size": comm.get_world_size(),
        "local": [comm.get_local_rank(), comm.get_local_size()],
        "main": comm.is_main_process(),
        "all_gather": comm.all_gather({"rank": rank, "text": "x" * (1 + 1000 * rank)}),
        "gather": comm.gather(rank * 10),
        "gather_to_1": comm.gather(rank * 10, dst=1),
        "seed": comm.shared_random_seed(),
    }
    mean = comm.reduce_dict({"b": torch.tensor(float(rank)), "a": torch.tensor(1.0)})
    total = comm.reduce_dict({"b": torch.tensor(float(rank + 1))}, average=False)
    if rank == 0:
        got["mean"] = {name: value.item() for name, value in mean.items()}
        got["total"] = total["b"].item()
    (folder / f"early_{rank}").touch()
    comm.synchronize()
    got["both_arrived"] = all((folder / f"early_{other}").exists() for other in (0, 1))
    return got


def train_in_parallel(folder: Path) -> dict:
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.engine import create_ddp_model

    rank = comm.get_rank()
    torch.manual_seed(rank)  # different weights, until the file is loaded, which only rank 0 has
    model = TinyModel()
    DetectionCheckpointer(model).load(str(folder / ("start.pth" if rank == 0 else "absent.pth")))
    trainer = train(create_ddp_model(model, broadcast_buffers=False), slice(2 * rank, 2 * rank + 2))
    losses = [value for value, _ in trainer.storage.history("total_loss").values()] if rank == 0 else []
    return {"weights": model.linear.weight.flatten().tolist(), "losses": losses}


def work(folder: str) -> None:
    """What each of the two processes does; rank 1 fails at last."""
    got = use_collectives(Path(folder))
    if detectron2_provider() == "builtin":
        got |= train_in_parallel(Path(folder))
    (Path(folder) / f"{comm.get_rank()}.json").write_text(json.dumps(got))
    comm.synchronize()
    if comm.get_rank() == 1:
        raise RuntimeError("rank one has had enough")


@pytest.fixture(scope="module")
def start() -> dict:
    torch.manual_seed(3)
    return TinyModel().state_dict()


@pytest.fixture(scope="module")
def two(tmp_path_factory, start):
    """What the two processes wrote, and the error that arrived; started once, for that takes seconds."""
    from detectron2.engine import launch

    if torch.cuda.is_available():
        pytest.skip("launch would take the GPUs")
    folder = tmp_path_factory.mktemp("two")
    torch.save({"model": start}, folder / "start.pth")
    with pytest.raises(Exception) as error:
        launch(work, 2, dist_url="auto", args=(str(folder),))
    return *(json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)), str(error.value)


def test_ranks_of_two_processes(two):
    first, second, _ = two
    assert first["size"] == second["size"] == 2
    assert (first["local"], second["local"]) == ([0, 2], [1, 2])
    assert (first["main"], second["main"]) == (True, False)


def test_collectives_of_two_processes(two):
    first, second, _ = two
    assert first["all_gather"] == second["all_gather"]
    assert [(got["rank"], len(got["text"])) for got in first["all_gather"]] == [(0, 1), (1, 1001)]
    assert (first["gather"], second["gather"]) == ([0, 10], [])
    assert (first["gather_to_1"], second["gather_to_1"]) == ([], [0, 10])
    assert first["seed"] == second["seed"]
    assert first["mean"] == {"a": 1.0, "b": 0.5} and first["total"] == 3.0
    assert first["both_arrived"] and second["both_arrived"]


def test_an_error_in_a_process_arrives(two):
    assert "rank one has had enough" in two[2]


@only_builtin
def test_data_parallel_training_equals_one_process(two, start):
    first, second, _ = two
    alone = TinyModel()
    alone.load_state_dict(start)
    trainer = train(alone, slice(None))
    assert first["weights"] == second["weights"]
    assert first["weights"] == pytest.approx(alone.linear.weight.flatten().tolist(), rel=1e-5)
    # the logged loss is the mean over both processes
    assert first["losses"] == pytest.approx([v for v, _ in trainer.storage.history("total_loss").values()], rel=1e-5)
