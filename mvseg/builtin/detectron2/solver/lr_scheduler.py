"""Warmup, and fvcore's schedules as torch learning-rate schedulers."""

from __future__ import annotations

import math
from bisect import bisect_right
from typing import Any

from fvcore.common.param_scheduler import (
    CompositeParamScheduler,
    ConstantParamScheduler,
    LinearParamScheduler,
    ParamScheduler,
)
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.optimizer import Optimizer


class WarmupParamScheduler(CompositeParamScheduler):
    """A schedule whose first ``warmup_length`` (share of the training) is a warmup.

    The warmup starts at ``warmup_factor`` times the schedule's start. "linear" climbs to where the schedule takes over,
    "constant" stays. With ``rescale_interval`` the whole schedule is squeezed behind the warmup, otherwise its first
    part is covered by it.
    """

    def __init__(
        self,
        scheduler: ParamScheduler,
        warmup_factor: float,
        warmup_length: float,
        warmup_method: str = "linear",
        rescale_interval: bool = False,
    ) -> None:
        start = warmup_factor * scheduler(0.0)
        if warmup_method == "linear":
            warmup: ParamScheduler = LinearParamScheduler(start, scheduler(0.0 if rescale_interval else warmup_length))
        elif warmup_method == "constant":
            warmup = ConstantParamScheduler(start)
        else:
            raise ValueError(f"warmup method {warmup_method!r}: there are linear and constant")
        super().__init__(
            [warmup, scheduler],
            lengths=[warmup_length, 1.0 - warmup_length],
            interval_scaling=["rescaled", "rescaled" if rescale_interval else "fixed"],
        )


class LRMultiplier(LRScheduler):
    """Every group's learning rate is its initial one times ``multiplier(iteration / max_iter)``."""

    def __init__(self, optimizer: Optimizer, multiplier: ParamScheduler, max_iter: int, last_iter: int = -1) -> None:
        if not isinstance(multiplier, ParamScheduler):
            raise ValueError(f"LRMultiplier takes an fvcore ParamScheduler, not {type(multiplier).__name__}")
        self._multiplier = multiplier
        self._max_iter = max_iter
        super().__init__(optimizer, last_epoch=last_iter)

    def state_dict(self) -> dict[str, Any]:
        # The schedule itself comes from the config, which may change between runs.
        return {"base_lrs": self.base_lrs, "last_epoch": self.last_epoch}

    def get_lr(self) -> list[float]:
        factor = self._multiplier(self.last_epoch / self._max_iter)
        return [base * factor for base in self.base_lrs]


class _WarmupLR(LRScheduler):
    """A closed-form schedule in iterations with warmup; the older interface, without knowledge of fvcore."""

    def __init__(
        self, optimizer: Optimizer, warmup_factor: float, warmup_iters: int, warmup_method: str, last_epoch: int
    ) -> None:
        self.warmup_factor, self.warmup_iters, self.warmup_method = warmup_factor, warmup_iters, warmup_method
        super().__init__(optimizer, last_epoch)

    def _decay(self, iteration: int) -> float:
        raise NotImplementedError

    def get_lr(self) -> list[float]:
        warmup = _get_warmup_factor_at_iter(self.warmup_method, self.last_epoch, self.warmup_iters, self.warmup_factor)
        return [base * warmup * self._decay(self.last_epoch) for base in self.base_lrs]


class WarmupMultiStepLR(_WarmupLR):
    """Times ``gamma`` at every milestone."""

    def __init__(
        self,
        optimizer: Optimizer,
        milestones: list[int],
        gamma: float = 0.1,
        warmup_factor: float = 0.001,
        warmup_iters: int = 1000,
        warmup_method: str = "linear",
        last_epoch: int = -1,
    ) -> None:
        if list(milestones) != sorted(milestones):
            raise ValueError(f"milestones must increase: {milestones}")
        self.milestones, self.gamma = milestones, gamma
        super().__init__(optimizer, warmup_factor, warmup_iters, warmup_method, last_epoch)

    def _decay(self, iteration: int) -> float:
        return self.gamma ** bisect_right(self.milestones, iteration)


class WarmupCosineLR(_WarmupLR):
    """Half a cosine from 1 to 0 over ``max_iters``."""

    def __init__(
        self,
        optimizer: Optimizer,
        max_iters: int,
        warmup_factor: float = 0.001,
        warmup_iters: int = 1000,
        warmup_method: str = "linear",
        last_epoch: int = -1,
    ) -> None:
        self.max_iters = max_iters
        super().__init__(optimizer, warmup_factor, warmup_iters, warmup_method, last_epoch)

    def _decay(self, iteration: int) -> float:
        return 0.5 * (1.0 + math.cos(math.pi * iteration / self.max_iters))


def _get_warmup_factor_at_iter(method: str, iter: int, warmup_iters: int, warmup_factor: float) -> float:
    """Factor of the learning rate: linear from ``warmup_factor`` to 1, or constant ``warmup_factor`` and then 1."""
    if method not in ("linear", "constant"):
        raise ValueError(f"warmup method {method!r}: there are linear and constant")
    if iter >= warmup_iters:
        return 1.0
    done = iter / warmup_iters if method == "linear" else 0.0
    return warmup_factor + (1.0 - warmup_factor) * done
