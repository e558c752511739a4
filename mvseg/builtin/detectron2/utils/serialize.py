"""Pickles: making local functions picklable for worker processes, and reading foreign files without running code."""

import pickle
from typing import IO, Any

import numpy as np

# Everything that a pickle of nested containers of numpy arrays and scalars refers to, in old and new numpy.
_PLAIN = {
    "builtins": {"bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int", "list", "set", "slice"}
    | {"str", "tuple"},
    "collections": {"OrderedDict", "defaultdict"},
    "numpy": {"dtype", "ndarray"},
    "_codecs": {"encode"},
}
_PLAIN["__builtin__"] = _PLAIN["builtins"]
for _module in ("numpy.core.multiarray", "numpy._core.multiarray"):
    _PLAIN[_module] = {"_reconstruct", "scalar"}
for _module in ("numpy.core.numeric", "numpy._core.numeric"):
    _PLAIN[_module] = {"_frombuffer"}


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


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name in _PLAIN.get(module, ()) or (module == "numpy.dtypes" and name.endswith("DType")):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"the file refers to {module}.{name}: not a container, number, string or array")


def load_plain_pickle(file: IO[bytes]) -> Any:
    """Read containers, numbers, strings and numpy arrays from a pickle; anything else raises UnpicklingError."""
    return _PlainUnpickler(file, encoding="latin1").load()


def numpy_safe_globals() -> list[Any]:
    """What ``torch.load(weights_only=True)`` must be allowed so that numpy arrays and scalars load."""
    functions = [value.__reduce__()[0] for value in (np.zeros(1), np.float64(0))]
    packages = ("numpy.core", "numpy._core")
    old_and_new = [(made, f"{package}.multiarray.{made.__name__}") for made in functions for package in packages]
    dtypes = {type(np.dtype(code)) for code in np.typecodes["All"]}
    return [*old_and_new, np.ndarray, np.dtype, *dtypes]
