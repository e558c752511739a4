"""Mixtures of all kinds of supervision are well defined, and what a model cannot use is said before the training."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOPanopticEvaluator, SemSegEvaluator
from detectron2.modeling import META_ARCH_REGISTRY
from PIL import Image
from tiny import shared_sets, tiny_config
from torch import nn

from mvseg.config import get_cfg
from mvseg.data import get_records, register_dataset
from mvseg.data.catalog import unregister_card
from mvseg.data.label_maps import read_panoptic, read_semantic
from mvseg.data.loader import build_train_loader
from mvseg.data.supervision import SUPERVISION
from mvseg.evaluation import build_evaluator, overall, write_per_class
from mvseg.provider import detectron2_provider
from mvseg.training import Trainer
from mvseg.training.parts import check_test_sets, check_training_sets
from mvseg.training.setup import prepare_datasets

WORDS = ["sky", "tree"]


def _save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path)


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    """One data set of two or more images for every kind of supervision; kind -> name."""
    folder = tmp_path_factory.mktemp("kinds")
    images = [{"id": i, "file_name": f"{i}.png", "height": 32, "width": 32} for i in (1, 2, 3)]
    half = np.kron([[0, 1]], np.ones((32, 16)))
    for i in (1, 2, 3):
        _save(folder / f"images/{i}.png", np.full((32, 32, 3), 60 * i))
        _save(folder / f"maps/{i}.png", half + 1)
        _save(folder / f"panoptic/{i}.png", np.stack([half + 1, half, 0 * half], axis=2))
        _save(folder / f"folders/{WORDS[i % 2]}/{i}.png", np.full((32, 32, 3), 60 * i))
    categories = [{"id": 4, "name": "tree", "isthing": 1}, {"id": 2, "name": "sky", "isthing": 0}]
    square = {"bbox": [4, 4, 12, 12], "area": 144, "iscrowd": 0, "segmentation": [[4, 4, 16, 4, 16, 16, 4, 16]]}
    segments = [{"id": 1, "category_id": 2, "area": 512, "iscrowd": 0, "bbox": [0, 0, 16, 32]},
                {"id": 258, "category_id": 4, "area": 512, "iscrowd": 0, "bbox": [16, 0, 16, 32]}]  # fmt: skip
    trees = {
        "coco": {"annotations": [{"id": i, "image_id": i, "category_id": 4, **square} for i in (1, 2)],
                 "categories": categories},
        "panoptic": {"annotations": [{"image_id": i, "file_name": f"{i}.png", "segments_info": segments}
                                     for i in (1, 2, 3)], "categories": categories},
        "captions": {"annotations": [{"id": i, "image_id": i, "caption": f"tree {i}"} for i in (1, 2)]},
        "refs": {"refs": [{"ref_id": i, "image_id": i, "bbox": [1, 1, 5, 5], "sentences": ["it"]} for i in (1, 2)]},
    }  # fmt: skip
    for name, tree in trees.items():
        (folder / f"{name}.json").write_text(json.dumps({"images": images, **tree}))
    words = {"name": "kinds", "names": WORDS}
    fields = {
        "boxes": {"format": "coco", "annotations": "coco.json", "supervision": "boxes", "vocabulary": words},
        "masks": {"format": "coco", "annotations": "coco.json", "supervision": "masks", "vocabulary": words},
        "tags": {"format": "image_folder", "image_root": str(folder / "folders"), "vocabulary": words},
        "semantic": {"format": "semantic", "annotations": "maps", "vocabulary": words, "options": {"label_offset": 1}},
        "panoptic": {"format": "coco_panoptic", "annotations": "panoptic.json", "vocabulary": words},
        "captions": {"format": "coco_captions", "annotations": "captions.json"},
        "phrases": {"format": "phrases", "annotations": "refs.json"},
    }
    assert set(fields) == set(SUPERVISION)
    for kind, entry in fields.items():
        where = {"annotations": str(folder / entry["annotations"])} if "annotations" in entry else {}
        register_dataset(name=f"kind_{kind}", **{"image_root": str(folder / "images"), **entry, **where})
    yield {kind: f"kind_{kind}" for kind in fields}
    for kind in fields:
        unregister_card(f"kind_{kind}")


def mixture(*entries):
    cfg = get_cfg()
    cfg.DATASETS.MIX = [{"name": e} if isinstance(e, str) else e for e in entries]
    cfg.DATASETS.TRAIN = tuple(entry["name"] for entry in cfg.DATASETS.MIX)
    cfg.SOLVER.IMS_PER_BATCH, cfg.DATALOADER.NUM_WORKERS, cfg.INPUT.TRAIN_SIZE, cfg.SEED = 7, 0, 32, 1
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (32,), 32
    return cfg


def test_a_mixture_of_all_kinds_gives_every_image_its_own_targets(kinds):
    loader = build_train_loader(mixture(*kinds.values()))
    fields = {
        "boxes": "instances", "masks": "instances", "tags": "image_labels", "semantic": "sem_seg",
        "panoptic": "pan_seg", "captions": "captions", "phrases": "phrases",
    }  # fmt: skip
    batches = iter(loader)
    seen = {}
    for _ in range(6):
        for record in next(batches):
            kind = record["supervision"]
            assert record["dataset"] == kinds[kind] and len(record[fields[kind]]) > 0
            others = set(fields.values()) - {fields[kind]} - ({"instances"} if kind == "tags" else set())
            assert not others & set(record)
            seen[kind] = seen.get(kind, 0) + 1
    assert set(seen) == set(kinds) and max(seen.values()) - min(seen.values()) <= 1
    assert [d.images for d in loader.report.datasets] == [2, 2, 3, 3, 3, 2, 2]  # without a box or sentence: left out
    assert [d.left_out for d in loader.report.datasets] == [1, 1, 0, 0, 0, 1, 1]
    names = [d.class_names for d in loader.report.datasets]
    assert names == [*[tuple(WORDS)] * 3, (), tuple(WORDS), (), ()]
    drawn = {d.name: dict(zip(d.class_names, d.class_images.round(2))) for d in loader.report.datasets}
    epoch = loader.report.epoch_images / 7
    assert drawn[kinds["tags"]] == {"sky": round(epoch / 3, 2), "tree": round(epoch * 2 / 3, 2)}
    assert drawn[kinds["panoptic"]] == {"sky": round(epoch, 2), "tree": round(epoch, 2)}
    table = loader.report.table()
    assert "Classes of kind_tags" in table and "Classes of kind_semantic" not in table


@pytest.mark.parametrize("sampler", ["class_aware", "repeat_factor"])
def test_samplers_that_go_by_classes(kinds, sampler):
    for kind in ("tags", "panoptic", "boxes"):
        build_train_loader(mixture({"name": kinds[kind], "sampler": sampler}))
    for kind in ("semantic", "captions", "phrases"):
        message = rf"dataset 'kind_{kind}': sampler {sampler} goes by the classes .* use sampler: uniform"
        with pytest.raises(ValueError, match=message):
            build_train_loader(mixture({"name": kinds[kind], "sampler": sampler}))


@pytest.mark.parametrize("kind", ["semantic", "panoptic", "captions", "phrases"])
def test_a_detector_refuses_what_it_cannot_learn_from(kinds, kind):
    cfg = mixture(kinds["masks"], kinds[kind])
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.ROI_HEADS.NAME = "MultiDatasetRCNN", "MultiDatasetCascadeROIHeads"
    message = (
        rf"training set 'kind_{kind}' has supervision '{kind}'.*MODEL.CLASSIFIER.LOSS \w+ learns from boxes, masks"
    )
    with pytest.raises(ValueError, match=message):
        check_training_sets(cfg)
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.ROI_HEADS.NAME = "GeneralizedRCNN", "StandardROIHeads"
    with pytest.raises(ValueError, match="learns from boxes, masks"):
        check_training_sets(cfg)
    cfg = mixture(kinds["masks"], kinds["boxes"], kinds["tags"])
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.ROI_HEADS.NAME = "MultiDatasetRCNN", "MultiDatasetCascadeROIHeads"
    check_training_sets(cfg)


@META_ARCH_REGISTRY.register()
class LearnsFromTags(nn.Module):
    """Says itself what it learns from and what it answers with."""

    answers = ("sem_seg",)

    @classmethod
    def learns_from(cls, cfg):
        """Tags."""
        return ("tags",)


def test_a_part_can_say_what_it_learns_from_and_answers_with(kinds):
    cfg = mixture(kinds["tags"])
    cfg.MODEL.META_ARCHITECTURE = "LearnsFromTags"
    check_training_sets(cfg)
    cfg.DATASETS.MIX[0]["name"] = kinds["boxes"]
    with pytest.raises(ValueError, match=r"LearnsFromTags .* learns from tags"):
        check_training_sets(cfg)
    cfg.DATASETS.TEST = (kinds["semantic"],)
    check_test_sets(cfg, LearnsFromTags())
    cfg.DATASETS.TEST = (kinds["panoptic"],)
    with pytest.raises(
        ValueError, match=r"'kind_panoptic': its evaluator coco_panoptic_seg needs 'panoptic_seg' .*sem_"
    ):
        check_test_sets(cfg, LearnsFromTags())
    for name in (kinds["tags"], kinds["captions"]):
        cfg.DATASETS.TEST = (name,)
        with pytest.raises(ValueError, match=rf"'{name}' is only for training \(evaluator: none\)"):
            check_test_sets(cfg, LearnsFromTags())


def test_the_trainer_checks_before_it_builds_anything(kinds, tmp_path, monkeypatch):
    cfg = tiny_config(shared_sets(), tmp_path, "DATASETS.TRAIN", ("tiny_a", kinds["tags"]))
    prepare_datasets(cfg)
    monkeypatch.setattr("tiny.TinyDetector.learns_from", classmethod(lambda cls, cfg: ("boxes",)), raising=False)
    monkeypatch.setattr(Trainer, "build_model", lambda self, cfg: pytest.fail("built"))
    with pytest.raises(ValueError, match=r"training set 'kind_tags' has supervision 'tags'"):
        Trainer(cfg)


def test_semantic_evaluation_with_the_offset_of_the_card(kinds, tmp_path):
    name = kinds["semantic"]
    evaluator = build_evaluator(name, str(tmp_path))
    assert isinstance(evaluator, SemSegEvaluator)
    evaluator.reset()
    for number, record in enumerate(get_records(name)):
        truth = torch.from_numpy(read_semantic(record))
        if number == 0:
            truth[:, 16:] = 0  # of one image in three, all trees are called sky
        scores = torch.nn.functional.one_hot(truth, 2).permute(2, 0, 1)
        evaluator.process([{"file_name": record["file_name"]}], [{"sem_seg": scores}])
    results = evaluator.evaluate()
    assert results["sem_seg"]["IoU-sky"] == pytest.approx(75)
    assert results["sem_seg"]["IoU-tree"] == pytest.approx(200 / 3)
    assert results["sem_seg"]["ACC-tree"] == pytest.approx(200 / 3)
    assert set(overall(results)["sem_seg"]) == {"mIoU", "fwIoU", "mACC", "pACC"}
    write_per_class(tmp_path / "classes.csv", results)
    with (tmp_path / "classes.csv").open(newline="") as file:  # an installed Detectron2 may have further columns
        rows = {row["class"]: (row["sem_seg IoU"], row["sem_seg ACC"]) for row in csv.DictReader(file)}
    assert rows == {"sky": ("75.0000", "100.0000"), "tree": ("66.6667", "66.6667")}


@pytest.mark.skipif(detectron2_provider() != "builtin", reason="upstream needs panopticapi, which is not on PyPI")
def test_panoptic_evaluation_with_the_metadata_of_the_reader(kinds, tmp_path):
    name = kinds["panoptic"]
    evaluator = build_evaluator(name, str(tmp_path))
    assert isinstance(evaluator, COCOPanopticEvaluator)
    evaluator.reset()
    for number, record in enumerate(get_records(name)):
        ids = torch.from_numpy(read_panoptic(record)).int()
        segments = [
            {"id": s["id"], "category_id": s["category_id"], "isthing": s["isthing"]} for s in record["segments_info"]
        ]
        if number == 0:  # the tree of one image is missed
            ids[ids == 258] = 0
            segments = segments[:1]
        evaluator.process(
            [{"file_name": record["file_name"], "image_id": record["image_id"]}], [{"panoptic_seg": (ids, segments)}]
        )
    results = evaluator.evaluate()["panoptic_seg"]
    assert results["PQ_st"] == pytest.approx(100) and results["PQ_th"] == pytest.approx(100 * 2 / 2.5)


def test_sets_that_cannot_be_evaluated_say_why(kinds, tmp_path):
    with pytest.raises(ValueError, match=r"'kind_tags' cannot be evaluated \(evaluator: none\).*DATASETS.TEST"):
        build_evaluator(kinds["tags"])
    metadata = MetadataCatalog.get(kinds["panoptic"])
    register_dataset(
        name="kind_split",
        format="coco_panoptic",
        image_root=metadata.image_root,
        annotations=metadata.panoptic_json,
        ignore=["sky"],
    )
    try:
        with pytest.raises(ValueError, match=r"'kind_split': panoptic evaluation reads the annotation file itself"):
            build_evaluator("kind_split")
    finally:
        unregister_card("kind_split")
