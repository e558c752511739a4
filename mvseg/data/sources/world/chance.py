"""Random numbers that are the same on every machine and with every library version."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")


class Chance:
    """Random whole numbers from a seed, made with ``random.Random``'s documented stable part.

    Args:
        seed: any whole numbers; each tuple is its own stream.
    """

    def __init__(self, seed: Sequence[int]) -> None:
        self._random = random.Random(",".join(str(int(number)) for number in seed))
        self.share = self._random.random  # a number from 0 to below 1

    def between(self, low: int, high: int) -> int:
        """Draw a whole number.

        Args:
            low: smallest.
            high: largest.

        Returns:
            A number from ``low`` to ``high``, both included.
        """
        return low + int(self.share() * (high - low + 1))

    def pick(self, items: Sequence[T]) -> T:
        """Draw one of several items.

        Args:
            items: at least one.

        Returns:
            One of them.
        """
        return items[int(self.share() * len(items))]

    def weighted(self, items: Sequence[T], weights: Sequence[float]) -> T:
        """Draw one of several items, some more often than others.

        Args:
            items: at least one.
            weights: how often each, >= 0, not all 0.

        Returns:
            One of them.
        """
        total = list(accumulate(weights))
        return items[min(bisect_right(total, self.share() * total[-1]), len(items) - 1)]

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """Draw an order.

        Args:
            items: anything.

        Returns:
            The same items in random order.
        """
        order = list(items)
        for last in range(len(order) - 1, 0, -1):
            other = int(self.share() * (last + 1))
            order[last], order[other] = order[other], order[last]
        return order

    def noise(self, height: int, width: int, rows: int, columns: int) -> NDArray[Any]:
        """Draw smooth noise: random values on a coarse grid, interpolated in fixed point.

        Args:
            height: of the result.
            width: of the result.
            rows: of the grid, at most ``height``.
            columns: of the grid, at most ``width``.

        Returns:
            (height, width), uint8.
        """
        rows, columns = max(1, min(rows, height)), max(1, min(columns, width))
        grid = np.frombuffer(self._random.randbytes(rows * columns), np.uint8).reshape(rows, columns)
        if (rows, columns) == (height, width):
            return grid
        return cv2.resize(grid, (width, height), interpolation=cv2.INTER_LINEAR_EXACT)
