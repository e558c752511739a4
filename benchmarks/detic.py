"""Training step, inference and memory of Detic with 1,203 and 22,000 words, beside the original implementation.

    python benchmarks/detic.py
    python benchmarks/detic.py --original DETIC --centernet2 CENTERNET2 --detectron2 DETECTRON2 --threads 1

Every system runs in a process of its own with the same weights, pictures, annotation, words and threads, and the
processes take turns, so that what else the machine does slows all of them alike. Shown are medians of the wall time and
of the CPU time; on a shared machine only the latter can be compared. The original's folders are those of its public
repositories, Detectron2 with its compiled part; a process that runs the original imports nothing of mvseg.

A step is forward, backward, clipping and AdamW, float32. Boxes: one image with boxes and masks at full size. Tags: four
images of half the side, one label each (their pixels are as many; Detic's ratio). Weights are random, with a classifier
that finds about as much as a trained one. With 22,000 words the original uses its own way for many classes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

WORKER = Path(__file__).with_name("detic_worker.py")
TASKS = ("boxes", "tags", "detect")


class System:
    """A process with one model, which runs a task whenever it is asked to."""

    def __init__(self, name: str, words: int, args: argparse.Namespace) -> None:
        command = [sys.executable, str(WORKER), "--system", name, "--words", str(words), "--size", str(args.size)]
        command += ["--threads", str(args.threads), "--device", args.device]
        for key in ("original", "centernet2", "detectron2"):
            if name == "original" and getattr(args, key):
                command += [f"--{key}", str(Path(getattr(args, key)).resolve())]
        self.name = name
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, task: str) -> dict[str, Any]:
        """Run a task once; gives seconds, cpu_seconds, memory (GiB) and numbers of the result."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(task + "\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise SystemExit(f"the process of {self.name} ended while it ran {task}: see its messages above")

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def measure(words: int, names: list[str], args: argparse.Namespace) -> list[tuple[str, int, str, dict[str, Any]]]:
    """Let the systems take turns; medians of every task after one warm-up."""
    systems = [System(name, words, args) for name in names]
    rows = []
    for task in args.tasks:
        results: dict[str, list[dict[str, Any]]] = {system.name: [] for system in systems}
        for repetition in range(args.repeats + 1):
            for system in systems:
                result = system.ask(task)
                if repetition:
                    results[system.name].append(result)
        for name, values in results.items():
            summary = {key: statistics.median(value[key] for value in values) for key in values[0]}
            rows.append((task, words, name, summary))
            print_row(*rows[-1])
    for system in systems:
        system.close()
    return rows


def print_row(task: str, words: int, name: str, values: dict[str, Any]) -> None:
    """Print one line of the table."""
    more = ", ".join(f"{key} {value:.4g}" for key, value in values.items() if key not in ("wall", "cpu", "memory"))
    figures = f"{values['cpu']:7.2f} s CPU {values['wall']:7.2f} s wall {values['memory']:5.2f} GiB"
    print(f"  {task:6s} {words:6d} words  {name:8s} {figures}   {more}", flush=True)


def print_ratios(rows: list[tuple[str, int, str, dict[str, Any]]]) -> None:
    """Print the comparisons that the project's goals are about."""
    known = {(task, words, name): values for task, words, name, values in rows}
    for (task, words, name), values in known.items():
        peer = known.get((task, words, "original"))
        if name == "mvseg" and peer is not None:
            print(
                f"  {task}, {words} words: {peer['cpu'] / values['cpu']:.2f} times the original's speed by CPU time, "
                f"{peer['wall'] / values['wall']:.2f} by wall time"
            )
    for task, name in dict.fromkeys((task, name) for task, _, name in known):
        sizes = sorted(words for t, words, n in known if (t, n) == (task, name))
        few, many = known[task, sizes[0], name], known[task, sizes[-1], name]
        if len(sizes) > 1:
            print(
                f"  {task}, {name}: with {sizes[-1]} words {many['cpu'] / few['cpu']:.2f} times the CPU time and "
                f"{many['memory'] / few['memory']:.2f} times the memory of {sizes[0]}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--words", type=int, nargs="+", default=[1203, 22000])
    parser.add_argument("--size", type=int, default=640, help="side of the image, pixels")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--original", help="folder of the original implementation; without it only mvseg is measured")
    parser.add_argument("--centernet2", help="folder of CenterNet2, if it is not in the original's third_party")
    parser.add_argument("--detectron2", help="folder of a compiled Detectron2, if it is not installed")
    args = parser.parse_args()
    names = ["mvseg", "original"] if args.original else ["mvseg"]
    print(f"R50, {args.size} px, float32, {args.device}, {args.threads} threads, {args.repeats} repeats")
    rows = [row for words in args.words for row in measure(words, names, args)]
    print_ratios(rows)


if __name__ == "__main__":
    main()
