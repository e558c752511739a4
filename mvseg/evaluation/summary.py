"""Results of several test sets as one table, one JSON file and one CSV file of per-class AP for each set."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tabulate import tabulate

from mvseg.checkpoints import atomic_file

# Detectron2's evaluators name the value of a class "AP-<class>", "IoU-<class>", and so on.
PER_CLASS = ("AP-", "AP@50-", "AP@75-", "IoU-", "ACC-", "BoundaryIoU-", "min(IoU, B-Iou)-")
Metrics = Mapping[str, Mapping[str, float]]  # task ("bbox", "segm") -> metric -> value


def overall(results: Metrics) -> dict[str, dict[str, float]]:
    """Leave out the per-class values.

    Args:
        results: of one test set.

    Returns:
        The same, without metrics such as "AP-<class>".
    """
    return {
        task: {name: value for name, value in metrics.items() if not name.startswith(PER_CLASS)}
        for task, metrics in results.items()
    }


def summary_table(results: Mapping[str, Metrics]) -> str:
    """Write the table dataset × metric.

    Args:
        results: row name (a dataset, or "dataset (EMA)") to its results; values in percent.

    Returns:
        A table with a row for each entry; metrics that an entry lacks, and nan, are shown as "-".
    """
    rows = {name: overall(metrics) for name, metrics in results.items()}
    columns: list[tuple[str, str]] = []
    for metrics in rows.values():
        for task, values in metrics.items():
            names = [metric for metric in values if task != "loss" or metric == "total"]
            columns += [(task, metric) for metric in names if (task, metric) not in columns]
    columns.sort(key=lambda column: column[0])  # stable: the metrics of a task keep their order
    body = [
        [name, *(_cell(metrics.get(task, {}).get(metric)) for task, metric in columns)]
        for name, metrics in rows.items()
    ]
    headers = ["dataset", *(f"{task} {metric}" for task, metric in columns)]
    return tabulate(body, headers=headers, tablefmt="pipe", stralign="right", disable_numparse=True)


def _cell(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.2f}"


def write_results(path: str | Path, results: Mapping[str, Metrics], **facts: Any) -> None:
    """Write all results, per-class values too, to a JSON file.

    Args:
        path: the file; replaced as a whole.
        results: row name to its results; nan becomes null.
        facts: further entries, such as ``iteration``.
    """
    content = {**facts, "results": results}
    with atomic_file(path) as file:
        file.write((json.dumps(_without_nan(content), indent=2) + "\n").encode())


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def write_per_class(path: str | Path, results: Metrics) -> None:
    """Write the values of every class to a CSV file, with a column for each task and metric ("bbox AP").

    Args:
        path: the file; replaced as a whole. Nothing is written if the results have no per-class values.
        results: of one test set; classes without objects have an empty cell.
    """
    columns: dict[str, dict[str, float]] = {}
    for task, metrics in results.items():
        for name, value in metrics.items():
            prefix = next((start for start in PER_CLASS if name.startswith(start)), None)
            if prefix is not None:
                columns.setdefault(f"{task} {prefix[:-1]}", {})[name.removeprefix(prefix)] = value
    if not columns:
        return
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["class", *columns])
    for word in dict.fromkeys(word for values in columns.values() for word in values):
        values = [column.get(word, math.nan) for column in columns.values()]
        writer.writerow([word, *("" if math.isnan(v) else f"{v:.4f}" for v in values)])
    with atomic_file(path) as file:
        file.write(text.getvalue().encode())
