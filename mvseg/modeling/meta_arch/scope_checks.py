"""Whether the losses of a detector can learn from the annotation scopes of its datasets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mvseg.data.supervision import has_places
from mvseg.vocabulary.scopes import AnnotationScopes


def objectives_in_use(roi_heads: Any) -> dict[str, Any]:
    """List the objectives that training asks.

    Args:
        roi_heads: the region heads.

    Returns:
        Kind of supervision to objective; that of image labels only where some dataset has them.
    """
    reported = getattr(getattr(roi_heads, "image_labels", None), "reported", ())
    return {k: o for k, o in getattr(roi_heads, "objectives", {}).items() if has_places(k) or k in reported}


def check_scopes(scopes: AnnotationScopes, objectives: Mapping[str, Any]) -> None:
    """Check that the losses can learn from the annotation scopes.

    Args:
        scopes: the scopes of the datasets.
        objectives: kind of supervision to :class:`mvseg.modeling.RegionObjective`.

    Raises:
        ValueError: if one cannot; the message names the scopes, the loss and what to set.
    """
    chosen = ", ".join(sorted(set(scopes.names.values())))
    parts = {part for name in scopes.names.values() for part in name.split("+")}
    has_positives = scopes.rules is not None and scopes.rules.positive is not None
    for objective in dict.fromkeys(objectives.values()):
        loss = type(objective).__name__
        if has_positives and not getattr(objective, "multi_label", False):
            raise ValueError(
                f"MODEL.ANNOTATION_SCOPE {chosen} makes broader words positive too, but {loss} learns one class per "
                "region: set MODEL.CLASSIFIER.LOSS sigmoid or federated"
            )
        if scopes.has_groups and not getattr(objective, "grouped", False):
            raise ValueError(
                f"MODEL.ANNOTATION_SCOPE {chosen} adds up probabilities of classes, which {loss} has not: set "
                "MODEL.CLASSIFIER.LOSS softmax, or another scope such as safe"
            )
        if getattr(objective, "one_background", False):
            _check_one_background(scopes, loss)
        if "federated" in parts and getattr(objective, "draws_columns", False):
            raise ValueError(
                f"MODEL.ANNOTATION_SCOPE {chosen} draws classes, and so does {loss}: set MODEL.CLASSIFIER.LOSS "
                "sigmoid, or MODEL.ANNOTATION_SCOPE own"
            )


def _check_one_background(scopes: AnnotationScopes, loss: str) -> None:
    """Images that say nothing about other datasets' words must not teach that nothing is there."""
    for dataset, name in scopes.names.items():
        own = len(scopes.space.columns(dataset).unique())
        if own < scopes.space.n and "all" not in name.split("+"):
            raise ValueError(
                f"{loss} decides for all {scopes.space.n} columns at once whether a region shows an object, but images "
                f"of dataset {dataset!r} (MODEL.ANNOTATION_SCOPE {name}) speak about {own} of them: set "
                "MODEL.LONG_TAIL.OBJECTNESS False where the loss can do without (eqlv2, seesaw), another "
                "MODEL.CLASSIFIER.LOSS such as sigmoid or focal, or MODEL.ANNOTATION_SCOPE all"
            )
