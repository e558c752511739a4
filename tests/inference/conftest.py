"""One tiny run with random weights for all tests of the predictor."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_run import write_run

from mvseg.data.catalog import unregister_card


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_run(tmp_path_factory.mktemp("tiny") / "run")
    yield folder
    unregister_card("tiny_run_train")
