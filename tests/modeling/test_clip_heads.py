"""Region heads with CLIP's last stage and attention pooling: CLIP's own embeddings, and learning in their space."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clip_models import clip_cfg, rows_of, write_clip
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from torch.nn import functional as F
from whole_models import recording

import mvseg.modeling  # noqa: F401  (registers the parts)
from mvseg.checkpoints import AtomicCheckpointer
from mvseg.data.catalog import register_dataset

WORDS = {"clip_a": ["cat", "dog", "bird"], "clip_b": ["car", "bus", "cat", "tram"]}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path, Path]:
    folder = tmp_path_factory.mktemp("clip")
    for name, words in WORDS.items():
        np.save(folder / f"{name}.npy", rows_of(words).numpy())
        fields = {"name": name, "format": "coco", "image_root": str(folder), "annotations": str(folder / "none.json")}
        register_dataset(**fields, vocabulary=words, embeddings=str(folder / f"{name}.npy"))
    return write_clip(folder)


def boxed(*boxes: list[float], size: tuple[int, int] = (224, 224)) -> Instances:
    logits = torch.linspace(3, -1, len(boxes))
    return Instances(size, proposal_boxes=Boxes(torch.tensor(boxes)), objectness_logits=logits)


def record(dataset: str, seed: int, size: tuple[int, int] = (224, 224)) -> dict[str, Any]:
    draw = torch.Generator().manual_seed(seed)
    corner = torch.rand(3, 2, generator=draw) * 100
    instances = Instances(size, gt_boxes=Boxes(torch.cat([corner, corner + 30 + corner.flip(1) / 2], 1)))
    instances.gt_classes = torch.randint(len(WORDS[dataset]), (3,), generator=draw)
    image = torch.randint(0, 256, (3, *size), generator=draw, dtype=torch.uint8)
    near = instances.gt_boxes.tensor + torch.randn(3, 4, generator=draw)
    far = torch.tensor([[120.0, 10.0, 200.0, 60.0], [5.0, 150.0, 90.0, 215.0]])
    proposals = boxed(*torch.cat([near, far]).tolist(), size=size)
    return {"image": image, "image_id": seed, "dataset": dataset, "instances": instances, "proposals": proposals}


def test_whole_image_gives_the_embedding_of_clip(clip):
    theirs, architecture, weights = clip
    cfg = clip_cfg(architecture, "clip_a")
    cfg.MODEL.CLIP.PRETRAINED = str(weights)
    model = build_model(cfg).eval()
    torch.manual_seed(1)
    image = torch.randint(0, 256, (2, 3, 224, 224)).float()
    pixels = (image - model.pixel_mean) / model.pixel_std
    with torch.no_grad():
        expected = theirs.encode_image(pixels)
        features = model.backbone(pixels)
        whole = [Boxes(torch.tensor([[0.0, 0.0, 224.0, 224.0]]))] * 2
        found = model.roi_heads._region_features(features, whole)
    assert expected.std() > 0.01
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))
    half = [Boxes(torch.tensor([[0.0, 0.0, 224.0, 112.0]]))] * 2
    assert (model.roi_heads._region_features(features, half) - expected).abs().max() > 1e-3


def test_files_of_clip_and_of_regionclips_pretraining_are_weights(clip, tmp_path):
    theirs, architecture, weights = clip
    expected = {n: v for n, v in theirs.state_dict().items() if n.startswith("visual.")}
    as_regionclip = {f"backbone.{n.removeprefix('visual.')}": v for n, v in expected.items()}
    as_regionclip |= {f"lang_encoder.{n}": v for n, v in theirs.state_dict().items() if "visual" not in n}
    as_regionclip |= {f"teacher_{n}": torch.zeros_like(v) for n, v in as_regionclip.items() if n.startswith("backbone")}
    torch.save({"model": as_regionclip}, tmp_path / "regionclip.pth")
    for file in (weights, tmp_path / "regionclip.pth"):
        model = build_model(clip_cfg(architecture, "clip_a"))
        checkpointer = AtomicCheckpointer(model)
        checkpointer.load(str(file))
        state, stage = model.state_dict(), model.roi_heads.res5
        torch.testing.assert_close(
            state["backbone.layer2.1.bn3.running_var"], expected["visual.layer2.1.bn3.running_var"]
        )
        torch.testing.assert_close(stage.layer4[0].conv2.weight, expected["visual.layer4.0.conv2.weight"])
        torch.testing.assert_close(
            stage.attnpool.positional_embedding, expected["visual.attnpool.positional_embedding"]
        )
        missing = {n for n in checkpointer.report.missing if not n.startswith("pixel_")}
        assert missing == {"roi_heads.box_predictor.bbox_pred.weight", "roi_heads.box_predictor.bbox_pred.bias"}


def test_what_trains_and_what_it_is_called(clip):
    _, architecture, _ = clip
    model = build_model(clip_cfg(architecture, "clip_a"))
    fixed = {name.split(".")[1] for name, p in model.named_parameters() if not p.requires_grad}
    assert fixed == {"conv1", "conv2", "conv3", "layer1"}
    assert not any("bn" in name for name, _ in model.named_parameters())  # frozen: numbers, no parameters
    heads = {".".join(name.split(".")[1:3]) for name, _ in model.named_parameters() if name.startswith("roi_heads.")}
    assert heads == {"res5.layer4", "res5.attnpool", "box_predictor.bbox_pred"}
    cfg = clip_cfg(architecture, "clip_a")
    cfg.MODEL.CLIP.NORM, cfg.MODEL.BACKBONE.FREEZE_AT = "GN", 0
    assert all(p.requires_grad for p in build_model(cfg).parameters())


def test_scores_are_a_hundred_times_the_cosine(clip):
    """No projection and no bias: logits are 100 cos(region, word); the score joins sigmoid and proposal score."""
    theirs, architecture, weights = clip
    cfg = clip_cfg(architecture, "clip_a")
    cfg.MODEL.CLIP.PRETRAINED = str(weights)
    cfg.MODEL.CALIBRATION.ENABLED, cfg.MODEL.CALIBRATION.PRIOR, cfg.MODEL.CALIBRATION.BETA = True, "none", 0.3
    model = build_model(cfg).eval()
    torch.nn.init.zeros_(model.roi_heads.box_predictor.bbox_pred.weight)
    image = torch.randint(0, 256, (3, 224, 224), generator=torch.Generator().manual_seed(5), dtype=torch.uint8)
    proposals = boxed([0.0, 0.0, 224.0, 224.0])
    with torch.no_grad():
        found = model([{"image": image, "proposals": proposals, "height": 224, "width": 224}])[0]["instances"]
        embedding = F.normalize(theirs.encode_image(((image.float() - model.pixel_mean) / model.pixel_std)[None]))[0]
    cosines = F.normalize(rows_of(WORDS["clip_a"])) @ embedding
    expected = (100 * cosines).sigmoid() ** 0.3 * torch.tensor(3.0).sigmoid() ** 0.7
    scores = torch.zeros(3).scatter(0, found.pred_classes, found.scores)
    torch.testing.assert_close(scores, expected, rtol=1e-3, atol=1e-6)


def test_partitioned_training_step_reaches_what_trains(clip):
    _, architecture, weights = clip
    cfg = clip_cfg(architecture, *WORDS)
    cfg.MODEL.CLIP.PRETRAINED = str(weights)
    cfg.MODEL.CLASSIFIER.AVERAGE, cfg.MODEL.ROI_HEADS.POSITIVE_FRACTION = "images", 1.0  # nothing is drawn
    model = build_model(cfg).train()
    with recording({}):
        losses = model([record("clip_a", 1), record("clip_b", 2)])
    assert set(losses) == {"loss_cls", "loss_box_reg"}
    sum(losses.values()).backward()
    without = {n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())}
    assert not without - {"roi_heads.res5.attnpool.k_proj.bias"}  # softmax does not see what all keys have in common
    alone = []
    for one in (record("clip_a", 1), record("clip_b", 2)):
        torch.manual_seed(0)
        with recording({}):
            alone.append(model([one])["loss_cls"])
    torch.testing.assert_close(losses["loss_cls"], sum(alone) / 2, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("change", "trouble"),
    [
        (["MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 7], "reads regions of 14"),
        (["MODEL.CLIP.ARCHITECTURE", "RN5O"], "no CLIP model with a ResNet.*RN50"),
        (["MODEL.CLIP.ARCHITECTURE", "ViT-B-32"], "no CLIP model with a ResNet"),
        (["MODEL.CLIP.ARCHITECTURE", "missing.json"], "missing.json does not exist"),
        (["MODEL.CLIP.NORM", "LN"], "MODEL.CLIP.NORM 'LN': choose one of FrozenBN"),
        (["MODEL.BACKBONE.FREEZE_AT", 5], "MODEL.BACKBONE.FREEZE_AT 5"),
        (["MODEL.BACKBONE.NAME", "build_resnet_backbone"], "set MODEL.BACKBONE.NAME build_clip_resnet_backbone"),
    ],
)
def test_mistakes_name_the_key(clip, change, trouble):
    cfg = clip_cfg(clip[1], "clip_a")
    cfg.merge_from_list(change)
    with pytest.raises(ValueError, match=trouble):
        build_model(cfg)


def test_text_of_another_width_is_refused(clip, tmp_path):
    np.save(tmp_path / "wide.npy", rows_of(["cat"])[:, :8].numpy())
    fields = {"format": "coco", "image_root": str(tmp_path), "annotations": "none.json", "vocabulary": ["cat"]}
    register_dataset(name="clip_wide", embeddings=str(tmp_path / "wide.npy"), **fields)
    with pytest.raises(ValueError, match=r"16 wide, text embeddings 8: MODEL.CLASSIFIER.PROJECTION"):
        build_model(clip_cfg(clip[1], "clip_wide"))
