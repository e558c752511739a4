"""Which evaluator for which dataset: the card of the dataset says it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOPanopticEvaluator, DatasetEvaluator, SemSegEvaluator

from mvseg.data import card as cards
from mvseg.data.catalog import get_card, get_records
from mvseg.data.label_maps import read_semantic
from mvseg.evaluation.lvis import PerClassLVISEvaluator
from mvseg.evaluation.openimages import OpenImagesEvaluator
from mvseg.evaluation.proposals import ProposalEvaluator
from mvseg.evaluation.split import SplitCOCOEvaluator
from mvseg.evaluation.voc import VOCEvaluator
from mvseg.vocabulary import did_you_mean

# (dataset name, tasks such as ("bbox", "segm"), folder for the predictions or None) -> evaluator
EvaluatorFactory = Callable[[str, tuple[str, ...], str | None], DatasetEvaluator]
EVALUATORS: dict[str, EvaluatorFactory] = {}
# Kind of evaluator -> what it reads of a model's answer.
ANSWERS: dict[str, str] = {}


def register_evaluator(
    name: str, factory: EvaluatorFactory, answer: str = "instances", options: Mapping[str, str] | None = None
) -> None:
    """Add a kind of evaluator that cards can name.

    Args:
        name: what a card says under ``evaluator``.
        factory: takes dataset name, tasks and output folder; gives the evaluator.
        answer: what it reads of a model's answer: "instances", "sem_seg" or "panoptic_seg"; several joined by " or ".
        options: keys that cards may set under ``options`` for it, with what they mean.

    Raises:
        ValueError: if the name is taken.
    """
    if name in EVALUATORS:
        raise ValueError(f"evaluator {name!r} is already registered")
    EVALUATORS[name] = factory
    ANSWERS[name] = answer
    if name not in cards.EVALUATORS:
        cards.EVALUATORS.append(name)
    if options:
        cards.EVALUATOR_OPTIONS[name] = dict(options)


def build_evaluator(
    name: str, output_dir: str | None = None, *, masks: bool = True, kind: str = ""
) -> DatasetEvaluator:
    """Build the evaluator that a dataset's card names, or another one.

    Args:
        name: dataset name.
        output_dir: folder for the predictions; None writes none.
        masks: False if the model predicts no masks. Masks are only evaluated on datasets that have them.
        kind: kind of evaluator; empty: that of the card.

    Returns:
        The evaluator.

    Raises:
        ValueError: if nobody registered that kind of evaluator, or the dataset is only for training.
    """
    card = get_card(name)
    kind = kind or card.evaluator
    if kind == "none":
        raise ValueError(
            f"{card.where} cannot be evaluated (evaluator: none), for it is only trained on; take it out of "
            "DATASETS.TEST"
        )
    if kind not in EVALUATORS:
        raise ValueError(f"dataset {name!r}: no evaluator {kind!r}{did_you_mean(kind, EVALUATORS)}")
    tasks = ("bbox", "segm") if masks and card.supervision == "masks" else ("bbox",)
    return EVALUATORS[kind](name, tasks, output_dir)


def _open_images(name: str, tasks: tuple[str, ...], folder: str | None) -> DatasetEvaluator:
    options = get_card(name).options
    chosen = {key: options[key] for key in ("expand_hierarchy", "expand_detections") if key in options}
    return OpenImagesEvaluator(name, folder, **chosen)


def _lvis(name: str, tasks: tuple[str, ...], folder: str | None) -> DatasetEvaluator:
    get_records(name)  # fills the metadata
    return PerClassLVISEvaluator(name, tasks, folder, fixed_ap=get_card(name).options.get("fixed_ap", 0))


def _voc(name: str, tasks: tuple[str, ...], folder: str | None) -> DatasetEvaluator:
    return VOCEvaluator(name, folder, get_card(name).options.get("measure", 2012))


def _semantic(name: str, tasks: tuple[str, ...], folder: str | None) -> DatasetEvaluator:
    records = {record["sem_seg_file_name"]: record for record in get_records(name)}

    def read(file_name: str, dtype: type = int) -> np.ndarray:
        return read_semantic(records[file_name]).astype(dtype)

    return SemSegEvaluator(name, output_dir=folder, sem_seg_loading_fn=read)


def _panoptic(name: str, tasks: tuple[str, ...], folder: str | None) -> DatasetEvaluator:
    get_records(name)  # fills the metadata
    if not MetadataCatalog.get(name).get("panoptic_json"):
        raise ValueError(
            f"{get_card(name).where}: panoptic evaluation reads the annotation file itself; it takes no split, aliases "
            "that merge, ignore or filter in the card"
        )
    return COCOPanopticEvaluator(name, folder)


# allow_cached_coco=False: annotations that an earlier run left in the folder may be those of other data.
register_evaluator(
    "coco", lambda name, tasks, folder: SplitCOCOEvaluator(name, tasks, output_dir=folder, allow_cached_coco=False)
)
register_evaluator("lvis", _lvis)
register_evaluator("openimages", _open_images)
register_evaluator("proposals", lambda name, tasks, folder: ProposalEvaluator(name), answer="instances or proposals")
register_evaluator("voc", _voc)
register_evaluator("sem_seg", _semantic, answer="sem_seg")
register_evaluator("coco_panoptic_seg", _panoptic, answer="panoptic_seg")
