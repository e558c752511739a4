"""ScaleDet's two losses: brute force in float64, a case by hand, gradients, orders, scopes, duplicates, memory."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectron2.utils.events import EventStorage
from torch import Tensor
from whole_models import WORDS, build, record, rows_of, text_cfg

from mvseg.config import get_cfg
from mvseg.data.catalog import register_dataset
from mvseg.modeling.classifier import LinearClassifier, TextClassifier
from mvseg.modeling.context import BatchContext
from mvseg.modeling.objectives import OBJECTIVES, RegionTargets, ScaleDetObjective, SigmoidObjective, build_objectives
from mvseg.modeling.objectives.scaledet import similarity_loss
from mvseg.training.hooks import LossRatios
from mvseg.vocabulary import ClassRules

N, D, INPUT = 7, 5, 6
CLASSES = [0, 3, N, 6, N, 2]
IMAGES = [0, 0, 0, 1, 1, 1]
SCOPE = [[1, 1, 1, 1, 0, 0, 0], [0, 0, 0, 0, 1, 1, 1]]  # class 2 of image 1 is out of scope
WEIGHTS = [1.0, 0.5]


def text_rows() -> Tensor:
    """Words that are alike as those of an encoder are: cosines from about 0 to 1, the first two nearly equal."""
    rows = torch.randn(N, D, generator=torch.Generator().manual_seed(3)) + 0.7
    rows[1] = rows[0] + 0.05
    return rows


def classifier_of(rows: Tensor, bias: float | None = -1.5, temperature: float = 20.0) -> TextClassifier:
    torch.manual_seed(5)
    made = TextClassifier(INPUT, rows, temperature=temperature, bias=bias).double()
    return made.train()


def some_targets(scope: bool = True, rules: ClassRules | None = None) -> RegionTargets:
    context = BatchContext(
        supervision=("boxes", "boxes"),
        scope=torch.tensor(SCOPE).bool() if scope else None,
        weights=torch.tensor(WEIGHTS),
        rules=rules,
        first_rule=None if rules is None else torch.tensor([0, -1]),
    )
    return RegionTargets.of(torch.tensor(CLASSES), torch.tensor(IMAGES), context)


def features() -> Tensor:
    return torch.randn(len(CLASSES), INPUT, dtype=torch.float64, generator=torch.Generator().manual_seed(9))


def rescaled(rows: Tensor, kind: str) -> list[list[float]]:
    """The similarity of the docstrings, a pair at a time."""
    units = [row / row.norm() for row in rows.double()]
    cosines = [[float(a @ b) for b in units] for a in units]
    different = [cosines[i][j] for i in range(len(units)) for j in range(len(units)) if i != j]
    if kind == "none":
        return cosines
    low = min(different) if kind == "minmax" else sum(different) / len(different)
    return [[max(0.0, (c - low) / (1 - low)) for c in row] for row in cosines]


def brute_force(
    head: TextClassifier, scope: bool, kind: str, compared: str, reduction: str, soft_columns: str
) -> tuple[float, float]:
    wanted, hard, soft = rescaled(text_rows(), kind), 0.0, 0.0
    hidden = head.linear(features()).detach()
    for row, label in enumerate(CLASSES):
        image, terms = IMAGES[row], []
        for column in range(N):
            text = text_rows()[column].double()
            cosine = float(hidden[row] @ text / hidden[row].norm() / text.norm())
            z = head.temperature * cosine + float(head.cls_bias.detach())
            counts = not scope or bool(SCOPE[image][column]) or column == label
            if counts:
                p = 1 / (1 + math.exp(-z))
                hard -= WEIGHTS[image] * math.log(p if column == label else 1 - p)
            if label < N and (counts or soft_columns == "all"):
                found = cosine if compared == "cosine" else 1 / (1 + math.exp(-z))
                terms.append((found - wanted[label][column]) ** 2)
        if terms:
            soft += WEIGHTS[image] * sum(terms) / (len(terms) if reduction == "mean" else 1)
    return hard / len(CLASSES), soft / len(CLASSES)


@pytest.mark.parametrize("scope", [True, False], ids=["scope", "no scope"])
@pytest.mark.parametrize(
    "kind, compared, reduction, soft_columns",
    [
        ("none", "cosine", "sum", "scope"),
        ("minmax", "cosine", "sum", "scope"),
        ("centered", "cosine", "mean", "scope"),
        ("minmax", "cosine", "mean", "all"),
        ("centered", "cosine", "sum", "all"),
        ("minmax", "probability", "sum", "scope"),
        ("centered", "probability", "mean", "all"),
    ],
)
def test_both_losses_equal_brute_force(scope: bool, kind: str, compared: Any, reduction: Any, soft_columns: Any):
    head = classifier_of(text_rows())
    objective = ScaleDetObjective(
        N, hard_weight=0.5, soft_weight=3.0, similarity=kind, compared=compared, reduction=reduction,
        soft_columns=soft_columns,
    )  # fmt: skip
    targets = some_targets(scope)
    losses = objective.losses_of_features(head, features(), targets, objective.columns(targets))
    hard, soft = brute_force(head, scope, kind, compared, reduction, soft_columns)
    assert losses["loss_cls"].item() == pytest.approx(0.5 * hard, rel=1e-6)
    assert losses["loss_soft"].item() == pytest.approx(3.0 * soft, rel=1e-5)  # text rows are float32


def test_case_by_hand():
    # Two words at 60 degrees, one region right between them, of the first word: cosines cos 30 = 0.8660.
    rows = torch.tensor([[1.0, 0.0], [0.5, math.sqrt(0.75)]])
    head = TextClassifier(2, rows, temperature=2.0, bias=-1.0)
    with torch.no_grad():
        head.linear.weight.copy_(torch.eye(2))
        head.linear.bias.zero_()
    region = torch.tensor([[math.sqrt(0.75), 0.5], [1.0, 0.0]])
    targets = RegionTargets(torch.tensor([0, 2]), torch.tensor([0, 0]))  # the second is background
    losses = ScaleDetObjective(2, soft_weight=1.0, similarity="none").losses_of_features(head, region, targets, None)
    # Row of the label: 1 and 0.5. (0.8660 - 1)^2 + (0.8660 - 0.5)^2 = 0.01795 + 0.13397, over two regions.
    assert losses["loss_soft"].item() == pytest.approx((0.01795 + 0.13397) / 2, abs=1e-5)
    # Logits 0.7320, 0.7320 and 1, 0; softplus(-0.7320) = 0.3927, (0.7320) = 1.1248, (1) = 1.3133, (0) = 0.6931.
    assert losses["loss_cls"].item() == pytest.approx((0.3927 + 1.1248 + 1.3133 + 0.6931) / 2, abs=1e-3)
    # minmax: the only other cosine is the smallest, so the row is 1 and 0: (0.866 - 1)^2 + 0.866^2.
    losses = ScaleDetObjective(2, soft_weight=1.0, similarity="minmax").losses_of_features(head, region, targets, None)
    assert losses["loss_soft"].item() == pytest.approx((0.01795 + 0.75) / 2, abs=1e-5)


def test_the_soft_loss_of_cosines_is_zero_on_the_own_text_row():
    head = TextClassifier(D, text_rows(), temperature=50.0)
    with torch.no_grad():
        head.linear.weight.copy_(torch.eye(D))
        head.linear.bias.zero_()
    targets = RegionTargets(torch.arange(N), torch.zeros(N, dtype=torch.long))
    for kind, zero in (("none", True), ("minmax", False)):  # the latter asks for less than the text rows have
        objective = ScaleDetObjective(N, soft_weight=1.0, similarity=kind)
        soft = objective.losses_of_features(head, 3 * text_rows(), targets, None)["loss_soft"].item()
        assert (soft < 1e-10) == zero


def test_gradients():
    found = torch.rand(3, 4, dtype=torch.float64, requires_grad=True)
    wanted, scope = torch.rand(3, 4, dtype=torch.float64), torch.rand(3, 4) > 0.3
    weights = torch.tensor([1.0, 0.0, 2.0], dtype=torch.float64)
    for reduction in ("sum", "mean"):
        assert torch.autograd.gradcheck(
            lambda x, r=reduction: similarity_loss(x, wanted, num_regions=5, scope=scope, weights=weights, reduction=r),
            found,
        )
    similarity_loss(found, wanted, num_regions=5, scope=scope).backward()
    torch.testing.assert_close(found.grad, (2 * (found - wanted) / 5 * scope).detach())
    head, targets = classifier_of(text_rows()), some_targets()
    del head.cls_bias  # below a plain tensor, which gradcheck can move
    bias = torch.full((1,), -1.5, dtype=torch.float64, requires_grad=True)
    for compared in ("cosine", "probability"):
        objective = ScaleDetObjective(N, soft_weight=0.3, compared=compared)

        def total(x: Tensor, b: Tensor, objective: ScaleDetObjective = objective) -> Tensor:
            head.cls_bias = b
            return sum(objective.losses_of_features(head, x, targets, None).values())

        assert torch.autograd.gradcheck(total, (features().requires_grad_(), bias))


def test_the_bias_learns_from_the_hard_loss_alone():
    """And without a hard loss it has a gradient of exactly zero: an optimizer that divides by its size stays."""
    for hard, learns in ((0.0, False), (1.0, True)):
        head = classifier_of(text_rows())
        losses = ScaleDetObjective(N, hard_weight=hard, soft_weight=1.0).losses_of_features(
            head, features(), some_targets(False), None
        )
        sum(losses.values()).backward()
        assert bool(head.cls_bias.grad != 0) == learns
        assert (head.linear.weight.grad != 0).any() and ("loss_cls" in losses)


def test_order_of_the_vocabulary_does_not_matter():
    order = torch.randperm(N, generator=torch.Generator().manual_seed(1))
    place = torch.cat([order.argsort(), torch.tensor([N])])
    for kind in ("none", "minmax", "centered"):
        objective = ScaleDetObjective(N, soft_weight=1.0, similarity=kind)
        shuffled = ScaleDetObjective(N, soft_weight=1.0, similarity=kind)
        targets = some_targets()
        other = RegionTargets(place[targets.classes], targets.images, targets.scope[:, order], targets.weights)
        before = objective.losses_of_features(classifier_of(text_rows()), features(), targets, None)
        after = shuffled.losses_of_features(classifier_of(text_rows()[order]), features(), other, None)
        for name in ("loss_cls", "loss_soft"):
            torch.testing.assert_close(before[name], after[name], rtol=1e-6, atol=0)


def test_only_the_columns_in_scope_are_computed_unless_all_are_wanted():
    one = RegionTargets(torch.tensor([0, 3, N]), torch.tensor([0, 0, 0]), torch.tensor(SCOPE[:1]).bool())
    assert ScaleDetObjective(N).columns(one).tolist() == [0, 1, 2, 3]
    assert ScaleDetObjective(N, soft_columns="all").columns(one) is None
    assert ScaleDetObjective(N, soft_columns="all", soft_weight=0.0).columns(one).tolist() == [0, 1, 2, 3]
    counts = torch.tensor([1.0, 0, 2, 3, 4, 5, 6])
    assert ScaleDetObjective(N, counts, True, soft_columns="all").columns(one).tolist() == [0, 2, 3, 4, 5, 6]
    # A subset of the columns gives what the full row gives.
    head, columns = classifier_of(text_rows()), torch.tensor([3, 0, 2, 1])
    objective = ScaleDetObjective(N, soft_weight=1.0)
    some = objective.losses_of_features(head, features()[:3], one, columns)
    full = objective.losses_of_features(head, features()[:3], one, None)
    for name in ("loss_cls", "loss_soft"):
        torch.testing.assert_close(some[name], full[name])


def test_rules_of_the_scope_hold_for_both_losses():
    """What a class adds (safe) is compared, what it ignores (hierarchy) is not."""
    negative, ignored = torch.zeros(N + 1, N).bool(), torch.zeros(N + 1, N).bool()
    negative[0, 5], ignored[3, 1] = True, True
    targets = some_targets(rules=ClassRules(negative=negative, ignored=ignored))
    head, x = classifier_of(text_rows()), features().requires_grad_()
    cosines = head.cosines(x)
    objective = ScaleDetObjective(N, hard_weight=0.0, soft_weight=1.0)
    objective._soft_loss(head, cosines, head.logits_of(cosines), targets, None)
    scope = targets.scope_of(None)
    assert scope[0].tolist() == [True] * 4 + [False, True, False] and not scope[1, 1] and bool(scope[5, 2])
    wanted = torch.tensor(rescaled(text_rows(), "minmax"), dtype=torch.float64)
    expected = sum(
        WEIGHTS[IMAGES[row]] * (cosines[row] - wanted[label])[scope[row]].square().sum()
        for row, label in enumerate(CLASSES)
        if label < N
    )
    loss = objective.losses_of_features(head, x, targets, None)["loss_soft"]
    torch.testing.assert_close(loss, expected / len(CLASSES), rtol=1e-5, atol=0)


@pytest.mark.parametrize("classes", [[], [N, N]], ids=["no regions", "only background"])
def test_without_objects_the_soft_loss_is_zero_and_connected(classes: list[int]):
    head, count = classifier_of(text_rows()), len(classes)
    targets = RegionTargets(torch.tensor(classes, dtype=torch.long), torch.zeros(count, dtype=torch.long))
    objective = ScaleDetObjective(N, soft_weight=1.0)
    losses = objective.losses_of_features(head, features()[:count], targets, None)
    assert losses["loss_soft"].item() == 0
    losses["loss_soft"].backward()
    assert head.linear.weight.grad is not None and (head.linear.weight.grad == 0).all()
    nothing = ScaleDetObjective(N, hard_weight=0.0, soft_weight=1.0).losses_of_features(
        head, features()[:count], targets, None
    )
    assert nothing["loss_cls"].item() == 0 and nothing["loss_cls"].requires_grad


def test_weight_zero_is_the_sigmoid_objective():
    targets, head = some_targets(), classifier_of(text_rows())
    alone, plain = ScaleDetObjective(N, soft_weight=0.0), SigmoidObjective(N)
    columns = plain.columns(targets)
    assert torch.equal(alone.columns(targets), columns)
    found = alone.losses_of_features(head, features(), targets, columns)
    assert list(found) == ["loss_cls"]
    assert torch.equal(found["loss_cls"], plain.losses(head(features(), columns), targets, columns)["loss_cls"])
    ScaleDetObjective(N, soft_weight=0.0).losses_of_features(LinearClassifier(INPUT, N, background=False).double(),
                                                             features(), targets, columns)  # fmt: skip
    with pytest.raises(TypeError, match="TextClassifier"):
        ScaleDetObjective(N).losses_of_features(LinearClassifier(INPUT, N), features().float(), targets, columns)


def test_cosines_and_logits_of_the_classifier_belong_together():
    head = classifier_of(text_rows())
    for columns in (None, torch.tensor([6, 0, 3])):
        cosines = head.cosines(features(), columns)
        torch.testing.assert_close(head.logits_of(cosines), head(features(), columns))
        torch.testing.assert_close(
            head.word_cosines(torch.tensor([2, 6]), columns),
            F.cosine_similarity(
                text_rows()[[2, 6]][:, None], text_rows()[columns if columns is not None else range(N)][None], dim=2
            ).double(),
        )
    exact = F.normalize(text_rows(), dim=1) @ F.normalize(text_rows(), dim=1).t()
    with torch.autocast("cpu", torch.bfloat16):
        assert head.float().cosines(features().float()).dtype == torch.float32
        torch.testing.assert_close(head.word_cosines(torch.arange(N)), exact)
    with pytest.raises(ValueError, match="NORMALIZE"):
        TextClassifier(INPUT, text_rows(), normalize=False).cosines(features().float())


def test_a_word_of_two_datasets_settles_at_one_half_under_all_and_at_one_under_own():
    """Two equal rows have one logit; BCE with one-hot targets over both is least at p = 1/2, whatever the network."""
    rows = F.normalize(torch.randn(6, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    rows[3] = rows[0]  # words 0..2 of the first dataset, 3..5 of the second
    classes, images = torch.tensor([0, 3, 1, 4]), torch.tensor([0, 1, 0, 1])
    own = torch.tensor([[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]]).bool()
    safe = own.clone()[images]
    safe[:, [1, 2, 4, 5]] = True  # all that is not the shared word
    scopes = {"all": (None, images), "own": (own, images), "safe": (safe, torch.arange(4))}
    for scope, (table, place) in scopes.items():
        for soft in (0.0, 0.01):
            torch.manual_seed(2)
            head = TextClassifier(8, rows, temperature=50.0, bias=-4.6)
            regions = torch.nn.Parameter(torch.randn(4, 8))
            with torch.no_grad():
                head.linear.weight.copy_(torch.eye(8))
            objective = ScaleDetObjective(6, soft_weight=soft)
            targets = RegionTargets(classes, place, table)
            optimizer = torch.optim.Adam([regions], lr=0.05)
            for _ in range(300):
                optimizer.zero_grad()
                sum(objective.losses_of_features(head, regions, targets, None).values()).backward()
                optimizer.step()
            p = head(regions).sigmoid().gather(1, classes[:, None])[:, 0]
            if scope == "all":
                assert p[:2].tolist() == pytest.approx([0.5, 0.5], abs=0.05), soft
                assert (p[2:] > 0.95).all()
            else:
                assert (p > 0.95).all(), (scope, soft, p)


def test_twenty_two_thousand_words_need_no_square():
    words, regions = 22000, 64
    head = TextClassifier(16, torch.randn(words, 16), temperature=50.0, bias=-4.6)
    targets = RegionTargets(torch.randint(0, words, (regions,)), torch.zeros(regions, dtype=torch.long))
    objective = ScaleDetObjective(words, similarity="none")
    largest = 0

    class Largest(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            largest = max(largest, result.numel() if isinstance(result, Tensor) else 0)
            return result

    with Largest():
        objective.losses_of_features(head, torch.randn(regions, 16), targets, None)
    assert largest <= (regions + 1) * words


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Names of two datasets that have words with embeddings and nothing else."""
    folder = tmp_path_factory.mktemp("scaledet")
    for name in ("det_a", "det_b"):
        np.save(folder / f"{name}.npy", rows_of(WORDS[name]).numpy())
        register_dataset(
            name=f"scaledet_{name}",
            format="coco",
            image_root=str(folder),
            annotations=str(folder / "none.json"),
            vocabulary=WORDS[name],
            embeddings=str(folder / f"{name}.npy"),
        )
    return "scaledet_det_a", "scaledet_det_b"


def image(name: str, seed: int, objects: int = 3) -> dict[str, Any]:
    return {**record(name.removeprefix("scaledet_"), seed, objects), "dataset": name}


def scaledet_cfg(*names: str, **changes: Any) -> Any:
    return text_cfg(*names, MODEL__CLASSIFIER__LOSS="scaledet", **changes)


@pytest.mark.parametrize("soft_columns", ["scope", "all"])
def test_a_step_of_the_whole_detector(words: tuple[str, str], soft_columns: str):
    cfg = scaledet_cfg(*words, MODEL__SCALEDET__SOFT_COLUMNS=soft_columns)
    model = build(cfg).train()
    batch = [image(words[0], 1), image(words[1], 2), image(words[0], 3, objects=0)]
    with EventStorage(0), torch.autocast("cpu", torch.bfloat16):
        losses = model(batch)
    for stage in range(3):
        assert losses[f"loss_soft_stage{stage}"] > 0 and losses[f"loss_cls_stage{stage}"] > 0
    sum(losses.values()).backward()
    heads = [predictor.cls_score.linear.weight.grad for predictor in model.roi_heads.predictors]
    assert all(bool((gradient != 0).any()) for gradient in heads)
    with EventStorage(0):
        empty = model([image(words[0], 3, objects=0)])
    assert all(empty[f"loss_soft_stage{stage}"] == 0 for stage in range(3))


def test_the_ratio_of_the_losses_is_written(words: tuple[str, str]):
    hook = LossRatios.of(build(scaledet_cfg(*words)))
    assert hook is not None and LossRatios.of(build(text_cfg(*words))) is None
    with EventStorage(7) as storage:
        hook.trainer = SimpleNamespace(storage=storage, iter=7)
        storage.put_scalars(loss_cls_stage0=2.0, loss_cls_stage1=3.0, loss_soft_stage0=0.5, loss_soft_stage1=1.0)
        storage.put_scalars(loss_cls_of_something_else=9.0)
        hook.after_step()
        assert storage.latest()["soft_to_hard"] == (pytest.approx(0.3), 7)
    with EventStorage(8) as storage:  # the soft loss alone, and losses of an earlier step
        hook.trainer = SimpleNamespace(storage=storage, iter=8)
        storage.put_scalars(loss_cls_stage0=0.0, loss_soft_stage0=1.0)
        storage.put_scalars(loss_cls_stage1=2.0, cur_iter=6)
        hook.after_step()
        assert "soft_to_hard" not in storage.latest()


def test_config_reaches_the_objective_and_names_what_cannot_be():
    cfg = get_cfg()
    cfg.MODEL.CLASSIFIER.LOSS = "scaledet"
    cfg.MODEL.SCALEDET.SOFT_WEIGHT, cfg.MODEL.SCALEDET.REDUCTION = 0.5, "mean"
    built = build_objectives(cfg, N, None)["boxes"]
    assert isinstance(built, ScaleDetObjective) and "scaledet" in OBJECTIVES.names("masks")
    assert (built.hard_weight, built.soft_weight, built.reduction, built.similarity) == (1.0, 0.5, "mean", "minmax")
    for key, value, message in (
        ("SIMILARITY", "raw", "choose none, minmax, centered"),
        ("COMPARE", "logit", "choose cosine, probability"),
        ("REDUCTION", "max", "choose sum, mean"),
        ("SOFT_COLUMNS", "own", "choose scope, all"),
        ("SOFT_WEIGHT", -1.0, "must not be negative"),
    ):
        wrong = cfg.clone()
        wrong.MODEL.SCALEDET[key] = value
        with pytest.raises(ValueError, match=message):
            build_objectives(wrong, N, None)
    cfg.MODEL.SCALEDET.COMPARE, cfg.MODEL.SCALEDET.SIMILARITY = "probability", "none"
    with pytest.raises(ValueError, match="from 0 to 1"):
        build_objectives(cfg, N, None)
    for key, value in (("NAME", "linear"), ("NORMALIZE", False), ("CONTEXT_LENGTH", 4)):
        wrong = get_cfg()
        wrong.MODEL.CLASSIFIER.LOSS = "scaledet"
        wrong.MODEL.CLASSIFIER[key] = value
        with pytest.raises(ValueError, match="stay as they are"):
            build_objectives(wrong, N, None)
    with pytest.raises(ValueError, match="not both 0"):
        ScaleDetObjective(N, hard_weight=0.0, soft_weight=0.0)
    with pytest.raises(ValueError, match="choose sum or mean"):
        similarity_loss(torch.zeros(1, 1), torch.zeros(1, 1), num_regions=1, reduction="median")  # type: ignore[arg-type]


def test_averages_over_images_weigh_images_alike():
    """AVERAGE images: both losses are the mean of what every image alone has; losses that cannot do it refuse."""
    classifier, x = classifier_of(text_rows()), features()
    objective = ScaleDetObjective(N, soft_weight=0.5, average="images")
    single = ScaleDetObjective(N, soft_weight=0.5)
    classes, images = torch.tensor(CLASSES), torch.tensor([0, 0, 0, 0, 1, 1])
    whole = objective.losses_of_features(classifier, x, RegionTargets(classes, images), None)
    for name, loss in whole.items():
        alone = [
            single.losses_of_features(classifier, x[rows], RegionTargets(classes[rows], images[rows] * 0), None)[name]
            for rows in (slice(0, 4), slice(4, 6))
        ]
        torch.testing.assert_close(loss, sum(alone) / 2)
    cfg = get_cfg()
    cfg.MODEL.CLASSIFIER.AVERAGE, cfg.MODEL.CLASSIFIER.LOSS = "images", "scaledet"
    assert build_objectives(cfg, N, None)["boxes"].average == "images"
    for name in ("softmax", "seesaw", "balanced_group_softmax"):
        cfg.MODEL.CLASSIFIER.LOSS = name
        with pytest.raises(ValueError, match=f"'images': the loss {name} is divided in its own way"):
            build_objectives(cfg, N, torch.ones(N))
