"""Run a partitioned detector on the test set of every vocabulary, with all label columns, and store what it finds.

Only the command line uses this; like every entry point it may import from every room, which it does when it runs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..label_space import LabelSpace
from ..learning import Header, Objects, PredictionWriter, StoredVocabulary

# Config keys that would change which detections a column reports, or take columns together.
NEUTRAL = {
    "MODEL.MASK_ON": False,
    "MODEL.ROI_HEADS.ONE_CLASS_PER_PROPOSAL": False,
    "MODEL.ROI_HEADS.NMS_CLASS_AGNOSTIC": False,
    "MODEL.ROI_HEADS.NMS": "hard",
    "MODEL.CLASSIFIER.TEST_MERGE": "",
    "MODEL.CLASSIFIER.TEST_WORDS": "",
    "MODEL.CALIBRATION.ENABLED": False,
}


def collect_predictions(
    config_file: str, overrides: Sequence[str], weights: str | None, folder: Path, score: float, detections: int
) -> None:
    """Let a detector with a concatenated label space answer on DATASETS.TEST, and store its detections of all columns.

    Args:
        config_file: config of the detector.
        overrides: KEY VALUE strings for the config.
        weights: its weight file; None: as the config says.
        folder: where the predictions go; test sets that are complete there are not run again.
        score: detections with a score above it are stored.
        detections: at most so many of each image.

    Raises:
        ValueError: if there are no weights, no test set, or the label space of the config is not concatenated.
    """
    import mvseg  # noqa: F401  (first: it makes detectron2 importable)
    from mvseg.config import load_config
    from mvseg.inference.building import build
    from mvseg.modeling.columns import training_label_space
    from mvseg.training.setup import prepare_datasets

    cfg = load_config(config_file, overrides)
    cfg.merge_from_list([part for item in NEUTRAL.items() for part in item])
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST, cfg.TEST.DETECTIONS_PER_IMAGE = score, detections
    if not (weights or cfg.MODEL.WEIGHTS):
        raise ValueError("a label space is learned from what a trained detector finds: name its --weights")
    prepare_datasets(cfg)
    space = training_label_space(cfg)
    if space is None or space.n != sum(len(space.vocabularies[d]) for d in space.representatives):
        raise ValueError(
            f"{config_file}: the label space is learned from a detector in which every word has a column of its own: "
            "set DATASETS.LABEL_SPACE concatenate"
        )
    names = vocabulary_names(space)
    vocabularies = tuple(_stored(names[d], space.vocabularies[d]) for d in space.representatives)
    cfg.MODEL.WEIGHTS = weights or cfg.MODEL.WEIGHTS
    header = Header(vocabularies, _sha256(cfg.MODEL.WEIGHTS), score, detections, cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST)
    sets = _test_sets(cfg.DATASETS.TEST, space, names)
    writer = PredictionWriter(folder, header, tuple(sets), {"config": config_file, "weights": str(cfg.MODEL.WEIGHTS)})
    for name in writer.done:
        print(f"{name}: its predictions are in {folder} already")
    missing = {name: vocabulary for name, vocabulary in sets.items() if name not in writer.done}
    if not missing:
        return
    model = build(cfg, None, None)
    if getattr(model, "label_space", None) is None:
        raise ValueError(f"{config_file}: only MODEL.META_ARCHITECTURE MultiDatasetRCNN answers with all label columns")
    writer.write_embeddings(_embeddings(space, names))
    for name, vocabulary in missing.items():
        _run_set(cfg, model, name, vocabulary, writer)


def vocabulary_names(space: LabelSpace) -> dict[str, str]:
    """Choose what every vocabulary of a label space is called in a mapping file.

    Args:
        space: the label space.

    Returns:
        Representative dataset to the vocabulary's name, or, where several have one name, to its own.
    """
    found = [space.vocabularies[d].name for d in space.representatives]
    return {d: name if found.count(name) == 1 else d for d, name in zip(space.representatives, found, strict=True)}


def _test_sets(test: Sequence[str], space: LabelSpace, names: Mapping[str, str]) -> dict[str, str]:
    """Test set to the name of its vocabulary."""
    from mvseg.data.catalog import get_card, get_vocabulary
    from mvseg.data.supervision import has_places

    chosen: dict[str, str] = {}
    for name in test:
        if not has_places(get_card(name).supervision):
            print(f"{name} is left out: its annotation has no boxes")
            continue
        words = get_vocabulary(name, embeddings=False)
        known = [
            d
            for d in space.representatives
            if (space.vocabularies[d].name, space.vocabularies[d].names) == (words.name, words.names)
        ]
        if known:
            chosen[name] = names[known[0]]
        else:
            print(f"{name} is left out: its vocabulary {words.name!r} is none of training")
    if not chosen:
        raise ValueError(
            "DATASETS.TEST has no set with boxes and the words of a training set; name one for every vocabulary"
        )
    for d in space.representatives:
        if names[d] not in chosen.values():
            print(f"{names[d]} has no test set in DATASETS.TEST: its words stay alone")
    return chosen


def _run_set(cfg: Any, model: Any, name: str, vocabulary: str, writer: PredictionWriter) -> None:
    from detectron2.evaluation import DatasetEvaluator, inference_on_dataset

    from mvseg.data.catalog import get_records
    from mvseg.data.loader import build_test_loader

    records = get_records(name)
    image_ids = [record["image_id"] for record in records]
    numbers = {image_id: number for number, image_id in enumerate(image_ids)}
    objects, judged = objects_of(name, records)
    writer.start(name, vocabulary, objects, image_ids, judged)

    class Collector(DatasetEvaluator):
        def reset(self) -> None:
            self.count = 0

        def process(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]) -> None:
            for given, answer in zip(inputs, outputs, strict=True):
                found = answer["instances"].to("cpu")
                self.count += len(found)
                writer.add(
                    numbers[given["image_id"]],
                    found.pred_classes.numpy(),
                    found.pred_boxes.tensor.float().numpy(),
                    found.scores.float().numpy(),
                )

        def evaluate(self) -> dict[str, Any]:
            return {}

    collector = Collector()
    with model.use_vocabulary(None):  # all label columns
        inference_on_dataset(model, build_test_loader(cfg, name), collector)
    writer.finish()
    print(f"{name}: {len(image_ids):,} images, {len(objects):,} objects, {collector.count:,} detections")


def objects_of(name: str, records: Sequence[Mapping[str, Any]]) -> tuple[Objects, Any]:
    """Collect the annotated objects of a test set; with a hierarchy they count for the broader classes too.

    Args:
        name: name of the test set.
        records: its records.

    Returns:
        The objects, and image number and class index of what people looked for, shape ``(V, 2)``, int64, or None where
        the records have no such lists.
    """
    from detectron2.data import MetadataCatalog

    from mvseg.data.catalog import get_card
    from mvseg.evaluation.openimages import Truth

    ancestors = MetadataCatalog.get(name).get("ancestors")
    truth = Truth.from_records(records, ancestors if get_card(name).options.get("expand_hierarchy", True) else None)
    federated = any("neg_category_ids" in r or "verified_category_ids" in r for r in records)
    objects = Objects(truth.images, truth.classes, truth.boxes.astype(np.float32), truth.groups)
    return objects, truth.verified if federated else None


def _stored(name: str, vocabulary: Any) -> StoredVocabulary:
    return StoredVocabulary(name, vocabulary.names, vocabulary.synonyms if any(vocabulary.synonyms) else ())


def _embeddings(space: LabelSpace, names: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Text embeddings of every vocabulary whose card names some; they are only reported."""
    from mvseg.data.catalog import get_vocabulary

    tables = {}
    for dataset in space.representatives:
        words = space.vocabularies[dataset]
        if words.embeddings is None:
            try:
                words = get_vocabulary(dataset)
            except FileNotFoundError as error:
                print(f"the report shows no cosines for {names[dataset]}: {error}")
        if words.embeddings is not None:
            tables[names[dataset]] = words.embeddings.numpy().astype(np.float16)
    return tables


def _sha256(path: str) -> str:
    from detectron2.utils.file_io import PathManager

    with open(PathManager.get_local_path(path), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
