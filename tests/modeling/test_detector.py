"""The whole detector on small random batches: datasets with different words, missing masks, no objects, other words."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Instances
from torch import Tensor
from whole_models import WORDS, build, record, recording, rows_of, small_cfg, text_cfg

from mvseg.data.catalog import get_vocabulary, register_dataset
from mvseg.vocabulary import Vocabulary


@pytest.fixture(scope="session", autouse=True)
def datasets(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("words")
    for name, words in WORDS.items():
        np.save(folder / f"{name}.npy", rows_of(words).numpy())
        register_dataset(
            name=name,
            format="coco",
            image_root=str(folder),
            annotations=str(folder / "none.json"),
            vocabulary=words,
            embeddings=str(folder / f"{name}.npy"),
        )


@pytest.fixture
def all_regions(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Sampling in a fixed order, so that the same image always gives the same regions."""
    monkeypatch.setattr(torch, "randperm", lambda n, **kwargs: torch.arange(n, device=kwargs.get("device")))
    yield


def losses_of(model: Any, batch: list[dict]) -> dict[str, Tensor]:
    with recording({}):
        return model.train()(batch)


def numbers(losses: dict[str, Tensor]) -> dict[str, float]:
    return {name: float(loss) for name, loss in losses.items()}


def check_step(model: Any, batch: list[dict]) -> dict[str, Tensor]:
    """One step with finite losses, and a finite gradient for every parameter."""
    losses = losses_of(model, batch)
    assert all(torch.isfinite(loss) for loss in losses.values()), losses
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    return losses


LOSS_NAMES = {"loss_centernet_loc", "loss_centernet_agn_pos", "loss_centernet_agn_neg"} | {
    f"{name}_stage{stage}" for name in ("loss_cls", "loss_box_reg") for stage in range(3)
}


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
@pytest.mark.parametrize("classifier", ["text", "linear"])
def test_batch_of_two_datasets(classifier: str, loss: str):
    model = build(text_cfg(MODEL__CLASSIFIER__NAME=classifier, MODEL__CLASSIFIER__LOSS=loss))
    if classifier == "text":
        assert len({stage.cls_score.rows.data_ptr() for stage in model.roi_heads.box_predictor}) == 1
    losses = check_step(model, [record("det_a", 1), record("det_b", 2)])
    assert set(losses) == LOSS_NAMES
    results = model.eval()([record("det_a", 1)])
    assert len(results[0]["instances"]) > 0
    assert int(results[0]["instances"].pred_classes.max()) < 7


@pytest.mark.parametrize("objects", [(0, 0), (0, 2)])
def test_images_without_objects(objects: tuple[int, int]):
    model = build(text_cfg(MODEL__MASK_ON=True))
    batch = [record("det_a", i, n, masks=True) for i, n in enumerate(objects)]
    losses = check_step(model, batch)
    if objects == (0, 0):
        assert all(float(losses[f"loss_box_reg_stage{k}"]) == 0 for k in range(3))
        assert float(losses["loss_mask"]) == float(losses["loss_centernet_agn_pos"]) == 0


def test_masks_of_some_images_and_of_none():
    model = build(text_cfg(MODEL__MASK_ON=True))
    losses = check_step(model, [record("det_a", 1), record("det_b", 2)])
    assert float(losses["loss_mask"]) == 0
    with_one = [record("det_a", 1), record("det_b", 2, masks=True)]
    assert float(check_step(model, with_one)["loss_mask"]) > 0
    assert model.eval()([record("det_a", 1)])[0]["instances"].pred_masks.shape[1:] == (64, 64)


def test_own_scope_gives_other_columns_no_gradient():
    """Also where a batch mixes datasets: a column learns only from the images that speak about it."""
    cfg = text_cfg(MODEL__CLASSIFIER__NAME="linear")
    gradients = {}
    for scope in ("own", "all"):
        cfg.MODEL.ANNOTATION_SCOPE = scope
        torch.manual_seed(0)
        model = build(cfg)
        sum(losses_of(model, [record("det_a", 1)]).values()).backward()
        gradients[scope] = model.roi_heads.box_predictor[0].cls_score.weight.grad.abs().sum(1)
    assert (gradients["own"][:3] > 0).all() and (gradients["own"][3:] == 0).all()
    assert (gradients["all"][:7] > 0).all()


def test_only_the_columns_of_the_batch_are_computed():
    model = build(text_cfg())
    classifiers = {str(k): p.cls_score for k, p in enumerate(model.roi_heads.box_predictor)}
    with recording(classifiers) as seen:
        model.train()([record("det_b", 1)])
    assert {v.shape[1] for v in seen.values()} == {4}


def test_merged_words_share_a_column():
    model = build(text_cfg(DATASETS__LABEL_SPACE="merge_names"))
    assert model.label_space.n == model.roi_heads.num_classes == 6
    batch = [record("det_a", 1), record("det_b", 2)]
    batch[0]["instances"].gt_classes[:] = 0
    batch[1]["instances"].gt_classes[:] = 2
    targets, context = model.read_annotations(batch)
    assert targets[0].gt_classes.tolist() == targets[1].gt_classes.tolist() == [0, 0, 0]
    assert batch[1]["instances"].gt_classes.tolist() == [2, 2, 2]  # the record is left as it was
    assert context.scope.sum(1).tolist() == [3, 4]


def test_classes_are_translated_by_dataset():
    model = build(text_cfg())
    batch = [record("det_b", 3), record("det_a", 4)]
    targets, _ = model.read_annotations(batch)
    assert torch.equal(targets[0].gt_classes, batch[0]["instances"].gt_classes + 3)
    assert torch.equal(targets[1].gt_classes, batch[1]["instances"].gt_classes)


def test_batch_order_changes_nothing(all_regions: None):
    model, batch = build(text_cfg(MODEL__MASK_ON=True)), [record("det_a", 1, masks=True), record("det_b", 2)]
    forward, backward = losses_of(model, batch), losses_of(model, batch[::-1])
    assert numbers(forward) == pytest.approx(numbers(backward), rel=1e-4)
    model.eval()
    for one, other in zip(model(batch), reversed(model(batch[::-1]))):
        torch.testing.assert_close(one["instances"].scores, other["instances"].scores)
        assert torch.equal(one["instances"].pred_classes, other["instances"].pred_classes)


def test_padding_is_nothing_but_the_mean_colour():
    """An image padded by the model and one that was padded before give the same maps, losses and proposals."""
    model, short = build(text_cfg()), record("det_a", 1, size=(50, 60))
    filled = {**short, "image": model.pixel_mean.reshape(3, 1, 1).repeat(1, 64, 64)}
    filled["image"][:, :50, :60] = short["image"]
    filled["instances"] = Instances((64, 64), **short["instances"].get_fields())
    seen = []
    for image in (short, filled):
        with recording({"generator": model.proposal_generator}) as outputs:
            model.train()([image])
        seen.append(outputs["generator"])
    (proposals, losses), (other_proposals, other_losses) = seen
    assert numbers(losses) == pytest.approx(numbers(other_losses), rel=1e-4)
    torch.testing.assert_close(
        proposals[0].proposal_boxes.tensor, other_proposals[0].proposal_boxes.tensor, rtol=1e-4, atol=1e-3
    )
    assert (proposals[0].image_size, other_proposals[0].image_size) == ((50, 60), (64, 64))


def test_detections_stay_inside_their_own_image():
    model = build(text_cfg()).eval()
    torch.nn.init.constant_(model.proposal_generator.centernet_head.bbox_pred.bias, 6.0)
    with torch.no_grad():
        first, _ = model([record("det_a", 1, size=(50, 60)), record("det_a", 2, size=(64, 128))])
    boxes = first["instances"].pred_boxes.tensor
    assert 55 < float(boxes[:, 2].max()) <= 60 and 45 < float(boxes[:, 3].max()) <= 50


def test_permuted_vocabulary_permutes_the_classes():
    model, words = build(text_cfg(TEST__DETECTIONS_PER_IMAGE=1000)).eval(), ["tree", "cat", "bus", "fish", "house"]
    order = [3, 1, 4, 0, 2]
    found = []
    for names in (words, [words[i] for i in order]):
        with model.use_vocabulary(Vocabulary.from_names(names).with_embeddings(rows_of(names))):
            instances = model([record("det_a", 1)])[0]["instances"]
        pairs = zip(instances.pred_classes.tolist(), instances.scores.tolist())
        found.append(sorted((names[c], s) for c, s in pairs))
    assert len(found[0]) > 5
    assert [word for word, _ in found[0]] == [word for word, _ in found[1]]
    assert [score for _, score in found[0]] == pytest.approx([score for _, score in found[1]], rel=1e-4)


def test_vocabulary_is_swapped_and_restored():
    model, image = build(text_cfg()).eval(), [record("det_a", 1)]
    before = model(image)[0]["instances"]
    one = Vocabulary.from_names(["tree"]).with_embeddings(rows_of(["tree"]))
    two = Vocabulary.from_names(["tree", "fish"]).with_embeddings(rows_of(["tree", "fish"]))
    with model.use_vocabulary(two):
        with model.use_vocabulary(one):
            assert set(model(image)[0]["instances"].pred_classes.tolist()) == {0}
        assert model.vocabulary is two
        assert set(model(image)[0]["instances"].pred_classes.tolist()) == {0, 1}
        check_step(model, [record("det_b", 2)])  # training keeps its own columns
        model.eval()
    assert model.vocabulary is None
    assert torch.equal(model(image)[0]["instances"].pred_classes, before.pred_classes)
    with pytest.raises(RuntimeError), model.use_vocabulary(one):
        raise RuntimeError
    assert model.vocabulary is None


def test_own_vocabulary_gives_own_classes():
    model = build(text_cfg()).eval()
    with model.use_vocabulary(get_vocabulary("det_b")):
        own = model([record("det_a", 1)])[0]["instances"]
    scores = model([record("det_a", 1)])[0]["instances"]
    of_b = scores.pred_classes >= 3
    torch.testing.assert_close(own.scores[: int(of_b.sum())], scores.scores[of_b])


def test_vocabularies_that_do_not_fit():
    model = build(text_cfg())
    with pytest.raises(ValueError, match="no text embeddings"):
        model.set_vocabulary(Vocabulary.from_names(["cat"]))
    with pytest.raises(ValueError, match="8 wide"):
        model.set_vocabulary(Vocabulary.from_names(["cat"]).with_embeddings(torch.ones(1, 9)))


def test_closed_set_speaks_only_known_words():
    model = build(text_cfg(MODEL__CLASSIFIER__NAME="linear")).eval()
    image = [record("det_a", 1)]
    everything = model(image)[0]["instances"]
    with model.use_vocabulary(get_vocabulary("det_b", embeddings=False)):  # its own "cat", not that of det_a
        found = model(image)[0]["instances"]
    of_b = everything.pred_classes >= 3
    torch.testing.assert_close(found.scores[: int(of_b.sum())], everything.scores[of_b])
    with model.use_vocabulary(Vocabulary.from_names(["tram", "Cat"])):
        assert set(model(image)[0]["instances"].pred_classes.tolist()) == {0, 1}
    with pytest.raises(ValueError, match=r"trum.*nearest: tram"):
        model.set_vocabulary(Vocabulary.from_names(["trum"]))


def test_loss_weight_of_a_dataset(all_regions: None):
    model, batch = build(text_cfg(MODEL__MASK_ON=True)), [record("det_a", 1, masks=True)]
    plain = losses_of(model, batch)
    model.loss_weights = {"det_a": 3.0}
    weighted = losses_of(model, batch)
    assert {k: float(v) for k, v in weighted.items()} == pytest.approx(
        {k: 3 * float(v) for k, v in plain.items()}, 1e-4
    )
    both = [record("det_a", 1), record("det_b", 2)]
    model.loss_weights = {"det_a": 0.0}
    one_counts = losses_of(model, both)
    model.loss_weights = {"det_b": 0.0}
    other_counts = losses_of(model, both)
    model.loss_weights = {}
    for name, loss in losses_of(model, both).items():
        assert float(one_counts[name] + other_counts[name]) == pytest.approx(float(loss), rel=1e-4), name


def test_loss_weights_come_from_the_mixture():
    cfg = text_cfg()
    cfg.DATASETS.MIX = [{"name": "det_a", "loss_weight": 0.5}, {"name": "det_b"}]
    assert build(cfg).loss_weights == {"det_a": 0.5, "det_b": 1.0}


def test_autocast_on_the_cpu():
    model, batch = build(text_cfg(MODEL__MASK_ON=True)), [record("det_a", 1, masks=True), record("det_b", 2)]
    with torch.autocast("cpu", torch.bfloat16):
        losses = check_step(model, batch)
        found = model.eval()(batch)
    assert all(loss.dtype == torch.float32 for loss in losses.values())
    assert found[0]["instances"].scores.dtype == found[0]["instances"].pred_boxes.tensor.dtype == torch.float32


def test_plain_detectron2_dataset():
    """A dataset without a card, mapped by Detectron2's own mapper, with the closed-set classifier."""
    DatasetCatalog.register("det_plain", lambda: [])
    MetadataCatalog.get("det_plain").thing_classes = ["cat", "dog"]
    model = build(text_cfg("det_plain", MODEL__CLASSIFIER__NAME="linear", MODEL__CLASSIFIER__LOSS="softmax"))
    image = record("det_a", 1)
    del image["dataset"], image["supervision"]
    image["instances"].gt_classes.clamp_(max=1)
    check_step(model, [image])
    assert model.roi_heads.num_classes == 2


def test_no_dataset_at_all():
    cfg = small_cfg()
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 5
    model = build(cfg)
    image = record("det_a", 1)
    del image["dataset"]
    check_step(model, [image])
    assert model.eval()([image])[0]["instances"].pred_classes.max() < 5
    with pytest.raises(ValueError, match=r"DATASETS\.TRAIN"):
        model.set_vocabulary(Vocabulary.from_names(["cat"]))


def test_detectron2s_own_region_proposals():
    cfg = text_cfg(MODEL__PROPOSAL_GENERATOR__NAME="RPN")
    cfg.MODEL.RPN.IN_FEATURES = ["p3", "p4", "p5"]
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[16], [32], [64]]
    model = build(cfg)
    losses = check_step(model, [record("det_a", 1)])
    model.loss_weights = {"det_a": 0.0}
    assert all(float(loss) == 0 for loss in losses_of(model, [record("det_a", 1)]).values())
    assert {"loss_rpn_cls", "loss_rpn_loc", "loss_cls_stage2"} <= set(losses)
    assert (model.eval()([record("det_a", 1)])[0]["instances"].scores <= 1).all()


def test_one_class_per_proposal():
    model = build(text_cfg(MODEL__ROI_HEADS__ONE_CLASS_PER_PROPOSAL=True)).eval()
    found = model([record("det_a", 1)])[0]["instances"]
    assert 0 < len(found) <= 32
    assert torch.unique(found.pred_boxes.tensor, dim=0).shape[0] == len(found)


def test_proposal_score_is_an_option():
    torch.manual_seed(1)
    fused = build(text_cfg(MODEL__CLASSIFIER__BIAS=None)).eval()
    torch.manual_seed(1)
    plain = build(text_cfg(MODEL__CLASSIFIER__BIAS=None, MODEL__ROI_BOX_HEAD__MULT_PROPOSAL_SCORE=False)).eval()
    image = [record("det_a", 1)]
    assert fused(image)[0]["instances"].scores.max() < plain(image)[0]["instances"].scores.max()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"supervision": "semantic"}, "'semantic'.*'boxes', 'masks'"),
        ({"supervision": "tags"}, "det_a.*image 1.*no image_labels"),
        ({"dataset": None}, "does not say its dataset"),
        ({"dataset": "det_c"}, "det_c"),
        ({"classes": 9}, "det_a.*image 1.*vocabulary has 3 words"),
    ],
)
def test_bad_records(change: dict, message: str):
    model, image = build(text_cfg()), record("det_a", 1)
    if "classes" in change:
        image["instances"].gt_classes[:] = change["classes"]
    elif change.get("dataset", "") is None:
        del image["dataset"]
    else:
        image.update(change)
    with pytest.raises((ValueError, KeyError), match=message):
        losses_of(model, [image])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"MODEL__CLASSIFIER__NAME": "bayes"}, "choose text or linear"),
        ({"MODEL__CLASSIFIER__LOSS": "sigmoida"}, "nearest: sigmoid"),
        ({"MODEL__ROI_HEADS__IOU_THRESHOLDS": [0.5]}, "IOU_THRESHOLDS"),
        ({"MODEL__ROI_BOX_CASCADE_HEAD__IOUS": [0.6, 0.7]}, "one entry per stage"),
        ({"MODEL__ROI_BOX_HEAD__CLS_AGNOSTIC_BBOX_REG": False}, "CLS_AGNOSTIC_BBOX_REG"),
        ({"MODEL__MASK_ON": True, "MODEL__ROI_MASK_HEAD__CLS_AGNOSTIC_MASK": False}, "CLS_AGNOSTIC_MASK"),
        ({"MODEL__ROI_HEADS__NAME": "CascadeROIHeads"}, "MultiDatasetCascadeROIHeads"),
    ],
)
def test_bad_configs(changes: dict, message: str):
    with pytest.raises((ValueError, KeyError), match=message):
        build(text_cfg(**changes))


def test_text_classifier_needs_embeddings():
    cfg = small_cfg()
    cfg.MODEL.CLASSIFIER.NAME = "text"
    with pytest.raises(ValueError, match="no dataset is named"):
        build(cfg)
    cfg.DATASETS.TRAIN = ("coco_2017_train",)
    with pytest.raises(ValueError, match="card of coco_2017_train names none"):
        build(cfg)


def test_weights_do_not_depend_on_the_words(tmp_path: Path):
    first, second = build(text_cfg("det_a")), build(text_cfg("det_b"))
    assert set(first.state_dict()) == set(second.state_dict())
    second.load_state_dict(first.state_dict())
