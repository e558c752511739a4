"""The two drawn sets, written once."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def cards() -> Path:
    from tiny import shared_sets

    return shared_sets()
