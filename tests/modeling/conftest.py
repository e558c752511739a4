"""What the tests of the models share."""

from __future__ import annotations

from pathlib import Path

import pytest
from oracle_numbers import Oracle


@pytest.fixture(scope="session")
def oracles(shared: Path) -> Path:
    return shared / "oracles"


@pytest.fixture(scope="session")
def units(oracles: Path) -> Oracle:
    return Oracle(oracles / "units_detic")
