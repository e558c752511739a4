"""The loss of UniDetector's partitioned head, as label space, scope and objective, against loops over the formula."""

from __future__ import annotations

import functools
import math
from collections import Counter

import pytest
import torch
from torch import Tensor

from mvseg.config import get_cfg
from mvseg.modeling.context import BatchContext
from mvseg.modeling.objectives import FederatedObjective, RegionTargets, SigmoidObjective
from mvseg.vocabulary import ImageFacts, LabelSpace, Scope, ScopeSettings, Vocabulary, build_scope

COUNTS = {"a": [4, 9, 0, 1, 100], "b": [2, 0, 7, 7]}


def space() -> LabelSpace:
    sets = {
        name: Vocabulary(name=name, names=tuple(f"{name}{i}" for i in range(len(counts))), image_count=tuple(counts))
        for name, counts in COUNTS.items()
    }
    return LabelSpace.concatenate(sets)


def facts(dataset: str, columns: list[int]) -> ImageFacts:
    return ImageFacts(dataset, torch.tensor(columns, dtype=torch.long))


@functools.cache
def scope(draw: str, size: int) -> Scope:
    settings = ScopeSettings(federated_columns=size, federated_power=0.0, federated_draw=draw)
    return build_scope("federated", space(), None, settings)


def mask_of(images: list[ImageFacts], draw: str, size: int = 3) -> Tensor:
    return scope(draw, size).mask(images)


def test_every_image_draws_for_itself_among_its_own_classes_with_images():
    images = [facts("a", [0]), facts("a", [1, 3]), facts("b", [5]), facts("a", [])]
    seen: list[set[tuple[int, ...]]] = [set() for _ in images]
    torch.manual_seed(0)
    for _ in range(200):
        for row, mask in enumerate(mask_of(images, "image")):
            seen[row].add(tuple(mask.nonzero()[:, 0].tolist()))
    # Column 2 (a) and 6 (b) have no training image; b begins at 5.
    assert seen[0] == {(0, 1, 3), (0, 1, 4), (0, 3, 4)}
    assert seen[1] == {(0, 1, 3), (1, 3, 4)}
    assert seen[2] == {(5, 7, 8)}
    assert seen[3] == {(0, 1, 3), (0, 1, 4), (0, 3, 4), (1, 3, 4)}


def test_draw_of_a_batch_is_the_same_for_its_images_of_a_dataset():
    images = [facts("a", [0]), facts("a", [1]), facts("b", [5])]
    torch.manual_seed(0)
    for _ in range(20):
        mask = mask_of(images, "batch")
        assert mask[0].equal(mask[1])
        assert {0, 1} <= set(mask[0].nonzero()[:, 0].tolist())
        assert mask.sum(1).tolist() == [3, 3, 3]
    with pytest.raises(ValueError, match="FED_LOSS_DRAW 'epoch': choose batch or image"):
        mask_of(images, "epoch")


def test_draw_with_power_zero_is_uniform():
    torch.manual_seed(0)
    drawn = Counter(
        column
        for _ in range(1500)
        for column in mask_of([facts("a", [0])], "image", size=2)[0].nonzero()[:, 0].tolist()
        if column != 0
    )
    assert set(drawn) == {1, 3, 4}
    assert all(abs(count - 500) < 4 * math.sqrt(1500 * 2 / 9) for count in drawn.values())


def test_loss_equals_the_formula_image_by_image():
    """Mean over images of the sum over sampled columns of binary cross-entropies, divided by the image's regions."""
    torch.manual_seed(1)
    label_space = space()
    n = label_space.n
    classes, images = torch.tensor([0, n, 3, n, n, 7, n]), torch.tensor([0, 0, 0, 1, 2, 2, 2])
    shown = [facts("a", [0, 3]), facts("a", []), facts("b", [7])]
    mask = mask_of(shown, "image")
    context = BatchContext(supervision=("boxes",) * 3, scope=mask)
    targets = RegionTargets.of(classes, images, context)
    objective = SigmoidObjective(n, average="images")
    columns = objective.columns(targets)
    assert columns is not None
    logits = torch.randn(len(classes), n) * 3
    found = objective.losses(logits[:, columns], targets, columns)["loss_cls"]

    total = 0.0
    for image in range(3):
        regions = [r for r in range(len(classes)) if images[r] == image]
        appeared = mask[image].nonzero()[:, 0].tolist()
        for r in regions:
            for column in appeared:
                z = float(logits[r, column])
                p = 1 / (1 + math.exp(-z))
                total += -math.log(p if column == int(classes[r]) else 1 - p) / len(regions) / 3
    assert float(found) == pytest.approx(total, rel=1e-5)
    plain = SigmoidObjective(n).losses(logits[:, columns], targets, columns)["loss_cls"]
    assert float(plain) != pytest.approx(total, rel=1e-2)  # images 0 and 2 have three regions, image 1 has one


def test_equal_numbers_of_regions_make_both_averages_the_same():
    torch.manual_seed(2)
    classes, images = torch.tensor([0, 5, 1, 5]), torch.tensor([0, 0, 1, 1])
    targets = RegionTargets.of(classes, images, BatchContext(("boxes", "boxes"), weights=torch.tensor([1.0, 3.0])))
    logits = torch.randn(4, 5)
    losses = [SigmoidObjective(5, average=a).losses(logits, targets, None)["loss_cls"] for a in ("regions", "images")]
    torch.testing.assert_close(*losses)
    nothing = RegionTargets.of(classes[:0], images[:0], BatchContext(("boxes", "boxes")))
    assert float(SigmoidObjective(5, average="images").losses(logits[:0], nothing, None)["loss_cls"]) == 0


def test_wrong_choices_say_what_to_set():
    with pytest.raises(ValueError, match=r"MODEL.CLASSIFIER.AVERAGE 'boxes': choose regions or images"):
        SigmoidObjective(5, average="boxes")
    cfg = get_cfg()
    cfg.MODEL.CLASSIFIER.FED_LOSS_DRAW = "image"
    with pytest.raises(ValueError, match=r"set MODEL.ANNOTATION_SCOPE federated and MODEL.CLASSIFIER.LOSS sigmoid"):
        FederatedObjective.from_config(cfg, 5, torch.ones(5))
