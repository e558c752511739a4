"""Reading of foreign weight files without running code from them."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

WRAPPERS = ("model", "state_dict", "model_state_dict")  # under which the weights may lie
# What a pickle of containers, numbers, texts and numpy arrays refers to; nothing here runs code of the file.
_PLAIN = {
    "collections": {"OrderedDict", "defaultdict"},
    "numpy": {"dtype", "ndarray"},
    "numpy.core.multiarray": {"_reconstruct", "scalar"},
    "numpy._core.multiarray": {"_reconstruct", "scalar"},
    "numpy.core.numeric": {"_frombuffer"},
    "numpy._core.numeric": {"_frombuffer"},
    "_codecs": {"encode"},
    "builtins": {"bytearray", "complex", "set", "frozenset", "dict", "list", "tuple"},
}
_CHUNK = 2**20


@dataclass(frozen=True)
class ForeignFile:
    """The weights of a file and where they come from.

    Attributes:
        path: the file.
        size: bytes.
        sha256: content hash.
        weights: name to tensor, without the prefix of a wrapper.
        other: names of what else the file holds, such as the optimizer.
        iteration: iteration of the training, if the file says it.
        prefix: beginning that all names had and that was removed, such as "module.".
    """

    path: Path
    size: int
    sha256: str
    weights: dict[str, Tensor]
    other: tuple[str, ...]
    iteration: int | None
    prefix: str


def read_foreign_file(path: str | Path, allow_pickle: bool = False) -> ForeignFile:
    """Read the weights of a file.

    Args:
        path: .pth or .pt file of PyTorch, or .pkl file of numpy arrays.
        allow_pickle: also accept pickles of numpy arrays; only containers, numbers, texts and arrays are read from
            them, anything else in them is an error.

    Returns:
        The weights and where they come from.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if it is damaged, holds something else than weights, or needs ``allow_pickle``.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"weight file {path} does not exist")
    content = (
        _read_pickle(path, allow_pickle) if path.suffix in (".pkl", ".pickle") else _read_torch(path, allow_pickle)
    )
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a dict of weights")
    wrapper = next((key for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)
    weights = {str(name): _tensor(value) for name, value in (content if wrapper is None else content[wrapper]).items()}
    foreign = [name for name, value in weights.items() if value is None]
    if foreign or not weights:
        what = f"{foreign[0]} is no tensor" if foreign else "there are none"
        raise ValueError(f"{path}: the weights should be tensors, but {what}")
    tensors = {name: value for name, value in weights.items() if value is not None}
    broken = [n for n, v in tensors.items() if v.is_floating_point() and not bool(torch.isfinite(v).all())]
    if broken:
        raise ValueError(f"{path}: {broken[0]} has values that are no numbers ({len(broken)} entries have some)")
    prefix = _common_prefix(tensors)
    iteration = content.get("iteration") if wrapper is not None else None
    return ForeignFile(
        path=path,
        size=path.stat().st_size,
        sha256=file_hash(path),
        weights={name.removeprefix(prefix): value for name, value in tensors.items()},
        other=() if wrapper is None else tuple(sorted(str(key) for key in content if key != wrapper)),
        iteration=int(iteration) if isinstance(iteration, int | float) else None,
        prefix=prefix,
    )


def file_hash(path: Path) -> str:
    """Compute the SHA-256 of a file.

    Args:
        path: the file.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _read_torch(path: Path, allow_pickle: bool) -> Any:
    allowed = _numpy_globals() if allow_pickle else []
    try:
        with torch.serialization.safe_globals(allowed):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the readers of zip, pickle and tensors each fail in their own ways
        numpy = not allow_pickle and "numpy" in str(error)
        hint = " It holds numpy arrays: if you trust the file, add --allow-pickle." if numpy else ""
        raise ValueError(
            f"{path} cannot be read ({type(error).__name__}): it is damaged or cut off, no PyTorch file, or holds "
            f"Python objects besides tensors, which are not loaded for safety.{hint}"
        ) from error


def _read_pickle(path: Path, allow_pickle: bool) -> Any:
    if not allow_pickle:
        raise ValueError(
            f"{path} is a pickle. Only arrays and plain containers would be read from it; add --allow-pickle "
            "(allow_pickle=True) if that is what you want"
        )
    try:
        with path.open("rb") as file:
            return _PlainUnpickler(file, encoding="latin1").load()
    except Exception as error:  # a damaged pickle fails in many ways
        raise ValueError(f"{path} cannot be read: {error}") from error


class _PlainUnpickler(pickle.Unpickler):
    def __init__(self, file: IO[bytes], encoding: str) -> None:
        super().__init__(file, encoding=encoding)

    def find_class(self, module: str, name: str) -> Any:
        module = "builtins" if module == "__builtin__" else module
        if name in _PLAIN.get(module, ()) or (module == "numpy.dtypes" and name.endswith("DType")):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it refers to {module}.{name}, which is no container, number, text or array")


def _numpy_globals() -> list[Any]:
    made: list[Any] = [value.__reduce__()[0] for value in (np.zeros(1), np.float64(0))]
    named = [(f, f"{package}.multiarray.{f.__name__}") for f in made for package in ("numpy.core", "numpy._core")]
    return [*named, np.ndarray, np.dtype, *{type(np.dtype(code)) for code in np.typecodes["All"]}]


def _tensor(value: Any) -> Tensor | None:
    if isinstance(value, Tensor):
        return value
    if isinstance(value, np.ndarray | np.generic) and np.asarray(value).dtype.kind in "biuf":
        return torch.from_numpy(np.array(value))
    return None


def _common_prefix(weights: Mapping[str, Tensor]) -> str:
    """What wrappers such as DistributedDataParallel put in front of every name."""
    prefix = ""
    for wrapper in ("module.", "model.", "module."):
        if all(name.startswith(prefix + wrapper) for name in weights):
            prefix += wrapper
    return prefix
