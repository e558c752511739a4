"""Only regions that answer for image labels get a gradient, and a batch without boxes passes by CenterNet's head."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from whole_models import build, record, recording, rows_of, small_cfg

from mvseg.data.catalog import register_dataset, unregister_card
from mvseg.modeling.roi_heads import classifying

WORDS = ["cat", "dog", "bird"]


@pytest.fixture(scope="module", autouse=True)
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("few_regions")
    np.save(folder / "rows.npy", rows_of(WORDS).numpy())
    place = {"image_root": str(folder), "annotations": str(folder / "none.json")}
    fields = {"vocabulary": WORDS, "embeddings": str(folder / "rows.npy"), "supervision": "tags"}
    register_dataset(name="few", format="image_folder", **place, **fields)
    yield
    unregister_card("few")


def tagged(seed: int, labels: list[int]) -> dict[str, Any]:
    return {**record("det_a", seed, 0), "dataset": "few", "supervision": "tags", "image_labels": labels}


def gradients(model: Any, batch: list[dict[str, Any]]) -> dict[str, Tensor]:
    torch.manual_seed(0)
    model.zero_grad()
    with recording({}):
        losses = model.train()(batch)
    sum(losses.values()).backward()
    return {**losses, **{name: p.grad.clone() for name, p in model.named_parameters()}}


@pytest.mark.parametrize("choice", ["max_size", "max_score", "min_loss", "first", "image"])
def test_the_same_losses_and_gradients_as_through_all_regions(choice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = small_cfg("few")
    cfg.MODEL.CLASSIFIER.NAME, cfg.MODEL.CLASSIFIER.LOSS = "text", "sigmoid"
    cfg.MODEL.IMAGE_LABELS.LOSS, cfg.MODEL.IMAGE_LABELS.ADD_IMAGE_BOX = choice, choice == "image"
    model = build(cfg)
    batch = [tagged(1, [2, 0]), tagged(2, []), tagged(3, [1])]
    sizes: list[tuple[bool, int]] = []
    head = model.roi_heads.box_head[0]
    hook = head.register_forward_hook(lambda m, inputs, output: sizes.append((output.requires_grad, len(output))))
    few = gradients(model, batch)
    hook.remove()
    assert [with_gradient for with_gradient, count in sizes if count] == [False, True]
    assert 1 <= dict(sizes)[True] <= 3 < dict(sizes)[False]
    monkeypatch.setattr(classifying, "ImageLabelObjective", type("Nothing", (), {}))
    everything = gradients(model, batch)
    assert few.keys() == everything.keys()
    assert sum(bool(value.any()) for value in everything.values()) > 40
    for name, want in everything.items():
        assert (few[name] - want).norm() <= 1e-4 * want.norm(), name


def test_a_batch_of_tags_goes_no_way_back_through_the_proposals() -> None:
    cfg = small_cfg("few")
    cfg.MODEL.CLASSIFIER.NAME, cfg.MODEL.CLASSIFIER.LOSS = "text", "sigmoid"
    model = build(cfg)
    maps: list[Tensor] = []
    hook = model.proposal_generator.centernet_head.register_forward_hook(lambda m, inputs, out: maps.extend(out[0]))
    found = gradients(model, [tagged(1, [2])])
    hook.remove()
    assert maps and not any(level.requires_grad for level in maps)
    silent = [name for name in found if name.startswith(("proposal_generator", "backbone.top_block"))]
    assert len(silent) > 6 and not any(found[name].any() for name in silent)
