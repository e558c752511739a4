"""Several processes: one that fails stops the others, and none waits for what another does not do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2.utils.events import EventStorage
from torch import nn
from torch.multiprocessing import spawn

from mvseg.training.hooks import EvaluationHook
from mvseg.training.step import TrainingStep


class Slope(nn.Module):
    def __init__(self):
        super().__init__()
        self.value = nn.Parameter(torch.zeros(()))

    def forward(self, batch):
        return {"loss_a": self.value * batch[0]["slope"], "loss_b": self.value.square()}


def train(rank: int, meeting_point: str, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=meeting_point, rank=rank, world_size=2)
    model = nn.parallel.DistributedDataParallel(Slope())
    slopes = iter([1.0, float("nan") if rank else 1.0, 1.0])
    batches = ([{"slope": slope, "image_id": f"{rank}"}] for slope in slopes)
    step = TrainingStep(model, batches, torch.optim.SGD(model.parameters(), lr=1.0), output_dir=folder)
    with EventStorage(), pytest.raises(FloatingPointError) as caught:
        for step.iter in range(3):
            step.run_step()
    (Path(folder) / f"rank{rank}.txt").write_text(f"{step.iter} {float(model.module.value)} {caught.value}")
    torch.distributed.destroy_process_group()


def test_nan_on_one_process_stops_all_after_the_same_step(tmp_path: Path):
    spawn(train, (f"file://{tmp_path}/meeting", str(tmp_path)), nprocs=2)
    main, other = ((tmp_path / f"rank{rank}.txt").read_text() for rank in range(2))
    assert main.startswith("1 -1.0 ") and "another process" in main
    assert other.startswith("1 -1.0 ") and "loss_a = nan" in other and "images: 1" in other
    assert torch.load(tmp_path / "nan_inputs_rank1.pt", weights_only=True)["iteration"] == 1
    assert not (tmp_path / "nan_inputs.pt").exists()


class FailingInTheEnd:
    """What a hook sees of a trainer: after an error ``iter`` stays below ``max_iter``."""

    max_iter = 5
    storage = EventStorage()

    def __init__(self, iteration: int) -> None:
        self.iter = iteration


@pytest.mark.parametrize(("iteration", "expected"), [(4, 0), (5, 1)])
def test_no_evaluation_after_a_failure_in_the_last_iteration(iteration: int, expected: int):
    calls = []
    hook = EvaluationHook(2, lambda: calls.append(1))
    hook.trainer = FailingInTheEnd(iteration)
    hook.after_train()
    assert len(calls) == expected
