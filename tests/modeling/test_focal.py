"""The focal loss against its formula, and as the loss of cross-dataset training."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mvseg.config import get_cfg
from mvseg.modeling.context import BatchContext
from mvseg.modeling.meta_arch.scope_checks import check_scopes
from mvseg.modeling.objectives import (
    BalancedGroupSoftmaxObjective,
    EqualizationV2Objective,
    FocalObjective,
    RegionTargets,
    SeesawObjective,
    SigmoidObjective,
    build_objectives,
)
from mvseg.modeling.objectives.focal import sigmoid_focal_loss
from mvseg.vocabulary import AnnotationScopes, ClassRules, ImageFacts, LabelSpace, Vocabulary

SPACE = LabelSpace.concatenate(
    {"humans": Vocabulary(name="humans", names=("human",)), "faces": Vocabulary(name="faces", names=("face",))}
)
HUMAN, FACE, NOTHING = 0, 1, 2


def some_logits(width: int, rows: int) -> Tensor:
    table = [[2.5 * math.sin(1.7 * r + 0.9 * c + 0.3) for c in range(width)] for r in range(rows)]
    return torch.tensor(table, dtype=torch.float64, requires_grad=True)


def term(z: float, positive: bool, alpha: float, gamma: float) -> float:
    p = 1 / (1 + math.exp(-z))
    right = p if positive else 1 - p
    weight = 1.0 if alpha < 0 else alpha if positive else 1 - alpha
    return -weight * (1 - right) ** gamma * math.log(right)


@pytest.mark.parametrize("normalizer", ["objects", "regions"])
@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.75, 0.5), (-1.0, 3.0)])
def test_focal_equals_brute_force(normalizer: str, alpha: float, gamma: float):
    classes, images = [0, 2, 4, 1, 4, 3, 4], [0, 0, 0, 1, 1, 1, 0]
    scope = torch.tensor([[1, 1, 0, 0], [0, 1, 0, 1]]).bool()
    rules = ClassRules(positive=torch.zeros(5, 4).bool())
    rules.positive[0, 3] = True  # class 0 is also an example of class 3
    context = BatchContext(("boxes",) * 2, scope, torch.tensor([1.0, 0.5]).double(), rules, torch.tensor([0, -1]))
    targets = RegionTargets.of(torch.tensor(classes), torch.tensor(images), context)
    objective = FocalObjective(4, alpha=alpha, gamma=gamma, normalizer=normalizer)
    full, columns = some_logits(4, 7), objective.columns(targets)
    loss = objective.losses(full if columns is None else full[:, columns], targets, columns)["loss_cls"]
    expected = 0.0
    for row, (label, image) in enumerate(zip(classes, images, strict=True)):
        for column in range(4):
            positive = column == label or (label == 0 and image == 0 and column == 3)
            if positive or scope[image, column]:
                expected += (0.5 if image else 1.0) * term(float(full[row, column].detach()), positive, alpha, gamma)
    assert loss.item() == pytest.approx(expected / (4 if normalizer == "objects" else 7))
    assert torch.autograd.gradcheck(
        lambda z: objective.losses(z if columns is None else z[:, columns], targets, columns)["loss_cls"], full
    )


def test_certain_answers_have_finite_gradients():
    logits = torch.tensor([[200.0, -200.0, 200.0]], requires_grad=True)
    loss = sigmoid_focal_loss(logits, torch.tensor([[1.0, 0.0, 0.0]]), gamma=0.5)
    loss.backward()
    assert loss.item() == pytest.approx(0.75 * 200) and logits.grad.isfinite().all()
    plain = SigmoidObjective(3).losses(logits, RegionTargets(torch.tensor([0]), torch.tensor([0])), None)["loss_cls"]
    same = FocalObjective(3, alpha=-1, gamma=0.0, normalizer="regions")
    assert same.losses(logits, RegionTargets(torch.tensor([0]), torch.tensor([0])), None)["loss_cls"] == plain


def test_the_scope_own_is_the_loss_that_avoids_classes():
    """People and faces, each annotated in a set of its own (example of github.com/yqyao/cross_focal_loss c85d939).

    There the labels are [1, 1, 1, 3, 3, 3, 4, 4, 4, 2]: human, and 3 the negatives of its set, which class 2 avoids;
    face, and 4 the negatives of its set, which class 1 avoids. Loss and gradients are those of that code on the same
    logits, in float64. Here a region is background of an image, and the image says of which set it is.
    """
    scopes = AnnotationScopes(SPACE, "own")
    images = [ImageFacts("humans", torch.tensor([HUMAN])), ImageFacts("faces", torch.tensor([FACE]))]
    scope = scopes.of(images).mask
    assert scope.tolist() == [[True, False], [False, True]]
    # An object there is a negative for the other class too, where nobody annotated it: "all but the negatives"
    rules = ClassRules(negative=torch.tensor([[0, 1], [1, 0], [0, 0]]).bool())
    classes = [HUMAN] * 3 + [NOTHING] * 6 + [FACE]
    of_image = torch.tensor([0] * 6 + [1] * 4)
    logits = some_logits(2, 10)
    context = BatchContext(("boxes",) * 2, scope, None, rules, torch.tensor([0, 0]))
    targets = RegionTargets.of(torch.tensor(classes), of_image, context)
    objective = FocalObjective(2)
    loss = objective.losses(logits, targets, objective.columns(targets))["loss_cls"]
    loss.backward()
    assert loss.item() == pytest.approx(1.619019136578558)
    published = [
        [-0.005563156780977919, 0.20882531706841287], [-0.00014768738593797269, 0.10776225216472672],
        [-0.05637477174761963, 0.0002497558557785851], [0.0010894789855566778, 0.0], [0.19588084928745791, 0.0],
        [0.1780277214503746, 0.0], [0.0, 0.0004141353161347388], [0.0, 0.16540742409947257],
        [0.0, 0.20100993697246927], [0.07785143124009047, -0.06472025091011105],
    ]  # fmt: skip
    torch.testing.assert_close(logits.grad, torch.tensor(published, dtype=torch.float64), rtol=1e-8, atol=1e-12)
    # Plain own leaves a person's region out of "face" as well; the difference is those four entries.
    plain = RegionTargets.of(torch.tensor(classes), of_image, BatchContext(("boxes",) * 2, scope))
    objects = [(0, FACE), (1, FACE), (2, FACE), (9, HUMAN)]
    left_out = sum(term(float(logits[row, column].detach()), False, 0.25, 2.0) for row, column in objects) / 4
    own = objective.losses(logits, plain, objective.columns(plain))["loss_cls"]
    assert own.item() == pytest.approx(1.619019136578558 - left_out)


def test_safe_without_near_words_is_the_published_variant():
    vocabularies = {
        name: Vocabulary(name=name, names=(word,), embeddings=torch.tensor([row]))
        for name, word, row in (("humans", "human", (1.0, 0.0)), ("faces", "face", (0.5, 0.8)))
    }
    scopes = AnnotationScopes(LabelSpace.concatenate(vocabularies), "safe")
    assert scopes.rules.negative[:2].tolist() == [[False, True], [True, False]]
    found = scopes.of([ImageFacts("humans", torch.tensor([0]))])
    assert found.mask.tolist() == [[True, False]]


def test_one_background_for_datasets_that_leave_out_each_others_words():
    scopes = AnnotationScopes(SPACE, "own")
    counts = torch.tensor([5, 5])
    for objective in (EqualizationV2Objective(2), SeesawObjective(2), BalancedGroupSoftmaxObjective(2, counts)):
        with pytest.raises(ValueError, match=r"all 2 columns.*dataset 'humans' .*speak about 1 of them.*OBJECTNESS"):
            check_scopes(scopes, {"boxes": objective})
        check_scopes(AnnotationScopes(SPACE, "all"), {"boxes": objective})
        check_scopes(AnnotationScopes(LabelSpace.concatenate({"faces": SPACE.vocabularies["faces"]}), "own"),
                     {"boxes": objective})  # fmt: skip
    without = [EqualizationV2Objective(2, objectness=False), SeesawObjective(2, objectness=False), FocalObjective(2)]
    for objective in without:
        check_scopes(scopes, {"boxes": objective})


def test_settings_come_from_the_config():
    cfg = get_cfg()
    cfg.MODEL.CLASSIFIER.LOSS = "focal"
    cfg.MODEL.LONG_TAIL.FOCAL_ALPHA, cfg.MODEL.LONG_TAIL.FOCAL_GAMMA = 0.5, 1.0
    cfg.MODEL.LONG_TAIL.FOCAL_NORMALIZER = "regions"
    objective = build_objectives(cfg, 3, None)["masks"]
    assert (objective.alpha, objective.gamma, objective.normalizer) == (0.5, 1.0, "regions")
    cfg.MODEL.LONG_TAIL.FOCAL_NORMALIZER = "positives"
    with pytest.raises(ValueError, match="FOCAL_NORMALIZER 'positives': choose objects or regions"):
        build_objectives(cfg, 3, None)
    cfg.MODEL.LONG_TAIL.FOCAL_NORMALIZER, cfg.MODEL.CLASSIFIER.AVERAGE = "objects", "images"
    with pytest.raises(ValueError, match="AVERAGE images"):
        build_objectives(cfg, 3, None)


def test_validation_in_several_processes_divides_by_its_own_objects(monkeypatch: pytest.MonkeyPatch):
    targets = RegionTargets(torch.tensor([0, 1, 1, 4]), torch.tensor([0, 0, 0, 0]))
    logits, objective = some_logits(4, 4), FocalObjective(4)
    with torch.no_grad():
        alone = objective.losses(logits, targets, None)["loss_cls"]
        monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 8)
        assert objective.losses(logits, targets, None)["loss_cls"] == alone
