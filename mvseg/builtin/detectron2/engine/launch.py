"""Starting one process per GPU, or several CPU processes that talk over gloo."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.utils import comm

__all__ = ["DEFAULT_TIMEOUT", "launch"]

DEFAULT_TIMEOUT = timedelta(minutes=30)


def launch(
    main_func: Callable,
    num_gpus_per_machine: int,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str | None = None,
    args: tuple = (),
    timeout: timedelta = DEFAULT_TIMEOUT,
) -> None:
    """Call ``main_func(*args)`` in ``num_gpus_per_machine`` processes on each machine.

    With one process in all it is called directly. Without GPUs the processes use the CPU. ``dist_url`` is where they
    meet ("tcp://host:port"); "auto" takes a free port of this machine. Every machine calls this, with its own rank.
    """
    world_size = num_machines * num_gpus_per_machine
    if world_size <= 1:
        main_func(*args)
        return
    if dist_url is None or dist_url == "auto":
        if num_machines > 1:
            raise ValueError(f"dist_url {dist_url!r} is for one machine; give tcp://HOST:PORT for several")
        dist_url = f"tcp://127.0.0.1:{_find_free_port()}"
    elif num_machines > 1 and dist_url.startswith("file://"):
        logging.getLogger(__name__).warning("file:// is unreliable between machines; prefer tcp://")
    mp.start_processes(
        _distributed_worker,
        nprocs=num_gpus_per_machine,
        args=(main_func, world_size, num_gpus_per_machine, machine_rank, dist_url, args, timeout),
        start_method="spawn",
        daemon=False,
    )


def _find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def _distributed_worker(
    local_rank: int,
    main_func: Callable,
    world_size: int,
    num_gpus_per_machine: int,
    machine_rank: int,
    dist_url: str,
    args: tuple,
    timeout: timedelta = DEFAULT_TIMEOUT,
) -> Any:
    on_gpu = torch.cuda.is_available()
    if on_gpu and num_gpus_per_machine > torch.cuda.device_count():
        raise ValueError(f"{num_gpus_per_machine} processes, but this machine has {torch.cuda.device_count()} GPUs")
    if on_gpu:
        torch.cuda.set_device(local_rank)
    dist.init_process_group(
        backend="nccl" if on_gpu else "gloo",
        init_method=dist_url,
        world_size=world_size,
        rank=machine_rank * num_gpus_per_machine + local_rank,
        timeout=timeout,
    )
    try:
        comm.create_local_process_group(num_gpus_per_machine)
        comm.synchronize()
        main_func(*args)
    finally:
        dist.destroy_process_group()
