"""Retrying a function that ran out of GPU memory."""

import functools
import logging
from collections.abc import Callable
from typing import Any

import torch


def _to_cpu(value: Any) -> Any:
    device = getattr(value, "device", None)
    if isinstance(device, torch.device) and device.type == "cuda" and hasattr(value, "to"):
        return value.to(device="cpu")
    return value


def retry_if_cuda_oom(func: Callable) -> Callable:
    """Run a stateless function again when it runs out of GPU memory.

    The second try follows ``torch.cuda.empty_cache()``, the third gets its tensor arguments on the CPU (then the result
    may be on the CPU too).
    """

    @functools.wraps(func)
    def retried(*args: Any, **kwargs: Any) -> Any:
        for _ in range(2):
            try:
                return func(*args, **kwargs)
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
        logging.getLogger(__name__).info("out of GPU memory: %s goes on on the CPU", func)
        return func(*map(_to_cpu, args), **{name: _to_cpu(value) for name, value in kwargs.items()})

    return retried
