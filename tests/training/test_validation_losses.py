"""The validation loss: the training loss without its side effects."""

from __future__ import annotations

import pytest
import torch
from detectron2.utils.events import EventStorage, get_event_storage
from torch import nn

from mvseg.training import validation_losses
from mvseg.training.validation import trained_as


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


def test_test_set_is_shown_as_the_training_set_with_its_words(cards):
    from mvseg.data import get_vocabulary, register_cards
    from mvseg.vocabulary import LabelSpace, Vocabulary

    register_cards(cards)
    model = Noisy()
    assert trained_as(model, "tiny_a") == "tiny_a"  # no label space: nothing to look up
    model.label_space = LabelSpace.concatenate({"t_b": get_vocabulary("tiny_b"), "t_a": get_vocabulary("tiny_a")})
    assert trained_as(model, "tiny_a") == "t_a"
    model.label_space = LabelSpace.concatenate({"t": Vocabulary.from_names(["square"], "tiny_a")})
    assert trained_as(model, "tiny_a") is None

    seen = []

    class Spy(Noisy):
        def forward(self, batch):
            seen.extend(record["dataset"] for record in batch)
            return super().forward(batch)

    loader = [[{"value": 1.0, "dataset": "val"}]]
    validation_losses(Spy(), loader, "train")
    assert seen == ["train"] and loader[0][0]["dataset"] == "val"
