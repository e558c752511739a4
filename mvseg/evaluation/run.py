"""Evaluation of a model on one test set, with that set's own vocabulary."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from detectron2.evaluation import DatasetEvaluator, inference_on_dataset
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mvseg.data.catalog import get_vocabulary
from mvseg.inference.calibration import first_pass
from mvseg.modeling.calibration import calibration_of


def unwrap(model: nn.Module) -> nn.Module:
    """Give the model inside DistributedDataParallel.

    Args:
        model: wrapped or not.

    Returns:
        The model itself.
    """
    return model.module if isinstance(model, DistributedDataParallel) else model


@contextmanager
def vocabulary_of(model: nn.Module, name: str) -> Iterator[None]:
    """Let the model speak a dataset's vocabulary inside a ``with`` block.

    Args:
        model: a model with ``use_vocabulary``; any other model (a plain Detectron2 one) is left as it is.
        name: dataset name.
    """
    inner: Any = unwrap(model)
    if not hasattr(inner, "use_vocabulary"):
        yield
        return
    with inner.use_vocabulary(get_vocabulary(name)):
        yield


def evaluate_dataset(
    model: nn.Module, name: str, loader: Iterable[list[dict[str, Any]]], evaluator: DatasetEvaluator
) -> dict[str, dict[str, float]]:
    """Evaluate a model on one test set with that set's vocabulary.

    A model whose calibration wants it looks at all images once before it answers.

    Args:
        model: the model, wrapped or not; its training mode is restored afterwards.
        name: dataset name.
        loader: gives the test set in batches.
        evaluator: compares the answers with the annotations.

    Returns:
        Task to metric to value in percent; empty on other processes than the main one.
    """
    with vocabulary_of(model, name):
        inner = unwrap(model)
        calibration = calibration_of(inner)
        if calibration is not None and calibration.waits:
            first_pass(inner, loader, name)
        return dict(inference_on_dataset(model, loader, evaluator) or {})
