"""Losses for long tails: numbers of the published codes, brute force, cases by hand, scopes, states, two processes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing import start_processes

from mvseg.config import get_cfg
from mvseg.modeling.classifier import LinearClassifier
from mvseg.modeling.context import BatchContext
from mvseg.modeling.objectives import (
    OBJECTIVES,
    BalancedGroupSoftmaxObjective,
    EqualizationObjective,
    EqualizationV2Objective,
    ImageLabelTargets,
    RegionObjective,
    RegionTargets,
    SeesawObjective,
    SigmoidObjective,
    SoftmaxObjective,
    build_objectives,
)
from mvseg.modeling.objectives.balanced_groups import frequency_groups, sampled_regions
from mvseg.modeling.objectives.equalization import equalization_v2_weights
from mvseg.modeling.objectives.seesaw import seesaw_logits
from mvseg.modeling.objectives.tags import ImageLabelObjective
from mvseg.modeling.roi_heads.box_predictor import build_classifier

N, BACKGROUND = 5, 5
CLASSES = [0, 2, 5, 4, 5, 1, 5, 0]
COUNTS = torch.tensor([5000, 7, 50, 9, 10])
SCOPE = torch.tensor([[1, 1, 1, 0, 0], [0, 0, 0, 1, 1]]).bool()
IMAGES = torch.tensor([0, 0, 0, 1, 1, 0, 1, 0])


def some_logits(width: int, step: int = 0, rows: int = len(CLASSES)) -> Tensor:
    """Numbers that the published codes were given too."""
    table = [[2.5 * math.sin(1.7 * r + 0.9 * c + 0.3 + step) for c in range(width)] for r in range(rows)]
    return torch.tensor(table, dtype=torch.float64, requires_grad=True)


def targets_of(
    classes: list[int] | Tensor = CLASSES, images: Tensor | None = None, scope: Tensor | None = None, **facts: Any
) -> RegionTargets:
    classes = torch.as_tensor(classes)
    return RegionTargets(classes, torch.zeros_like(classes) if images is None else images, scope, **facts)


def total(objective: RegionObjective, logits: Tensor, targets: RegionTargets, columns: Tensor | None = None) -> Tensor:
    return sum(objective.losses(logits, targets, columns).values(), logits.new_zeros(()))


def close(found: Tensor, wanted: list[float]) -> None:
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=found.dtype), rtol=1e-6, atol=1e-9)


# The following four numbers and gradients are those of the authors' codes, run in float64 on the same logits:
# tztztztztz/eqlv2 907fad9 (EQLv2, EQL, GroupSoftmax), the function of MMDetection's SeesawLoss.


def test_eqlv2_equals_the_authors_over_three_steps():
    objective = EqualizationV2Objective(N)
    found, gradients = [], []
    for step in range(3):
        logits = some_logits(N + 1, step)
        loss = total(objective, logits, targets_of())
        loss.backward()
        found.append(loss.item())
        gradients.append(logits.grad[0])
    assert found == pytest.approx([6.161999257821643, 5.289147919391576, 5.236570519461295], rel=1e-6)
    close(
        gradients[0], [-0.04040831167627, 0.11391740405394, 0.11205202, 0.073412051428, 0.01899330992, 0.009566638454]
    )
    close(gradients[2], [-0.05381562127, 0.05784801206, 0.01428913173, 7.05838019e-07, 0.03521466889, 0.09684274387])
    close(objective.positive_gradients, [3.043359700924945, 6.119084653516275, 6.202710252499644, 0.0, 5.1687671025670])
    close(objective.negative_gradients, [4.1303198028, 7.942005966824, 7.56131767016, 4.21483806657, 6.72073601514])
    scores = objective.probabilities(some_logits(N + 1).detach())
    close(scores[0].double(), [0.624940988290685, 0.84159160886506, 0.82781064385, 0.54234879195, 0.1403175431])


def test_eql_equals_the_authors():
    images = torch.tensor([50000, 100, 1000, 170, 30000])  # of 100,000: 0.5, 0.001, 0.01, 0.0017, 0.3
    logits = some_logits(N)
    loss = total(EqualizationObjective(N, images), logits, targets_of())
    loss.backward()
    assert loss.item() == pytest.approx(4.037597872755238)
    close(logits.grad[0], [-0.040408311676272, 0.0, 0.11205202, 0.0, 0.01899330992])
    assert logits.grad[2, 1] > 0  # background is a negative for rare classes too


def test_balanced_group_softmax_equals_the_authors():
    objective = BalancedGroupSoftmaxObjective(N, COUNTS)
    assert objective.groups.tolist() == [3, 0, 1, 0, 1]
    logits = some_logits(N + 6)
    loss = total(objective, logits, targets_of())
    loss.backward()
    assert loss.item() == pytest.approx(6.91456242867752)
    close(
        logits.grad[0],
        [-0.04933552189, 0.0925633231288, 0.05614690052, 0.01281472999, 0.00116245328, 0.0308977715, -0.0308977715,
         -0.1053780531207, -0.0573093538, 0.0, 0.04933552189],
    )  # fmt: skip
    scores = objective.probabilities(logits.detach())
    close(scores[0].double(), [0.455692544363, 0.557466558769, 0.338147101473, 0.07717725756438, 0.0070009244])


def test_seesaw_equals_the_published_over_two_steps():
    objective = SeesawObjective(N)
    for step, wanted in enumerate([(4.58686674665485, 0.6929853591843), (4.669901639643947, 0.66628366798832)]):
        logits = some_logits(N + 2, step)
        losses = objective.losses(logits, targets_of(), None)
        assert (losses["loss_cls"].item(), losses["loss_objectness"].item()) == pytest.approx(wanted)
    sum(losses.values()).backward()
    close(logits.grad[0], [-0.03914722681, 0.0334637141, 0.0049193299766, 0.00038392682, 0.00038025589, 0.01276795262,
                           -0.01276795262])  # fmt: skip
    assert objective.counts.tolist() == [4, 2, 2, 0, 2]
    scores = objective.probabilities(some_logits(N + 2).detach())
    close(scores[0].double(), [0.0696448754446, 0.34196429122, 0.2879054195, 0.04734251009, 0.0059607314919])


def test_weights_by_hand():
    positive, negative = equalization_v2_weights(torch.tensor([0.0, 0.8, 3.0, 0.0]), torch.tensor([0.0, 1.0, 1.0, 2.0]))
    assert positive.tolist() == pytest.approx([1, 3, 1, 5], abs=1e-3)  # no gradient yet; half; many; none positive
    assert negative.tolist() == pytest.approx([1, 0.5, 1, 0], abs=1e-3)
    # class 1 is four times as rare as class 0: its logit falls by 0.5 log 4 where the truth is 0, not the other way
    moved = seesaw_logits(torch.zeros(2, 2), torch.tensor([0, 1]), torch.tensor([8, 2]), p=0.5, q=0.0)
    torch.testing.assert_close(moved, torch.tensor([[0.0, -math.log(2)], [0.0, 0.0]]))
    # probabilities 1/4 and 3/4: the wrong one is three times as probable, factor 9; what is below eps counts as eps
    logits = torch.tensor([[0.0, math.log(3)], [0.0, 20.0]])
    moved = seesaw_logits(logits, torch.tensor([0, 0]), torch.tensor([1, 1]), p=0.8, q=2.0, eps=0.01)
    torch.testing.assert_close(moved[0], torch.tensor([0.0, math.log(27)]))
    assert moved[1, 1].item() == pytest.approx(20 + 2 * math.log(100), rel=1e-5)


def test_frequency_groups_and_draw():
    assert frequency_groups(torch.tensor([0, 9, 10, 99, 100, 999, 1000, 10**7]), [10, 100, 1000]).tolist() == [
        0, 0, 1, 1, 2, 2, 3, 3,
    ]  # fmt: skip
    members = torch.arange(100) < 3
    for _ in range(5):
        chosen = sampled_regions(members, 8.0)
        assert chosen[:3].all() and int(chosen.sum()) == 27
    hits = sum(sampled_regions(members, 8.0).int() for _ in range(400))[3:] / 400
    assert hits.mean() == pytest.approx(24 / 97) and hits.std() < 0.05  # none is preferred
    assert not sampled_regions(members[3:], 8.0).any()
    assert sampled_regions(members, 1000.0).all() and sampled_regions(members, 0.0).sum() == 3


def seesaw_by_hand(logits: Tensor, row: int, allowed: list[int], counts: list[float], label: int) -> float:
    """-log of the seesaw probability, one column at a time; the background, N, has no count."""
    z = [float(x) for x in logits[row]]
    p = {j: math.exp(z[j]) / sum(math.exp(z[a]) for a in allowed) for j in allowed}
    rest = 0.0
    for j in allowed:
        rarer = j < N and label < N and max(counts[j], 1) < max(counts[label], 1)
        mitigation = (max(counts[j], 1) / max(counts[label], 1)) ** 0.8 if rarer else 1.0
        compensation = max(1.0, p[j] / max(p[label], 0.01)) ** 2
        rest += math.exp(z[j]) * (1.0 if j == label else mitigation * compensation)
    return -math.log(math.exp(z[label]) / rest)


@pytest.mark.parametrize("whole", [True, False], ids=["all", "own"])
def test_seesaw_with_the_background_among_the_classes(whole: bool):
    objective, logits = SeesawObjective(N, objectness=False), some_logits(N + 1)
    objective.counts += torch.tensor([100, 1, 0, 50, 3])
    targets = targets_of(images=IMAGES, scope=None if whole else SCOPE, weights=torch.tensor([1.0, 0.5]).double())
    loss = total(objective, logits, targets)
    counts = [102.0, 2.0, 1.0, 50.0, 4.0]
    expected = 0.0
    for row, label in enumerate(CLASSES):
        image = int(IMAGES[row])
        allowed = [j for j in range(N + 1) if whole or j in (N, label) or SCOPE[image, j]]
        expected += (0.5 if image else 1.0) * seesaw_by_hand(logits.detach(), row, allowed, counts, label)
    assert loss.item() == pytest.approx(expected / 8)
    loss.backward()
    if not whole:
        outside = ~torch.nn.functional.pad(SCOPE, (0, 1), value=True)[IMAGES]
        outside[torch.arange(8), torch.tensor(CLASSES)] = False
        assert (logits.grad[outside] == 0).all() and (logits.grad[~outside] != 0).all()
    assert objective.probabilities(logits)[0].sum() < 1


OBJECTIVE = {
    "eql": lambda: EqualizationObjective(N, COUNTS, least_images=10),
    "eqlv2": lambda: EqualizationV2Objective(N),
    "eqlv2 without objectness": lambda: EqualizationV2Objective(N, objectness=False),
    "seesaw": lambda: SeesawObjective(N),
    "seesaw with background": lambda: SeesawObjective(N, objectness=False),
    "bags": lambda: BalancedGroupSoftmaxObjective(N, COUNTS),
}
FURTHER = {"eql": 0, "eqlv2": 1, "eqlv2 without objectness": 0, "seesaw": 2, "seesaw with background": 1, "bags": 6}


@pytest.mark.parametrize("name", OBJECTIVE)
def test_columns_outside_the_scope_get_nothing(name: str):
    objective, logits = OBJECTIVE[name](), some_logits(N + FURTHER[name])
    total(objective, logits, targets_of(images=IMAGES, scope=SCOPE)).backward()
    allowed = SCOPE[IMAGES].clone()
    for row, label in enumerate(CLASSES):
        if label < N:
            allowed[row, label] = True
    assert (logits.grad[:, :N][~allowed] == 0).all() and logits.grad[:, :N][allowed].any()
    # the same from the logits of the needed columns alone
    targets = targets_of([0, 2, 5, 1], torch.zeros(4, dtype=torch.long), SCOPE[:1])
    first, second = OBJECTIVE[name](), OBJECTIVE[name]()
    columns = first.columns(targets)
    assert columns.tolist() == [0, 1, 2]
    full = some_logits(N + FURTHER[name], rows=4)
    few = torch.cat([full[:, :3], full[:, N:]], 1)
    torch.testing.assert_close(total(first, few, targets, columns), total(second, full, targets))
    for one, other in zip(first.buffers(), second.buffers(), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", OBJECTIVE)
def test_nothing_to_learn_from(name: str):
    objective, logits = OBJECTIVE[name](), torch.zeros(0, N + FURTHER[name], requires_grad=True)
    loss = total(objective, logits, targets_of(torch.zeros(0, dtype=torch.long)))
    loss.backward()
    assert loss.item() == 0 and logits.grad is not None
    before = [b.clone() for b in objective.buffers()]
    logits = some_logits(N + FURTHER[name])
    with torch.no_grad():  # the loss of a test set teaches nothing
        total(objective, logits, targets_of())
    assert all(torch.equal(a, b) for a, b in zip(before, objective.buffers(), strict=True))
    only_background = total(objective, logits, targets_of([N] * 8))
    only_background.backward()
    assert only_background.isfinite() and logits.grad.isfinite().all()


@pytest.mark.parametrize("name", OBJECTIVE)
def test_gradients_and_half_precision(name: str):
    objective = OBJECTIVE[name]().eval()  # in evaluation mode the state stands still
    for buffer in (b for b in objective.buffers() if b.dtype == torch.float64):
        buffer += torch.tensor([0.5, 3, 1, 2, 0.1]) * (1 + buffer.sum())
    targets = targets_of(images=IMAGES, scope=SCOPE)
    if not isinstance(objective, SeesawObjective):  # the factors of seesaw have no gradient, so it differs on purpose
        assert torch.autograd.gradcheck(lambda z: total(objective, z, targets), some_logits(N + FURTHER[name]))
    logits = some_logits(N + FURTHER[name]).detach()
    low = total(objective, logits.bfloat16(), targets)
    assert low.dtype == torch.float32
    assert low.item() == pytest.approx(total(objective, logits, targets).item(), rel=2e-2)


def test_first_step_of_eqlv2_is_the_sigmoid_loss_and_its_ratio_is_per_column():
    objective, logits = EqualizationV2Objective(N, objectness=False), some_logits(N)
    targets = targets_of(images=IMAGES, scope=SCOPE, weights=torch.tensor([1.0, 0.5]).double())
    plain = total(SigmoidObjective(N), logits, targets)
    torch.testing.assert_close(total(objective, logits, targets), plain)
    plain.backward()  # what is remembered is what the columns received, before the division by the regions
    received = 8 * logits.grad
    close(objective.positive_gradients, (-received.clamp(max=0)).sum(0).tolist())
    close(objective.negative_gradients, received.clamp(min=0).sum(0).tolist())


@pytest.mark.parametrize("name", ["eqlv2", "seesaw", "bags"])
def test_a_checkpoint_goes_on_exactly(name: str):
    one = OBJECTIVE[name]()
    for step in range(2):
        total(one, some_logits(N + FURTHER[name], step), targets_of())
    other = BalancedGroupSoftmaxObjective(N, torch.ones(N)) if name == "bags" else OBJECTIVE[name]()
    other.load_state_dict(one.state_dict())  # the groups too: another machine may not know the image counts
    last = [total(o, some_logits(N + FURTHER[name], 2), targets_of()) for o in (one, other)]
    assert torch.equal(*last)
    assert one.state_dict().keys() == other.state_dict().keys() and len(one.state_dict()) > 0
    for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def half_a_batch(rank: int, meeting_point: str, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=meeting_point, rank=rank, world_size=2)
    rows = slice(0, 3) if rank == 0 else slice(3, 8)
    states = {}
    for name in ("eqlv2", "seesaw"):
        objective = OBJECTIVE[name]()
        for step in range(2):
            logits = some_logits(N + FURTHER[name], step)[rows]
            # the second process needs other columns than the first
            targets = targets_of(CLASSES[rows], IMAGES[rows], SCOPE)
            columns = objective.columns(targets)
            used = torch.arange(N) if columns is None else columns
            total(objective, torch.cat([logits[:, used], logits[:, N:]], 1), targets, columns)
        states[name] = objective.state_dict()
    focal = OBJECTIVES.get("focal")(N)
    loss = total(focal, some_logits(N)[rows], targets_of(CLASSES[rows]))
    torch.save({**states, "focal": loss.detach()}, Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_are_one_with_the_joint_batch(tmp_path: Path):
    # forked, which needs no new imports: nothing is done there that uses threads
    start_processes(half_a_batch, (f"file://{tmp_path}/meeting", str(tmp_path)), nprocs=2, start_method="fork")
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for name in ("eqlv2", "seesaw"):
        objective = OBJECTIVE[name]()
        for step in range(2):
            total(objective, some_logits(N + FURTHER[name], step), targets_of(images=IMAGES, scope=SCOPE))
        for key, value in objective.state_dict().items():
            for part in parts:
                torch.testing.assert_close(part[name][key], value)
    joint = total(OBJECTIVES.get("focal")(N), some_logits(N), targets_of())
    torch.testing.assert_close((parts[0]["focal"] + parts[1]["focal"]) / 2, joint.detach())


def test_groups_of_the_words_of_a_test():
    torch.manual_seed(0)
    objective = BalancedGroupSoftmaxObjective(N, COUNTS).eval()
    classifier = LinearClassifier(3, N, further=5).eval()
    features = torch.randn(4, 3)
    whole = objective.probabilities(classifier(features))
    order = torch.tensor([4, 3, 0, 2, 1])
    for columns in (order, [torch.tensor([c]) for c in order]):
        classifier.set_test_columns(columns)
        objective.set_test_columns(columns)
        torch.testing.assert_close(objective.probabilities(classifier(features)), whole[:, order])
    merged = [torch.tensor([1, 3]), torch.tensor([], dtype=torch.long)]  # both of the rarest group; unknown
    classifier.set_test_columns(merged)
    objective.set_test_columns(merged)
    assert classifier(features).shape == (4, 2 + 6)
    torch.testing.assert_close(classifier(features, torch.tensor([0])), classifier(features)[:, [0, *range(2, 8)]])
    found = objective.probabilities(classifier(features))
    assert (found[:, 0] > 0).all() and (found[:, 1] == 0).all()
    with pytest.raises(ValueError, match="different frequency groups"):
        objective.set_test_columns([torch.tensor([0, 1])])
    objective.set_test_columns(None)
    classifier.set_test_columns(None)
    torch.testing.assert_close(objective.probabilities(classifier(features)), whole)


def cfg_with(loss: str, classifier: str = "linear", **settings: Any) -> Any:
    cfg = get_cfg()
    cfg.MODEL.CLASSIFIER.LOSS, cfg.MODEL.CLASSIFIER.NAME, cfg.MODEL.ROI_HEADS.NUM_CLASSES = loss, classifier, N
    for key, value in settings.items():
        cfg.MODEL.LONG_TAIL[key] = value
    return cfg


@pytest.mark.parametrize(
    ("loss", "objectness", "rows", "columns"),
    [
        ("focal", True, 6, 5),
        ("eql", True, 6, 5),
        ("eqlv2", True, 6, 6),
        ("eqlv2", False, 6, 5),
        ("seesaw", True, 7, 7),
        ("seesaw", False, 6, 6),
        ("balanced_group_softmax", True, 11, 11),
        ("softmax", True, 6, 6),
        ("sigmoid", True, 6, 5),
    ],
)
def test_classifiers_have_the_columns_that_a_loss_needs(loss: str, objectness: bool, rows: int, columns: int):
    cfg = cfg_with(loss, OBJECTNESS=objectness)
    objective = build_objectives(cfg, N, COUNTS)["boxes"]
    classifier = build_classifier(cfg, 3, None)
    logits = classifier(torch.randn(8, 3))
    assert len(classifier.weight) == rows and logits.shape == (8, columns) and classifier.num_columns == N
    total(objective, logits, targets_of()).backward()
    assert objective.probabilities(logits).shape == (8, N)
    few = classifier(torch.randn(8, 3), torch.tensor([4, 1]))
    assert few.shape == (8, columns - 3)
    sigmoid = isinstance(objective, SigmoidObjective)
    assert classifier.bias[0].item() == pytest.approx(-math.log(99) if sigmoid else 0)


def test_what_cannot_work_says_what_to_set():
    for loss in ("eql", "balanced_group_softmax"):
        with pytest.raises(ValueError, match="image"):
            build_objectives(cfg_with(loss), N, None)
    with pytest.raises(ValueError, match=r"OBJECTNESS False, or MODEL\.CLASSIFIER\.NAME linear"):
        build_objectives(cfg_with("eqlv2", "text"), N, COUNTS)
    build_objectives(cfg_with("eqlv2", "text", OBJECTNESS=False), N, COUNTS)
    for loss in ("seesaw", "balanced_group_softmax"):
        with pytest.raises(ValueError, match=r"learns \d columns that no word stands for.*NAME linear"):
            build_classifier(cfg_with(loss, "text"), 3, None)
        cfg = cfg_with(loss)
        cfg.MODEL.CLASSIFIER.IGNORE_ZERO_CATS = True
        with pytest.raises(ValueError, match=f"IGNORE_ZERO_CATS True: the loss {loss}"):
            build_objectives(cfg, N, COUNTS)
    with pytest.raises(ValueError, match="BAGS_EDGES"):
        build_objectives(cfg_with("balanced_group_softmax", BAGS_EDGES=[100, 10]), N, COUNTS)
    with pytest.raises(ValueError, match="SEESAW_EPS"):
        build_objectives(cfg_with("seesaw", SEESAW_EPS=0.0), N, COUNTS)
    labels = ImageLabelTargets(
        torch.tensor([1]), torch.tensor([0]), counts=torch.tensor([2]), areas=torch.tensor([3.0, 2.0])
    )
    with pytest.raises(ValueError, match="image labels cannot teach the 6 columns"):
        ImageLabelObjective(N).losses(torch.zeros(2, N + 6), labels, None)


GROUPS = torch.tensor([[0, 1, 5, 1, 5, 5], [5, 1, 2, 3, 1, 5]], dtype=torch.int32)


def test_group_softmax_of_two_datasets():
    """Loss and gradient of the objective, in which a dataset's groups hold for its own images."""
    context = BatchContext(("boxes",) * 2, groups=GROUPS)
    targets = RegionTargets.of(torch.tensor([0, 1, N, 3, N, 2]), torch.tensor([0, 0, 0, 1, 1, 1]), context)
    logits = some_logits(N + 1, rows=6)
    objective = SoftmaxObjective(N)
    loss = total(objective, logits, targets, objective.columns(targets))
    loss.backward()
    expected = 0.0
    for row, (label, image) in enumerate(zip(targets.classes.tolist(), targets.images.tolist(), strict=True)):
        p = logits[row].detach().softmax(0)
        inside = GROUPS[image] == GROUPS[image, label]
        together = float(p[inside].sum())
        expected -= math.log(together)
        gradient = torch.where(inside, p * (together - 1) / together, p)
        torch.testing.assert_close(logits.grad[row], gradient / 6)
    assert loss.item() == pytest.approx(expected / 6)
    # what a dataset leaves in the background is pushed down by its objects, and not by its background
    assert logits.grad[0, 2] > 0 and logits.grad[2, 2] < 0
    alone = total(objective, logits, RegionTargets(targets.classes, targets.images))
    singles = RegionTargets(targets.classes, targets.images, groups=torch.arange(N + 1).expand(2, N + 1))
    plain = torch.nn.functional.cross_entropy(logits, targets.classes)
    assert alone.item() == pytest.approx(plain.item()) and total(objective, logits, singles).item() == pytest.approx(
        plain.item()
    )
