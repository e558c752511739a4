"""What commands share: how they tell an error, and how they run as one process of several."""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
import yaml

USER_ERRORS = (OSError, ValueError, KeyError, ImportError, yaml.YAMLError)  # what input can cause; others are mistakes


def error_text(error: BaseException) -> str:
    """Write an error in a line for the user.

    Args:
        error: the error.

    Returns:
        Its kind and its message.
    """
    said = error.args[0] if isinstance(error, KeyError) and error.args else error  # str() of a KeyError is its repr
    return f"{type(error).__name__}: {said}"


def run_command(work: Callable[[], int | None], in_processes: bool = True) -> int:
    """Do what a command is for; an error that input can cause ends it with a line instead of a traceback.

    Args:
        work: does it; gives an exit code, or None for 0.
        in_processes: join the processes of torchrun, if it started this one, and leave together.

    Returns:
        The exit code.
    """
    from detectron2.utils import comm

    from mvseg.training.setup import join_process_group, started_by_torchrun

    grouped = in_processes and started_by_torchrun()
    if grouped:
        join_process_group()
    try:
        code = work() or 0
        comm.synchronize()
        return code
    except USER_ERRORS as error:
        print(error_text(error), file=sys.stderr)
        return 1
    finally:
        if grouped:
            torch.distributed.destroy_process_group()
