"""The two drawn sets, written once."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def cards(tmp_path_factory) -> Path:
    from tiny import write_sets

    return write_sets(tmp_path_factory.mktemp("tiny"))
