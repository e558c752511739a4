"""What a run has left in its folder, read so that an interrupted run and missing files are no error but are noted."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mvseg.report.facts import FILE as RUN_FILE
from mvseg.report.facts import read_sessions

Metrics = dict[str, dict[str, float | None]]  # task -> metric -> value
Series = list[tuple[int, float]]  # (iteration, value)


@dataclass
class Run:
    """What is known of one run.

    Args:
        folder: the run's OUTPUT_DIR.
        config: the resolved config as plain values; empty if it is missing.
        config_text: the same as YAML.
        sessions: the starts of the run, see :mod:`mvseg.report.facts`.
        scalars: name to its curve, from metrics.json.
        results: row (a test set, or "test set (EMA)") to its results.
        evaluated_at: iteration of the results, None if there are none.
        missing: what could not be read, and why that may be.
    """

    folder: Path
    config: dict[str, Any] = field(default_factory=dict)
    config_text: str = ""
    sessions: list[dict[str, Any]] = field(default_factory=list)
    scalars: dict[str, Series] = field(default_factory=dict)
    results: dict[str, Metrics] = field(default_factory=dict)
    evaluated_at: int | None = None
    missing: list[str] = field(default_factory=list)

    def setting(self, key: str, default: Any = None) -> Any:
        """Look up a key of the config.

        Args:
            key: with dots, such as "SOLVER.MAX_ITER".
            default: what to give if the config is missing or lacks it.

        Returns:
            The value.
        """
        node: Any = self.config
        for part in key.split("."):
            if not isinstance(node, Mapping) or part not in node:
                return default
            node = node[part]
        return node

    @property
    def train_sets(self) -> list[str]:
        """Names of the training sets.

        Returns:
            As in DATASETS.TRAIN.
        """
        return [str(name) for name in self.setting("DATASETS.TRAIN", ())]

    @property
    def test_sets(self) -> list[str]:
        """Names of the test sets.

        Returns:
            As in DATASETS.TEST, or those of the results if there is no config.
        """
        known = [str(name) for name in self.setting("DATASETS.TEST", ())]
        return known or [name for name in self.results if not name.endswith(" (EMA)")]

    @property
    def last_iteration(self) -> int | None:
        """The last training iteration that left a trace.

        Returns:
            0-based iteration, or None.
        """
        losses = self.scalars.get("total_loss") or self.scalars.get("lr") or []
        return losses[-1][0] if losses else None

    @property
    def finished(self) -> bool:
        """Whether training went to its end.

        Returns:
            True if the last weights are there, or nothing is known of an earlier end.
        """
        if (self.folder / "model_final.pth").exists():
            return True
        planned = self.setting("SOLVER.MAX_ITER")
        return planned is None or self.last_iteration is None or self.last_iteration >= planned - 1

    def picture(self, name: str) -> Path | None:
        """Find the newest picture of a dataset.

        Args:
            name: a test set, or "train_" and a training set.

        Returns:
            The file, or None.
        """
        pattern = re.compile(re.escape(name) + r"(_\d+)?\.(jpg|png)")
        folder = self.folder / "pictures"
        files = sorted(p for p in folder.glob(f"{name}*") if pattern.fullmatch(p.name)) if folder.is_dir() else []
        return files[-1] if files else None


def read_run(output_dir: str | Path) -> Run:
    """Read a run's folder.

    Args:
        output_dir: the OUTPUT_DIR of the run.

    Returns:
        What was found; ``missing`` lists the rest.

    Raises:
        FileNotFoundError: if the folder does not exist, or holds nothing of a run.
    """
    folder = Path(output_dir)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} does not exist; give the OUTPUT_DIR of a run")
    run = Run(folder, sessions=read_sessions(folder / RUN_FILE))
    if not run.sessions:
        run.missing.append(f"command, date and versions: {RUN_FILE} is not there (a run of older code)")
    _read_config(run)
    _read_metrics(run)
    _read_results(run)
    if not (run.config or run.scalars or run.results):
        raise FileNotFoundError(f"{folder} holds neither config.yaml nor metrics.json nor results.json: no run")
    return run


def _read_config(run: Run) -> None:
    path = run.folder / "config.yaml"
    try:
        run.config_text = path.read_text(encoding="utf-8")
        run.config = yaml.safe_load(run.config_text) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        run.missing.append(f"the config: {_reason(path, error)}")
    if not isinstance(run.config, dict):
        run.config = {}


def _read_metrics(run: Run) -> None:
    path = run.folder / "metrics.json"
    values: dict[str, dict[int, float]] = {}
    damaged = 0
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        run.missing.append(f"curves: {_reason(path, error)}")
        return
    for line in lines:
        try:
            entry = json.loads(line)
            iteration = int(entry["iteration"])
        except (ValueError, KeyError, TypeError):
            damaged += 1
            continue
        for name, value in entry.items():
            # A resumed run repeats iterations: the last line counts.
            if name != "iteration" and isinstance(value, int | float) and math.isfinite(value):
                values.setdefault(name, {})[iteration] = float(value)
    run.scalars = {name: sorted(curve.items()) for name, curve in values.items()}
    if damaged:
        run.missing.append(f"{damaged} lines of metrics.json, which are cut off or damaged")
    if not run.scalars:
        run.missing.append("curves: metrics.json has no values yet (one line is written every 20 iterations)")


def _read_results(run: Run) -> None:
    path = run.folder / "results.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        run.results = {str(name): dict(tasks) for name, tasks in content["results"].items()}
        run.evaluated_at = content.get("iteration")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        run.missing.append(f"results: {_reason(path, error)}; they are written by an evaluation")
        return
    for name in run.test_sets:
        if name not in run.results:
            run.missing.append(f"results of {name}: not in results.json")


def _reason(path: Path, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return f"{path.name} is not there"
    return f"{path.name} cannot be read ({type(error).__name__})"
