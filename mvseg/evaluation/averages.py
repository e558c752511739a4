"""Mean and median over several test sets, such as the 13 of ODinW: one number for how a detector does on all."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from mvseg.evaluation.summary import Metrics, overall
from mvseg.vocabulary import did_you_mean

MEDIAN = "{} (median)"
_FIELDS = {"name", "datasets"}


def read_averages(entries: Sequence[Mapping[str, Any]], test_sets: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Read TEST.AVERAGES.

    Args:
        entries: structs with a name and a list of datasets; a dataset can be a pattern such as "odinw_*_test".
        test_sets: the names in DATASETS.TEST.

    Returns:
        Name of the average to its test sets, each once, in the order of the list.

    Raises:
        ValueError: if an entry has the wrong form, a name is taken, or a dataset is not tested.
    """
    groups: dict[str, tuple[str, ...]] = {}
    for entry in entries:
        if not isinstance(entry, Mapping) or set(entry) != _FIELDS or not isinstance(entry["datasets"], list | tuple):
            raise ValueError(
                "TEST.AVERAGES: every entry is a struct with a name and a list of test sets, such as "
                f"{{name: odinw, datasets: [odinw_*_test]}}, not {entry!r}"
            )
        name = str(entry["name"])
        if name in groups or name in test_sets:
            raise ValueError(f"TEST.AVERAGES: the name {name!r} is taken by another average or a test set")
        chosen: list[str] = []
        for pattern in map(str, entry["datasets"]):
            matching = [test for test in test_sets if fnmatchcase(test, pattern)]
            if not matching:
                raise ValueError(
                    f"TEST.AVERAGES {name!r}: {pattern!r} is not in DATASETS.TEST{did_you_mean(pattern, test_sets)}"
                )
            chosen += matching
        if not chosen:
            raise ValueError(f"TEST.AVERAGES {name!r} has no datasets")
        groups[name] = tuple(dict.fromkeys(chosen))
    return groups


def average_rows(results: Mapping[str, Metrics], groups: Mapping[str, Sequence[str]]) -> dict[str, dict[str, Any]]:
    """Average the results of test sets, every set with the same weight, however many images it has.

    Args:
        results: test set to its results; values in percent.
        groups: name of the average to its test sets.

    Returns:
        For each average a row of its name, the mean, and one of its name and "(median)": task to metric to value. Only
        metrics that all its sets have; nan where one of them has nan, for a mean over fewer sets is another number.
    """
    rows: dict[str, dict[str, Any]] = {}
    for name, datasets in groups.items():
        members = [overall(results[dataset]) for dataset in datasets]
        mean: dict[str, dict[str, float]] = {}
        median: dict[str, dict[str, float]] = {}
        for task, metrics in members[0].items():
            if task == "loss":  # of other classes and other numbers of objects
                continue
            for metric in metrics:
                values = [member[task][metric] for member in members if metric in member.get(task, {})]
                if len(values) == len(members):
                    known = not any(value != value for value in values)
                    mean.setdefault(task, {})[metric] = statistics.fmean(values) if known else float("nan")
                    median.setdefault(task, {})[metric] = statistics.median(values) if known else float("nan")
        rows[name], rows[MEDIAN.format(name)] = mean, median
    return rows
