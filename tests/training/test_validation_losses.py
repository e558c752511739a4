"""The validation loss: the training loss without its side effects."""

from __future__ import annotations

import pytest
import torch
from detectron2.utils.events import EventStorage, get_event_storage
from torch import nn

from mvseg.training import validation_losses


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(1)
        self.drop = nn.Dropout(0.5)
        self.inner = nn.ModuleList([nn.Identity()])

    def forward(self, batch):
        assert self.training and self.inner[0].training
        x = torch.tensor([[record["value"]] for record in batch])
        get_event_storage().put_scalar("seen", 1.0)
        noise = torch.rand(()) * 0.1
        return {"loss_x": self.drop(self.norm(x)).mean() + noise, "loss_two": x.new_tensor(2.0)}


def test_losses_are_weighted_by_images_and_leave_no_trace():
    model = Noisy()
    model.drop.eval()  # a mode that must come back
    loader = [[{"value": 1.0}, {"value": 3.0}], [{"value": 8.0}]]
    torch.manual_seed(0)
    noise = torch.rand(2) * 0.1
    torch.manual_seed(7)
    with EventStorage() as storage:
        losses = validation_losses(model, loader)
        assert "seen" not in storage.latest()
    # running mean 0 and variance 1: the normalisation leaves the values as they are
    expected = ((2.0 + noise[0]) * 2 + (8.0 + noise[1])) / 3
    assert losses["loss_x"] == pytest.approx(expected.item(), rel=1e-4)
    assert losses["total"] == pytest.approx(losses["loss_x"] + 2.0)
    assert model.norm.num_batches_tracked == 0 and model.norm.running_mean == 0
    assert model.training and not model.drop.training
    after = torch.rand(1)
    torch.manual_seed(7)
    assert torch.equal(after, torch.rand(1))
    assert validation_losses(model, loader) == losses
