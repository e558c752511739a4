"""Logger setup for every process, rate-limited logging, and small tables."""

import atexit
import functools
import itertools
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

import torch
from detectron2.utils.file_io import PathManager
from tabulate import tabulate
from termcolor import colored

_LINE = "[%(asctime)s] %(name)s %(levelname)s: %(message)s"
_DATE = "%m/%d %H:%M:%S"
_LEVEL_COLORS = {logging.WARNING: "red", logging.ERROR: "red", logging.CRITICAL: "red"}
_LOG_COUNTER: Counter = Counter()
_LOG_TIMER: dict[Any, float] = {}


class _TerminalFormatter(logging.Formatter):
    """Shortens the root of the logger's name and colours the head of the line, and all of it in a warning."""

    def __init__(self, root: str, short: str) -> None:
        super().__init__(datefmt=_DATE, fmt=_LINE)
        self._root, self._short = root, short

    def formatMessage(self, record: logging.LogRecord) -> str:
        original = record.name
        if original == self._root or original.startswith(f"{self._root}."):
            record.name = (self._short + original[len(self._root) :]).lstrip(".")
        try:
            line = super().formatMessage(record)
        finally:
            record.name = original
        head, _, message = line.partition(": ")
        mark = _LEVEL_COLORS.get(record.levelno)
        return f"{colored(head, mark or 'green')}: {colored(message, mark) if mark else message}"


@functools.cache
def setup_logger(
    output: str | None = None,
    distributed_rank: int = 0,
    *,
    color: bool = True,
    name: str = "detectron2",
    abbrev_name: str | None = None,
    enable_propagation: bool = False,
    configure_stdout: bool = True,
) -> logging.Logger:
    """Make the logger ``name`` write to stdout (rank 0 only) and to a file; the same call twice does nothing more.

    ``output`` is a folder (the file is ``log.txt``) or a name that ends with .txt or .log; ranks above 0 append
    ``.rank1`` and so on. ``abbrev_name`` replaces ``name`` in coloured lines ("d2" for detectron2).
    """
    logger = logging.getLogger(name)
    logger.setLevel(logging.DEBUG)
    logger.propagate = enable_propagation
    short = abbrev_name if abbrev_name is not None else {"detectron2": "d2"}.get(name, name)
    if configure_stdout and distributed_rank == 0:
        terminal = logging.StreamHandler(stream=sys.stdout)
        terminal.setFormatter(_TerminalFormatter(name, short) if color else logging.Formatter(_LINE, _DATE))
        logger.addHandler(terminal)
    if output is not None:
        filename = output if output.endswith((".txt", ".log")) else os.path.join(output, "log.txt")
        if distributed_rank > 0:
            filename += f".rank{distributed_rank}"
        file = logging.StreamHandler(_shared_stream(filename))
        file.setFormatter(logging.Formatter(_LINE, _DATE))
        logger.addHandler(file)
    return logger


@functools.cache
def _shared_stream(filename: str) -> TextIO:
    """Open a log file once, whichever loggers write to it; line-buffered, so a killed job loses nothing."""
    PathManager.mkdirs(os.path.dirname(filename) or ".")
    stream = PathManager.open(filename, "a", buffering=1)
    atexit.register(stream.close)
    return stream


def _caller() -> tuple[str, tuple[str, int, str]]:
    """Find who called a function of this file: its module, and a key for the place in its source."""
    frame = sys._getframe(1)
    while frame.f_code.co_filename == __file__:
        frame = frame.f_back
    module, code = frame.f_globals["__name__"], frame.f_code
    return "detectron2" if module == "__main__" else module, (code.co_filename, frame.f_lineno, code.co_name)


def log_first_n(
    lvl: int, msg: str, n: int = 1, *, name: str | None = None, key: str | Sequence[str] = "caller"
) -> None:
    """Log only the first ``n`` times, counted per place in the source ("caller"), per "message", or per both."""
    parts = (key,) if isinstance(key, str) else tuple(key)
    if not parts or not set(parts) <= {"caller", "message"}:
        raise ValueError(f"key {key!r}: use 'caller', 'message' or a tuple of both")
    module, place = _caller()
    identity = (place if "caller" in parts else None, msg if "message" in parts else None)
    _LOG_COUNTER[identity] += 1
    if _LOG_COUNTER[identity] <= n:
        logging.getLogger(name or module).log(lvl, msg)


def log_every_n(lvl: int, msg: str, n: int = 1, *, name: str | None = None) -> None:
    """Log the first of every ``n`` calls from the same place."""
    module, place = _caller()
    _LOG_COUNTER[place] += 1
    if n == 1 or _LOG_COUNTER[place] % n == 1:
        logging.getLogger(name or module).log(lvl, msg)


def log_every_n_seconds(lvl: int, msg: str, n: int = 1, *, name: str | None = None) -> None:
    """Log at most once in ``n`` seconds from the same place."""
    module, place = _caller()
    now = time.monotonic()
    if place not in _LOG_TIMER or now - _LOG_TIMER[place] >= n:
        logging.getLogger(name or module).log(lvl, msg)
        _LOG_TIMER[place] = now


def create_small_table(small_dict: Mapping[str, Any]) -> str:
    """Draw a table with the keys as head and the values as its only row."""
    layout = {"tablefmt": "pipe", "floatfmt": ".3f", "stralign": "center", "numalign": "center"}
    return tabulate([list(small_dict.values())], headers=list(small_dict), **layout)


def wide_table(values: Mapping[str, Any], head: tuple[str, str]) -> str:
    """Draw a long list of names and values as a table of three pairs a line."""
    cells = list(itertools.chain.from_iterable(values.items()))
    rows = [cells[start : start + 6] for start in range(0, len(cells), 6)]
    headers = head * (min(6, len(cells)) // 2)
    return tabulate(rows, headers=headers, tablefmt="pipe", floatfmt=".3f", numalign="left")


def _log_api_usage(identifier: str) -> None:
    torch._C._log_api_usage_once(f"detectron2.{identifier}")
