"""Losses of image labels: against the numbers of the original Detic, and against slow and plain computations."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from oracle_numbers import Oracle, close
from torch import Tensor

from mvseg.config import get_cfg
from mvseg.modeling.context import BatchContext
from mvseg.modeling.objectives import ImageLabelObjective, ImageLabelTargets, build_objectives
from mvseg.modeling.objectives.image_labels import largest_regions, region_costs, region_table, sampled_columns
from mvseg.vocabulary.scopes import ClassRules


def targets_of(
    labels: list[list[int]], counts: list[int], areas: Tensor, proposal_logits: Tensor | None = None, **facts: object
) -> ImageLabelTargets:
    columns = torch.tensor([label for image in labels for label in image], dtype=torch.long)
    images = torch.tensor([i for i, image in enumerate(labels) for _ in image], dtype=torch.long)
    context = BatchContext(("tags",) * len(labels), labels=columns, label_images=images, **facts)
    return ImageLabelTargets.of_images(context, torch.tensor(counts), areas, proposal_logits)


CASES = {
    "max_size": {},
    "first": {"choice": "first"},
    "max_score": {"choice": "max_score"},
    "min_loss": {"choice": "min_loss"},
    "image": {"choice": "image"},
    "max_size_with_image_box": {},
    "max_size_softmax": {"softmax": True},
    "wsddn": {"choice": "wsddn"},
    "wsod": {"choice": "wsod"},
    "max_size_second_image_empty": {},
    "max_size_one_region": {},
    "max_size_dynamic": {},
}
KEPT_ROWS = {"max_size_second_image_empty": (12, 0), "max_size_one_region": (1, 9)}


@pytest.mark.parametrize("case", CASES)
def test_oracle(units: Oracle, case: str):
    first, second = KEPT_ROWS.get(case, units("image_labels/count_per_image").tolist())
    rows = [*range(first + second)]
    logits = units("image_labels/class_logits")[rows]
    columns = None
    if case == "max_size_dynamic":
        columns = units("image_labels/dynamic_kept_classes")
        logits = logits[:, [*columns.tolist(), 30]]
    logits.requires_grad_()
    boxes = units("image_labels/boxes")[rows]
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    labels = [units(f"image_labels/labels_{i}").tolist() for i in range(2)]
    comparison = units("image_labels/proposal_branch_logits").requires_grad_() if case in ("wsddn", "wsod") else None
    objective = ImageLabelObjective(30, **CASES[case])
    loss = objective.losses(logits, targets_of(labels, [first, second], areas, comparison), columns)["image_loss"]
    close(loss, units(f"image_labels/{case}/image_loss"))
    loss.backward()
    close(logits.grad, units(f"image_labels/{case}/grad_class_logits"))
    if comparison is not None:
        close(comparison.grad, units(f"image_labels/{case}/grad_proposal_branch_logits"))


def plain_loss(
    choice: str,
    logits: Tensor,
    areas: Tensor,
    comparison: Tensor,
    labels: list[list[int]],
    counts: list[int],
    scope: Tensor | None,
) -> Tensor:
    """Image by image, label by label, in float64; the background's logit is 0."""
    total, start = logits.new_zeros(()), 0
    for image, (image_labels, count) in enumerate(zip(labels, counts)):
        rows = slice(start, start + count)
        start += count
        if not count or not image_labels:
            continue
        scores, sizes = F.pad(logits[rows], (0, 1)), areas[rows]
        counted = torch.ones(scores.shape[1], dtype=torch.bool)
        if scope is not None:
            counted[:-1] = scope[image]
        for label in image_labels:
            columns = counted.clone()
            columns[label] = True
            wanted = torch.zeros(scores.shape[1], dtype=scores.dtype)
            wanted[label] = 1
            each = F.binary_cross_entropy_with_logits(scores, wanted.expand_as(scores), reduction="none")[
                :, columns
            ].sum(1)
            if choice == "wsddn":
                share = F.pad(comparison[rows], (0, 1)).softmax(0)
                found = (scores.sigmoid() * share).sum(0).clamp(1e-10, 1 - 1e-10)
                loss = F.binary_cross_entropy(found[columns], wanted[columns])
            else:
                best = {
                    "max_size": int(sizes[:-1].argmax()) if count > 1 else 0,
                    "max_score": int(scores[:, label].argmax()),
                    "min_loss": int(each.argmin()),
                    "first": 0,
                    "image": count - 1,
                }[choice]
                loss = each[best]
            total = total + loss / len(image_labels)
    return 0.1 * total / len(labels)


@pytest.mark.parametrize("scoped", [False, True])
@pytest.mark.parametrize("choice", ["max_size", "max_score", "min_loss", "first", "image", "wsddn"])
def test_against_a_plain_loop(choice: str, scoped: bool):
    draw = torch.Generator().manual_seed(3)
    n, labels, counts = 9, [[2], [], [0, 5, 8], [1, 2], list(range(9)), [4]], [4, 3, 6, 0, 2, 1]
    logits = torch.randn(sum(counts), n, generator=draw, dtype=torch.float64).mul_(3).requires_grad_()
    comparison = torch.randn(sum(counts), n, generator=draw, dtype=torch.float64).requires_grad_()
    areas = torch.rand(sum(counts), generator=draw)
    scope = torch.rand(len(labels), n, generator=draw) > 0.4 if scoped else None
    objective = ImageLabelObjective(n, choice)
    facts = targets_of(labels, counts, areas, comparison if choice == "wsddn" else None, scope=scope)
    columns = objective.columns(facts)
    chosen = slice(None) if columns is None else columns
    if choice == "wsddn":
        facts = targets_of(labels, counts, areas, comparison[:, chosen], scope=scope)
    loss = objective.losses(logits[:, chosen], facts, columns)["image_loss"]
    expected = plain_loss(choice, logits, areas, comparison, labels, counts, scope)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-9)
    wanted = [logits, comparison] if choice == "wsddn" else [logits]
    found = torch.autograd.grad(loss, wanted)
    for own, other in zip(found, torch.autograd.grad(expected, wanted)):
        torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("choice", ["max_size", "max_score", "min_loss", "first", "image", "wsddn"])
@pytest.mark.parametrize(("labels", "counts"), [([[1], [2]], [0, 0]), ([[], []], [3, 2]), ([[], [0]], [2, 0])])
def test_nothing_to_learn_is_zero_and_connected(choice: str, labels: list[list[int]], counts: list[int]):
    logits = torch.randn(sum(counts), 4, requires_grad=True)
    comparison = torch.randn(sum(counts), 4, requires_grad=True)
    objective = ImageLabelObjective(4, choice)
    loss = objective.losses(logits, targets_of(labels, counts, torch.ones(sum(counts)), comparison), None)["image_loss"]
    loss.backward()
    assert float(loss) == 0 and logits.grad is not None and not logits.grad.any()


def test_the_background_adds_ln_2_as_in_the_original():
    logits = torch.full((2, 3), -60.0)
    logits[0, 1] = 60.0
    facts = targets_of([[1]], [2], torch.tensor([2.0, 1.0]))
    assert float(ImageLabelObjective(3).losses(logits, facts, None)["image_loss"]) == pytest.approx(0.1 * math.log(2))


def test_weights_of_images():
    logits = torch.randn(4, 3)
    parts = [ImageLabelObjective(3).losses(logits[rows], targets_of([[1]], [2], torch.ones(2)), None)["image_loss"]
             for rows in (slice(0, 2), slice(2, 4))]  # fmt: skip
    facts = targets_of([[1], [1]], [2, 2], torch.ones(4), weights=torch.tensor([3.0, 0.5]))
    both = ImageLabelObjective(3).losses(logits, facts, None)["image_loss"]
    assert float(both) == pytest.approx(float(3 * parts[0] + 0.5 * parts[1]) / 2, rel=1e-6)


def test_broader_words_are_positive_too():
    broader = torch.zeros(4, 3, dtype=torch.bool)  # the last rule says nothing
    broader[0, 2] = True
    rules = ClassRules(positive=broader)
    facts = targets_of([[0]], [1], torch.ones(1), rules=rules, first_rule=torch.tensor([0]))
    logits = torch.tensor([[0.5, -1.0, 2.0]])
    expected = F.binary_cross_entropy_with_logits(logits, torch.tensor([[1.0, 0, 1]]), reduction="sum") + math.log(2)
    assert float(ImageLabelObjective(3).losses(logits, facts, None)["image_loss"]) == pytest.approx(
        0.1 * float(expected)
    )


def test_a_region_of_the_same_size_is_the_first_one():
    table = region_table(torch.tensor([3, 0, 1]))
    assert table.tolist() == [[0, 1, 2], [-1, -1, -1], [3, -1, -1]]
    assert largest_regions(torch.tensor([1.0, 1.0, 9.0, 0.0]), table).tolist() == [0, -1, 3]


def test_region_costs():
    draw = torch.Generator().manual_seed(0)
    logits, wanted = torch.randn(5, 7, generator=draw) * 4, (torch.rand(2, 7, generator=draw) > 0.7).float()
    scope, table = torch.rand(2, 7, generator=draw) > 0.5, torch.tensor([[0, 1, 2], [3, 4, -1]])
    costs = region_costs(logits, wanted, table, scope)
    for term, rows in enumerate(([0, 1, 2], [3, 4])):
        each = F.binary_cross_entropy_with_logits(logits[rows], wanted[term].expand(len(rows), -1), reduction="none")
        close(costs[term, : len(rows)], (each * scope[term]).sum(1))


def test_sampled_columns():
    allowed = torch.zeros(1000, dtype=torch.bool)
    allowed[500:520] = True
    labels = torch.tensor([3, 7, 3, 505])
    columns = sampled_columns(labels, 1000, 10, allowed)
    assert len(columns) == 10 and columns.tolist() == sorted(set(columns.tolist()))
    assert {3, 7, 505} <= set(columns.tolist()) <= {3, 7} | set(range(500, 520))
    assert sampled_columns(labels, 1000, 2).tolist() == [3, 7, 505]
    assert len(sampled_columns(labels, 1000, 100, allowed)) == 22
    counts = sum(torch.bincount(sampled_columns(labels[:1], 6, 3), minlength=6) for _ in range(600))
    assert int(counts[3]) == 600 and all(190 <= int(c) <= 290 for i, c in enumerate(counts) if i != 3)  # 240 expected


def test_config():
    cfg = get_cfg()
    built = build_objectives(cfg, 5, None)
    assert next(iter(built)) == "boxes" and built["tags"].choice == "max_size" and built["tags"].weight == 0.1
    cfg.MODEL.IMAGE_LABELS.LOSS = "image"
    with pytest.raises(ValueError, match="ADD_IMAGE_BOX"):
        build_objectives(cfg, 5, None)
    cfg.MODEL.IMAGE_LABELS.LOSS, cfg.MODEL.IMAGE_LABELS.SOFTMAX_LOSS = "wsddn", True
    with pytest.raises(ValueError, match="SOFTMAX_LOSS"):
        build_objectives(cfg, 5, None)
    cfg.MODEL.IMAGE_LABELS.LOSS = "max_sise"
    with pytest.raises(KeyError, match=r"MODEL.IMAGE_LABELS.LOSS 'max_sise'.*nearest: max_size"):
        build_objectives(cfg, 5, None)
    cfg.MODEL.IMAGE_LABELS.LOSS = "sigmoid"
    with pytest.raises(KeyError, match="cannot learn from 'tags'"):
        build_objectives(cfg, 5, None)
    cfg.MODEL.CLASSIFIER.LOSS, cfg.MODEL.IMAGE_LABELS.LOSS = "max_size", "max_size"
    with pytest.raises(KeyError, match="cannot learn from 'boxes'"):
        build_objectives(cfg, 5, None)
