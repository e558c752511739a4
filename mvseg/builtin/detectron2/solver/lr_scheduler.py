"""Warmup, and fvcore's schedules as torch learning-rate schedulers."""

from typing import Any

from fvcore.common.param_scheduler import CompositeParamScheduler, LinearParamScheduler, ParamScheduler
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.optimizer import Optimizer


class WarmupParamScheduler(CompositeParamScheduler):
    """A schedule whose first ``warmup_length`` (share of the training) is a warmup.

    The warmup starts at ``warmup_factor`` times the schedule's start. "linear" climbs to where the schedule takes over,
    "constant" stays. With ``rescale_interval`` the whole schedule is squeezed behind the warmup, otherwise its first
    part is covered by it.
    """

    def __init__(self, scheduler, warmup_factor, warmup_length, warmup_method="linear", rescale_interval=False) -> None:
        if warmup_method not in ("linear", "constant"):
            raise ValueError(f"warmup method {warmup_method!r}: there are linear and constant")
        start = end = warmup_factor * scheduler(0.0)
        if warmup_method == "linear":
            end = scheduler(0.0 if rescale_interval else warmup_length)
        parts, lengths = [LinearParamScheduler(start, end), scheduler], [warmup_length, 1.0 - warmup_length]
        super().__init__(parts, lengths, ["rescaled", "rescaled" if rescale_interval else "fixed"])


class LRMultiplier(LRScheduler):
    """Every group's learning rate is its initial one times ``multiplier(iteration / max_iter)``."""

    def __init__(self, optimizer: Optimizer, multiplier: ParamScheduler, max_iter: int, last_iter: int = -1) -> None:
        if not isinstance(multiplier, ParamScheduler):
            raise ValueError(f"LRMultiplier takes an fvcore ParamScheduler, not {type(multiplier).__name__}")
        self._multiplier, self._max_iter = multiplier, max_iter
        super().__init__(optimizer, last_epoch=last_iter)

    def state_dict(self) -> dict[str, Any]:
        # The schedule itself comes from the config, which may change between runs.
        return {"base_lrs": self.base_lrs, "last_epoch": self.last_epoch}

    def get_lr(self) -> list[float]:
        factor = self._multiplier(self.last_epoch / self._max_iter)
        return [base * factor for base in self.base_lrs]
