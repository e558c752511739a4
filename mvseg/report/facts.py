"""What is written down when a run starts: command, date, versions, code; read again by the report."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import mvseg
from mvseg.checkpoints import atomic_file
from mvseg.environment import package_versions
from mvseg.provider import detectron2_provider

FILE = "run.json"


def code_version(folder: Path | None = None) -> str:
    """Say which code runs.

    Args:
        folder: a folder of a Git checkout; None: where mvseg lies.

    Returns:
        mvseg's version, and the commit if it runs from a Git checkout, with "-dirty" if files differ from it.
    """
    folder = folder or Path(mvseg.__file__).resolve().parent
    command = ["git", "describe", "--always", "--dirty", "--abbrev=10", "--match", "no-tag-at-all"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return mvseg.__version__
    return f"{mvseg.__version__} ({done.stdout.strip()})"


def machine() -> str:
    """Describe where the code runs, without naming the machine.

    Returns:
        Such as "Linux x86_64, 2 cores, CPU only".
    """
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{platform.system()} {platform.machine()}, {cores} cores, {', '.join(gpus) or 'CPU only'}"


def record_session(output_dir: str | Path, command: Sequence[str] | None = None) -> None:
    """Add the start of this process to ``run.json`` of a run's folder; a resumed run has one entry for each start.

    Args:
        output_dir: the run's folder.
        command: what was typed; None: this process's own command line.
    """
    session = {
        "started": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "epoch": time.time(),
        "command": list(command or ["python", *sys.argv]),
        "code": code_version(),
        "machine": machine(),
        "python": platform.python_version(),
        "detectron2": f"{detectron2_provider()} provider",
        "versions": package_versions(),
    }
    path = Path(output_dir) / FILE
    with atomic_file(path) as file:
        file.write((json.dumps({"sessions": [*read_sessions(path), session]}, indent=2) + "\n").encode())


def read_sessions(path: Path) -> list[dict[str, Any]]:
    """Read ``run.json``.

    Args:
        path: the file.

    Returns:
        One entry for each start of the run; empty if the file is missing or damaged.
    """
    try:
        sessions = json.loads(path.read_text(encoding="utf-8"))["sessions"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [session for session in sessions if isinstance(session, dict)]
