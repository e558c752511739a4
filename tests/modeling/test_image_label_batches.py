"""Batches of boxes, tags and captions in any mixture: the same losses, and a gradient for every parameter."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectron2.structures import Boxes, Instances
from oracle_numbers import Oracle, close
from torch import Tensor, nn
from torch.multiprocessing import spawn
from whole_models import build, record, recording, rows_of, small_cfg

from mvseg.data.catalog import register_dataset, unregister_card
from mvseg.modeling.captions import CaptionReader, caption_reader, gather_rows
from mvseg.modeling.context import BatchContext
from mvseg.modeling.objectives import (
    OBJECTIVES,
    CaptionObjective,
    CaptionTargets,
    ImageLabelObjective,
    ImageLabelTargets,
    RegionObjective,
)
from mvseg.modeling.roi_heads import MultiDatasetCascadeROIHeads
from mvseg.modeling.roi_heads.image_labels import ImageLabelSettings, best_proposals

BOX_WORDS, TAG_WORDS = ["cat", "dog", "bird"], ["bird", "bus", "tram"]  # merged: cat dog bird bus tram
BOX_LOSSES = {"loss_centernet_loc", "loss_centernet_agn_pos", "loss_centernet_agn_neg"} | {
    f"{name}_stage{stage}" for name in ("loss_cls", "loss_box_reg") for stage in range(3)
}
IMAGE_LOSSES = {f"image_loss_stage{stage}" for stage in range(3)}
CAPTION_LOSSES = {f"caption_loss_stage{stage}" for stage in range(3)}


def register(folder: Path) -> None:
    for name, words in (("il_boxes", BOX_WORDS), ("il_tags", TAG_WORDS), ("il_captions", TAG_WORDS)):
        np.save(folder / f"{name}.npy", rows_of(words).numpy())
        kind = name.removeprefix("il_")
        fields = {"embeddings": str(folder / f"{name}.npy"), "image_root": str(folder), "vocabulary": words}
        sources = {"boxes": "coco", "tags": "image_folder", "captions": "coco_captions"}
        register_dataset(
            name=name, format=sources[kind], supervision=kind, annotations=str(folder / "none.json"), **fields
        )
    register_dataset(
        name="il_sentences", format="coco_captions", image_root=str(folder), annotations=str(folder / "none.json")
    )


@pytest.fixture(scope="module", autouse=True)
def datasets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    register(tmp_path_factory.mktemp("image_labels"))
    yield
    for name in ("il_boxes", "il_tags", "il_captions", "il_sentences"):
        unregister_card(name)


def cfg_of(*datasets: str, **changes: Any) -> Any:
    cfg = small_cfg(*(datasets or ("il_boxes", "il_tags")))
    cfg.DATASETS.LABEL_SPACE = "merge_names"
    cfg.MODEL.CLASSIFIER.NAME, cfg.MODEL.CLASSIFIER.LOSS = "text", "sigmoid"
    for key, value in changes.items():
        cfg.merge_from_list([key.replace("__", "."), value])
    return cfg


def boxed(seed: int, objects: int = 3, masks: bool = False) -> dict[str, Any]:
    image = record("det_a", seed, objects, masks)
    return {**image, "dataset": "il_boxes"}


def tagged(seed: int, labels: list[int]) -> dict[str, Any]:
    return {**boxed(seed, 0), "dataset": "il_tags", "supervision": "tags", "image_labels": labels}


def captioned(seed: int, texts: list[str], labels: list[int] | None = None, dataset: str = "il_captions") -> dict:
    image = {**boxed(seed, 0), "dataset": dataset, "supervision": "captions", "captions": texts}
    del image["instances"]
    return image if labels is None else {**image, "image_labels": labels}


def losses_of(model: Any, batch: list[dict[str, Any]]) -> dict[str, Tensor]:
    torch.manual_seed(0)
    with recording({}):
        return model.train()(batch)


def check_step(model: Any, batch: list[dict[str, Any]]) -> dict[str, float]:
    """One step: finite losses, and a finite gradient for every parameter."""
    model.zero_grad()
    losses = losses_of(model, batch)
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
    return {name: float(loss.detach()) for name, loss in losses.items()}


BATCHES = {
    "boxes": lambda: [boxed(1), boxed(2)],
    "boxes_without_objects": lambda: [boxed(1, 0)],
    "mixed": lambda: [tagged(1, [2]), boxed(2), tagged(3, [0, 1])],
    "tags": lambda: [tagged(1, [2]), tagged(2, [0])],
    "no_tags_at_all": lambda: [tagged(1, []), tagged(2, [])],
    "none_and_many": lambda: [tagged(1, []), tagged(2, [0, 1, 2] * 40)],
    "one_region": lambda: [tagged(1, [1])],
}


@pytest.mark.parametrize(
    ("classifier", "loss"),
    [("text", "max_size"), ("linear", "max_score"), ("text", "min_loss"), ("linear", "image"), ("text", "wsddn")],
)
def test_every_batch_reports_the_same_losses(loss: str, classifier: str):
    changes = {"MODEL__IMAGE_LABELS__LOSS": loss, "MODEL__IMAGE_LABELS__ADD_IMAGE_BOX": loss == "image"}
    model = build(cfg_of(MODEL__CLASSIFIER__NAME=classifier, MODEL__MASK_ON=True, **changes))
    for name, make in BATCHES.items():
        losses = check_step(model, make())
        assert set(losses) == BOX_LOSSES | IMAGE_LOSSES | {"loss_mask"}, name
        assert all(np.isfinite(list(losses.values())))
        learnt = {key for key, value in losses.items() if value}
        assert not any(name.startswith("boxes") for _ in learnt & IMAGE_LOSSES)
        if name in ("tags", "none_and_many", "one_region"):
            assert learnt == IMAGE_LOSSES, name
        if name == "no_tags_at_all":
            assert not learnt


def test_tags_teach_neither_proposals_nor_boxes():
    model = build(cfg_of())
    check_step(model, [tagged(1, [2]), tagged(2, [0])])
    heads = model.roi_heads
    silent = [*model.proposal_generator.parameters(), *model.backbone.top_block.parameters()]
    silent += [p for predictor in heads.box_predictor for p in predictor.bbox_pred.parameters()]
    assert all(not p.grad.any() for p in silent)
    taught = [p.cls_score.linear.weight for p in heads.box_predictor] + [model.backbone.bottom_up.base.conv1.weight]
    assert all(p.grad.any() for p in taught)


def test_a_mixed_batch_averages_over_its_images(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch, "randperm", lambda n, **kwargs: torch.arange(n, device=kwargs.get("device")))
    model = build(cfg_of())
    with torch.no_grad():
        boxes, tags = losses_of(model, [boxed(2)]), losses_of(model, [tagged(1, [2])])
        mixed = losses_of(model, [tagged(1, [2]), boxed(2)])
    for name, loss in mixed.items():
        # The normaliser of CenterNet is the number of objects, wherever they are.
        share = 1.0 if name.startswith("loss_centernet") else 0.5
        assert float(loss) == pytest.approx(share * float(boxes[name] + tags[name]), rel=1e-4), name


def test_an_objective_of_the_user(monkeypatch: pytest.MonkeyPatch):
    """It gets all regions of an image, and needs nothing but ``losses``."""
    monkeypatch.setattr(OBJECTIVES, "_classes", dict(OBJECTIVES._classes))
    monkeypatch.setattr(OBJECTIVES, "_kinds", dict(OBJECTIVES._kinds))

    @OBJECTIVES.register("mean_score", supervision=("tags",))
    class MeanScore(RegionObjective):
        def losses(self, logits: Tensor, targets: ImageLabelTargets, columns: Tensor | None) -> dict[str, Tensor]:
            assert len(logits) == int(targets.counts.sum()) == len(targets.areas)
            return {"mean_loss": logits.square().sum() / max(len(logits), 1)}

    model = build(cfg_of(MODEL__IMAGE_LABELS__LOSS="mean_score"))
    for make in (BATCHES["tags"], BATCHES["boxes"]):
        assert {f"mean_loss_stage{stage}" for stage in range(3)} <= set(check_step(model, make()))


def test_pictures_of_the_training(monkeypatch: pytest.MonkeyPatch):
    model, _ = caption_model("il_tags", "il_captions")
    model.vis_period = 1
    drawn = []
    monkeypatch.setattr(type(model), "visualize_training", lambda self, inputs, proposals: drawn.extend(inputs))
    losses_of(model, [boxed(1), tagged(2, [1]), captioned(3, ["a bus"])])
    assert [len(x["instances"]) for x in drawn] == [3, 0, 0]


def test_no_proposals():
    model = build(cfg_of())
    nothing = model.proposal_generator.forward

    def propose(*args: Any) -> Any:
        proposals, losses = nothing(*args)
        return [proposals[0][:0], *proposals[1:]], losses

    model.proposal_generator.forward = propose
    with_one = check_step(model, [tagged(1, [2]), tagged(2, [0])])
    model.proposal_generator.forward = lambda *args: ([p[:0] for p in nothing(*args)[0]], nothing(*args)[1])
    without = check_step(model, [tagged(1, [2]), tagged(2, [0])])
    assert all(with_one[name] > 0 and without[name] == 0 for name in IMAGE_LOSSES)
    without = check_step(model, [tagged(1, [2]), boxed(2)])
    assert all(without[name] == 0 for name in IMAGE_LOSSES) and without["loss_cls_stage0"] > 0


def test_only_wanted_columns_are_computed():
    model = build(cfg_of(MODEL__IMAGE_LABELS__NUM_COLUMNS=2))
    widths = []
    for predictor in model.roi_heads.box_predictor:
        predictor.cls_score.register_forward_hook(lambda module, args, output: widths.append(output.shape))
    check_step(model, [tagged(1, [2]), tagged(2, [2])])
    assert [shape[1] for shape in widths if shape[0]] == [2, 2, 2]
    widths.clear()
    model = build(cfg_of())
    model.roi_heads.box_predictor[0].cls_score.register_forward_hook(
        lambda module, args, output: widths.append(args[1].tolist()) if len(output) else None
    )
    check_step(model, [tagged(1, [2]), boxed(2)])
    assert widths[0] == [0, 1, 2] and widths[1:] and all(columns == [2, 3, 4] for columns in widths[1:])


def test_regions_of_images():
    boxes = torch.tensor([[-5.0, 2, 30, 20], [1, 1, 99, 99], [0, 0, 3, 3]])
    proposals = [Instances((40, 60), proposal_boxes=Boxes(boxes), objectness_logits=torch.arange(3.0)) for _ in "abc"]
    context = BatchContext(
        ("tags", "tags", "captions"),
        labels=torch.tensor([4, 5]),
        label_images=torch.tensor([0, 0]),
        caption_images=torch.tensor([2]),
    )
    found = best_proposals(proposals, context, ImageLabelSettings(2, True, 0.5))
    assert found[0].proposal_boxes.tensor.tolist() == [[0, 2, 30, 20], [1, 1, 60, 40], [15, 10, 45, 30]]
    assert len(found[1]) == 0 and found[2].proposal_boxes.tensor.tolist() == [[15, 10, 45, 30]]
    assert float(found[0].objectness_logits[-1].sigmoid()) == pytest.approx(1, abs=1e-5)
    assert proposals[0].proposal_boxes.tensor[0, 0] == -5  # others may still need them unclipped
    assert [len(p) for p in best_proposals(proposals, context, ImageLabelSettings(2))] == [2, 0, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_labels": [3]}, "dataset 'il_tags', image 1: image labels 3 to 3, but its vocabulary has 3 words"),
        ({"image_labels": [-1, 2]}, "image labels -1 to 2"),
        ({"image_labels": None}, "image 1: its supervision is 'tags', but it has no image_labels"),
    ],
)
def test_bad_labels(change: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        losses_of(build(cfg_of()), [{**tagged(1, [1]), **change}])


@pytest.mark.parametrize("case", ["caption", "captiontag", "captiontag_sync"])
def test_captions_equal_the_original(units: Oracle, case: str):
    """The original adds the losses of captions and of labels."""
    logits = units("image_labels/class_logits").requires_grad_()
    sentences = units("image_labels/caption_logits").requires_grad_()
    weights = {"caption": (1.0, 1.0), "captiontag": (0.7, 1.0), "captiontag_sync": (1.0, 0.125)}[case]
    last = units("image_labels/count_per_image").cumsum(0) - 1
    objective = CaptionObjective(30, weight=0.1 * weights[0], negative_weight=weights[1])
    loss = objective.losses(sentences[last], CaptionTargets(torch.arange(2), torch.arange(2), num_images=2), None)
    total = loss["caption_loss"]
    if case != "caption":
        labels = [units(f"image_labels/labels_{i}") for i in range(2)]
        images = torch.tensor([0] * len(labels[0]) + [1] * len(labels[1]))
        context = BatchContext(("captions",) * 2, labels=torch.cat(labels), label_images=images)
        boxes = units("image_labels/boxes")
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        counts = units("image_labels/count_per_image")
        facts = ImageLabelTargets.of_images(context, counts, areas)
        total = total + ImageLabelObjective(30).losses(logits, facts, None)["image_loss"]
    close(total, units(f"image_labels/{case}/image_loss"))
    (total + 0 * logits.sum()).backward()
    close(torch.cat([logits.grad, sentences.grad], 1), units(f"image_labels/{case}/grad_class_logits"))


def test_equal_captions_are_no_negatives_and_images_have_weights():
    rows = torch.tensor([[1.0, 0], [2.0, 0], [0, 1]])
    logits = torch.randn(2, 3)
    context = BatchContext(
        ("captions", "boxes", "captions"),
        captions=rows,
        own_captions=torch.tensor([0, 2]),
        caption_images=torch.tensor([0, 2]),
        weights=torch.tensor([2.0, 1, 1]),
    )
    facts = CaptionTargets.of_images(context, torch.tensor([True, True]))
    loss = CaptionObjective(5, weight=1.0, negative_weight=0.5).losses(logits, facts, None)["caption_loss"]
    first = F.softplus(-logits[0, 0]) + 0.5 * F.softplus(logits[0, 2])
    second = F.softplus(-logits[1, 2]) + 0.5 * (F.softplus(logits[1, 0]) + F.softplus(logits[1, 1]))
    assert float(loss) == pytest.approx(float(2 * first + second) / 3, rel=1e-5)


class Sentences:
    """Stands for a text encoder; remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, texts: list[str]) -> Tensor:
        self.asked += texts
        return rows_of(list(texts))


def caption_model(*datasets: str) -> tuple[Any, Sentences]:
    model, sentences = build(cfg_of("il_boxes", *datasets)), Sentences()
    model.read_captions = CaptionReader(sentences, 8)
    return model, sentences


@pytest.mark.parametrize("dataset", ["il_captions", "il_sentences"])
def test_captions_in_any_batch(dataset: str):
    model, sentences = caption_model(dataset)
    assert model.read_captions is not None and model.roi_heads.image_labels.reported == ("tags", "captions")
    labels = [1] if dataset == "il_captions" else None
    batches = [
        [boxed(1), boxed(2)],
        [captioned(1, ["a bus"], labels, dataset), captioned(2, ["a tram", "a cat"], None, dataset)],
        [captioned(1, ["a bus"], None, dataset), boxed(2)],
        [captioned(1, [], None, dataset)],
    ]
    for number, batch in enumerate(batches):
        losses = check_step(model, batch)
        assert set(losses) == BOX_LOSSES | IMAGE_LOSSES | CAPTION_LOSSES
        assert {name for name in CAPTION_LOSSES if losses[name] > 0} == (CAPTION_LOSSES if number in (1, 2) else set())
        if number == 1 and labels:
            assert all(losses[name] > 0 for name in IMAGE_LOSSES)
    assert sentences.asked[0] == "a bus" and sentences.asked[1] in ("a tram", "a cat") and len(sentences.asked) == 3


def test_the_caption_loss_of_a_whole_model():
    model, _ = caption_model("il_captions")
    batch = [captioned(1, ["a bus"]), captioned(2, ["a tram"])]
    seen: list[Tensor] = []
    predictor = model.roi_heads.box_predictor[0]
    model.roi_heads.box_head[0].register_forward_hook(lambda module, args, output: seen.append(output))
    with torch.no_grad():
        losses = losses_of(model, batch)
        hidden = next(h for h in seen if len(h))
        assert len(hidden) == 2  # without labels, only the images themselves are regions
        logits = predictor.cls_score(hidden, embeddings=rows_of(["a bus", "a tram"]))
    each = F.binary_cross_entropy_with_logits(logits, torch.eye(2), reduction="none")
    expected = 0.1 * (each * torch.tensor([[1, 0.125], [0.125, 1]])).sum() / 2
    assert float(losses["caption_loss_stage0"]) == pytest.approx(float(expected), rel=1e-5)


def test_captions_need_an_encoder():
    cfg = cfg_of("il_boxes", "il_captions")
    with pytest.raises(ValueError, match=r"nobody embeds them.*TEXT_ENCODER"):
        losses_of(build(cfg), [captioned(1, ["a bus"])])
    assert "captions" not in MultiDatasetCascadeROIHeads.learns_from(cfg)
    assert caption_reader(cfg, 8) is None
    cfg.MODEL.CLASSIFIER.TEXT_ENCODER = "minilm"
    assert "captions" in MultiDatasetCascadeROIHeads.learns_from(cfg)
    assert caption_reader(cfg, None) is None and caption_reader(cfg_of("il_boxes", "il_tags"), 8) is None
    reader = caption_reader(cfg, 384)
    found = reader([captioned(1, ["a bus"]), boxed(2), captioned(3, ["a tram on a bridge"])], torch.device("cpu"))
    assert found["captions"].shape == (2, 384) and found["caption_images"].tolist() == [0, 2]


def parallel_step(rank: int, folder: str) -> None:
    """Boxes on one process and tags, or captions, on the other; DistributedDataParallel waits for every parameter."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    register(Path(folder) / f"rank{rank}")
    torch.manual_seed(0)
    model, sentences = caption_model("il_tags", "il_captions")
    parallel = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    names = []
    steps = [
        [boxed(1)] if rank else [tagged(2, [1])],
        [captioned(3, ["a bus"])] if rank else [boxed(4)],
        [captioned(5, ["a cat"]), captioned(6, ["a dog"])] if rank else [captioned(7, ["a tram"], [2])],
        [tagged(8, [0])] if rank else [boxed(9)],
    ]
    for batch in steps:
        optimizer.zero_grad()
        with recording({}):
            losses = parallel(batch)
        names.append(sorted(losses))
        sum(losses.values()).backward()
        assert all(torch.isfinite(p.grad).all() for p in model.parameters())
        optimizer.step()
    gathered, first = gather_rows(torch.full((rank + 1, 2), float(rank)))
    result = {
        "names": names,
        "total": torch.cat([p.detach().flatten() for p in model.parameters()]),
        "gathered": gathered,
        "first": first,
        "asked": len(sentences.asked),
    }
    torch.save(result, f"{folder}/rank{rank}.pth")
    torch.distributed.destroy_process_group()


def test_two_processes_with_different_kinds(tmp_path: Path):
    for rank in range(2):
        (tmp_path / f"rank{rank}").mkdir()
    spawn(parallel_step, (str(tmp_path),), nprocs=2)
    results = [torch.load(tmp_path / f"rank{rank}.pth", weights_only=True) for rank in range(2)]
    everything = sorted(BOX_LOSSES | IMAGE_LOSSES | CAPTION_LOSSES)
    assert all(names == everything for result in results for names in result["names"])
    assert torch.equal(results[0]["total"], results[1]["total"])
    assert results[0]["gathered"].tolist() == results[1]["gathered"].tolist() == [[0, 0], [1, 1], [1, 1]]
    assert [result["first"] for result in results] == [0, 1] and [result["asked"] for result in results] == [1, 3]
