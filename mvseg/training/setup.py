"""What happens before training: config, cards, device, processes, logging, random numbers."""

from __future__ import annotations

import argparse
import ctypes
import logging
import os
import random
import sys

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from mvseg.config import load_config
from mvseg.data.catalog import get_card, register_cards
from mvseg.evaluation.averages import read_averages
from mvseg.report.facts import record_session

logger = logging.getLogger(__name__)

TERMINAL_LINES = 60  # longer messages (the config, the model, 1203 classes) fill the terminal ...
TERMINAL_HEAD = 6  # ... of them so many lines are shown
M_MMAP_THRESHOLD, M_TRIM_THRESHOLD = -3, -1  # what glibc's mallopt() calls them


def setup(args: argparse.Namespace) -> CfgNode:
    """Read the config, register its cards, check its datasets and start the log files.

    Args:
        args: from Detectron2's ``default_argument_parser``.

    Returns:
        The frozen config.
    """
    cfg = load_config(args.config_file or None, args.opts)
    asked, cfg.MODEL.DEVICE = cfg.MODEL.DEVICE, available_device(cfg.MODEL.DEVICE)
    cfg.freeze()
    # setup_logger remembers its arguments: these are those of default_setup, which then adds no second handler.
    for name in ({}, {"name": "mvseg"}):
        started = setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), **name)
        shorten_terminal(started, f"{cfg.OUTPUT_DIR}/log.txt")
    default_setup(cfg, args)
    if cfg.MODEL.DEVICE == "cpu":
        keep_freed_memory()
    if asked != cfg.MODEL.DEVICE:
        logger.warning("MODEL.DEVICE is %s, but torch finds no CUDA device: running on the CPU", asked)
    prepare_datasets(cfg)
    if comm.is_main_process():
        record_session(cfg.OUTPUT_DIR)
    return cfg


class _Shortened(logging.Formatter):
    def __init__(self, inner: logging.Formatter, log_file: str) -> None:
        super().__init__()
        self.inner = inner
        self.log_file = log_file

    def format(self, record: logging.LogRecord) -> str:
        lines = self.inner.format(record).split("\n")
        if len(lines) <= TERMINAL_LINES or record.levelno > logging.INFO:
            return "\n".join(lines)
        left_out = len(lines) - TERMINAL_HEAD
        return "\n".join([*lines[:TERMINAL_HEAD], f"... {left_out} more lines are in {self.log_file}"])


def shorten_terminal(target: logging.Logger, log_file: str) -> None:
    """Let a logger write only the beginning of long messages (configs, models, tables) to the terminal.

    Args:
        target: logger with Detectron2's handlers; those that write to the terminal are changed, files get every line.
        log_file: where the whole message is found.
    """
    for handler in target.handlers:
        terminal = isinstance(handler, logging.StreamHandler) and handler.stream in (sys.stdout, sys.stderr)
        if terminal and handler.formatter is not None and not isinstance(handler.formatter, _Shortened):
            handler.setFormatter(_Shortened(handler.formatter, log_file))


def prepare_datasets(cfg: CfgNode) -> None:
    """Register the cards of DATASETS.CARDS and look up every dataset of the config.

    Args:
        cfg: the config.
    """
    register_cards(cfg.DATASETS.CARDS)
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        get_card(name)  # raises an error with the nearest names
    read_averages(cfg.TEST.AVERAGES, cfg.DATASETS.TEST)


def available_device(device: str) -> str:
    """Fall back to the CPU where a GPU is asked for that is not there.

    Args:
        device: MODEL.DEVICE, such as "cuda" or "cpu".

    Returns:
        The device to use.
    """
    return "cpu" if device.startswith("cuda") and not torch.cuda.is_available() else device


def keep_freed_memory() -> bool:
    """Let the C library keep what tensors on the CPU leave, instead of giving it back to the system.

    Every step asks for the same gigabytes again, and the system would clear each page of them once more: 4 to 6 % of
    the time of a step. The largest memory of the process stays what it is.

    Returns:
        Whether the C library can (glibc).
    """
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return False
    sizes = (2**30, 2**25)  # the latter is the most that older versions take
    blocks = any(set_option(M_MMAP_THRESHOLD, size) for size in sizes)
    return bool(blocks and set_option(M_TRIM_THRESHOLD, 2**31 - 1))


def started_by_torchrun() -> bool:
    """Say whether the environment describes a process group, as torchrun sets it.

    Returns:
        True if RANK, WORLD_SIZE and MASTER_ADDR are set.
    """
    return all(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR"))


def join_process_group() -> None:
    """Join the process group that torchrun's environment describes, with NCCL on GPUs and gloo on CPUs."""
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
        torch.distributed.init_process_group("cpu:gloo,cuda:nccl")
    else:
        torch.distributed.init_process_group("gloo")
    comm.create_local_process_group(int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"])))


def seed_everything(*parts: int) -> None:
    """Seed Python, numpy and torch (all devices) of this process.

    Args:
        parts: numbers from which the seed is made, such as (seed, rank, iteration).
    """
    words = np.random.SeedSequence([part % 2**63 for part in parts]).generate_state(3)
    random.seed(int(words[0]))
    np.random.seed(int(words[1]))
    torch.manual_seed(int(words[2]))
