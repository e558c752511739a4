"""Printing, flattening and checking of evaluation results."""

import logging
import pprint
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

logger = logging.getLogger(__name__)


def print_csv_format(results: Mapping[str, Any]) -> None:
    """Log the main metrics as lines that can be copied into a table (metrics with a "-" in the name are per class)."""
    for task, metrics in results.items():
        if not isinstance(metrics, Mapping):
            logger.info("copypaste: %s=%s", task, metrics)
            continue
        main = {name: value for name, value in metrics.items() if "-" not in name}
        logger.info("copypaste: Task: %s", task)
        logger.info("copypaste: %s", ",".join(main))
        logger.info("copypaste: %s", ",".join(f"{value:.4f}" for value in main.values()))


def verify_results(cfg: Any, results: Mapping[str, Mapping[str, float]]) -> bool:
    """Compare with cfg.TEST.EXPECTED_RESULTS (rows of task, metric, value, tolerance); exit with status 1 on a miss."""
    expected = cfg.TEST.EXPECTED_RESULTS
    missed = []
    for task, metric, value, tolerance in expected:
        actual = results.get(task, {}).get(metric)
        if actual is None or not np.isfinite(actual) or abs(actual - value) > tolerance:
            missed.append(f"{task} {metric}: {actual} instead of {value} +- {tolerance}")
    if missed:
        logger.error("unexpected results: %s", "; ".join(missed))
        logger.error("expected: %s\nactual: %s", pprint.pformat(expected), pprint.pformat(results))
        sys.exit(1)
    if len(expected):
        logger.info("the results are as expected")
    return True


def flatten_results_dict(results: Mapping[str, Any]) -> dict[str, Any]:
    """Turn {"a": {"b": 1}} into {"a/b": 1}, at any depth."""
    flat: dict[str, Any] = {}
    for key, value in results.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}/{inner}": number for inner, number in flatten_results_dict(value).items()}
        else:
            flat[key] = value
    return flat
