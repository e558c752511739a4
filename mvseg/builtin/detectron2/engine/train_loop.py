"""The training loop: a trainer runs steps and calls hooks around them."""

from __future__ import annotations

import logging
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from detectron2.utils import comm
from detectron2.utils.events import EventStorage, get_event_storage
from detectron2.utils.logger import _log_api_usage
from torch import nn
from torch.optim.optimizer import Optimizer


class HookBase:
    """Something to do around the steps of a trainer, which is :attr:`trainer` from registration on."""

    trainer: TrainerBase = None  # type: ignore[assignment]

    def before_train(self) -> None:
        """Before the first iteration."""

    def after_train(self) -> None:
        """After the last iteration, also when training ends with an error."""

    def before_step(self) -> None:
        """Before each iteration."""

    def after_backward(self) -> None:
        """Between the backward pass and the optimizer's step."""

    def after_step(self) -> None:
        """After each iteration."""

    def state_dict(self) -> dict[str, Any]:
        """What must survive a restart; a hook that returns something here also has ``load_state_dict``."""
        return {}


class TrainerBase:
    """Loop over ``run_step``, which subclasses define.

    Attributes:
        iter: the iteration that runs, or ran last; from ``start_iter`` to below ``max_iter``.
        storage: the EventStorage of the current ``train``.
    """

    def __init__(self) -> None:
        self._hooks: list[HookBase] = []
        self.iter: int = 0
        self.start_iter: int = 0
        self.max_iter: int = 0
        self.storage: EventStorage = None  # type: ignore[assignment]
        _log_api_usage(f"trainer.{type(self).__name__}")

    def register_hooks(self, hooks: Iterable[HookBase | None]) -> None:
        """Append hooks; they run in the order of registration. None entries are skipped."""
        for hook in filter(None, hooks):
            if not isinstance(hook, HookBase):
                raise TypeError(f"{hook!r} is no HookBase")
            hook.trainer = weakref.proxy(self)  # no cycle, so that a deleted trainer frees its memory
            self._hooks.append(hook)

    def train(self, start_iter: int, max_iter: int) -> None:
        """Run the iterations from ``start_iter`` to below ``max_iter``."""
        logger = logging.getLogger(__name__)
        logger.info("training from iteration %d to %d", start_iter, max_iter)
        self.start_iter, self.iter, self.max_iter = start_iter, start_iter, max_iter
        with EventStorage(start_iter) as storage, ExitStack() as at_the_end:
            self.storage = storage
            at_the_end.callback(self.after_train)
            try:
                self.before_train()
                while self.iter < self.max_iter:
                    for part in (self.before_step, self.run_step, self.after_step):
                        part()
                    self.iter += 1
            except Exception:
                logger.exception("training stopped at iteration %d", self.iter)
                raise

    def _call_hooks(self, event: str) -> None:
        for hook in self._hooks:
            getattr(hook, event)()

    def before_train(self) -> None:
        self._call_hooks("before_train")

    def after_train(self) -> None:
        self.storage.iter = self.iter
        self._call_hooks("after_train")

    def before_step(self) -> None:
        self.storage.iter = self.iter
        self._call_hooks("before_step")

    def after_backward(self) -> None:
        self._call_hooks("after_backward")

    def after_step(self) -> None:
        self._call_hooks("after_step")

    def run_step(self) -> None:
        raise NotImplementedError

    def _named_hooks(self) -> Iterable[tuple[str, HookBase]]:
        """Hooks with the names of their states: the class name, numbered from the second hook of a class on."""
        count: Counter[str] = Counter()
        for hook in self._hooks:
            name = type(hook).__qualname__
            count[name] += 1
            yield (name if count[name] == 1 else f"{name}#{count[name]}"), hook

    def state_dict(self) -> dict[str, Any]:
        hooks = {name: content for name, hook in self._named_hooks() if (content := hook.state_dict())}
        return {"iteration": self.iter} | ({"hooks": hooks} if hooks else {})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.iter = state_dict["iteration"]
        hooks = dict(self._named_hooks())
        for name, content in state_dict.get("hooks", {}).items():
            if name in hooks:
                hooks[name].load_state_dict(content)  # type: ignore[attr-defined]
            else:
                logging.getLogger(__name__).warning("the checkpoint has a state of hook %s, which is not here", name)


class SimpleTrainer(TrainerBase):
    """One model, one data loader, one optimizer; the model returns a dict of losses, whose sum is minimised.

    Args of the constructor: metrics go from all ranks to rank 0 every ``gather_metric_period`` iterations;
    ``zero_grad_before_forward`` resets gradients before instead of after the forward pass;
    ``async_write_metrics`` leaves the waiting for the metrics to another thread.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable,
        optimizer: Optimizer,
        gather_metric_period: int = 1,
        zero_grad_before_forward: bool = False,
        async_write_metrics: bool = False,
    ) -> None:
        super().__init__()
        model.train()
        self.model, self.data_loader, self.optimizer = model, data_loader, optimizer
        self.gather_metric_period = gather_metric_period
        self.zero_grad_before_forward, self.async_write_metrics = zero_grad_before_forward, async_write_metrics
        self._data_loader_iter_obj: Any = None
        self._metric_thread = ThreadPoolExecutor(max_workers=1) if async_write_metrics else None

    def run_step(self) -> None:
        data, data_time = self._next_batch()
        losses, total = self._forward(data)
        total.backward()
        self.after_backward()
        self._write_metrics(losses, data_time)
        self.optimizer.step()

    def _next_batch(self) -> tuple[Any, float]:
        if not self.model.training:
            raise AssertionError(f"{type(self).__name__}: the model was put into eval mode and not back")
        start = time.perf_counter()
        data = next(self._data_loader_iter)
        return data, time.perf_counter() - start

    def _forward(self, data: Any) -> tuple[Mapping[str, torch.Tensor], torch.Tensor]:
        if self.zero_grad_before_forward:
            self.optimizer.zero_grad()
        losses = self.model(data)
        if isinstance(losses, torch.Tensor):
            losses = {"total_loss": losses}
        total = sum(losses.values())
        if not self.zero_grad_before_forward:
            self.optimizer.zero_grad()
        return losses, total

    @property
    def _data_loader_iter(self) -> Any:
        if self._data_loader_iter_obj is None:  # only now, so that worker processes start as late as possible
            self._data_loader_iter_obj = iter(self.data_loader)
        return self._data_loader_iter_obj

    def reset_data_loader(self, data_loader_builder: Callable[[], Iterable]) -> None:
        """Replace the loader; the old one is freed before the new one is built."""
        del self.data_loader
        self._data_loader_iter_obj = None
        self.data_loader = data_loader_builder()

    def _write_metrics(
        self, loss_dict: Mapping[str, torch.Tensor], data_time: float, prefix: str = "", iter: int | None = None
    ) -> None:
        iteration = self.iter if iter is None else iter
        if (iteration + 1) % self.gather_metric_period:
            return
        if self._metric_thread is None:
            self.write_metrics(loss_dict, data_time, iteration, prefix)
            return
        detached = {name: value.detach() for name, value in loss_dict.items()}
        future = self._metric_thread.submit(self.write_metrics, detached, data_time, iteration, prefix)
        future.add_done_callback(_log_failure)

    @staticmethod
    def write_metrics(loss_dict: Mapping[str, torch.Tensor], data_time: float, cur_iter: int, prefix: str = "") -> None:
        """Average the losses over the ranks into rank 0's storage; FloatingPointError if the sum is not finite."""
        own = {name: float(value.detach()) for name, value in loss_dict.items()}
        storage = get_event_storage()
        storage.put_scalar("rank_data_time", data_time, cur_iter=cur_iter)
        everybody = comm.gather({"data_time": data_time, "losses": own})
        if not comm.is_main_process():
            return
        # The slowest rank holds up the others.
        storage.put_scalar("data_time", max(rank["data_time"] for rank in everybody), cur_iter=cur_iter)
        mean = {name: float(np.mean([rank["losses"][name] for rank in everybody])) for name in own}
        total = sum(mean.values())
        if not np.isfinite(total):
            raise FloatingPointError(f"the loss is not finite at iteration {cur_iter}: {mean}")
        storage.put_scalar(f"{prefix}total_loss", total, cur_iter=cur_iter)
        if len(mean) > 1:
            storage.put_scalars(cur_iter=cur_iter, **mean)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.optimizer.load_state_dict(state_dict["optimizer"])

    def after_train(self) -> None:
        if self._metric_thread is not None:
            self._metric_thread.shutdown(wait=True)
        super().after_train()


def _log_failure(future: Any) -> None:
    if future.exception() is not None:
        logging.getLogger(__name__).error("writing of metrics failed", exc_info=future.exception())


class AMPTrainer(SimpleTrainer):
    """SimpleTrainer whose forward pass runs under autocast, on the device that the model is on.

    Gradients are scaled only where ``precision`` is float16; bfloat16 has the range of float32.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable,
        optimizer: Optimizer,
        gather_metric_period: int = 1,
        zero_grad_before_forward: bool = False,
        grad_scaler: Any = None,
        precision: torch.dtype = torch.float16,
        log_grad_scaler: bool = False,
        async_write_metrics: bool = False,
    ) -> None:
        options = (gather_metric_period, zero_grad_before_forward, async_write_metrics)
        super().__init__(model, data_loader, optimizer, *options)
        self.device_type = next(model.parameters()).device.type
        if grad_scaler is None:
            grad_scaler = torch.amp.GradScaler(self.device_type, enabled=precision is torch.float16)
        self.grad_scaler, self.precision, self.log_grad_scaler = grad_scaler, precision, log_grad_scaler

    def run_step(self) -> None:
        data, data_time = self._next_batch()
        with torch.autocast(self.device_type, dtype=self.precision):
            losses, total = self._forward(data)
        self.grad_scaler.scale(total).backward()
        if self.log_grad_scaler:
            get_event_storage().put_scalar("[metric]grad_scaler", self.grad_scaler.get_scale())
        self.after_backward()
        self._write_metrics(losses, data_time)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"grad_scaler": self.grad_scaler.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        # A disabled scaler has an empty state and refuses to load one.
        if self.grad_scaler.is_enabled() and state_dict.get("grad_scaler"):
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])
