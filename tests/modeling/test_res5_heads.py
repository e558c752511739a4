"""Open-vocabulary detection with C4: an RPN and heads that share the last stage of the ResNet."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.layers import batched_nms
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances
from torch import Tensor
from torch.nn import functional as F
from whole_models import recording, rows_of

import mvseg.modeling  # noqa: F401  (registers the parts)
from mvseg.config import get_cfg
from mvseg.data.catalog import register_dataset
from mvseg.modeling.context import BatchContext
from mvseg.vocabulary import Vocabulary

WORDS = {"c4_a": ["cat", "dog", "bird"], "c4_b": ["car", "bus", "cat", "tram"]}


@pytest.fixture(scope="module", autouse=True)
def datasets(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("words")
    for name, words in WORDS.items():
        np.save(folder / f"{name}.npy", rows_of(words).numpy())
        fields = {"name": name, "format": "coco", "image_root": str(folder), "annotations": str(folder / "none.json")}
        register_dataset(**fields, vocabulary=words, embeddings=str(folder / f"{name}.npy"))


@pytest.fixture
def all_regions(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Sampling in a fixed order, so that the same image always gives the same regions."""
    monkeypatch.setattr(torch, "randperm", lambda n, **kwargs: torch.arange(n, device=kwargs.get("device")))
    yield


def ovcoco_cfg() -> Any:
    """The architecture of Detic's models for COCO with 48 base and 17 novel classes, R50-C4."""
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.META_ARCHITECTURE = "MultiDatasetRCNN"
    cfg.MODEL.PROPOSAL_GENERATOR.NAME = "MultiDatasetRPN"
    cfg.MODEL.ROI_HEADS.NAME = "MultiDatasetRes5ROIHeads"
    cfg.MODEL.RPN.PRE_NMS_TOPK_TEST = 6000
    cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 1000
    cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = True
    cfg.MODEL.ROI_BOX_HEAD.MULT_PROPOSAL_SCORE = False
    return cfg


def small_cfg(*datasets: str, **changes: Any) -> Any:
    cfg = ovcoco_cfg()
    cfg.DATASETS.TRAIN = datasets or tuple(WORDS)
    cfg.MODEL.PIXEL_STD = [58.0, 58.0, 58.0]
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = cfg.MODEL.RESNETS.WIDTH_PER_GROUP = 8
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 16
    cfg.MODEL.RESNETS.NORM = "BN"  # a deep net of random weights with frozen norms would overflow
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[16, 32]]
    cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = 64
    cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 32
    cfg.MODEL.RPN.BATCH_SIZE_PER_IMAGE = 32
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 16
    cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 6
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = -1.0  # everything is a detection
    cfg.TEST.DETECTIONS_PER_IMAGE = -1
    cfg.MODEL.ROI_MASK_HEAD.NAME = "MaskRCNNConvUpsampleHead"
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 8
    cfg.MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK = True
    for key, value in changes.items():
        cfg.merge_from_list([key.replace("__", "."), value])
    return cfg


def record(dataset: str, seed: int, objects: int = 3, masks: bool = False, size: tuple[int, int] = (64, 80)) -> dict:
    draw = torch.Generator().manual_seed(seed)
    corner = torch.rand(objects, 2, generator=draw) * 30
    instances = Instances(size, gt_boxes=Boxes(torch.cat([corner, corner + 8 + corner.flip(1) / 2], 1)))
    instances.gt_classes = torch.randint(len(WORDS[dataset]), (objects,), generator=draw)
    if masks:
        instances.gt_masks = BitMasks(torch.rand(objects, *size, generator=draw) > 0.3)
    image = torch.randint(0, 256, (3, *size), generator=draw, dtype=torch.uint8)
    kind = "masks" if masks else "boxes"
    return {"image": image, "image_id": seed, "dataset": dataset, "supervision": kind, "instances": instances}


def tagged(dataset: str, seed: int, tags: list[int], size: tuple[int, int] = (64, 80)) -> dict:
    made = record(dataset, seed, objects=0, size=size)
    return {**made, "supervision": "tags", "image_labels": tags}


def losses_of(model: Any, batch: list[dict]) -> dict[str, Tensor]:
    with recording({}):
        return model.train()(batch)


def numbers(losses: dict[str, Tensor]) -> dict[str, float]:
    return {name: float(loss.detach()) for name, loss in losses.items()}


def test_names_and_size_are_those_of_the_published_models():
    cfg = ovcoco_cfg()
    cfg.DATASETS.TRAIN = ("c4_a",)
    model = build_model(cfg)
    names = set(model.state_dict())
    expected = {
        "backbone.stem.conv1.weight",
        "backbone.res4.5.conv3.norm.running_var",
        "proposal_generator.rpn_head.conv.weight",
        "proposal_generator.rpn_head.objectness_logits.bias",
        "proposal_generator.rpn_head.anchor_deltas.weight",
        "roi_heads.res5.0.shortcut.weight",
        "roi_heads.res5.2.conv3.norm.bias",
        "roi_heads.box_predictor.cls_score.linear.weight",
        "roi_heads.box_predictor.cls_score.linear.bias",
        "roi_heads.box_predictor.bbox_pred.0.weight",
        "roi_heads.box_predictor.bbox_pred.2.bias",
    }
    assert expected <= names
    assert {name.split(".")[0] for name in names} == {"backbone", "proposal_generator", "roi_heads"}
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert shapes["proposal_generator.rpn_head.objectness_logits.weight"][0] == 15
    assert shapes["roi_heads.box_predictor.bbox_pred.0.weight"] == (2048, 2048)
    width = rows_of(["cat"]).shape[1]
    # 38.2 million with CLIP's 512 dimensions, counted on the original; everything but the classifier is the same here
    parameters = sum(p.numel() for p in model.parameters()) + 2049 * (512 - width)
    assert round(parameters / 1e6, 1) == 38.2


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
@pytest.mark.parametrize("classifier", ["text", "linear"])
def test_one_step_on_two_datasets(classifier: str, loss: str):
    model = build_model(small_cfg(MODEL__CLASSIFIER__NAME=classifier, MODEL__CLASSIFIER__LOSS=loss))
    losses = losses_of(model, [record("c4_a", 1), record("c4_b", 2)])
    assert set(losses) == {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg"}
    sum(losses.values()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    trained = {"backbone.stem.conv1", "roi_heads.res5.0.conv1", "proposal_generator.rpn_head.conv"}
    before = {name: model.get_parameter(f"{name}.weight").detach().clone() for name in trained}
    torch.optim.SGD(model.parameters(), 1e-4).step()
    assert not any(torch.equal(value, model.get_parameter(f"{name}.weight")) for name, value in before.items())
    found = model.eval()([record("c4_a", 1)])[0]["instances"]
    assert len(found) > 0 and int(found.pred_classes.max()) < 7


def test_losses_equal_a_computation_by_hand(all_regions: None):
    model = build_model(small_cfg("c4_a", MODEL__ROI_BOX_HEAD__SMOOTH_L1_BETA=0.0)).train()
    heads = model.roi_heads
    image = record("c4_a", 4)
    boxes = torch.tensor([[2.0, 3, 30, 40], [10, 12, 20, 22], [0, 0, 60, 60]])
    proposals = Instances((64, 80), proposal_boxes=Boxes(boxes), objectness_logits=torch.zeros(3))
    features = {"res4": torch.randn(1, 64, 4, 5)}
    with recording({}):
        regions, losses = heads(None, features, [proposals], [image["instances"]], BatchContext(("boxes",)))
    sampled = regions[0]
    hidden = heads.res5(heads.pooler([features["res4"]], [sampled.proposal_boxes])).mean((2, 3))
    words = F.normalize(torch.cat([F.normalize(rows_of(WORDS["c4_a"]))]), dim=1)
    logits = 50 * F.normalize(heads.box_predictor.cls_score.linear(hidden), dim=1) @ words.t()
    targets = F.one_hot(sampled.gt_classes, 4)[:, :3].float()
    probabilities = logits.double().sigmoid().clamp(1e-30)
    entropy = -(targets * probabilities.log() + (1 - targets) * (-logits.double()).sigmoid().clamp(1e-30).log())
    torch.testing.assert_close(losses["loss_cls"].double(), entropy.sum() / len(sampled), rtol=1e-4, atol=1e-6)
    deltas = heads.box_predictor.bbox_pred(hidden)
    foreground = sampled.gt_classes < 3
    wanted = heads.box_predictor.box2box_transform.get_deltas(
        sampled.proposal_boxes.tensor[foreground], sampled.gt_boxes.tensor[foreground]
    )
    expected = (deltas[foreground] - wanted).abs().sum() / len(sampled)
    assert foreground.any()
    torch.testing.assert_close(losses["loss_box_reg"], expected, rtol=1e-4, atol=1e-6)


def test_detections_equal_a_computation_by_hand():
    model = build_model(small_cfg("c4_a", MODEL__ROI_HEADS__SCORE_THRESH_TEST=0.3)).eval()
    heads = model.roi_heads
    boxes = torch.tensor([[2.0, 3, 30, 40], [3, 3, 31, 41], [10, 12, 20, 22], [0, 0, 60, 60]])
    proposals = Instances((64, 80), proposal_boxes=Boxes(boxes), objectness_logits=torch.zeros(4))
    features = {"res4": torch.randn(1, 64, 4, 5)}
    with torch.no_grad():
        found = heads(None, features, [proposals])[0][0]
        hidden = heads.res5(heads.pooler([features["res4"]], [proposals.proposal_boxes])).mean((2, 3))
        scores = heads.box_predictor.cls_score(hidden).sigmoid()
        refined = Boxes(
            heads.box_predictor.refine(heads.box_predictor.bbox_pred(hidden), [proposals.proposal_boxes])[0]
        )
    refined.clip((64, 80))
    rows, classes = (scores > 0.3).nonzero(as_tuple=True)
    keep = batched_nms(refined.tensor[rows], scores[rows, classes], classes, 0.5)
    assert len(keep) > 1
    torch.testing.assert_close(found.scores, scores[rows, classes][keep])
    torch.testing.assert_close(found.pred_boxes.tensor, refined.tensor[rows][keep])
    assert found.pred_classes.tolist() == classes[keep].tolist()


def test_other_words_at_test_time():
    model = build_model(small_cfg()).eval()
    image = [record("c4_a", 1)]
    other = Vocabulary.from_names(["zebra", "cat"], "other").with_embeddings(rows_of(["zebra", "cat"]))
    before = model(image)[0]["instances"]
    with model.use_vocabulary(other):
        inside = model(image)[0]["instances"]
    after = model(image)[0]["instances"]
    assert set(inside.pred_classes.tolist()) <= {0, 1}
    own = before.scores[before.pred_classes == 0].max()  # "cat" of c4_a: the same row
    torch.testing.assert_close(inside.scores[inside.pred_classes == 1].max(), own)
    torch.testing.assert_close(after.scores, before.scores)
    assert "rows" not in " ".join(model.state_dict())


def test_masks_of_some_images(all_regions: None):
    model = build_model(small_cfg(MODEL__MASK_ON=True))
    with_and_without = losses_of(model, [record("c4_a", 1, masks=True), record("c4_b", 2)])
    assert float(with_and_without["loss_mask"].detach()) > 0
    sum(with_and_without.values()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    nobody = losses_of(model, [record("c4_a", 1), record("c4_b", 2)])
    assert float(nobody["loss_mask"].detach()) == 0 and nobody["loss_mask"].requires_grad
    found = model.eval()([record("c4_a", 1)])[0]["instances"]
    assert found.pred_masks.shape == (len(found), 64, 80)


def test_masks_learn_from_the_regions_that_have_some(all_regions: None):
    """The mask loss of an image with masks does not depend on a second image without any."""
    model = build_model(small_cfg(MODEL__MASK_ON=True, MODEL__RESNETS__NORM="FrozenBN")).train()
    features = {"res4": torch.randn(2, 64, 4, 5)}
    images = [record("c4_a", 1, masks=True), record("c4_b", 2)]
    proposals = [
        Instances((64, 80), proposal_boxes=x["instances"].gt_boxes, objectness_logits=torch.zeros(3)) for x in images
    ]
    targets = [x["instances"] for x in images]

    def mask_loss(order: list[int]) -> Tensor:
        context = BatchContext(tuple(images[i]["supervision"] for i in order))
        chosen = {"res4": features["res4"][order]}
        with recording({}):
            inputs = ([p[i] for i in order] for p in (proposals, targets))
            return model.roi_heads(None, chosen, *inputs, context)[1]["loss_mask"]

    alone = mask_loss([0])
    assert alone > 0
    # half the images have no masks; the loss is the mean over the regions that have, in whichever place
    torch.testing.assert_close(mask_loss([0, 1]), alone)
    torch.testing.assert_close(mask_loss([1, 0]), alone)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"MODEL__ROI_BOX_HEAD__CLS_AGNOSTIC_BBOX_REG": False}, "CLS_AGNOSTIC_BBOX_REG"),
        ({"MODEL__MASK_ON": True, "MODEL__ROI_MASK_HEAD__CLS_AGNOSTIC_MASK": False}, "CLS_AGNOSTIC_MASK"),
        ({"MODEL__ROI_HEADS__NAME": "Res5ROIHeads"}, "MultiDatasetRes5ROIHeads"),
    ],
)
def test_bad_configs(changes: dict, message: str):
    with pytest.raises(ValueError, match=message):
        build_model(small_cfg(**changes))


class TestProposals:
    def test_the_same_as_detectron2s_where_all_images_have_boxes(self, all_regions: None):
        plain = build_model(small_cfg(MODEL__PROPOSAL_GENERATOR__NAME="RPN"))
        ours = build_model(small_cfg())
        ours.load_state_dict(plain.state_dict())
        batch = [record("c4_a", 1), record("c4_b", 2, objects=0)]
        torch.manual_seed(0)
        expected = numbers(losses_of(plain, batch))
        torch.manual_seed(0)
        assert numbers(losses_of(ours, batch)) == pytest.approx(expected, rel=1e-5)

    def test_images_without_boxes_teach_nothing(self, all_regions: None):
        rpn = build_model(small_cfg("c4_a", MODEL__RESNETS__NORM="FrozenBN")).proposal_generator.train()
        features = {"res4": torch.randn(2, 64, 4, 5, requires_grad=True)}
        targets = [record("c4_a", seed)["instances"] for seed in (1, 2)]
        images = torch.zeros(2, 3, 64, 80)
        sizes = type("Images", (), {"image_sizes": [(64, 80)] * 2, "tensor": images, "__len__": lambda self: 2})()
        with recording({}):
            alone = rpn(
                type("Images", (), {"image_sizes": [(64, 80)], "tensor": images[:1]})(),
                {"res4": features["res4"][:1]},
                targets[:1],
                BatchContext(("boxes",)),
            )[1]
            proposals, both = rpn(sizes, features, targets, BatchContext(("boxes", "tags")))
            weighted = rpn(sizes, features, targets, BatchContext(("boxes", "boxes"), weights=torch.tensor([3.0, 0])))[
                1
            ]
            nobody = rpn(sizes, features, targets, BatchContext(("tags", "tags")))[1]
        assert len(proposals) == 2 and min(len(p) for p in proposals) > 0
        for name, loss in alone.items():
            torch.testing.assert_close(both[name], loss / 2)
            torch.testing.assert_close(weighted[name], 3 * loss / 2)
            assert float(nobody[name].detach()) == 0
        sum(both.values()).backward(retain_graph=True)
        assert features["res4"].grad[0].abs().sum() > 0 and features["res4"].grad[1].abs().sum() == 0
        sum(nobody.values()).backward()
        assert all(p.grad is not None for p in rpn.parameters())


class TestTags:
    def test_batches_of_any_kind_report_the_same_losses(self):
        model = build_model(small_cfg())
        batches = [
            [record("c4_a", 1), tagged("c4_b", 2, [1, 3])],
            [tagged("c4_b", 2, [1]), tagged("c4_a", 3, [])],
        ]
        for batch in batches:
            model.zero_grad()
            losses = losses_of(model, batch)
            assert set(losses) == {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg", "image_loss"}
            sum(losses.values()).backward()
            assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())

    def test_a_generator_that_knows_no_tags_is_refused(self):
        model = build_model(small_cfg(MODEL__PROPOSAL_GENERATOR__NAME="RPN"))
        with pytest.raises(ValueError, match=r"RPN would learn that images without boxes .*MultiDatasetRPN"):
            losses_of(model, [record("c4_a", 1), tagged("c4_b", 2, [1])])

    def test_only_the_largest_proposal_learns_the_tag(self):
        model = build_model(small_cfg("c4_a", MODEL__RESNETS__NORM="FrozenBN")).train()
        boxes = torch.tensor(
            [[2.0, 3, 10, 14], [10, 2, 60, 50], [4, 12, 20, 22], [0, 0, 70, 60]]
        )  # the last is passed over
        proposals = Instances((64, 80), proposal_boxes=Boxes(boxes), objectness_logits=torch.arange(4.0).flip(0))
        features = {"res4": torch.randn(1, 64, 4, 5)}
        nothing = Instances((64, 80), gt_boxes=Boxes(torch.zeros(0, 4)), gt_classes=torch.zeros(0, dtype=torch.long))
        labels = {"labels": torch.tensor([2]), "label_images": torch.tensor([0])}
        heads = model.roi_heads
        with recording({}):
            losses = heads(None, features, [proposals], [nothing], BatchContext(("tags",), **labels))[1]
        hidden = heads.res5(heads.pooler([features["res4"]], [Boxes(boxes[1:2])])).mean((2, 3))
        logits = heads.box_predictor.cls_score(hidden)
        target = torch.tensor([[0.0, 0.0, 1.0]])
        expected = 0.1 * (F.binary_cross_entropy_with_logits(logits, target, reduction="sum") + np.log(2))
        torch.testing.assert_close(losses["image_loss"], expected, rtol=1e-4, atol=1e-6)
        assert float(losses["loss_cls"].detach()) == float(losses["loss_box_reg"].detach()) == 0


def test_captions_compare_whole_images():
    model = build_model(small_cfg("c4_a", MODEL__RESNETS__NORM="FrozenBN")).train()
    heads = model.roi_heads
    features = {"res4": torch.randn(2, 64, 4, 5)}
    boxes = Boxes(torch.tensor([[2.0, 3, 10, 14], [10, 2, 60, 50]]))
    proposals = [Instances((64, 80), proposal_boxes=boxes, objectness_logits=torch.zeros(2)) for _ in range(2)]
    nothing = Instances((64, 80), gt_boxes=Boxes(torch.zeros(0, 4)), gt_classes=torch.zeros(0, dtype=torch.long))
    captions = torch.randn(3, rows_of(["cat"]).shape[1])  # the third is of another process
    both = torch.arange(2)
    context = BatchContext(("captions",) * 2, captions=captions, own_captions=both, caption_images=both)
    with recording({}):
        losses = heads(None, features, proposals, [nothing, nothing], context)[1]
    whole = [Boxes(torch.tensor([[0.0, 0, 80, 64]]))] * 2
    hidden = heads.res5(heads.pooler([features["res4"]], whole)).mean((2, 3))
    units = F.normalize(heads.box_predictor.cls_score.linear(hidden), dim=1)
    logits = 50 * units @ F.normalize(captions, dim=1).t()
    targets = F.one_hot(both, 3).float()
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    expected = 0.1 * (entropy * (targets + 0.125 * (1 - targets))).sum() / 2
    torch.testing.assert_close(losses["caption_loss"], expected, rtol=1e-4, atol=1e-6)
    assert float(losses["loss_cls"].detach()) == float(losses["image_loss"].detach()) == 0
