"""Writing the report of a run."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mvseg.checkpoints import atomic_file
from mvseg.config import get_cfg
from mvseg.report.html import jpeg_uris
from mvseg.report.page import page
from mvseg.report.run import Run, read_run
from mvseg.report.sections import (
    classes_section,
    curves_section,
    pictures_section,
    results_section,
    run_section,
    words_section,
)
from mvseg.report.words import Words, look_up_words

FILE = "report.html"
PICTURE_BYTES = 4_000_000  # of all pictures together, as text


def write_report(output_dir: str | Path, path: str | Path | None = None) -> Path:
    """Write one HTML file about a run from what the run has left in its folder.

    Args:
        output_dir: the run's OUTPUT_DIR; the run may be unfinished or interrupted.
        path: the file to write; None: ``report.html`` in the run's folder.

    Returns:
        The file.
    """
    run = read_run(output_dir)
    words = look_up_words(run)
    names = [*run.test_sets, *(f"train_{name}" for name in run.train_sets)]
    pictures = [picture for name in names if (picture := run.picture(name)) is not None]
    uris, unreadable = jpeg_uris(pictures, PICTURE_BYTES)
    missing = [*run.missing, *words.missing, *unreadable]
    sections = {
        "Results": results_section(run, words),
        "Pictures": pictures_section(run, uris),
        "Classes": classes_section(run, words),
        "Training": curves_section(run),
        "Words": words_section(run, words),
        "The run": run_section(run, changed_settings(run.config), missing),
    }
    html = page(_title(run), _summary(run, words), _facts(run), sections, _banner(run), _footer())
    target = Path(path) if path is not None else run.folder / FILE
    with atomic_file(target) as file:
        file.write(html.encode())
    return target


def changed_settings(config: Mapping[str, Any]) -> dict[str, str]:
    """List the settings of a config that differ from mvseg's defaults.

    Args:
        config: the resolved config as plain values.

    Returns:
        Key to value as text, in the order of the config.
    """
    return dict(_differences(config, get_cfg(), ""))


def _differences(config: Mapping[str, Any], default: Any, prefix: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for name, value in config.items():
        known = default.get(name) if isinstance(default, Mapping) else None
        if isinstance(value, Mapping) and isinstance(known, Mapping):
            found += _differences(value, known, f"{prefix}{name}.")
        elif _plain(value) != _plain(known):
            found.append((f"{prefix}{name}", str(value)))
    return found


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _title(run: Run) -> str:
    return f"mvseg: {run.folder.resolve().name}"


def _summary(run: Run, words: Words) -> str:
    batch, steps = run.setting("SOLVER.IMS_PER_BATCH"), run.setting("SOLVER.MAX_ITER")
    sets = len(run.train_sets)
    count = sum(len(vocabulary) for vocabulary in words.groups.values())
    what = f"One model trained on {sets} dataset{'s' if sets != 1 else ''}" if sets else "A run"
    if count:
        what += f" with {count} words"
    if steps and batch:
        what += f", {steps} iterations of {batch} images"
    tests = len(run.test_sets)
    return what + (f"; tested on {tests} set{'s' if tests != 1 else ''}." if tests else ".")


def _facts(run: Run) -> list[str]:
    facts = [str(run.setting("MODEL.META_ARCHITECTURE", "")), str(run.setting("MODEL.DEVICE", ""))]
    if run.sessions:
        last = run.sessions[-1]
        facts += [str(last.get("started", ""))[:16].replace("T", " "), str(last.get("machine", ""))]
        facts.append(f"mvseg {last.get('code', '')}")
        if len(run.sessions) > 1:
            facts.append(f"{len(run.sessions)} starts")
    seconds = training_seconds(run)
    if seconds:
        facts.append(f"{_duration(seconds)} of training steps")
    wall = _wall_seconds(run)
    if wall:
        facts.append(f"{_duration(wall)} in all")
    return facts


def training_seconds(run: Run) -> float:
    """Add up the time of the training steps, without evaluations.

    Args:
        run: the run.

    Returns:
        Seconds; 0 if no curve has times.
    """
    seconds, before = 0.0, -1
    for iteration, step in run.scalars.get("time", []):
        seconds += step * (iteration - before)
        before = iteration
    return seconds


def _wall_seconds(run: Run) -> float | None:
    """From the start of the only session to the last line of the log; several sessions have breaks between them."""
    log = run.folder / "log.txt"
    if len(run.sessions) != 1 or not log.is_file() or not run.sessions[0].get("epoch"):
        return None
    return max(log.stat().st_mtime - float(run.sessions[0]["epoch"]), 0.0)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _banner(run: Run) -> str:
    planned, last = run.setting("SOLVER.MAX_ITER"), run.last_iteration
    if not run.finished and last is not None:
        text = f"This run is not finished: its last trace is iteration {last + 1} of {planned}."
        return (
            text if run.evaluated_at is None else f"{text} The results are those of iteration {run.evaluated_at + 1}."
        )
    if not run.results and run.test_sets:
        return "There are no results: no evaluation has ended."
    return ""


def _footer() -> str:
    now = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M")
    return f"Written by python -m mvseg.report on {now}. This file needs nothing else: no network, no scripts."
