"""Pseudo boxes in training: which columns they teach, and what regions on and beside them weigh."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from whole_models import WORDS, build, record, recording, rows_of, text_cfg

from mvseg.data.catalog import register_dataset, unregister_card
from mvseg.modeling.objectives.pseudo_boxes import multiplied, pseudo_region_weights, weights_of_regions

A, B = "pseudo_a", "pseudo_b"


@pytest.fixture(scope="module", autouse=True)
def datasets(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("pseudo")
    for name, words in zip((A, B), WORDS.values(), strict=True):
        np.save(folder / f"{name}.npy", rows_of(words).numpy())
        fields = {"format": "coco", "image_root": str(folder), "annotations": str(folder / "none.json")}
        register_dataset(name=name, **fields, vocabulary=words, embeddings=str(folder / f"{name}.npy"))
    yield
    for name in (A, B):
        unregister_card(name)


def pseudo(boxes: list[list[float]], classes: list[int], weights: list[float]) -> dict[str, Any]:
    found = Instances((64, 64), gt_boxes=Boxes(torch.tensor(boxes)))
    found.gt_classes, found.gt_weights = torch.tensor(classes), torch.tensor(weights)
    found.gt_sources = torch.zeros(len(boxes), dtype=torch.long)
    return {"pseudo_boxes": found, "pseudo_datasets": (B,)}


def image(seed: int, objects: int = 2, **more: Any) -> dict[str, Any]:
    return {**record("det_a", seed, objects), "dataset": A, **more}


def test_weights_of_regions_by_hand():
    gt = torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10]])  # drawn, pseudo
    boxes = torch.tensor(
        [[0.0, 0, 10, 9], [20, 0, 30, 9], [20, 0, 30, 5], [25, 0, 35, 10], [50, 50, 60, 60], [0, 0, 10, 4]]
    )
    foreground = torch.tensor([True, True, False, False, False, False])
    found = pseudo_region_weights(boxes, foreground, gt, torch.tensor([1.0, 0.6]), torch.tensor([False, True]))
    torch.testing.assert_close(found, torch.tensor([1.0, 0.6, 0.5, 2 / 3, 1.0, 1.0]))
    assert pseudo_region_weights(boxes, foreground, gt[:0], gt[:0, 0], gt[:0, 0].bool()).tolist() == [1.0] * 6
    two = torch.tensor([2.0, 3.0])
    assert multiplied(None, None) is None and multiplied(two, None) is two and multiplied(None, two) is two
    assert multiplied(two, two).tolist() == [4.0, 9.0]


def test_regions_of_a_batch_with_and_without_pseudo_boxes():
    target = Instances((64, 64), gt_boxes=Boxes(torch.tensor([[0.0, 0, 10, 10]])), gt_classes=torch.tensor([5]))
    regions = Instances((64, 64), proposal_boxes=Boxes(torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5]])))
    regions.gt_classes = torch.tensor([5, 7])
    assert weights_of_regions([regions], [target], 7) is None
    unsure = Instances((64, 64), **target.get_fields(), gt_weights=torch.tensor([0.3]), gt_pseudo=torch.tensor([True]))
    found = weights_of_regions([regions, regions, regions[:0]], [target, unsure, unsure], 7)
    torch.testing.assert_close(found, torch.tensor([1.0, 1.0, 0.3, 0.5]))


def test_they_stand_behind_the_drawn_boxes_in_columns_of_their_dataset():
    model = build(text_cfg(A, B))
    batch = [image(1, **pseudo([[5.0, 5, 20, 20], [30, 30, 60, 50]], [3, 0], [0.5, 0.25])), image(2)]
    before = batch[0]["instances"].gt_classes.clone()
    targets, context = model.read_annotations(batch)
    assert targets[0].gt_classes.tolist() == [*before.tolist(), 6, 3]
    assert (
        targets[0].gt_weights.tolist() == [1, 1, 0.5, 0.25]
        and targets[0].gt_pseudo.tolist() == [False] * 2 + [True] * 2
    )
    assert targets[0].gt_boxes.tensor[2:].tolist() == [[5, 5, 20, 20], [30, 30, 60, 50]]
    assert not targets[1].has("gt_weights") and len(batch[0]["instances"]) == 2
    assert context.scope.sum(1).tolist() == [3, 3]  # they widen no scope
    none, _ = model.read_annotations([image(3, 0, **pseudo([[5.0, 5, 20, 20]], [1], [0.5]))])
    assert none[0].gt_classes.tolist() == [4] and none[0].gt_pseudo.tolist() == [True]


def gradients(model: Any, batch: list[dict[str, Any]]) -> torch.Tensor:
    model.zero_grad()
    torch.manual_seed(0)
    with recording({}):
        losses = model.train()(batch)
    assert all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    return torch.stack([p.cls_score.bias.grad[:-1].clone() for p in model.roi_heads.box_predictor])


def test_they_teach_their_column_as_much_as_they_weigh():
    torch.manual_seed(0)
    model = build(text_cfg(A, B, MODEL__CLASSIFIER__NAME="linear"))
    box = [[10.0, 10, 50, 50]]
    plain = gradients(model, [image(1)])
    found = {w: gradients(model, [image(1, **pseudo(box, [2], [w]))]) for w in (0.0, 0.3, 0.6)}
    assert (plain[:, 3:] == 0).all()  # images of A say nothing about words of B
    assert (found[0.0][:, 5] == 0).all() and (found[0.6][0, 5] < 0).all()
    torch.testing.assert_close(found[0.6][0, 5], 2 * found[0.3][0, 5])
    assert (found[0.6][:, [3, 4, 6]] == 0).all()
    assert (found[0.6][:, :3] != 0).all()  # the words of A learn as before


def test_with_the_scope_all_they_make_their_words_annotated():
    model = build(text_cfg(A, B, MODEL__CLASSIFIER__NAME="linear", MODEL__ANNOTATION_SCOPE="all"))
    found = gradients(model, [image(1, **pseudo([[10.0, 10, 50, 50]], [2], [0.6]))])
    assert (found[:, [3, 4, 6]] > 0).all()


def test_bad_input():
    model = build(text_cfg(A, B))
    boxes = pseudo([[5.0, 5, 20, 20]], [3], [0.5])
    with pytest.raises(
        ValueError, match=r"'pseudo_a', image 1.*words of dataset 'pseudo_c', which is not trained with"
    ):
        model.read_annotations([image(1, **{**boxes, "pseudo_datasets": ("pseudo_c",)})])
    masks = {**record("det_a", 4, masks=True), "dataset": A, **boxes}
    with pytest.raises(ValueError, match="no masks"):
        model.read_annotations([masks])
