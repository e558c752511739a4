"""Making lambdas and local functions picklable for worker processes."""

from __future__ import annotations

import pickle
from typing import Any

__all__ = ["PicklableWrapper"]


class PicklableWrapper:
    """Wraps a callable; pickles it with cloudpickle where that is installed."""

    def __init__(self, obj: Any) -> None:
        while isinstance(obj, PicklableWrapper):
            obj = obj._obj
        self._obj = obj

    def __reduce__(self) -> tuple:
        try:
            from cloudpickle import dumps
        except ImportError:
            from pickle import dumps
        return _rebuild, (dumps(self._obj),)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._obj(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name == "_obj":  # not set yet while being unpickled
            raise AttributeError(name)
        return getattr(self._obj, name)


def _rebuild(pickled: bytes) -> PicklableWrapper:
    return PicklableWrapper(pickle.loads(pickled))
