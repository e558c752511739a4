"""What all tests share: mvseg is imported first so that ``detectron2`` resolves; where the shared data lies."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

import mvseg  # noqa: F401  (activates the detectron2 provider)

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with oracles and photographs; tests that need it are skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("../shared (oracles and photographs) is not here")
    return SHARED


@pytest.fixture(autouse=True)
def _same_seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _loggers_as_before():
    """Undo what a test's ``setup_logger`` did to the loggers of the whole process."""
    known = [logging.getLogger(name) for name in ("mvseg", "detectron2", "fvcore")]
    before = [(log, log.propagate, log.level, list(log.handlers)) for log in known]
    yield
    for log, propagate, level, handlers in before:
        log.propagate, log.level, log.handlers[:] = propagate, level, handlers
