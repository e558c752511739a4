"""Doing the trainings of a claim in processes of their own: each once, several at a time, and on after a break."""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mvseg.checkpoints import atomic_file
from mvseg.report.facts import code_version, machine

from .claim import ROOT, Claim, Run, as_options

DONE = "done.json"
LOG = "output.txt"
ERROR_LINES = 12  # of a failed training's output


@dataclass(frozen=True)
class Outcome:
    """What became of a run.

    Args:
        run: the run.
        done: the content of its ``done.json``; None if it failed or was not started.
        error: what went wrong; empty if it is done.
        repeated: False if an earlier call had done it already.
    """

    run: Run
    done: dict[str, Any] | None
    error: str = ""
    repeated: bool = True

    def value(self, metric: str) -> float | None:
        """Look up a number.

        Args:
            metric: "test set/task/metric".

        Returns:
            The number; None if this run does not have it.
        """
        dataset, task, name = metric.split("/")
        found = ((self.done or {}).get("results", {}).get(dataset, {}).get(task) or {}).get(name)
        return None if found is None else float(found)


class Workshop:
    """Runs trainings for a claim below one folder.

    Args:
        claim: the claim.
        folder: where the claim's runs and tables lie.
        jobs: trainings at the same time; they share the cores.
        say: called with every line of progress.
    """

    def __init__(self, claim: Claim, folder: Path, jobs: int = 1, say: Callable[[str], None] = print) -> None:
        self.claim = claim
        self.folder = folder
        self.jobs = max(1, jobs)
        self.say = say
        self._failed: set[str] = set()
        self._children: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._stopping = False

    def place(self, run: Run) -> Path:
        """Say where a run's files lie.

        Args:
            run: the run.

        Returns:
            Its OUTPUT_DIR.
        """
        return self.folder / "runs" / run.name

    def known(self, run: Run) -> Outcome | None:
        """Look up a run that is done.

        Args:
            run: the run.

        Returns:
            Its outcome; None if it is not done.
        """
        try:
            done = json.loads((self.place(run) / DONE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return Outcome(run, done, repeated=False) if done.get("key") == run.key else None

    def work(self, runs: Sequence[Run]) -> list[Outcome]:
        """Do the runs that are not done.

        Args:
            runs: the runs.

        Returns:
            One outcome for each, in their order. An arm's other seeds are not started after one of them has failed,
            nor is what goes on from a failed start.
        """
        total = len(runs)
        by_key: dict[str, Future[Outcome]] = {}
        with ThreadPoolExecutor(self.jobs) as pool:
            try:
                futures = []
                for i, run in enumerate(runs, start=1):
                    # A start stands before what goes on from it, so a thread has taken it when another waits for it.
                    before = None if run.start is None else by_key[run.start.key]
                    futures.append(pool.submit(self._one, run, f"[{i}/{total}]", before))
                    by_key[run.key] = futures[-1]
                return [future.result() for future in futures]
            except BaseException:
                self._stop()
                raise

    def _one(self, run: Run, number: str, before: Future[Outcome] | None = None) -> Outcome:
        known = self.known(run)
        if known is not None:
            self.say(f"{number} {run.title}: done before, {self._shown(known)}")
            return known
        if before is not None and not before.result().done:
            return Outcome(run, None, "not started: the training that it goes on from has failed")
        if run.arm in self._failed or self._stopping:
            return Outcome(run, None, f"not started: arm {run.arm!r} has failed with another seed")
        self.say(f"{number} {run.title}: started, {self.place(run)}")
        start = time.monotonic()
        code = self._train(run)
        seconds = time.monotonic() - start
        outcome = self._finish(run, code, seconds)
        if outcome.error:
            self._failed.add(run.arm)
        self.say(f"{number} {run.title}: {seconds:.0f} s, {outcome.error or self._shown(outcome)}")
        return outcome

    def _shown(self, outcome: Outcome) -> str:
        values = {metric: outcome.value(metric) for metric in self.claim.metrics}
        return ", ".join(f"{metric} {value:.1f}" for metric, value in values.items() if value is not None)

    def _train(self, run: Run) -> int:
        place = self.place(run)
        place.mkdir(parents=True, exist_ok=True)
        program = [sys.executable if part == "python" else part for part in self.claim.command]
        weights = {} if run.start is None else {"MODEL.WEIGHTS": str(self.place(run.start) / "model_final.pth")}
        options = as_options({**run.overrides, **weights, "OUTPUT_DIR": str(place)})
        # --resume starts anew where there is no checkpoint, and goes on where a killed run has left one.
        command = [*program, "--config-file", str(self.claim.config_path), "--resume", *options]
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        threads = os.environ.get("OMP_NUM_THREADS", str(max(1, cores // self.jobs)))
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        with (place / LOG).open("ab") as log:
            # In a session of its own Ctrl-C does not reach it: it is asked to end by SIGTERM and writes a checkpoint.
            child = subprocess.Popen(
                command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
            )
            with self._lock:
                self._children.add(child)
                if self._stopping:  # _stop has not seen it
                    child.terminate()
            try:
                return child.wait()
            finally:
                with self._lock:
                    self._children.discard(child)

    def _finish(self, run: Run, code: int, seconds: float) -> Outcome:
        place = self.place(run)
        if code != 0:
            lines = (place / LOG).read_text(errors="replace").strip().splitlines()[-ERROR_LINES:]
            listed = "".join(f"\n    {line}" for line in lines)
            return Outcome(run, None, f"FAILED with exit code {code}; {place / LOG} ends:{listed}")
        try:
            results = json.loads((place / "results.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            return Outcome(run, None, f"FAILED: it left no results.json that can be read ({error})")
        done = {
            "key": run.key, "arm": run.arm, "part": run.part, "seed": run.seed, "seconds": round(seconds, 1),
            "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"), "code": code_version(),
            "machine": machine(), "jobs": self.jobs, "overrides": {k: str(v) for k, v in run.overrides.items()},
            "results": results["results"],
        }  # fmt: skip
        with atomic_file(place / DONE) as file:
            file.write((json.dumps(done, indent=2) + "\n").encode())
        for checkpoint in place.glob("model_0*.pth"):  # only needed to go on after a break
            checkpoint.unlink()
        return Outcome(run, done)

    def _stop(self) -> None:
        """Ask the trainings to end (they write a checkpoint and go on with the next call) and wait for them."""
        with self._lock:
            self._stopping = True
            children = list(self._children)
        for child in children:
            child.terminate()
        for child in children:
            child.wait()
