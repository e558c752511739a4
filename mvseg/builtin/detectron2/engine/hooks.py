"""Hooks: timing, writing of events, checkpoints, learning rate, evaluation, batch-norm statistics."""

import datetime
import functools
import itertools
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from detectron2._missing import module_getattr
from detectron2.engine.train_loop import HookBase
from detectron2.solver import LRMultiplier
from detectron2.solver import LRScheduler as _TorchLRScheduler
from detectron2.utils import comm
from detectron2.utils.events import EventStorage, EventWriter
from fvcore.common.checkpoint import PeriodicCheckpointer as _PeriodicCheckpointer
from fvcore.common.param_scheduler import ParamScheduler
from fvcore.common.timer import Timer
from fvcore.nn.precise_bn import get_bn_modules, update_bn_stats

logger = logging.getLogger(__name__)


class CallbackHook(HookBase):
    """A hook from functions, each of which is called with the trainer."""

    def __init__(self, *, before_train=None, after_train=None, before_step=None, after_step=None) -> None:
        given = {"before_train": before_train, "after_train": after_train}
        given |= {"before_step": before_step, "after_step": after_step}
        for event, callback in given.items():
            if callback is not None:
                setattr(self, event, functools.partial(self._call, callback))

    def _call(self, callback: Callable) -> None:
        callback(self.trainer)


class IterationTimer(HookBase):
    """Puts the scalar "time" (seconds of each iteration, without other hooks); register it first."""

    def __init__(self, warmup_iter: int = 3) -> None:
        self._warmup_iter = warmup_iter
        self._step_timer, self._total_timer = Timer(), Timer()

    def before_train(self) -> None:
        self._total_timer.reset()
        self._total_timer.pause()

    def before_step(self) -> None:
        self._step_timer.reset()
        self._total_timer.resume()

    def after_step(self) -> None:
        if self.trainer.iter - self.trainer.start_iter + 1 >= self._warmup_iter:
            self.trainer.storage.put_scalars(time=self._step_timer.seconds())
        else:
            self._total_timer.reset()
        self._total_timer.pause()

    def after_train(self) -> None:
        iterations = self.trainer.iter - self.trainer.start_iter - self._warmup_iter + 1
        seconds = self._total_timer.seconds()
        if iterations > 0 and seconds > 0:
            total = datetime.timedelta(seconds=int(seconds))
            logger.info("%d iterations took %s (%.4f s each)", iterations, total, seconds / iterations)


class PeriodicWriter(HookBase):
    """Calls event writers every ``period`` iterations and at the end."""

    def __init__(self, writers: Iterable[EventWriter], period: int = 20) -> None:
        self._writers, self._period = list(writers), period

    def after_step(self) -> None:
        next_iter = self.trainer.iter + 1
        if next_iter % self._period == 0 or next_iter == self.trainer.max_iter:
            self._write()

    def after_train(self) -> None:
        # Once more: other hooks put their last values in after_train.
        self._write()
        for writer in self._writers:
            writer.close()

    def _write(self) -> None:
        for writer in self._writers:
            writer.write()


class PeriodicCheckpointer(_PeriodicCheckpointer, HookBase):
    """fvcore's PeriodicCheckpointer as a hook."""

    def before_train(self) -> None:
        self.max_iter = self.trainer.max_iter

    def after_step(self) -> None:
        self.step(self.trainer.iter)


class BestCheckpointer(HookBase):
    """Saves a checkpoint whenever a metric is better than ever; register it after the hook that evaluates."""

    def __init__(self, eval_period, checkpointer, val_metric, mode="max", file_prefix="model_best") -> None:
        if mode not in ("max", "min"):
            raise AssertionError(f"mode {mode!r}: use max or min")
        self._period, self._checkpointer, self._file_prefix = eval_period, checkpointer, file_prefix
        self._val_metric, self._sign = val_metric, 1.0 if mode == "max" else -1.0
        self.best_metric: float | None = None
        self.best_iter: int | None = None

    def _best_checking(self) -> None:
        latest = self.trainer.storage.latest()
        if self._val_metric not in latest:
            logger.warning(
                "no best checkpoint: no evaluation put %s, only %s", self._val_metric, ", ".join(sorted(latest))
            )
            return
        value, iteration = latest[self._val_metric]
        worse = self.best_metric is not None and self._sign * value <= self._sign * self.best_metric
        if worse or not math.isfinite(value):
            return
        logger.info("%s improved from %s to %.5g at iteration %d", self._val_metric, self.best_metric, value, iteration)
        self.best_metric, self.best_iter = value, iteration
        self._checkpointer.save(self._file_prefix, iteration=iteration)

    def after_step(self) -> None:
        next_iter = self.trainer.iter + 1
        if self._period > 0 and next_iter % self._period == 0 and next_iter != self.trainer.max_iter:
            self._best_checking()

    def after_train(self) -> None:
        if self.trainer.iter + 1 >= self.trainer.max_iter:
            self._best_checking()

    def state_dict(self) -> dict[str, Any]:
        return {} if self.best_metric is None else {"best_metric": self.best_metric, "best_iter": self.best_iter}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_metric, self.best_iter = state_dict["best_metric"], state_dict["best_iter"]


class LRScheduler(HookBase):
    """Puts the scalar "lr" and steps the scheduler (torch's, or fvcore's over the whole training)."""

    def __init__(self, optimizer: torch.optim.Optimizer | None = None, scheduler: Any = None) -> None:
        self._optimizer, self._scheduler = optimizer, scheduler

    def before_train(self) -> None:
        self._optimizer = self._optimizer or self.trainer.optimizer  # type: ignore[attr-defined]
        if isinstance(self.scheduler, ParamScheduler):
            rest = (self.trainer.max_iter, self.trainer.iter - 1)
            self._scheduler = LRMultiplier(self._optimizer, self.scheduler, *rest)
        self._shown_group = self.get_best_param_group_id(self._optimizer)

    @staticmethod
    def get_best_param_group_id(optimizer: torch.optim.Optimizer) -> int:
        """Choose the group whose rate is shown: the largest; of groups of one, one of the commonest rate."""
        sizes = [len(group["params"]) for group in optimizer.param_groups]
        if max(sizes) > 1:
            return sizes.index(max(sizes))
        rates = [group["lr"] for group in optimizer.param_groups]
        return rates.index(Counter(rates).most_common(1)[0][0])

    def after_step(self) -> None:
        rate = self._optimizer.param_groups[self._shown_group]["lr"]  # type: ignore[union-attr]
        self.trainer.storage.put_scalar("lr", rate, smoothing_hint=False)
        self.scheduler.step()

    @property
    def scheduler(self) -> Any:
        """The hook's own scheduler, or the trainer's."""
        return self._scheduler or self.trainer.scheduler  # type: ignore[attr-defined]

    def state_dict(self) -> dict[str, Any]:
        return self.scheduler.state_dict() if isinstance(self.scheduler, _TorchLRScheduler) else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if isinstance(self.scheduler, _TorchLRScheduler):
            self.scheduler.load_state_dict(state_dict)


class EvalHook(HookBase):
    """Calls an evaluation function every ``eval_period`` iterations (0: never) and after training.

    The function returns None or a (nested) dict of numbers, which become scalars named "outer/inner". Every rank has
    the hook; a rank that does not evaluate gets a function that returns None.
    """

    def __init__(
        self, eval_period: int, eval_function: Callable[[], Mapping | None], eval_after_train: bool = True
    ) -> None:
        self._period, self._eval_after_train = eval_period, eval_after_train
        self._func: Callable[[], Mapping | None] | None = eval_function

    def _do_eval(self) -> None:
        from detectron2.evaluation.testing import flatten_results_dict

        results = self._func() or {}  # type: ignore[misc]
        if not isinstance(results, Mapping):
            raise AssertionError(f"the evaluation function must return a dict, not {type(results).__name__}")
        for name, value in flatten_results_dict(results).items():
            try:
                self.trainer.storage.put_scalar(name, float(value), smoothing_hint=False)
            except (TypeError, ValueError) as error:
                raise ValueError(f"evaluation result {name} must be a number, not {value!r}") from error
        comm.synchronize()  # nobody runs ahead into a collective call of the next iteration

    def after_step(self) -> None:
        next_iter = self.trainer.iter + 1
        if self._period > 0 and next_iter % self._period == 0 and next_iter != self.trainer.max_iter:
            self._do_eval()

    def after_train(self) -> None:
        # trainer.iter stays below max_iter when training failed
        if self._eval_after_train and self.trainer.iter + 1 >= self.trainer.max_iter:
            self._do_eval()
        self._func = None  # it often refers to the trainer


class PreciseBN(HookBase):
    """Every ``period`` iterations, replaces batch-norm statistics by averages over ``num_iter`` batches."""

    def __init__(self, period: int, model: torch.nn.Module, data_loader: Iterable, num_iter: int) -> None:
        self._period, self._num_iter = period, num_iter
        self._model, self._data_loader = model, data_loader
        self._data_iter: Any = None
        self._disabled = not get_bn_modules(model)
        if self._disabled:
            logger.info("PreciseBN is off: the model has no batch norm in training mode")

    def after_step(self) -> None:
        next_iter = self.trainer.iter + 1
        if next_iter == self.trainer.max_iter or (self._period > 0 and next_iter % self._period == 0):
            self.update_stats()

    def update_stats(self) -> None:
        """Run the batches through the model; what it puts into an event storage is thrown away."""
        if self._disabled:
            return
        if self._data_iter is None:
            self._data_iter = iter(self._data_loader)
        logger.info("precise batch-norm statistics from %d batches", self._num_iter)
        with EventStorage():
            update_bn_stats(self._model, itertools.islice(self._data_iter, self._num_iter), self._num_iter)


__getattr__ = module_getattr(__name__)
