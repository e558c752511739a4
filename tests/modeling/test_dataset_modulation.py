"""Region features adapted to datasets: the identity at first, one modulation for each image, any words of a test."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from whole_models import WIDTH, WORDS, build, record, recording, rows_of, text_cfg

from mvseg.data.catalog import register_dataset, unregister_card
from mvseg.modeling.roi_heads.dataset_modulation import DatasetModulation, mean_of_words
from mvseg.vocabulary import Vocabulary

A, B = "modulated_a", "modulated_b"


@pytest.fixture(scope="module", autouse=True)
def datasets(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("modulated")
    for name, words in zip((A, B), WORDS.values(), strict=True):
        np.save(folder / f"{name}.npy", rows_of(words).numpy())
        fields = {"format": "coco", "image_root": str(folder), "annotations": str(folder / "none.json")}
        register_dataset(name=name, **fields, vocabulary=words, embeddings=str(folder / f"{name}.npy"))
    yield
    for name in (A, B):
        unregister_card(name)


def image(name: str, seed: int) -> dict[str, Any]:
    return {**record(dict(zip((A, B), WORDS, strict=True))[name], seed), "dataset": name}


def cfg_of(**changes: Any) -> Any:
    return text_cfg(A, B, MODEL__DATASET_EMBEDDING__ENABLED=True, MODEL__DATASET_EMBEDDING__WIDTH=6, **changes)


def excited(model: Any) -> Any:
    torch.manual_seed(8)
    for layer in (*model.roi_heads.dataset_modulation.scale, *model.roi_heads.dataset_modulation.shift):
        torch.nn.init.normal_(layer.weight)
        torch.nn.init.normal_(layer.bias)
    return model


def losses_of(model: Any, batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    with recording({}):
        return model.train()(batch)


def words(names: list[str], name: str = "other") -> Vocabulary:
    return Vocabulary(name, tuple(names), embeddings=rows_of(names))


def test_formula_for_every_image_of_a_mixed_batch():
    torch.manual_seed(0)
    means = torch.randn(3, 5, dtype=torch.float64).float()
    part = DatasetModulation(means, [4, 4], 7).double().train()
    for layer in (*part.scale, *part.shift):
        torch.nn.init.normal_(layer.weight)
    part.begin(torch.tensor([1, 0, 1]))
    x, counts = torch.randn(6, 4, dtype=torch.float64), [2, 3, 1]
    found = part(x, counts, stage=1)
    state = {name: value.detach().numpy() for name, value in part.named_parameters()}
    for row, dataset in enumerate([1, 1, 0, 0, 0, 1]):
        h = np.maximum(state["embed.0.weight"] @ means[dataset].numpy() + state["embed.0.bias"], 0)
        d = state["embed.2.weight"] @ h + state["embed.2.bias"]
        scale = state["scale.1.weight"] @ d + state["scale.1.bias"]
        shift = state["shift.1.weight"] @ d + state["shift.1.bias"]
        np.testing.assert_allclose(found[row].detach().numpy(), x[row].numpy() * (1 + scale) + shift, rtol=1e-9)


def test_it_begins_as_the_identity_and_then_learns():
    torch.manual_seed(1)
    model = build(cfg_of())
    plain = build(text_cfg(A, B))
    missing = model.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert missing and all("roi_heads.dataset_modulation." in name for name in missing)
    assert not [name for name in missing if "means" in name]  # they belong to the words
    batch = [image(A, 1), image(B, 2)]
    found, expected = losses_of(model, batch), losses_of(plain, batch)
    assert {n: float(v) for n, v in found.items()} == {n: float(v) for n, v in expected.items()}
    sum(found.values()).backward()
    part = model.roi_heads.dataset_modulation
    assert all(layer.weight.grad.abs().sum() > 0 for layer in (*part.scale, *part.shift))
    assert all(parameter.grad is not None for parameter in part.parameters())
    sum(losses_of(excited(model), batch).values()).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in part.parameters())


def test_each_image_of_a_batch_has_the_modulation_of_its_dataset():
    model = excited(build(cfg_of()))
    part = model.roi_heads.dataset_modulation
    own = {name: mean_of_words(rows_of(names)) for name, names in zip((A, B), WORDS.values(), strict=True)}
    torch.testing.assert_close(part.means[:2], torch.stack([own[A], own[B]]))
    _, context = model.read_annotations([image(B, 1), image(A, 2), image(B, 3)])
    assert context.vocabularies.tolist() == [1, 0, 1]
    x = torch.randn(4, part.scale[0].out_features)
    part.train().begin(torch.tensor([1, 0]))
    mixed = part(x, [2, 2])
    for rows, dataset in ((slice(0, 2), 1), (slice(2, 4), 0)):
        part.begin(torch.tensor([dataset]))
        torch.testing.assert_close(part(x[rows], [2]), mixed[rows])


def test_an_unseen_vocabulary_and_the_order_of_its_words():
    model = excited(build(cfg_of())).eval()
    part, x = model.roi_heads.dataset_modulation, torch.randn(5, 32)
    answers = {}
    for names in (["zebra", "tram", "cup"], ["cup", "zebra", "tram"], ["sea", "boat"]):
        model.set_vocabulary(words(names))
        torch.testing.assert_close(part.test_mean, F.normalize(rows_of(names), dim=1).mean(0))
        answers[tuple(names)] = part(x, [2, 3])
        with torch.no_grad():
            found = model([image(A, 4)])[0]["instances"]
        assert int(found.pred_classes.max()) < len(names)
    first, second, third = answers.values()
    torch.testing.assert_close(first, second)
    assert (first - third).abs().max() > 1e-3
    model.set_vocabulary(None)
    everything = F.normalize(rows_of([*WORDS["det_a"], *WORDS["det_b"]]), dim=1).mean(0)
    torch.testing.assert_close(part._means_of(1)[0], everything)


def test_a_copy_does_not_share_its_words():
    model = build(cfg_of()).eval()
    other = copy.deepcopy(model)
    model.set_vocabulary(words(["zebra"]))
    assert other.roi_heads.dataset_modulation.test_mean is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"MODEL__CLASSIFIER__NAME": "linear"}, "MODEL.CLASSIFIER.NAME text"),
        ({"MODEL__DATASET_EMBEDDING__WIDTH": 0}, "WIDTH must be at least 1"),
    ],
)
def test_wrong_settings(changes: dict[str, Any], said: str):
    cfg = cfg_of()
    for key, value in changes.items():
        cfg.merge_from_list([key.replace("__", "."), value])
    with pytest.raises(ValueError, match=said):
        build(cfg)


def test_width_of_the_text_decides_the_first_layer():
    assert build(cfg_of()).roi_heads.dataset_modulation.embed[0].in_features == WIDTH
