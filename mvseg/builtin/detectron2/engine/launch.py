"""Starting one process per GPU, or several CPU processes that talk over gloo."""

import socket
from datetime import timedelta

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.utils import comm

DEFAULT_TIMEOUT = timedelta(minutes=30)


def launch(
    main_func, num_gpus_per_machine, num_machines=1, machine_rank=0, dist_url=None, args=(), timeout=DEFAULT_TIMEOUT
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
        with socket.socket() as probe:  # finds a free port
            probe.bind(("", 0))
            dist_url = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    worker_args = (main_func, world_size, num_gpus_per_machine, machine_rank, dist_url, args, timeout)
    mp.start_processes(_distributed_worker, worker_args, nprocs=num_gpus_per_machine, start_method="spawn")


def _distributed_worker(
    local_rank, main_func, world_size, num_gpus_per_machine, machine_rank, dist_url, args, timeout=DEFAULT_TIMEOUT
) -> None:
    on_gpu = torch.cuda.is_available()
    if on_gpu and num_gpus_per_machine > torch.cuda.device_count():
        raise ValueError(f"{num_gpus_per_machine} processes, but this machine has {torch.cuda.device_count()} GPUs")
    if on_gpu:
        torch.cuda.set_device(local_rank)
    rank = machine_rank * num_gpus_per_machine + local_rank
    dist.init_process_group("nccl" if on_gpu else "gloo", dist_url, timeout, world_size, rank)
    try:
        comm.create_local_process_group(num_gpus_per_machine)
        comm.synchronize()
        main_func(*args)
    finally:
        dist.destroy_process_group()
