"""How far a long job is, how fast, and when it will be done; one line on a terminal, now and then one in a log file."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

TERMINAL_PERIOD = 0.2  # seconds between two updates of the line on a terminal
LOG_PERIOD = 10.0  # seconds between two lines elsewhere


class Progress:
    """Count steps and write where the job stands.

    Args:
        total: number of steps; 0 if it is not known.
        unit: what a step is, in the plural: "images".
        stream: where to write; None: standard error.
        clock: gives seconds; replaced in tests.
    """

    def __init__(
        self, total: int, unit: str, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.total, self.unit, self.done = total, unit, 0
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._terminal = self._stream.isatty()
        self._start = self._written = clock()

    def step(self, count: int = 1) -> None:
        """Count steps, and write if it is time.

        Args:
            count: number of steps.
        """
        self.done += count
        now = self._clock()
        if now - self._written >= (TERMINAL_PERIOD if self._terminal else LOG_PERIOD):
            self._written = now
            end = "\r" if self._terminal else "\n"
            self._stream.write(f"{self.line()}{end}")
            self._stream.flush()

    def close(self) -> None:
        """Write the last line."""
        self._stream.write(f"{self.line()}\n")
        self._stream.flush()

    def line(self) -> str:
        """Say where the job stands.

        Returns:
            Such as "120/300 images, 4.0 images/s, 0:45 left"; padded so that it covers the line before.
        """
        seconds = max(self._clock() - self._start, 1e-9)
        speed = self.done / seconds
        count = f"{self.done}/{self.total}" if self.total else f"{self.done}"
        text = f"{count} {self.unit}, {speed:.3g} {self.unit}/s"
        if self.total and 0 < self.done < self.total:
            text += f", {clock_time((self.total - self.done) / speed)} left"
        elif self.done:
            text += f", {clock_time(seconds)} in all"
        return text.ljust(60)


def clock_time(seconds: float) -> str:
    """Write a span of time.

    Args:
        seconds: the span.

    Returns:
        Such as "0:45" or "2:03:10".
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
