"""Scalars, images and histograms of a run: where code puts them, and the writers that carry them away."""

from __future__ import annotations

import datetime
import json
import logging
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from detectron2.utils.file_io import PathManager
from fvcore.common.history_buffer import HistoryBuffer

_CURRENT_STORAGE_STACK: list[EventStorage] = []


def get_event_storage() -> EventStorage:
    """The innermost storage that is open (``with EventStorage(): ...``)."""
    if not _CURRENT_STORAGE_STACK:
        raise AssertionError("no EventStorage is open: call this inside `with EventStorage():`")
    return _CURRENT_STORAGE_STACK[-1]


def has_event_storage() -> bool:
    """Whether a storage is open."""
    return bool(_CURRENT_STORAGE_STACK)


class EventStorage:
    """Histories of named scalars, plus images and histograms that wait for a writer."""

    def __init__(self, start_iter: int = 0) -> None:
        self._iter, self._prefix = start_iter, ""
        self._history: dict[str, HistoryBuffer] = defaultdict(HistoryBuffer)
        self._smoothing_hints: dict[str, bool] = {}
        self._latest_scalars: dict[str, tuple[float, int]] = {}
        self._vis_data: list[tuple[str, torch.Tensor, int]] = []
        self._histograms: list[dict[str, Any]] = []

    def put_image(self, img_name: str, img_tensor: Any) -> None:
        """Keep an image (3, H, W), uint8 or float in [0, 1], for the writers."""
        self._vis_data.append((img_name, img_tensor, self._iter))

    def put_scalar(self, name: str, value: Any, smoothing_hint: bool = True, cur_iter: int | None = None) -> None:
        """Add a value; ``smoothing_hint`` tells writers that a median over a window says more than the last value."""
        name = self._prefix + name
        iteration = self._iter if cur_iter is None else cur_iter
        if self._smoothing_hints.setdefault(name, smoothing_hint) != smoothing_hint:
            raise AssertionError(f"scalar {name} was put with smoothing_hint={not smoothing_hint} before")
        value = float(value)
        self._history[name].update(value, iteration)
        self._latest_scalars[name] = (value, iteration)

    def put_scalars(self, *, smoothing_hint: bool = True, cur_iter: int | None = None, **kwargs: Any) -> None:
        """Add several values: ``put_scalars(loss=1.0, accuracy=0.5)``."""
        for name, value in kwargs.items():
            self.put_scalar(name, value, smoothing_hint=smoothing_hint, cur_iter=cur_iter)

    def put_histogram(self, hist_name: str, hist_tensor: torch.Tensor, bins: int = 1000) -> None:
        """Keep a histogram of a tensor's values for the writers."""
        values = hist_tensor.detach().double().flatten().cpu()
        low, high = values.min().item(), values.max().item()
        entry = {"tag": hist_name, "global_step": self._iter, "min": low, "max": high, "num": values.numel()}
        entry |= {"sum": values.sum().item(), "sum_squares": values.square().sum().item()}
        entry["bucket_limits"] = torch.linspace(low, high, bins + 1)[1:].tolist()
        entry["bucket_counts"] = torch.histc(values, bins=bins).tolist()
        self._histograms.append(entry)

    def history(self, name: str) -> HistoryBuffer:
        """The values of one scalar; KeyError if there is none."""
        if name not in self._history:
            raise KeyError(f"no scalar {name} was put; there are: {', '.join(sorted(self._history))}")
        return self._history[name]

    def histories(self) -> dict[str, HistoryBuffer]:
        """All histories by name."""
        return self._history

    def latest(self) -> dict[str, tuple[float, int]]:
        """Name -> (last value, its iteration)."""
        return self._latest_scalars

    def latest_with_smoothing_hint(self, window_size: int = 20) -> dict[str, tuple[float, int]]:
        """Like :meth:`latest`, with a median over the last ``window_size`` iterations where the hint asks for it."""
        smoothed = {}
        for name, (value, iteration) in self._latest_scalars.items():
            if self._smoothing_hints[name]:
                value = self._history[name].median(self.count_samples(name, window_size))
            smoothed[name] = (value, iteration)
        return smoothed

    def count_samples(self, name: str, window_size: int = 20) -> int:
        """How many values of a scalar fall into the ``window_size`` iterations up to its last one."""
        values = self._history[name].values()
        first = values[-1][1] - window_size
        return sum(1 for _, iteration in values[-window_size:] if iteration > first)

    def smoothing_hints(self) -> dict[str, bool]:
        """Name -> smoothing hint."""
        return self._smoothing_hints

    def step(self) -> None:
        """Go on to the next iteration."""
        self._iter += 1

    @property
    def iter(self) -> int:
        """The iteration that new values belong to."""
        return self._iter

    @iter.setter
    def iter(self, value: int) -> None:
        self._iter = int(value)

    iteration = property(iter.fget, doc="Older name of :attr:`iter`.")

    def __enter__(self) -> EventStorage:
        _CURRENT_STORAGE_STACK.append(self)
        return self

    def __exit__(self, exc_type: Any, exc_val: Any, exc_tb: Any) -> None:
        _CURRENT_STORAGE_STACK.remove(self)

    @contextmanager
    def name_scope(self, name: str) -> Iterator[None]:
        """Within this context, names of scalars begin with ``name/``."""
        outer = self._prefix
        self._prefix = name.rstrip("/") + "/"
        try:
            yield
        finally:
            self._prefix = outer

    def clear_images(self) -> None:
        """Forget the images: a writer has them."""
        self._vis_data = []

    def clear_histograms(self) -> None:
        """Forget the histograms: a writer has them."""
        self._histograms = []


class EventWriter:
    """Base of the writers; ``write`` takes what is new in the current storage."""

    def write(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        pass


class _NewScalars:
    """Remembers what a writer has seen, and hands it the rest."""

    def __init__(self, window_size: int) -> None:
        self._window_size, self._seen = window_size, -1

    def take(self, storage: EventStorage) -> list[tuple[int, str, float]]:
        """Return (iteration, name, value) of scalars newer than the last call."""
        latest = storage.latest_with_smoothing_hint(self._window_size)
        new = [(iteration, name, value) for name, (value, iteration) in latest.items() if iteration > self._seen]
        self._seen = max((iteration for iteration, _, _ in new), default=self._seen)
        return new


class JSONWriter(EventWriter):
    """One JSON object per line and iteration: {"iteration": 19, "total_loss": 1.5, ...}."""

    def __init__(self, json_file: str, window_size: int = 20) -> None:
        self._new = _NewScalars(window_size)
        self._file_handle = PathManager.open(json_file, "a")

    def write(self) -> None:
        lines: dict[int, dict[str, float]] = defaultdict(dict)
        for iteration, name, value in self._new.take(get_event_storage()):
            lines[iteration][name] = value
        for iteration in sorted(lines):
            self._file_handle.write(json.dumps({**lines[iteration], "iteration": iteration}, sort_keys=True) + "\n")
        self._file_handle.flush()

    def close(self) -> None:
        self._file_handle.close()


class TensorboardXWriter(EventWriter):
    """Scalars, images and histograms for TensorBoard; the log is opened at the first write."""

    def __init__(self, log_dir: str, window_size: int = 20, **kwargs: Any) -> None:
        self._new = _NewScalars(window_size)
        self._writer_args = {"log_dir": log_dir, **kwargs}

    @cached_property
    def _writer(self) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(**self._writer_args)

    def write(self) -> None:
        storage = get_event_storage()
        for iteration, name, value in self._new.take(storage):
            self._writer.add_scalar(name, value, iteration)
        for name, image, iteration in storage._vis_data:
            self._writer.add_image(name, image, iteration)
        storage.clear_images()
        for histogram in storage._histograms:
            self._writer.add_histogram_raw(**histogram)
        storage.clear_histograms()

    def close(self) -> None:
        if "_writer" in self.__dict__:
            self._writer.close()


class CommonMetricPrinter(EventWriter):
    """One log line: time left, iteration, losses, times, learning rate, memory."""

    def __init__(self, max_iter: int | None = None, window_size: int = 20) -> None:
        self.logger = logging.getLogger("detectron2.utils.events")
        self._max_iter, self._window_size = max_iter, window_size
        self._last_write: tuple[int, float] | None = None  # iteration, seconds

    def _get_eta(self, storage: EventStorage) -> str | None:
        """Time left by the median iteration so far; without a "time" scalar, by the time since the last line."""
        if self._max_iter is None:
            return None
        iterations = self._max_iter - storage.iter - 1
        previous, now = self._last_write, time.perf_counter()
        self._last_write = (storage.iter, now)
        if "time" in storage.histories():
            seconds = storage.history("time").median(1000) * iterations
            storage.put_scalar("eta_seconds", seconds, smoothing_hint=False)
        elif previous is not None and storage.iter > previous[0]:
            seconds = (now - previous[1]) / (storage.iter - previous[0]) * iterations
        else:
            return None
        return str(datetime.timedelta(seconds=int(seconds)))

    def write(self) -> None:
        storage = get_event_storage()
        if storage.iter == self._max_iter:
            return  # after the last iteration only hooks put values; its line is already there
        eta = self._get_eta(storage)
        fields = [f"eta: {eta}"] if eta else []
        fields.append(f"iter: {storage.iter}")
        histories = storage.histories()
        for wanted in (lambda name: "loss" in name, lambda name: "[metric]" in name):
            fields += [f"{name}: {self._smooth(storage, name):.4g}" for name in histories if wanted(name)]
        for name in ("time", "data_time"):
            if name in histories:
                history = histories[name]
                fields.append(f"{name}: {history.avg(storage.count_samples(name, self._window_size)):.4f}")
                fields.append(f"last_{name}: {history.latest():.4f}")
        if "lr" in histories:
            fields.append(f"lr: {histories['lr'].latest():.5g}")
        if torch.cuda.is_available():
            fields.append(f"max_mem: {torch.cuda.max_memory_allocated() / 2**20:.0f}M")
        self.logger.info("  ".join(fields))

    def _smooth(self, storage: EventStorage, name: str) -> float:
        return storage.history(name).median(storage.count_samples(name, self._window_size))
