"""Seeds and the torch version."""

import logging
import os
import random
import re

import numpy as np
import torch

TORCH_VERSION = tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2])


def seed_all_rng(seed: int | None = None) -> None:
    """Seed Python, numpy and torch; without a seed, with one from the system's entropy, which is logged."""
    if seed is None:
        seed = int.from_bytes(os.urandom(4), "little") % 2**31
        logging.getLogger(__name__).info("random seed: %d", seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    random.seed(seed)
    # numba and friends read it; child processes inherit it
    os.environ["PYTHONHASHSEED"] = str(seed)


def setup_environment() -> None:
    """Nothing to set up: kept because scripts call it."""
