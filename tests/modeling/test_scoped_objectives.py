"""Objectives under annotation scopes by brute force: further positives, ignored columns, safe negatives, groups."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mvseg.modeling.context import BatchContext
from mvseg.modeling.objectives import FederatedObjective, RegionTargets, SigmoidObjective, SoftmaxObjective
from mvseg.modeling.objectives.region import softmax_classification_loss
from mvseg.vocabulary import ClassRules

N, BACKGROUND = 6, 6
CLASSES = [0, 2, BACKGROUND, 1, 5, BACKGROUND, 3, 4]
IMAGES = [0, 0, 0, 1, 1, 1, 2, 2]
SCOPE = [
    [1, 1, 1, 0, 0, 0],
    [0, 0, 1, 1, 0, 1],
    [0, 1, 0, 0, 1, 1],
]  # image 1 has class 1, image 2 class 3 out of scope
FIRST = [0, 6, -1]  # rules 0..5 for image 0, 6..11 for image 1, none for image 2


def some_rules(kinds: str) -> ClassRules:
    tables = {}
    for kind in ("positive", "negative", "ignored"):
        if kind in kinds:
            table = torch.rand(2 * N + 1, N) < 0.3
            table[-1] = False
            tables[kind] = table
    return ClassRules(**tables)


def targets_with(rules: ClassRules, scope: bool = True) -> RegionTargets:
    context = BatchContext(
        supervision=("boxes",) * 3,
        scope=torch.tensor(SCOPE).bool() if scope else None,
        weights=torch.tensor([1.0, 0.5, 2.0]),
        rules=rules,
        first_rule=torch.tensor(FIRST),
    )
    return RegionTargets.of(torch.tensor(CLASSES), torch.tensor(IMAGES), context)


def entry(rules: ClassRules, scope: bool, row: int, column: int) -> str:
    """What a region says about a column, by the rules of the docstrings, one entry at a time."""
    label, image = CLASSES[row], IMAGES[row]

    def rule(table: Tensor | None) -> bool:
        if table is None or label == BACKGROUND or FIRST[image] < 0:
            return False
        return bool(table[FIRST[image] + label, column])

    if column == label or rule(rules.positive):
        return "positive"
    in_scope = (not scope or bool(SCOPE[image][column])) or rule(rules.negative)
    return "negative" if in_scope and not rule(rules.ignored) else "nothing"


@pytest.mark.parametrize("scope", [True, False], ids=["scope", "all"])
@pytest.mark.parametrize("kinds", ["positive", "negative", "ignored", "positive ignored", "positive negative ignored"])
def test_sigmoid_equals_brute_force(kinds: str, scope: bool):
    rules, objective = some_rules(kinds), SigmoidObjective(N)
    targets = targets_with(rules, scope)
    columns = objective.columns(targets)
    full = torch.randn(8, N, dtype=torch.float64, requires_grad=True)
    logits = full if columns is None else full[:, columns]
    loss = objective.losses(logits, targets, columns)["loss_cls"]
    expected = 0.0
    for row in range(8):
        for column in range(N):
            kind = entry(rules, scope, row, column)
            sign = {"positive": -1, "negative": 1, "nothing": 0}[kind]
            weight = float(targets.weights[IMAGES[row]]) if sign else 0.0
            expected += weight * math.log1p(math.exp(sign * float(full[row, column].detach())))
    assert loss.item() == pytest.approx(expected / 8)
    loss.backward()
    for row in range(8):
        for column in range(N):
            gradient = float(full.grad[row, column])
            kind = entry(rules, scope, row, column)
            assert (gradient < 0, gradient > 0) == (kind == "positive", kind == "negative")


def test_columns_are_those_that_count_for_some_region():
    rules = ClassRules(negative=torch.zeros(2 * N + 1, N).bool(), positive=torch.zeros(2 * N + 1, N).bool())
    rules.negative[0, 5] = True  # class 0 of image 0: also a negative for column 5
    rules.positive[6, 3] = True  # class 0 of image 1, which no region has
    context = BatchContext(
        ("boxes",) * 2, torch.tensor([[1, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0]]).bool(), None, rules, torch.tensor([0, 6])
    )
    targets = RegionTargets.of(torch.tensor([0, BACKGROUND, 2]), torch.tensor([0, 1, 1]), context)
    assert SigmoidObjective(N).columns(targets).tolist() == [0, 1, 2, 5]  # 2: a class is counted out of scope too


def test_federated_loss_keeps_the_positives_and_draws_where_it_may():
    rules = ClassRules(positive=torch.zeros(N + 1, N).bool())
    rules.positive[0, 4] = True
    context = BatchContext(("boxes",), torch.tensor([[1, 1, 1, 0, 0, 0]]).bool(), None, rules, torch.tensor([0]))
    targets = RegionTargets.of(torch.tensor([0]), torch.tensor([0]), context)
    for _ in range(20):
        columns = FederatedObjective(N, torch.ones(N), num_columns=2).columns(targets).tolist()
        assert columns in ([0, 1, 4], [0, 2, 4], [0, 4])
        assert len(set(columns)) == len(columns)


def test_softmax_ignores_and_widens_by_the_class():
    rules, objective = some_rules("negative ignored"), SoftmaxObjective(N)
    targets = targets_with(rules)
    columns = objective.columns(targets)
    kept = torch.arange(N) if columns is None else columns
    full = torch.randn(8, N + 1, dtype=torch.float64)
    loss = objective.losses(torch.cat([full[:, kept], full[:, -1:]], 1), targets, columns)["loss_cls"]
    expected = 0.0
    for row in range(8):
        allowed = [c for c in range(N) if entry(rules, True, row, c) != "nothing"] + [BACKGROUND]
        expected += float(targets.weights[IMAGES[row]] * (full[row, allowed].logsumexp(0) - full[row, CLASSES[row]]))
    assert loss.item() == pytest.approx(expected / 8)


GROUPS = torch.tensor([[0, 1, 2, 6, 1, 6, 6], [6, 6, 6, 3, 4, 5, 6]], dtype=torch.int32)


def test_group_softmax_equals_the_published_gradient():
    """dL/dz = p where the group is another, p (P - 1) / P inside the group of the answer."""
    positions, images = torch.tensor([1, 6, 0, 6, 3]), torch.tensor([0, 0, 0, 1, 1])
    logits = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    loss = softmax_classification_loss(logits, positions, groups=GROUPS[images])
    p = logits.detach().softmax(1)
    expected, gradient = 0.0, torch.zeros(5, 7, dtype=torch.float64)
    for row in range(5):
        groups = GROUPS[images[row]].tolist()
        members = [c for c in range(7) if groups[c] == groups[int(positions[row])]]
        total = float(p[row, members].sum())
        expected -= math.log(total)
        for column in range(7):
            inside = column in members
            gradient[row, column] = p[row, column] * ((total - 1) / total if inside else 1)
    assert loss.item() == pytest.approx(expected / 5)
    loss.backward()
    torch.testing.assert_close(logits.grad, gradient / 5)
    plain = softmax_classification_loss(logits, positions, groups=torch.arange(7).expand(5, 7))
    assert plain.item() == pytest.approx(softmax_classification_loss(logits, positions).item())


def test_softmax_objective_takes_the_groups_of_its_columns():
    context = BatchContext(("boxes",) * 2, scope=torch.tensor([[1, 1, 0, 1, 1, 0]] * 2).bool(), groups=GROUPS)
    targets = RegionTargets.of(torch.tensor([1, BACKGROUND, 3]), torch.tensor([0, 0, 1]), context)
    objective, full = SoftmaxObjective(N), torch.randn(3, N + 1)
    columns = objective.columns(targets)
    assert columns.tolist() == [0, 1, 3, 4]
    kept = [0, 1, 3, 4, BACKGROUND]
    loss = objective.losses(full[:, kept], targets, columns)["loss_cls"]
    answers = [[1, 4], [3, BACKGROUND], [3]]  # within the columns in scope
    expected = sum(full[r, kept].logsumexp(0) - full[r, answer].logsumexp(0) for r, answer in enumerate(answers)) / 3
    torch.testing.assert_close(loss, expected)


def optimum(mask: Tensor, labels: Tensor, copies: Tensor, steps: int) -> Tensor:
    """Probability (classes,) of each class's own column when free logits minimise BCE; equal words have one logit.

    Args:
        mask: (R, n) columns that count for each region.
        labels: (R,) column that is positive.
        copies: (n,) index of the word of each column.
    """
    words = int(copies.max()) + 1
    free = torch.zeros(words, words, requires_grad=True)  # what a region of each word says about each word
    optimizer = torch.optim.Adam([free], lr=0.05)
    positive = torch.nn.functional.one_hot(labels, len(copies)).float()
    for _ in range(steps):
        logits = free[copies[labels]][:, copies]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, positive, reduction="none")
        optimizer.zero_grad()
        (loss * mask).sum().backward()
        optimizer.step()
    return free.detach().sigmoid().diagonal()


def test_what_the_scope_does_to_a_word_that_several_datasets_have():
    """docs/label_spaces.md: over all columns the best probability of a word in m vocabularies is 1/m."""
    copies = torch.tensor([0, 1, 0, 1, 2, 0])  # word of each column: three datasets of two, three and one words
    owner = torch.tensor([0, 0, 1, 1, 1, 2])
    labels = torch.arange(6)
    own = owner[labels][:, None] == owner[None]
    safe = own | (copies[labels][:, None] != copies[None])
    everything = optimum(torch.ones(6, 6), labels, copies, 400)
    assert everything.tolist() == pytest.approx([1 / 3, 1 / 2, 1.0], abs=0.01)
    for mask in (own, safe):
        assert (optimum(mask.float(), labels, copies, 400) > 0.99).all()
