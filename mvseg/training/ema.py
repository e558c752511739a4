"""Exponential moving average of a model's weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


class ModelEma:
    """Keep an average of a model's parameters and floating-point buffers beside the model.

    Args:
        model: the model, not wrapped; its weights are the first average.
        decay: share of the old average that is kept in every step. In the first steps (1 + t) / (10 + t) is used where
            that is smaller, so that the random initial weights are soon forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.restart(model)

    def restart(self, model: nn.Module) -> None:
        """Forget the past: the model's present weights are the average.

        Args:
            model: the model, not wrapped.
        """
        self.steps = 0
        self.shadow = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards the model's present weights: average = d * average + (1 - d) * weights.

        Args:
            model: the model, with the names and shapes that it had at first.
        """
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        self.steps += 1
        averages, values = [], []
        for name, value in model.state_dict().items():
            average = self.shadow[name]
            if average.is_floating_point():
                averages.append(average)
                values.append(value.to(average.dtype))
            else:  # counters such as num_batches_tracked
                average.copy_(value)
        torch._foreach_lerp_(averages, values, 1.0 - decay)  # few large kernels on a GPU

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Let the model carry the average inside a ``with`` block; its own weights come back afterwards.

        Args:
            model: the model whose weights are exchanged.
        """
        own = {name: value.detach().clone() for name, value in model.state_dict().items()}
        model.load_state_dict(self.shadow)
        try:
            yield
        finally:
            model.load_state_dict(own)

    def state_dict(self) -> dict[str, Any]:
        """Give the state for a checkpoint.

        Returns:
            ``steps`` and ``shadow`` (name to tensor).
        """
        return {"steps": self.steps, "shadow": self.shadow}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the state of a checkpoint.

        Args:
            state: from :meth:`state_dict`.

        Raises:
            ValueError: if the state belongs to another model.
        """
        if set(state["shadow"]) != set(self.shadow):
            other = sorted(set(state["shadow"]) ^ set(self.shadow))
            raise ValueError(f"the checkpoint's EMA is of another model; they differ in {', '.join(other[:5])}")
        self.steps = state["steps"]
        for name, value in state["shadow"].items():
            self.shadow[name].copy_(value)
