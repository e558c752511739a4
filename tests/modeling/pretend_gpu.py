"""A pretend GPU: runs on the CPU, but fails where tensors of the CPU and of the GPU would meet.

Tensors belong to the GPU unless they were made without a device, or from tensors of the CPU only. Every call of a torch
function is checked as CUDA would: a tensor with dimensions on the CPU meets none on the GPU, except as an index.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
FACTORIES = {
    torch.zeros, torch.ones, torch.full, torch.empty, torch.arange, torch.linspace, torch.eye, torch.tensor, torch.rand,
    torch.randn, torch.randint, torch.randperm, torch.from_numpy, torch.as_tensor, torch.scalar_tensor,
    torch.empty_strided, torch.asarray,
}  # fmt: skip
MOVES = {Tensor.to, Tensor.cpu, Tensor.cuda}
INDEXING = {Tensor.__getitem__, Tensor.__setitem__}
# What does not look at the values, or copies between devices.
FREE = {Tensor.copy_, torch.Tensor.copy_, Tensor.__repr__, Tensor.__format__, Tensor.__len__}
WAITS = {  # the host waits for the GPU
    Tensor.item, Tensor.tolist, Tensor.nonzero, torch.nonzero, Tensor.__bool__, Tensor.__int__, Tensor.__float__,
    Tensor.unique, torch.unique, Tensor.cpu,
}  # fmt: skip
# They need the numbers where they are.
HOST_ONLY = {Tensor.numpy, Tensor.__array__}


def tensors(value: Any) -> Iterator[Tensor]:
    """Tensors in arguments or results, inside of lists and dicts too."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors(item)
    elif isinstance(value, dict):
        yield from tensors(list(value.values()))


def put_on_host(value: Any) -> Any:
    """Mark all tensors in a value as tensors of the CPU."""
    for tensor in tensors(value):
        tensor.on_host = True  # type: ignore[attr-defined]
    return value


def on_host(tensor: Tensor) -> bool:
    return getattr(tensor, "on_host", False)


class PretendGpu(TorchFunctionMode):
    """Within the ``with`` block tensors say that they are on ``cuda:0`` unless they are marked as tensors of the CPU.

    ``waits`` counts the calls that make the host wait for the GPU.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        given = list(tensors([args, kwargs]))
        name = getattr(func, "__name__", str(func))
        if name == "__get__":
            return self._attribute(func, args)
        hosts = [t for t in given if on_host(t)]
        others = [t for t in given if not on_host(t)]
        device = self._device(func, args, kwargs)
        if func in HOST_ONLY and others:
            raise RuntimeError(f"pretend GPU: {name} of a tensor on the GPU")
        if func in WAITS and others:
            self.waits[name] += 1
        if func not in FREE | MOVES | FACTORIES:
            self._check(func, name, args, hosts, others)
        args, kwargs = self._on_cpu(args), self._on_cpu(kwargs)
        result = func(*args, **kwargs)
        if device is None:
            to_host = func in FACTORIES if not given else not others
        else:
            to_host = device.type == "cpu"
        if name == "__setitem__" or (given and result is given[0] and func not in MOVES):
            return result  # in place
        if func in MOVES | {torch.as_tensor, torch.asarray} and result is given[0] if given else False:
            result = result.view_as(result) if to_host != on_host(given[0]) else result
        return self._mark(result, to_host)

    def _attribute(self, func: Any, args: Any) -> Any:
        tensor, attribute = args[0], getattr(func.__self__, "__name__", "")
        if attribute == "device":
            return CPU if on_host(tensor) else GPU
        if attribute == "is_cuda":
            return not on_host(tensor)
        value = func(tensor)
        return put_on_host(value) if on_host(tensor) and isinstance(value, Tensor) else value

    @staticmethod
    def _device(func: Any, args: Any, kwargs: Any) -> torch.device | None:
        if func is Tensor.cpu:
            return CPU
        if func is Tensor.cuda:
            return GPU
        wanted = kwargs.get("device")
        if wanted is None and func is Tensor.to:
            wanted = next((a for a in args[1:] if isinstance(a, torch.device | str)), None)
            for other in args[1:]:
                if isinstance(other, Tensor):
                    wanted = CPU if on_host(other) else GPU
        return None if wanted is None else torch.device(wanted)

    @staticmethod
    def _on_cpu(value: Any) -> Any:
        if isinstance(value, torch.device):
            return CPU
        if isinstance(value, str) and value.startswith("cuda"):
            return "cpu"
        if type(value) in (list, tuple):
            return type(value)(PretendGpu._on_cpu(item) for item in value)
        return {k: PretendGpu._on_cpu(v) for k, v in value.items()} if type(value) is dict else value

    @staticmethod
    def _check(func: Any, name: str, args: Any, hosts: list[Tensor], others: list[Tensor]) -> None:
        if not hosts or not others:
            return
        if func in INDEXING:
            if on_host(args[0]):
                raise RuntimeError(f"pretend GPU: {name} of a CPU tensor with a GPU tensor")
            values = list(tensors(args[2:]))
            hosts = [t for t in values if on_host(t)]
        scalars = name not in ("cat", "stack", "concat")  # they take no numbers from the other device
        bad = [t for t in hosts if t.dim() > 0 or not scalars]
        if bad:
            shapes = [tuple(t.shape) for t in bad]
            raise RuntimeError(f"pretend GPU: {name} of CPU tensors {shapes} and GPU tensors")

    @staticmethod
    def _mark(result: Any, to_host: bool) -> Any:
        for tensor in tensors(result):
            if to_host:
                tensor.on_host = True  # type: ignore[attr-defined]
            elif on_host(tensor):
                tensor.on_host = False  # type: ignore[attr-defined]
        return result
