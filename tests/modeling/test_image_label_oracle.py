"""A batch of nothing but image labels through the whole detector, against the original Detic: losses and gradients."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from oracle_numbers import Oracle
from torch import Tensor
from whole_models import build, detic_cfg, recording

from mvseg.data.catalog import register_dataset, unregister_card


@pytest.fixture(scope="module")
def oracle(oracles: Path) -> Oracle:
    return Oracle(oracles / "detic_r50_lvis_base")


def keep_largest(found: dict[int, Tensor], stage: int, module: Any, args: Any, output: Tensor) -> None:
    if len(output) >= len(found.get(stage, ())):
        found[stage] = output.detach()


@pytest.fixture(scope="module")
def done(oracle: Oracle, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The model after one step, and what was seen inside it."""
    folder = tmp_path_factory.mktemp("detic")
    np.save(folder / "text.npy", oracle.io["text_embeddings"])
    fields = {"image_root": str(folder), "vocabulary": "lvis_v1", "embeddings": str(folder / "text.npy")}
    register_dataset(name="oracle_tags", format="image_folder", supervision="tags", **fields)
    cfg = detic_cfg("oracle_tags")
    cfg.MODEL.CLASSIFIER.LOSS = "sigmoid"  # tags of LVIS: the counts of the federated loss are not needed
    model = build(cfg, oracle.state_dict(oracle.io["text_embeddings"])).train()
    batch = []
    for i in range(2):
        image = oracle(f"images_{i}").permute(2, 0, 1).contiguous()
        nothing = Instances(image.shape[1:], gt_boxes=Boxes(torch.zeros(0, 4)), gt_classes=torch.zeros(0).long())
        labels = oracle(f"image_labels_{i}").tolist()
        batch.append({"image": image, "image_id": i, "dataset": "oracle_tags", "supervision": "tags",
                      "instances": nothing, "image_labels": labels})  # fmt: skip
    hidden: dict[int, Tensor] = {}
    for stage, head in enumerate(model.roi_heads.box_head):  # all regions, then those that learn
        head.register_forward_hook(functools.partial(keep_largest, hidden, stage))
    with recording({"generator": model.proposal_generator}) as seen:
        seen["losses"] = model(batch)
    seen["hidden"] = hidden
    sum(seen["losses"].values()).backward()
    unregister_card("oracle_tags")
    return model, seen


def test_proposals(oracle: Oracle, done: Any):
    for i, proposals in enumerate(done[1]["generator"][0]):
        assert abs(len(proposals) - int(oracle(f"train_image/proposal_count_{i}"))) <= 1
        scores = oracle(f"train_image/proposal_scores_{i}")
        torch.testing.assert_close(proposals.objectness_logits[:100].sigmoid(), scores, rtol=0, atol=1e-4)


def test_logits(oracle: Oracle, done: Any):
    for stage, predictor in enumerate(done[0].roi_heads.box_predictor):
        with torch.no_grad():
            logits = predictor.cls_score(done[1]["hidden"][stage])
        expected = oracle(f"train_image/stage{stage}/logits_first")
        assert len(logits) == 256
        std = float(oracle(f"train_image/stage{stage}/logits_mean_std")[1])
        assert float((logits[: len(expected)] - expected[:, : logits.shape[1]]).abs().max()) <= 1e-4 * std


def test_losses(oracle: Oracle, done: Any):
    expected = {k.rsplit("/", 1)[1]: float(oracle(k)) for k in oracle.io if k.startswith("train_image/loss/")}
    own = {k: float(v) for k, v in done[1]["losses"].items()}
    assert own == pytest.approx(expected, rel=1e-4)
    assert {k for k, v in own.items() if v} == {f"image_loss_stage{stage}" for stage in range(3)}


def test_gradients(oracle: Oracle, done: Any):
    parameters = dict(done[0].named_parameters())
    assert [name for name, p in parameters.items() if p.grad is None] == []
    stored = [k.removeprefix("train_image/grad/") for k in oracle.io if k.startswith("train_image/grad/")]
    stored = [name for name in stored if ".base.fc." not in name]  # an image classifier that nothing uses
    assert len(stored) > 20
    zero = 0
    for name in stored:
        norm, total, *first = oracle(f"train_image/grad/{name}").double().tolist()
        gradient = parameters[name].grad.double()
        count = min(8, gradient.numel())
        error = np.abs(gradient.flatten()[:count].numpy() - np.array(first[:count])).max()
        zero += norm == 0
        assert float(gradient.norm()) == pytest.approx(norm, rel=1e-3, abs=1e-12), name
        assert error <= 1e-3 * norm, name
        assert abs(float(gradient.sum()) - total) <= 5e-3 * norm * gradient.numel() ** 0.5, name
    assert zero > 3  # what only boxes teach: exactly nothing
