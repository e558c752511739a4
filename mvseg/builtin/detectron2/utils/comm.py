"""Ranks and small collective calls; everything also works in a single process without torch.distributed."""

import functools
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

_LOCAL_PROCESS_GROUP: Any = None


def _initialized() -> bool:
    return dist.is_available() and dist.is_initialized()


def get_world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if _initialized() else 1


def get_rank() -> int:
    """Index of this process among all."""
    return dist.get_rank() if _initialized() else 0


def create_local_process_group(num_workers_per_machine: int) -> None:
    """Tell which ranks share this machine: blocks of ``num_workers_per_machine``. Every process calls it, once."""
    global _LOCAL_PROCESS_GROUP
    size = get_world_size()
    if size % num_workers_per_machine:
        raise ValueError(f"{size} processes do not divide into machines of {num_workers_per_machine}")
    mine = get_rank() // num_workers_per_machine
    for machine in range(size // num_workers_per_machine):
        first = machine * num_workers_per_machine
        group = dist.new_group(list(range(first, first + num_workers_per_machine)))
        if machine == mine:
            _LOCAL_PROCESS_GROUP = group


def get_local_process_group() -> Any:
    """The group of the ranks on this machine."""
    if _LOCAL_PROCESS_GROUP is None:
        raise RuntimeError("nobody said which ranks share this machine: start with detectron2.engine.launch")
    return _LOCAL_PROCESS_GROUP


def get_local_rank() -> int:
    """Index of this process on its machine."""
    return dist.get_rank(group=get_local_process_group()) if _initialized() else 0


def get_local_size() -> int:
    """Number of processes on this machine."""
    return dist.get_world_size(group=get_local_process_group()) if _initialized() else 1


def is_main_process() -> bool:
    """Whether this is rank 0."""
    return get_rank() == 0


def synchronize() -> None:
    """Wait until every process is here."""
    if get_world_size() > 1:
        on_gpu = dist.get_backend() == "nccl"
        dist.barrier(device_ids=[torch.cuda.current_device()] if on_gpu else None)


@functools.lru_cache(maxsize=1)
def _cpu_group(world: Any) -> Any:
    """A group that moves pickled objects without a detour over the GPU; cached for the life of ``world``."""
    return dist.new_group(backend="gloo") if dist.get_backend() == "nccl" else world


def _group_and_size(group: Any) -> tuple[Any, int]:
    if get_world_size() == 1:
        return group, 1
    group = group if group is not None else _cpu_group(dist.group.WORLD)
    return group, dist.get_world_size(group)


def all_gather(data: Any, group: Any = None) -> list[Any]:
    """Give every rank the list of everybody's picklable ``data``, in the order of the ranks."""
    group, size = _group_and_size(group)
    if size == 1:
        return [data]
    out: list[Any] = [None] * size
    dist.all_gather_object(out, data, group=group)
    return out


def gather(data: Any, dst: int = 0, group: Any = None) -> list[Any]:
    """Give rank ``dst`` the list of everybody's picklable ``data``; the other ranks get an empty list."""
    group, size = _group_and_size(group)
    if size == 1:
        return [data]
    out: list[Any] | None = [None] * size if dist.get_rank(group) == dst else None
    dist.gather_object(data, out, dst=dst, group=group)
    return out or []


def shared_random_seed() -> int:
    """A random number that is the same on every rank (drawn by rank 0); everybody must call it."""
    return all_gather(np.random.randint(2**31))[0]


def reduce_dict(input_dict: dict[str, torch.Tensor], average: bool = True) -> dict[str, torch.Tensor]:
    """Sum (or average) scalar tensors over the ranks; only rank 0 gets the result.

    Every rank gives the same keys, in any order.
    """
    size = get_world_size()
    if size == 1:
        return input_dict
    with torch.no_grad():
        names = sorted(input_dict)
        values = torch.stack([input_dict[name] for name in names])
        dist.reduce(values, dst=0)
        if average and get_rank() == 0:
            values = values / size
    return dict(zip(names, values))
