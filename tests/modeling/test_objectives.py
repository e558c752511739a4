"""Region losses against brute force and numerical gradients; the registry of objectives."""

from __future__ import annotations

import math

import pytest
import torch
from detectron2.modeling.box_regression import Box2BoxTransform
from torch import Tensor

from mvseg.config import get_cfg
from mvseg.modeling.objectives import (
    OBJECTIVES,
    FederatedObjective,
    RegionObjective,
    RegionTargets,
    SigmoidObjective,
    SoftmaxObjective,
    build_objectives,
)
from mvseg.modeling.objectives.federated import federated_columns
from mvseg.modeling.objectives.region import (
    box_loss,
    column_targets,
    mask_loss,
    sigmoid_classification_loss,
    softmax_classification_loss,
)
from mvseg.modeling.objectives.registry import ObjectiveRegistry

N = 6


def some_targets(scope: bool = True, weights: bool = True) -> RegionTargets:
    return RegionTargets(
        classes=torch.tensor([0, 2, N, 1, N, 4, N]),
        images=torch.tensor([0, 0, 0, 0, 1, 1, 1]),
        scope=torch.tensor([[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]]).bool() if scope else None,
        weights=torch.tensor([1.0, 0.5]) if weights else None,
    )


def binary(z: float, positive: bool) -> float:
    p = 1 / (1 + math.exp(-z))
    return -math.log(p if positive else 1 - p)


def test_sigmoid_equals_brute_force_and_stays_in_scope():
    targets, objective = some_targets(), SigmoidObjective(N)
    columns = objective.columns(targets)
    assert columns.tolist() == list(range(N))  # together the two images speak about all
    logits = torch.randn(7, N, dtype=torch.float64, requires_grad=True)
    loss = objective.losses(logits, targets, columns)["loss_cls"]
    expected = 0.0
    for row in range(7):
        image = int(targets.images[row])
        for column in range(N):
            if targets.scope[image, column]:
                positive = int(targets.classes[row]) == column
                expected += float(targets.weights[image]) * binary(float(logits[row, column].detach()), positive)
    assert float(loss) == pytest.approx(expected / 7)
    loss.backward()
    assert (logits.grad[~targets.scope[targets.images]] == 0).all()
    assert (logits.grad[targets.scope[targets.images]] != 0).all()


def test_columns_of_one_dataset_only():
    targets = some_targets()
    one = RegionTargets(targets.classes[:4], targets.images[:4], targets.scope[:1])
    assert SigmoidObjective(N).columns(one).tolist() == [0, 1, 2]
    assert SigmoidObjective(N, torch.tensor([3, 0, 1, 0, 0, 9]), True).columns(one).tolist() == [0, 2]
    assert SigmoidObjective(N).columns(some_targets(scope=False)) is None


def test_loss_of_a_subset_of_columns_is_that_of_the_full_logits():
    targets, full = some_targets(), torch.randn(7, N)
    columns = torch.tensor([4, 0, 2])
    subset = sigmoid_classification_loss(
        full[:, columns], column_targets(targets.classes, columns, N), scope=targets.scope_of(columns)
    )
    kept = torch.zeros(7, N).index_fill(1, columns, 1.0) * targets.scope_of(None)
    whole = sigmoid_classification_loss(full, column_targets(targets.classes, None, N), scope=kept)
    torch.testing.assert_close(subset, whole)


def test_federated_equals_brute_force():
    targets = some_targets(scope=False)
    counts = torch.tensor([5.0, 4, 3, 2, 1, 6])
    objective = FederatedObjective(N, counts, num_columns=5)
    columns = objective.columns(targets)
    assert len(columns) == 4  # the background takes the fifth place
    assert {0, 1, 2, 4} <= set(columns.tolist())
    logits = torch.randn(7, N, dtype=torch.float64)
    loss = objective.losses(logits[:, columns], targets, columns)["loss_cls"]
    expected = sum(
        float(targets.weights[targets.images[row]]) * binary(float(logits[row, c]), int(targets.classes[row]) == c)
        for row in range(7)
        for c in columns.tolist()
    )
    assert float(loss) == pytest.approx(expected / 7)


def test_federated_draw_follows_the_counts():
    counts, classes = torch.tensor([0.0, 100, 1, 4, 25, 100]), torch.tensor([5, N])
    hits = torch.zeros(N)
    for _ in range(2000):
        hits[federated_columns(classes, counts, num_columns=3)] += 1
    assert hits[5] == 2000 and hits[0] == 0
    expected = counts[1:5].sqrt() / counts[1:5].sqrt().sum()
    assert torch.allclose(hits[1:5] / 2000, expected, atol=0.04)
    # Columns that no image of the batch speaks about are not drawn; a draw larger than the vocabulary takes all.
    scope = torch.tensor([1, 0, 1, 1, 0, 1]).bool()
    assert federated_columns(classes, counts, num_columns=50, scope=scope).tolist() == [2, 3, 5]
    assert federated_columns(torch.tensor([N]), counts, num_columns=1).tolist() == []


def test_softmax_equals_brute_force_and_stays_in_scope():
    targets, objective = some_targets(weights=False), SoftmaxObjective(N)
    logits = torch.randn(7, N + 1, dtype=torch.float64, requires_grad=True)
    loss = objective.losses(logits, targets, objective.columns(targets))["loss_cls"]
    expected = 0.0
    for row in range(7):
        image, true = int(targets.images[row]), int(targets.classes[row])
        allowed = [c for c in range(N) if targets.scope[image, c]] + [N]
        z = logits[row].detach()
        expected += float(z[allowed].exp().sum().log() - z[true])
    assert float(loss) == pytest.approx(expected / 7)
    loss.backward()
    assert (logits.grad[:, :N][~targets.scope[targets.images]] == 0).all()


@pytest.mark.parametrize("objective", [SigmoidObjective(N), SoftmaxObjective(N)], ids=["sigmoid", "softmax"])
def test_classification_gradient(objective: RegionObjective):
    targets = some_targets()
    logits = torch.randn(7, N + objective.needs_background, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: objective.losses(z, targets, None)["loss_cls"], logits)


def test_box_loss_gradient():  # of "giou", decoded in float32, test_units_oracle checks the gradient
    transform = Box2BoxTransform(weights=(10.0, 10.0, 5.0, 5.0))
    boxes = torch.tensor([[0.0, 0, 20, 30], [5, 5, 40, 20], [3, 3, 9, 9]], dtype=torch.float64)
    gt = boxes + torch.tensor([2.0, -1, 3, 4], dtype=torch.float64)
    foreground, weights = torch.tensor([True, False, True]), torch.tensor([1.0, 1.0, 0.5], dtype=torch.float64)
    deltas = torch.rand(3, 4, dtype=torch.float64, requires_grad=True)

    def loss(x: Tensor) -> Tensor:
        return box_loss(x, boxes, gt, foreground, transform, beta=0.1, weights=weights)

    assert torch.autograd.gradcheck(loss, deltas)
    loss(deltas).backward()
    assert (deltas.grad[1] == 0).all()


def test_box_loss_counts_background_in_the_average():
    boxes = torch.tensor([[0.0, 0, 10, 10]] * 4)
    foreground = torch.tensor([True, False, False, False])
    loss = box_loss(torch.full((4, 4), 0.25), boxes, boxes, foreground, Box2BoxTransform((1.0, 1.0, 1.0, 1.0)))
    assert float(loss) == pytest.approx(4 * 0.25 / 4)
    with pytest.raises(ValueError, match="BBOX_REG_LOSS_TYPE"):
        box_loss(torch.zeros(4, 4), boxes, boxes, foreground, Box2BoxTransform((1.0,) * 4), kind="l7")


def test_mask_loss_gradient_and_weights():
    logits = torch.randn(3, 4, 4, dtype=torch.float64, requires_grad=True)
    targets, weights = torch.rand(3, 4, 4) > 0.5, torch.tensor([1.0, 0.0, 2.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda z: mask_loss(z, targets, weights=weights), logits)
    ones = mask_loss(torch.full((2, 4, 4), 3.0), torch.ones(2, 4, 4, dtype=torch.bool))
    assert float(ones) == pytest.approx(math.log(1 + math.exp(-3)))


@pytest.mark.parametrize("kind", ["sigmoid", "softmax", "mask", "box"])
def test_no_regions_give_zero_and_a_gradient(kind: str):
    logits = torch.zeros(0, 4, requires_grad=True)
    nothing = torch.zeros(0, dtype=torch.long)
    if kind == "sigmoid":
        loss = sigmoid_classification_loss(logits, nothing)
    elif kind == "softmax":
        loss = softmax_classification_loss(logits, nothing)
    elif kind == "mask":
        loss = mask_loss(logits.reshape(0, 2, 2), torch.zeros(0, 2, 2, dtype=torch.bool))
    else:
        empty = torch.zeros(0, 4)
        loss = box_loss(logits, empty, empty, nothing.bool(), Box2BoxTransform((1.0, 1.0, 1.0, 1.0)))
    loss.backward()
    assert float(loss) == 0 and logits.grad is not None


def test_unknown_objective_and_supervision():
    with pytest.raises(KeyError, match=r"sigmoidd.*nearest: sigmoid"):
        OBJECTIVES.get("sigmoidd")
    with pytest.raises(KeyError, match="cannot learn from 'tags'"):
        OBJECTIVES.get("sigmoid", "tags")
    assert {"boxes", "masks"} <= set(OBJECTIVES.kinds())


def test_one_name_belongs_to_one_class():
    registry = ObjectiveRegistry()

    @registry.register("mine", supervision=("tags",))
    class Mine(RegionObjective):
        pass

    assert registry.get("mine", "tags") is Mine
    assert registry.names("boxes") == [] and registry.names() == ["mine"]
    registry.register("mine")(Mine)  # importing a module twice is no clash
    with pytest.raises(ValueError, match="already"):
        registry.register("mine")(SigmoidObjective)


def test_objectives_from_config_name_what_is_missing():
    cfg = get_cfg()
    built = build_objectives(cfg, N, None)
    assert built["boxes"] is built["masks"] and isinstance(built["boxes"], SigmoidObjective)
    cfg.MODEL.CLASSIFIER.LOSS = "federated"
    with pytest.raises(ValueError, match="image count"):
        build_objectives(cfg, N, None)
    for loss in ("sigmoid", "softmax"):
        cfg.MODEL.CLASSIFIER.LOSS, cfg.MODEL.CLASSIFIER.IGNORE_ZERO_CATS = loss, True
        with pytest.raises(ValueError, match="IGNORE_ZERO_CATS"):
            build_objectives(cfg, N, None)
        built = build_objectives(cfg, N, torch.tensor([1.0, 0, 2, 3, 4, 5]))
        ignored = RegionTargets(torch.tensor([1]), torch.tensor([0]))
        columns = built["boxes"].columns(ignored)
        width = N + built["boxes"].needs_background if columns is None else len(columns)
        logits = torch.zeros(1, width)
        if loss == "softmax":
            assert float(built["boxes"].losses(logits, ignored, columns)["loss_cls"]) == 0
        else:
            assert columns.tolist() == [0, 2, 3, 4, 5]
