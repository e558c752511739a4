"""Base and novel classes apart: the numbers of open-vocabulary detection, for vocabularies that say which are novel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from detectron2.evaluation import COCOEvaluator

from mvseg.data.catalog import get_vocabulary


def novel_classes(dataset: str) -> tuple[bool, ...]:
    """Say which classes of a dataset are novel, that is, meant to be held out of training.

    Args:
        dataset: name of the dataset.

    Returns:
        One entry for every class; empty if all classes are of one kind.
    """
    novel = tuple(get_vocabulary(dataset, embeddings=False).novel)
    return novel if any(novel) and not all(novel) else ()


def split_mean(values: Sequence[float], novel: Sequence[bool], metric: str = "AP50") -> dict[str, float]:
    """Average the values of the base and of the novel classes.

    Args:
        values: one for every class; nan where there is nothing to find.
        novel: one for every class, or empty.
        metric: what the values are.

    Returns:
        ``{"AP50-base": ..., "AP50-novel": ...}``, nan for a part without objects; empty without ``novel``.
    """
    if not novel:
        return {}
    means = {}
    for part, wanted in (("base", False), ("novel", True)):
        known = [v for v, is_novel in zip(values, novel, strict=True) if is_novel == wanted and not math.isnan(v)]
        means[f"{metric}-{part}"] = sum(known) / len(known) if known else float("nan")
    return means


class SplitCOCOEvaluator(COCOEvaluator):
    """Detectron2's COCO evaluator that also gives AP50 of the base and of the novel classes, where there are some.

    One evaluation of all classes together, which compete for the places of an image ("generalised" in the literature):
    AP50 is the mean over all of them, ``AP50-base`` and ``AP50-novel`` over the parts.
    """

    def _derive_coco_results(self, coco_eval: Any, iou_type: str, class_names: Any = None) -> dict[str, float]:
        results = super()._derive_coco_results(coco_eval, iou_type, class_names=class_names)
        novel = novel_classes(self._metadata.name)
        if coco_eval is None or not novel:
            return results
        index_of = self._metadata.get("thing_dataset_id_to_contiguous_id")
        precision = coco_eval.eval["precision"][0, :, :, 0, -1]  # IoU 0.5, any size, the largest limit of detections
        values = [float("nan")] * len(novel)
        for column, category in enumerate(coco_eval.params.catIds):
            valid = precision[:, column][precision[:, column] > -1]
            if valid.size:
                values[index_of[category] if index_of else column] = 100 * float(valid.mean())
        overall = {name: value for name, value in results.items() if not name.startswith("AP-")}
        return {**overall, **split_mean(values, novel), **results}
