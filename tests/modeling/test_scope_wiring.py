"""Annotation scopes in the whole detector: from config keys and record lists to masks, rules and gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from whole_models import WORDS, build, record, recording, rows_of, text_cfg

from mvseg.config import get_cfg, load_config
from mvseg.data.catalog import register_dataset
from mvseg.data.label_spaces import label_space
from mvseg.data.mixing import MixEntry
from mvseg.modeling.columns import training_label_space
from mvseg.modeling.meta_arch.scope_checks import check_scopes
from mvseg.modeling.objectives import (
    FederatedObjective,
    RegionObjective,
    RegionTargets,
    SigmoidObjective,
    SoftmaxObjective,
)
from mvseg.vocabulary import AnnotationScopes

A, B = "scoped_a", "scoped_b"  # cat dog bird | car bus cat tram; a dog is an animal, a tram a car
PARENTS = {"dog": "animal", "tram": "car"}


@pytest.fixture(scope="session", autouse=True)
def datasets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scoped")
    for name, short in ((A, "det_a"), (B, "det_b")):
        words = WORDS[short]
        np.save(folder / f"{name}.npy", rows_of(words).numpy())
        rows = "".join(f"{word}\t{PARENTS.get(word, '')}\t{5 + k}\n" for k, word in enumerate(words))
        (folder / f"{name}.tsv").write_text(f"name\tparents\timage_count\n{rows}")
        register_dataset(
            name=name,
            format="coco",
            image_root=str(folder),
            annotations=str(folder / "none.json"),
            vocabulary=str(folder / f"{name}.tsv"),
            embeddings=str(folder / f"{name}.npy"),
        )
    plain = {"format": "coco", "image_root": str(folder), "annotations": str(folder / "none.json")}
    register_dataset(name="scoped_bare", vocabulary=["cat", "fox"], **plain)
    return folder


def cfg_of(*names: str, **changes: Any) -> Any:
    return text_cfg(*(names or (A, B)), **changes)


def image(name: str, classes: list[int], seed: int = 1, **lists: list[int]) -> dict[str, Any]:
    made = record("det_a" if name == A else "det_b", seed, len(classes))
    made["instances"].gt_classes[:] = torch.tensor(classes)
    return {**made, "dataset": name, **lists}


def test_lists_of_a_record_reach_the_mask():
    cfg = cfg_of()
    cfg.DATASETS.MIX = [{"name": A}, {"name": B, "annotation_scope": "verified+hierarchy"}]
    model = build(cfg)
    batch = [
        image(A, [0]),
        image(B, [0, 3], neg_category_ids=[2], not_exhaustive_category_ids=[3]),
        image(A, [1], neg_category_ids=[], not_exhaustive_category_ids=[2]),
    ]
    targets, context = model.read_annotations(batch)
    assert [t.gt_classes.tolist() for t in targets] == [[0], [3, 6], [1]]
    found = [row.nonzero().flatten().tolist() for row in context.scope]
    assert found == [[0, 1, 2], [3, 5], [0, 1]]
    assert context.first_rule.tolist() == [-1, 0, -1] and context.groups is None
    assert context.rules.positive.nonzero().tolist() == [[6, 3]]  # a tram is a car
    assert context.rules.ignored.nonzero().tolist() == [[3, 6]]
    assert not [name for name in model.state_dict() if name.startswith("rules")]
    assert model.to("meta").rules_positive.device.type == "meta"  # they follow the model


def test_wrong_lists_name_dataset_image_and_key():
    model = build(cfg_of(MODEL__ANNOTATION_SCOPE="verified"))
    with pytest.raises(ValueError, match=r"neg_category_ids and verified_category_ids.*dataset 'scoped_a', image 1"):
        model.read_annotations([image(A, [0])])
    with pytest.raises(ValueError, match=r"'scoped_b', image 1: verified_category_ids 4 to 4.*4 words"):
        model.read_annotations([image(B, [0], verified_category_ids=[4])])


def column_gradients(model: Any, batch: list[dict[str, Any]]) -> torch.Tensor:
    """Gradient (n,) of the classes' bias in the first stage: its sign tells positives from negatives."""
    model.zero_grad()
    with recording({}):
        losses = model.train()(batch)
    sum(losses.values()).backward()
    return model.roi_heads.box_predictor[0].cls_score.bias.grad[:-1]


def test_classes_that_are_not_exhaustive_give_no_negatives():
    model = build(cfg_of(MODEL__CLASSIFIER__NAME="linear"))
    usual = column_gradients(model, [image(A, [0, 0])])
    unsure = column_gradients(model, [image(A, [0, 0], not_exhaustive_category_ids=[1])])
    assert usual[1] > 0 and unsure[1] == 0 and unsure[2] > 0
    shown = column_gradients(model, [image(A, [1, 1], not_exhaustive_category_ids=[1])])
    assert shown[1] < 0  # but an object of the class is one


def test_broader_words_are_positive_and_narrower_ignored():
    model = build(cfg_of(MODEL__CLASSIFIER__NAME="linear", MODEL__ANNOTATION_SCOPE="verified+hierarchy"))
    gradient = column_gradients(model, [image(B, [3, 3], neg_category_ids=[])])
    assert gradient[3] < 0 and gradient[6] < 0 and (gradient[[0, 1, 2, 4, 5]] == 0).all()


def test_group_trains_with_softmax():
    model = build(cfg_of(MODEL__ANNOTATION_SCOPE="group", MODEL__CLASSIFIER__LOSS="softmax"))
    _, context = model.read_annotations([image(A, [0]), image(B, [0])])
    assert context.scope is None
    assert context.groups.tolist() == [[0, 1, 2, 7, 7, 0, 7, 7], [5, 7, 7, 3, 4, 5, 6, 7]]  # cat is cat
    with recording({}):
        losses = model.train()([image(A, [0]), image(B, [2, 1])])
    assert all(torch.isfinite(loss) for loss in losses.values())


def scopes_of(kind: str, *names: str) -> AnnotationScopes:
    return AnnotationScopes(label_space(names or (A, B)), kind)


@pytest.mark.parametrize(
    ("scope", "objective", "complaint"),
    [
        ("hierarchy", SoftmaxObjective(7), r"hierarchy makes broader.*SoftmaxObjective.*LOSS sigmoid or federated"),
        ("hierarchy", RegionObjective(7), r"hierarchy.*RegionObjective learns one class per region"),
        ("group", SigmoidObjective(7), r"group adds up.*SigmoidObjective.*LOSS softmax"),
        ("federated", FederatedObjective(7, torch.ones(7)), r"federated draws.*FederatedObjective.*SCOPE own"),
    ],
)
def test_losses_that_cannot_learn_from_a_scope(scope: str, objective: RegionObjective, complaint: str):
    with pytest.raises(ValueError, match=f"MODEL.ANNOTATION_SCOPE {complaint}"):
        check_scopes(scopes_of(scope), {"boxes": objective})


def test_losses_that_can():
    check_scopes(scopes_of("hierarchy"), {"boxes": FederatedObjective(7, torch.ones(7))})
    check_scopes(scopes_of("group"), {"boxes": SoftmaxObjective(7)})
    check_scopes(scopes_of("federated"), {"boxes": SoftmaxObjective(7), "masks": SigmoidObjective(7)})


def test_the_model_checks_its_scope():
    with pytest.raises(ValueError, match=r"MODEL.ANNOTATION_SCOPE group.*LOSS softmax"):
        build(cfg_of(MODEL__ANNOTATION_SCOPE="group"))
    cfg = cfg_of(MODEL__CLASSIFIER__NAME="linear", MODEL__ANNOTATION_SCOPE="own+verified")
    cfg.DATASETS.TRAIN = ()
    with pytest.raises(ValueError, match=r"own\+verified needs a label space: set DATASETS.TRAIN"):
        build(cfg)


@pytest.mark.parametrize("who_asks", ["loss", "scope", "zero"])
def test_images_are_counted_where_a_loss_or_a_scope_asks(who_asks: str):
    boxes = [[c] for c in (0, 2, 2, 2, 2)]  # (nobody has a dog)
    records = [{"file_name": "a.png", "annotations": [{"category_id": c} for c in image]} for image in boxes]
    DatasetCatalog.register("scoped_counted", lambda: records)
    MetadataCatalog.get("scoped_counted").thing_classes = WORDS["det_a"]
    try:
        cfg = cfg_of("scoped_counted", MODEL__CLASSIFIER__NAME="linear", MODEL__CLASSIFIER__FED_LOSS_NUM_CLASSES=9)
        assert training_label_space(cfg).image_count is None
        cfg.MODEL.CLASSIFIER.LOSS = "federated" if who_asks == "loss" else "sigmoid"
        cfg.MODEL.ANNOTATION_SCOPE = "federated" if who_asks == "scope" else "own"
        cfg.MODEL.CLASSIFIER.IGNORE_ZERO_CATS = who_asks == "zero"
        model = build(cfg)
    finally:
        DatasetCatalog.remove("scoped_counted")
        MetadataCatalog.remove("scoped_counted")
    assert model.label_space.image_count.tolist() == [1, 0, 4]
    _, context = model.read_annotations([{**image(A, [0]), "dataset": "scoped_counted"}])
    regions = RegionTargets.of(torch.tensor([0, 3]), torch.zeros(2, dtype=torch.long), context)
    columns = model.roi_heads.objectives["boxes"].columns(regions)
    assert columns.tolist() == [0, 2]  # a class without images is never drawn


def test_a_model_without_its_training_files_can_be_evaluated():
    model = build(cfg_of("scoped_bare", MODEL__CLASSIFIER__NAME="linear", MODEL__CLASSIFIER__LOSS="federated")).eval()
    found = model([{"image": torch.zeros(3, 64, 64, dtype=torch.uint8), "height": 64, "width": 64}])
    assert len(found) == 1 and model.label_space.image_count.tolist() == [1, 1]


def test_safe_reads_embeddings_for_a_closed_set_too():
    cfg = cfg_of(MODEL__CLASSIFIER__NAME="linear", MODEL__ANNOTATION_SCOPE="safe")
    assert training_label_space(cfg).embeddings is not None
    cfg.MODEL.ANNOTATION_SCOPE = "own"
    assert training_label_space(cfg).embeddings is None
    cfg.DATASETS.MIX = [{"name": A}, {"name": B, "annotation_scope": "hierarchy+safe"}]
    assert training_label_space(cfg).embeddings is not None


def test_scope_of_a_mixture_entry_is_checked():
    assert MixEntry.from_dict({"name": A, "annotation_scope": "safe+hierarchy"}).annotation_scope == "safe+hierarchy"
    with pytest.raises(ValueError, match=r"MIX, dataset 'scoped_a': annotation_scope 'sage'.*there are all, own"):
        MixEntry.from_dict({"name": A, "annotation_scope": "sage"})


def test_label_spaces_by_config(tmp_path: Path):
    cfg = get_cfg()
    cfg.DATASETS.TRAIN, cfg.DATASETS.LABEL_SPACE = (A, B), "merge_similar"
    cfg.MODEL.CLASSIFIER.NAME = "linear"
    assert training_label_space(cfg).n == 6  # the two cats have the same embedding
    cfg.DATASETS.MERGE_THRESHOLD = -1.0
    assert training_label_space(cfg).n == 4  # all may be merged, but not two words of one dataset
    (tmp_path / "words.csv").write_text(f"unified,{A},{B}\nbeast,cat|dog,cat\n")
    (tmp_path / "train.yaml").write_text("DATASETS:\n  LABEL_SPACE: words.csv\n")
    cfg = load_config(tmp_path / "train.yaml")
    cfg.DATASETS.TRAIN, cfg.MODEL.CLASSIFIER.NAME = (A, B), "linear"
    space = training_label_space(cfg)
    assert space.names == ("beast", "bird", "car", "bus", "tram")
    assert [space.columns(d).tolist() for d in (A, B)] == [[0, 0, 1], [2, 3, 0, 4]]
    with pytest.raises(ValueError, match=r"'merge_nam'; nearest: merge_names.*or name a mapping file"):
        label_space([A], "merge_nam")
    with pytest.raises(FileNotFoundError, match=r"none.yaml does not exist"):
        label_space([A], "none.yaml")
    with pytest.raises(ValueError, match=r"needs text embeddings.*'scoped_bare'"):
        label_space([A, "scoped_bare"], "merge_similar")
