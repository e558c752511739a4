"""Doing something with each of many files at once, without a waiting task for every one of millions of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
AHEAD = 4096  # tasks that wait at the same time; one takes about 2 kB


def in_threads(function: Callable[[Item], Result], items: Sequence[Item], threads: int) -> Iterator[Result]:
    """Apply a function to many items in several threads.

    Args:
        function: called with each item; what it raises comes out here.
        items: the items.
        threads: number of threads.

    Yields:
        The results, in the order of the items.
    """
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(items), AHEAD):
            yield from pool.map(function, items[start : start + AHEAD])
