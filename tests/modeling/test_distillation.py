"""ViLD's losses and scores: brute force in float64, cases by hand, gradients, words of the test, odd batches."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import Tensor
from whole_models import WIDTH, WORDS, build, record, rows_of, text_cfg

from mvseg.config import get_cfg
from mvseg.data.catalog import register_dataset, unregister_card
from mvseg.modeling.classifier import TextClassifier
from mvseg.modeling.ensemble import geometric_mean, text_shares
from mvseg.modeling.objectives import RegionTargets, SoftmaxObjective
from mvseg.modeling.objectives.distillation import distillation_loss
from mvseg.modeling.roi_heads.distillation import DistillationSettings
from mvseg.vocabulary import LabelSpace, TrainedWords, Vocabulary

N, D, INPUT = 5, 4, 6


def drawn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def unit(vector: Any) -> list[float]:
    length = math.sqrt(sum(float(x) ** 2 for x in vector))
    return [float(x) / length for x in vector]


def vild_text(**more: Any) -> TextClassifier:
    torch.manual_seed(5)
    return TextClassifier(
        INPUT, drawn(N, D, seed=3), temperature=100.0, background=True, learned_background=True, **more
    ).double()


# --- text ---


@pytest.mark.parametrize("unseen", ["compete", "masked", "zero"])
@pytest.mark.parametrize("columns", [None, [4, 0, 2, 3]])
def test_text_loss_equals_the_formula(unseen: str, columns: list[int] | None):
    head, features, classes = vild_text().train(), drawn(4, INPUT), [0, 4, N, 2]
    rows = head.rows.double()
    seen = torch.tensor([True, False, True, False, True])
    objective = SoftmaxObjective(N, seen=None if unseen == "compete" else seen, unseen_logits=unseen)
    targets = RegionTargets(torch.tensor(classes), torch.zeros(4, dtype=torch.long))
    chosen = None if columns is None else torch.tensor(columns)
    loss = objective.losses_of_features(head, features, targets, chosen)["loss_cls"]

    computed, total = columns or list(range(N)), 0.0
    embeddings = (features @ head.linear.weight.t() + head.linear.bias).tolist()
    for embedding, label in zip(embeddings, classes, strict=True):
        e = unit(embedding)
        logits = {j: 100 * sum(a * b for a, b in zip(e, unit(rows[j]))) for j in computed}
        if unseen == "zero":
            logits = {j: z if seen[j] else 0.0 for j, z in logits.items()}
        if unseen == "masked":
            logits = {j: z for j, z in logits.items() if seen[j]}
        logits[N] = 100 * sum(a * b for a, b in zip(e, unit(head.background_row.detach()[0])))
        top = max(logits.values())
        total += top + math.log(sum(math.exp(z - top) for z in logits.values())) - logits[label]
    assert loss.item() == pytest.approx(total / 4, rel=1e-6)
    loss.backward()
    assert head.background_row.grad.abs().sum() > 0


def test_the_background_is_learnt_only_where_it_is_asked_for():
    plain = TextClassifier(INPUT, drawn(N, D).float(), background=True)
    assert plain.background_row is None and bool((plain(drawn(2, INPUT).float())[:, -1] == 0).all())
    torch.manual_seed(0)
    wide = TextClassifier(INPUT, drawn(2, 4096).float(), background=True, learned_background=True)
    assert wide.background_row.std().item() == pytest.approx(0.01, rel=0.1)
    assert TextClassifier(INPUT, drawn(N, D).float(), learned_background=True).background_row is None  # a sigmoid
    assert set(wide.state_dict()) == {"linear.weight", "linear.bias", "background_row"}


def test_temperature_of_the_test():
    head = vild_text(test_temperature=1 / 0.007)
    training, test = head.train()(drawn(3, INPUT)), head.eval()(drawn(3, INPUT))
    assert torch.allclose(test / training, torch.tensor(1 / 0.7, dtype=torch.float64))
    embeddings = head.embed(drawn(3, INPUT))
    assert torch.allclose(head.logits_of_embeddings(embeddings), test[:, :-1])
    swapped = head.logits_of_embeddings(embeddings, torch.tensor([2, 0]))
    assert torch.allclose(swapped, test[:, [2, 0]])


# --- image ---


def test_image_loss_by_hand():
    # (3, 4) and (1, 0) point to (0.6, 0.8) and (1, 0): 0.4 + 0.8; (0, 2) and (0, 5) are alike.
    found, teacher = torch.tensor([[3.0, 4.0], [0.0, 2.0]]), torch.tensor([[1.0, 0.0], [0.0, 5.0]])
    assert distillation_loss(found, teacher).item() == pytest.approx(1.2 / 2)
    assert distillation_loss(found, teacher, weights=torch.tensor([0.5, 9.0])).item() == pytest.approx(0.6 / 2)
    assert distillation_loss(found, teacher, distance="cosine").item() == pytest.approx(0.4 / 2)
    with pytest.raises(ValueError, match=r"MODEL.DISTILLATION.LOSS 'l3': choose l1 or cosine"):
        distillation_loss(found, teacher, distance="l3")  # type: ignore[arg-type]


def test_image_loss_equals_the_mean_of_512_numbers_times_512():
    found, teacher = drawn(7, 512, seed=1).requires_grad_(), drawn(7, 512, seed=2).half()
    e = torch.tensor([unit(row) for row in found.tolist()], dtype=torch.float64)
    t = torch.tensor([unit(row) for row in teacher.tolist()], dtype=torch.float64)
    loss = distillation_loss(found, teacher)
    assert loss.item() == pytest.approx(512 * (e - t).abs().mean().item(), rel=1e-9)
    assert torch.autograd.gradcheck(
        lambda x: distillation_loss(x, teacher[:2, :5].double()), drawn(2, 5).requires_grad_()
    )


def test_image_loss_without_regions_is_connected():
    found = torch.zeros(0, 4, requires_grad=True)
    loss = distillation_loss(found, torch.zeros(0, 4))
    assert loss.item() == 0 and loss.requires_grad


# --- scores ---


def test_ensemble_by_hand():
    text, image = torch.tensor([[0.8, 0.1]]).double(), torch.tensor([[0.1, 0.9]]).double()
    shares = text_shares(torch.tensor([True, False]), 2 / 3).double()
    joined = geometric_mean(text, image, shares)
    assert joined[0].tolist() == pytest.approx(
        [0.8 ** (2 / 3) * 0.1 ** (1 / 3), 0.1 ** (1 / 3) * 0.9 ** (2 / 3)], rel=1e-6
    )
    assert geometric_mean(text, image, 0.5)[0].tolist() == pytest.approx([math.sqrt(0.08), math.sqrt(0.09)])
    assert geometric_mean(torch.zeros(1, 1), torch.ones(1, 1), 0.5).item() == 0


def words(name: str, names: list[str], **more: Any) -> Vocabulary:
    return Vocabulary(name, tuple(names), **more)


def test_words_of_training_by_name_and_alias():
    seas = words("seas", ["boat", "sea_lion", "gull"], synonyms=(("vessel",), (), ("seagull",)))
    farm = words("farm", ["cow", "Gull"])
    space = LabelSpace.concatenate({"seas": seas, "farm": farm})
    trained = TrainedWords(space, torch.tensor([True, True, False, True, False]))
    assert trained.of(None).tolist() == [True, True, False, True, False]
    assert trained.of(farm).tolist() == [True, False]
    test = words(
        "test", ["Sea Lion", "gull", "vessel", "seagull", "ship", "ox"],
        synonyms=((), ("cow",), (), (), ("boat",), ("kine",)),
    )  # fmt: skip
    assert trained.of(test).tolist() == [True, False, True, False, True, False]
    assert trained.of(words("test", [*reversed(test.names)])).tolist() == [False, False, False, True, False, True]


# --- detectors ---


@pytest.fixture(scope="module", autouse=True)
def datasets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("words")
    mine = [name for name in WORDS if name not in DatasetCatalog]  # other test files register the same ones
    for name, names in ((name, WORDS[name]) for name in mine):
        np.save(folder / f"{name}.npy", rows_of(names).numpy())
        files = {"annotations": str(folder / "none.json"), "embeddings": str(folder / f"{name}.npy")}
        register_dataset(name=name, format="coco", image_root=str(folder), vocabulary=names, **files)
    yield
    for name in mine:
        unregister_card(name)


def vild_cfg(**changes: Any) -> Any:
    cfg = text_cfg("det_a", "det_b")
    cfg.MODEL.ROI_HEADS.NAME, cfg.MODEL.CLASSIFIER.LOSS = "DistillingCascadeROIHeads", "softmax"
    cfg.MODEL.CLASSIFIER.BIAS, cfg.MODEL.CLASSIFIER.BACKGROUND, cfg.MODEL.CLASSIFIER.TEMPERATURE = (
        None,
        "learned",
        100.0,
    )
    cfg.MODEL.ROI_BOX_CASCADE_HEAD.IOUS, cfg.MODEL.ROI_HEADS.IOU_THRESHOLDS = [0.5], [0.5]
    cfg.MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS = [[10.0, 10.0, 5.0, 5.0]]
    cfg.MODEL.ROI_BOX_HEAD.NUM_CONV, cfg.MODEL.ROI_BOX_HEAD.CONV_DIM = 1, 16
    cfg.MODEL.DISTILLATION.WEIGHT = 0.5
    for key, value in changes.items():
        cfg.merge_from_list([f"MODEL.DISTILLATION.{key}", value])
    return cfg


def taught(image: dict, boxes: int, seed: int = 0, width: int = WIDTH) -> dict:
    corner = torch.rand(boxes, 2, generator=torch.Generator().manual_seed(seed)) * 30
    teacher = Instances((64, 64), proposal_boxes=Boxes(torch.cat([corner, corner + 20], 1)))
    teacher.gt_embeddings = drawn(boxes, width, seed=seed).half()
    return {**image, "distill": teacher}


def losses_of(model: Any, batch: list[dict]) -> dict[str, Tensor]:
    torch.manual_seed(7)
    with EventStorage():
        return model.train()(batch)


def gradients(model: Any, loss: Tensor) -> set[str]:
    model.zero_grad()
    loss.backward(retain_graph=True)
    return {n for n, p in model.named_parameters() if p.grad is not None and bool(p.grad.abs().sum() > 0)}


@pytest.fixture(scope="module")
def ensemble() -> Any:
    torch.manual_seed(1)
    return build(vild_cfg(SEPARATE_HEAD=True, SCORES="ensemble"))


@pytest.fixture(scope="module")
def shared_head() -> Any:
    torch.manual_seed(1)
    return build(vild_cfg(MAX_REGIONS=3))


def test_both_branches_of_the_ensemble_learn_apart(ensemble: Any):
    losses = losses_of(ensemble, [taught(record("det_a", 1), 4), record("det_b", 2)])
    image = gradients(ensemble, losses["loss_distill_stage0"])
    text = gradients(ensemble, losses["loss_cls_stage0"])
    heads = {name for name in image | text if name.startswith("roi_heads")}
    assert {n for n in image if n in heads} == {n for n in heads if n.startswith("roi_heads.image_heads.")}
    assert {n for n in text if n in heads} == {
        n for n in heads if n.startswith(("roi_heads.box_head.", "roi_heads.box_predictor."))
    }
    assert "roi_heads.box_predictor.0.cls_score.background_row" in text and any(n.startswith("backbone") for n in image)


def test_one_head_takes_both_losses(shared_head: Any):
    losses = losses_of(shared_head, [taught(record("det_a", 1), 4)])
    image = {n for n in gradients(shared_head, losses["loss_distill_stage0"]) if n.startswith("roi_heads")}
    assert image == {
        f"roi_heads.{n}" for n in (
            "box_head.0.conv1.weight", "box_head.0.conv1.bias", "box_head.0.fc1.weight", "box_head.0.fc1.bias",
            "box_head.0.fc2.weight", "box_head.0.fc2.bias",
            "box_predictor.0.cls_score.linear.weight", "box_predictor.0.cls_score.linear.bias",
        )
    }  # fmt: skip


def test_the_loss_of_a_batch_is_the_mean_over_its_boxes(shared_head: Any):
    """At most 3 boxes of an image, a share of the images, one after the other and together."""
    one, two, none = taught(record("det_a", 1), 5, seed=1), taught(record("det_b", 2), 2, seed=2), record("det_a", 3)
    name = "loss_distill_stage0"
    shared_head.eval()
    features = {n: f.detach() for n, f in shared_head.backbone(shared_head.preprocess_image([one]).tensor).items()}
    heads = shared_head.roi_heads
    hidden = heads._region_features(features, [one["distill"].proposal_boxes[:3]], 0)
    found = heads.box_predictor[0].cls_score.linear(hidden).tolist()
    by_hand = 0.0
    for embedding, teacher in zip(found, one["distill"].gt_embeddings[:3].tolist(), strict=True):
        by_hand += sum(abs(a - b) for a, b in zip(unit(embedding), unit(teacher)))
    first = losses_of(shared_head, [one])[name].item()
    assert first == pytest.approx(0.5 * by_hand / 3, rel=1e-4)
    second = losses_of(shared_head, [two])[name].item()
    both = losses_of(shared_head, [one, two])[name].item()
    assert both == pytest.approx((3 * first + 2 * second) / 5, rel=1e-4)
    assert losses_of(shared_head, [one, two, none])[name].item() == pytest.approx(2 / 3 * both, rel=1e-4)


@pytest.mark.parametrize("which", ["ensemble", "shared_head"])
def test_batches_without_a_teacher_or_boxes_report_the_same_losses(which: str, request: Any):
    model = request.getfixturevalue(which)
    full = losses_of(model, [taught(record("det_a", 1), 4)])
    tagged = {**record("det_a", 4, objects=0), "supervision": "boxes"}
    for batch in ([record("det_a", 1)], [taught(record("det_a", 1), 0)], [taught(tagged, 3)]):
        losses = losses_of(model, batch)
        assert set(losses) == set(full) and all(loss.isfinite() for loss in losses.values())
        model.zero_grad()
        sum(losses.values()).backward()
        lacking = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
        assert lacking == []
    assert losses_of(model, [record("det_a", 1)])["loss_distill_stage0"].item() == 0


def test_teacher_and_words_of_different_width(shared_head: Any):
    with pytest.raises(ValueError, match=r"'det_a', image 1: .* 6 wide, .* 8: .*MODEL.CLASSIFIER.TEXT_ENCODER"):
        losses_of(shared_head, [taught(record("det_a", 1), 2, width=6)])


def test_heads_that_learn_from_no_teacher():
    cfg = vild_cfg()
    cfg.MODEL.ROI_HEADS.NAME = "MultiDatasetCascadeROIHeads"
    with pytest.raises(ValueError, match=r"MODEL.ROI_HEADS.NAME DistillingCascadeROIHeads"):
        build(cfg)
    cfg.MODEL.DISTILLATION.WEIGHT = 0.0
    with pytest.raises(ValueError, match=r"MODEL.ROI_HEADS.NAME DistillingCascadeROIHeads"):
        losses_of(build(cfg), [taught(record("det_a", 1), 2)])


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"SCORES": "both"}, "SCORES 'both': choose text, image, ensemble"),
        ({"BASE": "names"}, "BASE 'names'"),
        ({"LAMBDA": 1.5}, "LAMBDA 1.5"),
        ({"WEIGHT": 0.0, "SCORES": "image"}, "WEIGHT 0.0 teaches no embedding"),
    ],
)
def test_settings_that_make_no_sense(changes: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        DistillationSettings.from_config(vild_cfg(**changes))


def detection_probabilities(model: Any, regions: Tensor) -> Tensor:
    heads = model.eval().roi_heads
    with torch.no_grad():
        return heads._probabilities(heads.box_predictor[0], regions)


def test_scores_of_the_ensemble_equal_the_formula_for_any_words(ensemble: Any):
    test = words("test", ["tram", "horse", "dog"], embeddings=rows_of(["tram", "horse", "dog"]))
    hidden = drawn(3, 32).float()
    embeddings = drawn(3, WIDTH, seed=8).float()
    classifier = ensemble.roi_heads.box_predictor[0].cls_score
    with ensemble.use_vocabulary(test):
        found = detection_probabilities(ensemble, torch.cat([hidden, embeddings], 1)).tolist()
    background = unit(classifier.background_row.detach()[0])
    for region, e_text, e_image in zip(found, classifier.linear(hidden).tolist(), embeddings.tolist(), strict=True):
        text = [100 * sum(a * b for a, b in zip(unit(e_text), unit(row))) for row in test.embeddings]
        image = [100 * sum(a * b for a, b in zip(unit(e_image), unit(row))) for row in test.embeddings]
        text.append(100 * sum(a * b for a, b in zip(unit(e_text), background)))
        p = [math.exp(z - max(text)) / sum(math.exp(y - max(text)) for y in text) for z in text]
        q = [math.exp(z - max(image)) / sum(math.exp(y - max(image)) for y in image) for z in image]
        shares = [2 / 3, 1 / 3, 2 / 3]  # nobody boxed a horse
        assert region == pytest.approx([a**s * b ** (1 - s) for a, b, s in zip(p, q, shares)], rel=2e-3, abs=1e-9)


def test_vocabularies_only_order_the_detections(ensemble: Any):
    names = ["tram", "horse", "dog"]
    image = [{k: record("det_a", 1)[k] for k in ("image", "image_id")}]
    found = []
    for order in (names, names[::-1]):
        with ensemble.eval().use_vocabulary(words("test", order, embeddings=rows_of(order))), torch.no_grad():
            result = ensemble(image)[0]["instances"]
        assert len(result)
        found.append(
            sorted((round(s, 5), order[c]) for s, c in zip(result.scores.tolist(), result.pred_classes.tolist()))
        )
    assert found[0] == found[1]
    assert ensemble.roi_heads.text_share.shape == (7,)  # back to the columns of training


@pytest.mark.parametrize(
    "base, shares", [("words", [2 / 3, 1 / 3, 1 / 3]), ("similarity", [2 / 3, 2 / 3, 1 / 3]), ("fixed", [2 / 3])]
)
def test_which_words_are_base_words(base: str, shares: list[float]):
    model = build(vild_cfg(SEPARATE_HEAD=True, SCORES="ensemble", BASE=base))
    rows = rows_of(["dog", "dog", "horse"])  # the second is another word of the same meaning
    rows[2] = -rows_of([name for names in WORDS.values() for name in names]).sum(0)
    model.set_vocabulary(words("test", ["dog", "hound", "horse"], embeddings=rows))  # in training mode
    assert model.roi_heads.text_share.tolist() == pytest.approx(shares)


def test_image_scores_need_no_background():
    model = build(vild_cfg(SCORES="image", CLASS_WEIGHT=0.0))
    p = detection_probabilities(model, drawn(2, 32).float())
    assert p.shape == (2, 7) and torch.allclose(p.sum(1), torch.ones(2))
    losses = losses_of(model, [taught(record("det_a", 1), 4)])
    assert losses["loss_cls_stage0"].item() == 0 and losses["loss_distill_stage0"].item() > 0


def test_a_cascade_distils_at_every_stage():
    cfg = vild_cfg(SEPARATE_HEAD=True, SCORES="ensemble")
    cfg.MODEL.ROI_BOX_CASCADE_HEAD.IOUS = [0.5, 0.6]
    cfg.MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS = [[10.0, 10.0, 5.0, 5.0], [20.0, 20.0, 10.0, 10.0]]
    model = build(cfg)
    losses = losses_of(model, [taught(record("det_a", 1), 4)])
    assert {n for n in losses if "distill" in n} == {"loss_distill_stage0", "loss_distill_stage1"}
    with torch.no_grad():
        assert len(model.eval()([{"image": record("det_a", 1)["image"]}])[0]["instances"])


def test_defaults_read_nothing():
    assert get_cfg().MODEL.DISTILLATION.WEIGHT == 0
