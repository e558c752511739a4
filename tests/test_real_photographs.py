"""Learning on real photographs (slow; needs ../shared): a detector can overfit, and joint training carries over.

The commands and full figures are in docs/real_photographs.md.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def train(shared: Path, output: Path, config: str, *overrides: str) -> dict[str, dict[str, dict[str, float]]]:
    command = [sys.executable, "train_net.py", "--config-file", f"configs/real/{config}", "OUTPUT_DIR", str(output)]
    environment = {**os.environ, "DETECTRON2_DATASETS": str(shared / "data")}
    done = subprocess.run([*command, *overrides], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((output / "results.json").read_text())["results"]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_32_photographs_are_learnt_by_heart(shared: Path, tmp_path: Path):
    results = train(shared, tmp_path, "overfit_32.yaml")
    assert results["car_parts_32"]["bbox"]["AP50"] > 80


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_datasets_with_different_words_are_learnt_together(shared: Path, tmp_path: Path):
    untrained = train(shared, tmp_path / "untrained", "car_parts_raccoon.yaml", "SOLVER.MAX_ITER", "1")
    results = train(shared, tmp_path / "trained", "car_parts_raccoon.yaml")
    for dataset in ("car_parts_val", "raccoon_val"):
        assert results[dataset]["bbox"]["AP50"] > untrained[dataset]["bbox"]["AP50"] + 30
