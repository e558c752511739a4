"""Which evaluator for which dataset: the card of the dataset says it."""

from __future__ import annotations

from collections.abc import Callable

from detectron2.evaluation import COCOEvaluator, DatasetEvaluator

from mvseg.data.catalog import get_card
from mvseg.evaluation.lvis import PerClassLVISEvaluator
from mvseg.vocabulary import did_you_mean

# (dataset name, tasks such as ("bbox", "segm"), folder for the predictions or None) -> evaluator
EvaluatorFactory = Callable[[str, tuple[str, ...], str | None], DatasetEvaluator]
EVALUATORS: dict[str, EvaluatorFactory] = {}


def register_evaluator(name: str, factory: EvaluatorFactory) -> None:
    """Add a kind of evaluator that cards can name.

    Args:
        name: what a card says under ``evaluator``.
        factory: takes dataset name, tasks and output folder; gives the evaluator.

    Raises:
        ValueError: if the name is taken.
    """
    if name in EVALUATORS:
        raise ValueError(f"evaluator {name!r} is already registered")
    EVALUATORS[name] = factory


def build_evaluator(name: str, output_dir: str | None = None, *, masks: bool = True) -> DatasetEvaluator:
    """Build the evaluator that a dataset's card names.

    Args:
        name: dataset name.
        output_dir: folder for the predictions; None writes none.
        masks: False if the model predicts no masks. Masks are only evaluated on datasets that have them.

    Returns:
        The evaluator.

    Raises:
        ValueError: if nobody registered that kind of evaluator.
    """
    card = get_card(name)
    if card.evaluator not in EVALUATORS:
        raise ValueError(f"dataset {name!r}: no evaluator {card.evaluator!r}{did_you_mean(card.evaluator, EVALUATORS)}")
    tasks = ("bbox", "segm") if masks and card.supervision == "masks" else ("bbox",)
    return EVALUATORS[card.evaluator](name, tasks, output_dir)


# allow_cached_coco=False: annotations that an earlier run left in the folder may be those of other data.
register_evaluator(
    "coco", lambda name, tasks, folder: COCOEvaluator(name, tasks, output_dir=folder, allow_cached_coco=False)
)
register_evaluator("lvis", lambda name, tasks, folder: PerClassLVISEvaluator(name, tasks, output_dir=folder))
