"""The interface of evaluators, and the loop that feeds them."""

import contextlib
import logging
import time
from collections import OrderedDict
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
from detectron2.utils.comm import get_world_size, is_main_process
from detectron2.utils.logger import log_every_n_seconds
from torch import nn


class DatasetEvaluator:
    """Collects inputs and outputs of a model with ``process``, and summarises them with ``evaluate``."""

    def reset(self) -> None:
        """Forget everything; called before a pass over the data."""

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Take the inputs and outputs of one batch."""

    def evaluate(self) -> Any:
        """Return {task: {metric: score}}; None or {} on processes other than the first."""


class DatasetEvaluators(DatasetEvaluator):
    """Several evaluators as one; no two may report the same task."""

    def __init__(self, evaluators: list[DatasetEvaluator]) -> None:
        super().__init__()
        self._evaluators = evaluators

    def reset(self) -> None:
        """Reset all."""
        for evaluator in self._evaluators:
            evaluator.reset()

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Hand the batch to all."""
        for evaluator in self._evaluators:
            evaluator.process(inputs, outputs)

    def evaluate(self) -> Any:
        """Join the results of all."""
        joined: OrderedDict[str, Any] = OrderedDict()
        for evaluator in self._evaluators:
            result = evaluator.evaluate()
            result = result if is_main_process() and result is not None else {}
            if joined.keys() & result.keys():
                raise AssertionError(f"two evaluators report {sorted(joined.keys() & result.keys())}; rename a task")
            joined.update(result)
        return joined


@contextlib.contextmanager
def inference_context(model: nn.Module) -> Iterator[None]:
    """Put the model into eval mode, and back into its mode afterwards."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


class _Clock:
    """Time spent on data, model and evaluator, without the first batches, and the log lines about it."""

    def __init__(self, total: int, logger: logging.Logger) -> None:
        self.total, self.logger = total, logger
        self.warm_up = min(5, total - 1)
        self.spent = {"data": 0.0, "inference": 0.0, "eval": 0.0}
        self.start = self.last = time.perf_counter()
        self.done = 0

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.spent[stage] += now - self.last
        self.last = now

    def finish_batch(self) -> None:
        self.done += 1
        if self.done == self.warm_up:
            self.spent = dict.fromkeys(self.spent, 0.0)
            self.start = time.perf_counter()
        counted = self.done - self.warm_up
        if counted > 0:
            per_batch = (time.perf_counter() - self.start) / counted
            stages = ", ".join(f"{stage} {seconds / counted:.4f}" for stage, seconds in self.spent.items())
            eta = timedelta(seconds=int(per_batch * (self.total - self.done)))
            message = f"Inference done {self.done}/{self.total}. s/batch: {stages}, total {per_batch:.4f}. ETA {eta}"
            log_every_n_seconds(logging.INFO, message, n=5)

    def summary(self) -> None:
        counted = max(1, self.total - max(self.warm_up, 0))
        total, pure = time.perf_counter() - self.start, self.spent["inference"]
        numbers = (timedelta(seconds=int(total)), total / counted, pure / counted, get_world_size())
        text = "Total inference time: %s (%.6f s/batch, of which the model %.6f; on each of %d processes)"
        self.logger.info(text, *numbers)


def inference_on_dataset(model, data_loader, evaluator, callbacks=None) -> dict[str, Any]:
    """Run a model over a loader and evaluate it.

    Args:
        model: called with each batch; an nn.Module is in eval mode meanwhile.
        data_loader: batches, with a length.
        evaluator: one, several, or None to only run the model.
        callbacks: functions called at "on_start", "before_inference", "after_inference", "on_end".

    Returns:
        What the evaluator returns ({} instead of None).
    """
    logger = logging.getLogger(__name__)
    total = len(data_loader)
    logger.info("Start inference on %d batches", total)
    if evaluator is None or isinstance(evaluator, (list, tuple)):
        evaluator = DatasetEvaluators(list(evaluator or []))
    evaluator.reset()

    def call(moment: str) -> None:
        (callbacks or {}).get(moment, lambda: None)()

    clock = _Clock(total, logger)
    with contextlib.ExitStack() as stack:
        if isinstance(model, nn.Module):
            stack.enter_context(inference_context(model))
        stack.enter_context(torch.no_grad())
        call("on_start")
        for inputs in data_loader:
            clock.lap("data")
            call("before_inference")
            outputs = model(inputs)
            call("after_inference")
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            clock.lap("inference")
            evaluator.process(inputs, outputs)
            clock.lap("eval")
            clock.finish_batch()
        call("on_end")
    clock.summary()
    results = evaluator.evaluate()
    return {} if results is None else results
