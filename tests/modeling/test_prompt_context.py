"""The learnable context: gradients, what is computed and when, and a detector that trains with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.structures import Instances
from pretend_gpu import PretendGpu
from torch import Tensor, nn
from whole_models import WORDS, build, record, recording, text_cfg

from mvseg.data.catalog import register_dataset, unregister_card
from mvseg.modeling.classifier import TextClassifier
from mvseg.modeling.prompt_context import PromptContext
from mvseg.modeling.words import word_embedder
from mvseg.vocabulary import Vocabulary
from mvseg.vocabulary.encoders import ContextTower


class ToyText(nn.Module):
    """Words are tokens (by their letters), their vectors are mixed along the sentence and pooled."""

    def __init__(self, width: int = 5, out: int = 4) -> None:
        super().__init__()
        self.embedding = nn.Embedding(200, width)
        self.position = nn.Parameter(torch.randn(12, width) * 0.3)
        self.mix = nn.Linear(width, width)
        self.out = nn.Linear(width, out)
        self.calls: list[int] = []

    def forward(self, ids: Tensor) -> Tensor:
        self.calls.append(len(ids))
        x = self.embedding(ids) + self.position[: ids.shape[1]]
        x = torch.tanh(self.mix(x.cumsum(1)))
        return self.out(x[torch.arange(len(ids)), (ids == 1).int().argmax(1)])  # where the sentence ends


def tokenize(texts: list[str]) -> dict[str, Tensor]:
    rows = []
    for text in texts:
        words = [2 + sum(map(ord, word)) % 197 for word in text.split()]
        rows.append([0, *words, 1, *[1] * 12][:12])
    return {"ids": torch.tensor(rows)}


def toy(dtype: torch.dtype = torch.float32) -> tuple[ToyText, ContextTower]:
    model = ToyText().to(dtype)
    return model, ContextTower(model, model.embedding, tokenize, lambda m, tokens: m(tokens["ids"]))


def test_gradient_by_finite_differences():
    _, tower = toy(torch.float64)
    context = PromptContext(tower, ["cat", "red_car", "dog"], 3).double()
    target = torch.randn(2, 4, dtype=torch.float64)

    def loss() -> Tensor:
        context.forget()
        return (context(torch.tensor([2, 1])) * target).sin().sum()

    loss().backward()
    step = 1e-6
    with torch.no_grad():
        for i in range(3):
            for j in range(5):
                values = []
                for sign in (1, -1):
                    context.vectors[i, j] += sign * step
                    values.append(float(loss()))
                    context.vectors[i, j] -= sign * step
                slope = (values[0] - values[1]) / (2 * step)
                assert float(context.vectors.grad[i, j]) == pytest.approx(slope, rel=1e-5, abs=1e-8)


def test_many_words_are_computed_again_on_the_way_back(monkeypatch):
    """In batches the activations of only one are kept; the gradient is the same."""
    model, tower = toy(torch.float64)
    context = PromptContext(tower, [f"w {a}" for a in "abcdefg"], 2).double()
    gradients = []
    for batch in (100, 3):
        monkeypatch.setattr("mvseg.modeling.prompt_context.BATCH", batch)
        context.forget()
        context.vectors.grad = None
        model.calls.clear()
        context().square().sum().backward()
        gradients.append(context.vectors.grad.clone())
    assert sorted(model.calls) == [1, 1, 3, 3, 3, 3]
    torch.testing.assert_close(*gradients)


def test_beginning_with_words_is_the_plain_prompt():
    model, tower = toy()
    context = PromptContext(tower, ["cat", "red_car"], 4, "a photo of a {} here")
    with torch.no_grad():
        expected = model(tokenize(["a photo of a cat here", "a photo of a red car here"])["ids"])
    torch.testing.assert_close(context(), expected)
    with pytest.raises(ValueError, match=r"'a photo of a', which is 4 tokens .*CONTEXT_LENGTH 4"):
        PromptContext(tower, ["cat"], 3, "a photo of a {}")
    with pytest.raises(ValueError, match=r"at least 1 token, got 0"):
        PromptContext(tower, ["cat"], 0)


def test_beginning_at_random():
    _, tower = toy()
    vectors = PromptContext(tower, ["cat"], 9).vectors.detach()
    again = torch.stack([PromptContext(tower, ["cat"], 9).vectors.detach() for _ in range(50)])
    assert vectors.shape == (9, 5) and float(again.std()) == pytest.approx(0.02, rel=0.1)


def test_a_step_encodes_every_word_that_is_asked_for_once():
    model, tower = toy()
    context = PromptContext(tower, ["cat", "dog", "car", "bus"], 2).train()
    model.calls.clear()
    first = context(torch.tensor([2, 0, 2]))
    assert first.shape == (3, 4) and model.calls == [2]
    second = context(torch.tensor([0, 1]))
    assert model.calls == [2, 1]
    torch.testing.assert_close(second[0], first[1])
    (first.sum() + second.sum()).backward()
    context.forget()
    context(torch.tensor([0])).sum().backward()  # a graph of its own
    assert model.calls == [2, 1, 1]
    with torch.no_grad():
        assert not context().requires_grad  # a validation loss in training mode keeps no graph
    assert context(torch.tensor([0])).requires_grad
    assert context(torch.zeros(0, dtype=torch.long)).shape == (0, 4)


def test_evaluation_keeps_rows_until_the_context_changes():
    model, tower = toy()
    context = PromptContext(tower, ["cat", "dog"], 2)
    trained = context().detach()
    context.eval()
    model.calls.clear()
    torch.testing.assert_close(context(), trained)
    context.set_test_words(["кот", "a", "dog"])
    assert context.num_columns == 3 and context().shape == (3, 4)
    torch.testing.assert_close(context(torch.tensor([2]))[0], trained[1])
    context.set_test_words(None)
    assert context.num_columns == 2
    context()
    assert model.calls == [2, 3]
    context.vectors.data.add_(1.0)  # as a step, loaded weights or an average of weights do, whatever they call
    assert (context() - trained).abs().max() > 1e-3 and model.calls == [2, 3, 2]
    context.set_test_words(["cat"])
    context.train()
    assert context.num_columns == 2  # training goes on with its own columns


def test_the_text_model_moves_along_but_is_in_no_state_and_no_optimizer():
    model, tower = toy()
    context = PromptContext(tower, ["cat"], 2)
    assert list(context.state_dict()) == ["vectors"] and [n for n, _ in context.named_parameters()] == ["vectors"]
    context.double()
    assert model.out.weight.dtype == torch.float64 and context().dtype == torch.float64
    context.train()
    assert not model.training


def test_autocast_does_not_blur_the_rows():
    _, tower = toy()
    context = PromptContext(tower, ["cat"], 2)
    plain = context().detach()
    context.forget()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(context(), plain)


@pytest.mark.parametrize("background", [False, True])
def test_classifier_with_a_context_is_the_classifier_of_its_rows(background):
    _, tower = toy()
    context = PromptContext(tower, ["cat", "dog", "car"], 2)
    with_context = TextClassifier(6, context, bias=-2.0, background=background)
    plain = TextClassifier(6, context().detach(), bias=-2.0, background=background)
    plain.load_state_dict(with_context.state_dict())
    features, columns = torch.randn(4, 6), torch.tensor([2, 0])
    torch.testing.assert_close(with_context(features), plain(features))
    torch.testing.assert_close(with_context(features, columns), plain(features, columns))
    assert with_context.num_columns == 3 and not any("vectors" in name for name in with_context.state_dict())
    with pytest.raises(ValueError, match=r"learnable context"):
        with_context.set_test_rows(torch.zeros(2, 4))


@pytest.fixture(scope="module")
def clip_encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    open_clip = pytest.importorskip("open_clip")
    folder: Path = tmp_path_factory.mktemp("clip")
    config = {
        "embed_dim": 8,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    architecture = folder / "mvseg-context-tiny.json"
    architecture.write_text(json.dumps(config))
    open_clip.add_model_config(architecture)
    torch.manual_seed(3)
    torch.save(open_clip.create_model("mvseg-context-tiny").state_dict(), folder / "tiny.pt")
    return f"open_clip:{architecture}:{folder / 'tiny.pt'}"


@pytest.fixture
def wordless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Two datasets whose cards name no embeddings."""
    monkeypatch.setenv("MVSEG_CACHE", str(tmp_path / "cache"))
    names = {"ctx_a": WORDS["det_a"], "ctx_b": WORDS["det_b"]}
    for name, words in names.items():
        file = str(tmp_path / "none.json")
        register_dataset(name=name, format="coco", image_root=str(tmp_path), annotations=file, vocabulary=words)
    yield tuple(names)
    for name in names:
        unregister_card(name)


def batch() -> list[dict]:
    records = [record("det_a", 1), record("det_b", 2)]
    return [{**r, "dataset": r["dataset"].replace("det", "ctx")} for r in records]


def context_cfg(names: tuple[str, ...], encoder: str, **changes: Any) -> Any:
    settings = {"MODEL__CLASSIFIER__TEXT_ENCODER": encoder, "MODEL__CLASSIFIER__CONTEXT_LENGTH": 4, **changes}
    return text_cfg(*names, **settings)


@pytest.mark.parametrize("loss", ["sigmoid", "federated"])
def test_detector_trains_the_context_and_not_the_text_model(wordless, clip_encoder, tmp_path, loss):
    cfg = context_cfg(wordless, clip_encoder, MODEL__CLASSIFIER__LOSS=loss)
    for name in wordless:  # the federated loss draws classes by their number of images
        unregister_card(name)
        counted = [{"id": i + 1, "name": w, "image_count": 2} for i, w in enumerate(WORDS[name.replace("ctx", "det")])]
        file = tmp_path / f"{name}.json"
        file.write_text(json.dumps(counted))
        register_dataset(name=name, format="coco", image_root=".", annotations="none.json", vocabulary=str(file))
    model = build(cfg).train()
    context = model.roi_heads.prompt_context
    text_before = [p.clone() for p in context.tower.model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seen = []
    for _ in range(2):
        with recording({}):
            losses = model(batch())
        optimizer.zero_grad()
        sum(losses.values()).backward()
        assert context.vectors.grad.abs().sum() > 0
        seen.append(context.vectors.detach().clone())
        optimizer.step()
    assert (seen[0] - seen[1]).abs().max() > 0
    assert all(torch.equal(a, b) for a, b in zip(text_before, context.tower.model.parameters()))
    names = [name for name in model.state_dict() if "context" in name or "token_embedding" in name]
    assert names == ["roi_heads.prompt_context.vectors"]
    assert sum(p is context.vectors for p in model.parameters()) == 1


def test_detector_begins_as_with_the_plain_prompt_and_speaks_any_words(wordless, clip_encoder):
    torch.manual_seed(5)
    plain = build(text_cfg(*wordless, MODEL__CLASSIFIER__TEXT_ENCODER=clip_encoder,
                           MODEL__CLASSIFIER__PROMPTS="a photo of a {}")).eval()  # fmt: skip
    cfg = context_cfg(wordless, clip_encoder, MODEL__CLASSIFIER__CONTEXT_PROMPT="a photo of a {}")
    model = build(
        cfg,
        {**plain.state_dict(), "roi_heads.prompt_context.vectors": build(cfg).roi_heads.prompt_context.vectors.data},
    ).eval()
    words = Vocabulary.from_names(["zebra", "red_car", "кот", "🚗"])
    for vocabulary in (None, words):
        found = []
        for one in (plain, model):
            with one.use_vocabulary(vocabulary), torch.no_grad():
                found.append(one(batch())[0]["instances"])
        a, b = found
        assert isinstance(a, Instances) and len(a) == len(b) > 0
        torch.testing.assert_close(a.scores, b.scores, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(a.pred_boxes.tensor, b.pred_boxes.tensor, atol=1e-2, rtol=1e-4)
    assert model.vocabulary is None and model.roi_heads.prompt_context.num_columns == 7


def test_settings_that_cannot_work(wordless, clip_encoder, tmp_path):
    from mvseg.vocabulary.embedding_files import save_embeddings

    with pytest.raises(ValueError, match=r"CONTEXT_LENGTH trains a context .*TEXT_ENCODER \(such as minilm\)"):
        cfg = context_cfg(wordless, clip_encoder)
        cfg.DATASETS.TRAIN = ()
        build(cfg)
    words = [*dict.fromkeys(WORDS["det_a"] + WORDS["det_b"])]
    save_embeddings(tmp_path / "t.npz", torch.randn(len(words), 8), words)
    table = f"table:{tmp_path}/t.npz"
    with pytest.raises(ValueError, match=r"'table:.*' cannot take a context.*minilm, open_clip"):
        build(context_cfg(wordless, table, MODEL__CLASSIFIER__PROMPTS="name"))
    with pytest.raises(ValueError, match=r"set MODEL.CLASSIFIER.CONTEXT_LENGTH 2"):
        build(context_cfg(wordless, clip_encoder, MODEL__CLASSIFIER__CONTEXT_PROMPT="a big {}"))
    assert word_embedder(text_cfg(*wordless)) is None


def test_on_a_gpu_no_tensor_of_the_host_meets_one_of_the_device():
    _, tower = toy()
    context = PromptContext(tower, ["cat", "dog", "car"], 2)
    classifier = TextClassifier(6, context)
    features, columns = torch.randn(4, 6), torch.tensor([2, 0])
    with PretendGpu():
        context.train()
        (classifier(features, columns).sum() + classifier(features).sum()).backward()
        context.eval()
        context.set_test_words(["bus", "cat"])
        with torch.no_grad():
            assert classifier(features).shape == (4, 2) and classifier(features, columns[1:]).shape == (4, 1)
