"""One training step by itself: random numbers, clipping of unscaled gradients, what a failed batch leaves behind."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from detectron2.utils.events import EventStorage
from torch import nn

from mvseg.training import clip_gradients
from mvseg.training.step import TrainingStep, choose_precision, plain


class Weight(nn.Module):
    def __init__(self):
        super().__init__()
        self.value = nn.Parameter(torch.zeros(3))

    def forward(self, batch):
        return {"loss": (self.value * batch[0]["slope"]).sum() + torch.rand(()) * self.value[0]}


def steps(batches, **arguments) -> nn.Module:
    model = Weight()
    step = TrainingStep(model, batches, torch.optim.SGD(model.parameters(), lr=1.0), **arguments)
    with EventStorage() as storage:
        step.storage = storage
        for step.iter in range(2):
            step.run_step()
    return model


def batches(draw: bool):
    for _ in range(2):
        if draw:
            torch.rand(5)
        yield [{"slope": torch.tensor([0.5, -3.0, 0.0])}]


def test_random_numbers_of_a_step_do_not_depend_on_the_loader():
    assert torch.equal(steps(batches(False), seed=5).value, steps(batches(True), seed=5).value)
    assert not torch.equal(steps(batches(False), seed=5).value, steps(batches(False), seed=6).value)


@pytest.mark.parametrize("precision", [None, torch.float16, torch.bfloat16])
def test_gradients_are_clipped_after_unscaling(precision):
    model = steps(batches(False), precision=precision, clip=lambda p: clip_gradients(p, "value", 0.1), seed=0)
    assert model.value.tolist() == pytest.approx([-0.2, 0.2, 0.0], rel=1e-3)


class Failing(Weight):
    """Fails before there is a loss, as models do whose numbers are not finite."""

    def forward(self, batch):
        raise self.error


@pytest.mark.parametrize(
    ("error", "weight", "message"),
    [
        (FloatingPointError("boxes are NaN"), 0.0, r"iteration 0: boxes are NaN; images: 7.*SOLVER.BASE_LR"),
        (IndexError("anything"), float("nan"), r"iteration 0: 1 parameters are not finite, such as value; images: 7"),
    ],
)
def test_divergence_inside_the_model_saves_the_inputs(tmp_path, error, weight, message):
    model = Failing()
    model.error = error
    torch.nn.init.constant_(model.value, weight)
    batch = [{"image_id": 7}]
    step = TrainingStep(model, iter([batch]), torch.optim.SGD(model.parameters(), lr=1.0), output_dir=tmp_path)
    step.iter = 0
    with pytest.raises(FloatingPointError, match=message) as caught:
        step.run_step()
    assert caught.value.__cause__ is error
    assert torch.load(tmp_path / "nan_inputs.pt", weights_only=True)["batch"] == batch


def test_other_errors_of_the_model_stay_as_they_are(tmp_path):
    model = Failing()
    model.error = IndexError("anything")
    step = TrainingStep(model, iter([[{}]]), torch.optim.SGD(model.parameters(), lr=1.0), output_dir=tmp_path)
    step.iter = 0
    with pytest.raises(IndexError, match="anything"):
        step.run_step()
    assert not list(tmp_path.iterdir())


def test_precision_names():
    assert choose_precision("float16") == torch.float16
    with pytest.raises(ValueError, match=r"SOLVER.AMP.DTYPE 'fp16'.*bfloat16, float16"):
        choose_precision("fp16")


def test_a_batch_becomes_plain_tensors(tmp_path):
    instances = Instances((4, 6))
    instances.gt_boxes = Boxes(torch.tensor([[0.0, 1, 2, 3]]))
    instances.gt_masks = PolygonMasks([[np.array([0.0, 1, 2, 3, 4, 5])]])
    bits = Instances((4, 6))
    bits.gt_masks = BitMasks(torch.ones(1, 4, 6, dtype=torch.bool))
    batch = [
        {"instances": instances, "size": (4, 6), "name": "x", "other": np.float64(2.5), "points": np.ones((2, 2))},
        {"instances": bits},
    ]
    torch.save(plain(batch), tmp_path / "batch.pt")
    loaded = torch.load(tmp_path / "batch.pt", weights_only=True)
    assert loaded[0]["instances"]["gt_boxes"].tolist() == [[0, 1, 2, 3]]
    assert loaded[0]["instances"]["image_size"] == [4, 6] and loaded[0]["size"] == [4, 6]
    assert loaded[0]["instances"]["gt_masks"][0][0].tolist() == [0, 1, 2, 3, 4, 5]
    assert type(loaded[0]["other"]) is float and loaded[0]["points"].shape == (2, 2)
    assert loaded[1]["instances"]["gt_masks"].shape == (1, 4, 6)
