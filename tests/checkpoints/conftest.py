"""What the tests of weights share: the helpers of the models' tests, and the oracles."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "modeling"))


@pytest.fixture(scope="session")
def oracles(shared: Path) -> Path:
    return shared / "oracles"
