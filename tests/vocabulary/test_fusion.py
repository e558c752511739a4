"""Rows out of descriptions and examples in float64, the aggregator and its training, and mistakes in the files."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mvseg.vocabulary import OpenClipTextEncoder, Vocabulary
from mvseg.vocabulary.encoders.pair import build_paired_image_encoder
from mvseg.vocabulary.fusion import (
    AggregatorFacts,
    AggregatorTraining,
    ExampleAggregator,
    aggregate,
    average_embeddings,
    combine_rows,
    contrast,
    embed_descriptions,
    find_descriptions,
    fuse,
    load_aggregator,
    read_descriptions,
    save_aggregator,
    train_aggregator,
)
from mvseg.vocabulary.fusion.aggregator import check_aggregator

# The authors' module with 2 layers, 16 wide, parameters sin(0.7 i + number of the parameter) * 0.4 in its own order,
# for examples cos(0.3 i): run once from their code (commit c5cabd5) in float64.
RELEASED = [4.092042978641864, -1.1185930035278175, -5.603242918437328, -5.305980670017115, -0.9215693150877167]


class Letters:
    """A text encoder whose embedding of a sentence is how often the letters a to d are in it, and its length."""

    fingerprint = "ab" * 16

    def encode(self, texts):
        return torch.tensor([[*map(text.count, "abcd"), len(text)] for text in texts], dtype=torch.float32)


def unit(row: np.ndarray) -> np.ndarray:
    return row / np.sqrt((row**2).sum(-1, keepdims=True))


def test_rows_of_descriptions_are_the_mean_of_their_sentences():
    said = {"cat": ("abcd a", "bb", "a cat"), "dog": ("ddd",)}
    raw = {w: np.array([[*map(s.count, "abcd"), len(s)] for s in group], float) for w, group in said.items()}
    for average in ("raw", "normalized"):
        found = embed_descriptions(Letters(), said, average)
        for word, rows in raw.items():
            expected = rows.mean(0) if average == "raw" else unit(unit(rows).mean(0))
            np.testing.assert_allclose(found[word].double().numpy(), expected, atol=1e-7, rtol=1e-6)
    mixed = average_embeddings(torch.tensor([[3.0, 0], [0, 1]]), "normalized")
    torch.testing.assert_close(mixed, torch.tensor([0.5, 0.5]).sqrt())
    with pytest.raises(ValueError, match="choose 'raw' or 'normalized'"):
        average_embeddings(torch.ones(1, 2), "mean")


def test_fusion_equals_the_formula_in_float64_and_knows_what_is_missing():
    draw = np.random.default_rng(0)
    text, image = draw.normal(size=(2, 3, 6)) * 7
    words = ["cat", "dog", "owl"]
    for weight in (0.0, 0.3, 1.0, 4.0):
        expected = unit(unit(text) + weight * unit(image))
        np.testing.assert_allclose(fuse(*map(torch.from_numpy, (text, image)), weight).numpy(), expected, atol=1e-12)
        rows = combine_rows(
            words,
            {"cat": torch.from_numpy(text[0]), "owl": torch.from_numpy(text[2])},
            {"cat": torch.from_numpy(image[0]), "dog": torch.from_numpy(image[1])},
            weight,
        )
        assert rows.made_of == ("text + images", "images", "text") and rows.of("images") == ["dog"]
        wanted = np.stack([expected[0], unit(image[1]), unit(text[2])])
        np.testing.assert_allclose(rows.embeddings.double().numpy(), wanted, atol=1e-6)
    some = {"cat": torch.ones(4)}
    with pytest.raises(ValueError, match=r"2 of 3 words have neither a description nor an example: dog, owl"):
        combine_rows(words, some, {})
    with pytest.raises(ValueError, match=r"text rows are 4 wide and image rows 5: .* one CLIP model"):
        combine_rows(["cat"], some, {"cat": torch.ones(5)})
    with pytest.raises(ValueError, match=r"different width \(\[4, 5\]\)"):
        combine_rows(["cat", "dog"], some, {"dog": torch.ones(5)})
    with pytest.raises(ValueError, match=r"cancel out"):
        combine_rows(["cat"], some, {"cat": -torch.ones(4)})
    with pytest.raises(ValueError, match=r"fusion weight -1"):
        fuse(torch.ones(2), torch.ones(2), -1)
    other = combine_rows(words[::-1], dict.fromkeys(words, torch.ones(3)), {"dog": torch.arange(3.0)})
    same = combine_rows(words, dict.fromkeys(words, torch.ones(3)), {"dog": torch.arange(3.0)})
    torch.testing.assert_close(other.embeddings.flip(0), same.embeddings, rtol=0, atol=0)


def test_descriptions_of_both_formats_and_how_words_find_theirs(tmp_path):
    (tmp_path / "d.json").write_text(json.dumps({"Trash_Can": ["a bin ", "round"], "猫": "ж"}))
    (tmp_path / "d.tsv").write_text("Trash_Can\ta bin\n猫\tж\n\ntrash can\tround\n", encoding="utf-8")
    for name in ("d.json", "d.tsv"):
        assert read_descriptions(tmp_path / name) == {"Trash_Can": ("a bin", "round"), "猫": ("ж",)}
    words = Vocabulary(name="w", names=("dog", "trash can", "cat"), synonyms=(("猫",), (), ()))
    found = find_descriptions(words, read_descriptions(tmp_path / "d.json"))
    assert found == {"dog": ("ж",), "trash can": ("a bin", "round")}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("d.json", '{"cat": []}', r"word 'cat': expected sentences, none empty, found \[\]"),
        ("d.json", '{"cat": ["a", " "]}', r"word 'cat'"),
        ("d.json", '{"cat": {"a": "b"}}', r"word 'cat'"),
        ("d.json", '{"cat": "a", "Cat": "b"}', r"'Cat' is empty or there twice \(as 'cat'\)"),
        ("d.json", '["cat"]', r'write a .json file \{"WORD"'),
        ("d.json", '{"cat": "a"', r"is no JSON"),
        ("d.json", "{}", r"has no word"),
        ("d.tsv", "cat\ta\ndog\n", r"d.tsv, line 2: expected WORD<TAB>SENTENCE, found 'dog'"),
        ("d.tsv", "cat\t \n", r"line 1"),
        ("d.txt", "cat\ta\n", r"write a .json file"),
    ],
)
def test_mistakes_in_descriptions_are_named(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_descriptions(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"gone.json does not exist"):
        read_descriptions(tmp_path / "gone.json")


def released_weights(model: ExampleAggregator) -> dict[str, torch.Tensor]:
    """Weights of a formula under the authors' names, in the order of the authors' parameters."""
    inner = [f"norm1.{w}" for w in ("weight", "bias")]
    inner += ["attn.to_queries.weight", "attn.to_keys_values.weight", "attn.project.weight", "attn.project.bias"]
    inner += [f"{part}.{w}" for part in ("norm2", "mlp.fc1", "mlp.fc2") for w in ("weight", "bias")]
    theirs = ["cls_token", *(f"transformer.layers.{layer}.{name}" for layer in range(2) for name in inner)]
    theirs += ["linear.weight", "linear.bias"]
    own = {"queries": "to_queries", "keys_values": "to_keys_values", "project": "project", "token": "cls_token"}
    shapes = {}
    for name, tensor in model.state_dict().items():
        parts = [own.get(part, part) for part in name.split(".")]
        key = ".".join([f"layers.{parts[1]}", parts[2], parts[-1]] if len(parts) == 4 else [*parts[:1], *parts[1:]])
        shapes[key] = tensor.shape
    weights = {}
    for number, name in enumerate(theirs):
        short = name.removeprefix("transformer.").replace("attn.", "").replace("mlp.", "")
        size = shapes[short]
        values = torch.sin(torch.arange(size.numel(), dtype=torch.float64) * 0.7 + number) * 0.4
        weights[f"mapper.{name}"] = values.reshape(size)
    return weights


def test_the_aggregator_is_the_released_one(tmp_path):
    weights = released_weights(ExampleAggregator(16, 2))
    torch.save({"state_dict": weights}, tmp_path / "released.pth")
    model, facts = load_aggregator(tmp_path / "released.pth")
    assert facts == AggregatorFacts(width=16, layers=2)
    examples = torch.cos(torch.arange(48, dtype=torch.float64) * 0.3).reshape(1, 3, 16)
    found = model.double()(examples)[0, :5].tolist()
    assert found == pytest.approx(RELEASED, abs=1e-5)  # its weights went through float32
    assert len(ExampleAggregator(512).layers) == 4


def test_order_and_absent_examples_do_not_matter():
    torch.manual_seed(0)
    model = ExampleAggregator(16, 2).eval()
    examples = torch.randn(2, 5, 16)
    rows = model(examples)
    torch.testing.assert_close(model(examples[:, torch.tensor([3, 1, 4, 0, 2])]), rows, atol=1e-5, rtol=1e-5)
    filled = torch.cat([examples, torch.full((2, 2, 16), 99.0)], 1)
    present = torch.tensor([[True] * 5 + [False] * 2] * 2)
    torch.testing.assert_close(model(filled, present), rows, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(aggregate(model, examples[1] * 3, "normalized"), model(F.normalize(examples, dim=2))[1])
    assert (model(examples * 3) - rows).abs().max() > 0.1


def test_files_of_aggregators(tmp_path):
    model, facts = ExampleAggregator(16, 1), AggregatorFacts(16, 1, 8, "open_clip:a:b", "cd" * 16)
    save_aggregator(tmp_path / "a.safetensors", model, facts)
    found, said = load_aggregator(tmp_path / "a.safetensors")
    examples = torch.randn(1, 2, 16)
    assert said == facts and not found.training
    torch.testing.assert_close(found(examples), model(examples))
    check_aggregator(said, 16, "cd" * 16, "a")
    with pytest.raises(ValueError, match=r"reads embeddings of width 16, the image encoder gives 24"):
        check_aggregator(said, 24, "cd" * 16, "a")
    with pytest.raises(ValueError, match=r"trained on the embeddings of open_clip:a:b \(cdcdcdcd\)"):
        check_aggregator(said, 16, "ef" * 16, "a")
    (tmp_path / "a.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes()[:200])
    torch.save({"x": torch.ones(1)}, tmp_path / "b.pth")
    for name in ("a.safetensors", "b.pth"):
        with pytest.raises(ValueError, match=rf"{name} holds no aggregator"):
            load_aggregator(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"gone.pth"):
        load_aggregator(tmp_path / "gone.pth")
    with pytest.raises(ValueError, match=r"ends in .safetensors"):
        save_aggregator(tmp_path / "a.pth", model, facts)
    with pytest.raises(ValueError, match=r"width 15 cannot have 8 heads"):
        ExampleAggregator(15)


def test_the_contrast_is_that_of_a_loop():
    rows, targets = np.random.default_rng(1).normal(size=(2, 4, 3))
    cosines = unit(rows) @ unit(targets).T / 0.2
    loss = 0.0
    for own in range(4):
        for line in (cosines[own], cosines[:, own]):
            loss += (np.log(np.exp(line).sum()) - line[own]) / 8
    assert float(contrast(torch.from_numpy(rows), torch.from_numpy(targets), 0.2)) == pytest.approx(loss, abs=1e-12)


def retrieval(classes: int, examples: int, clutter: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Text rows, and examples that show them beside clutter of two directions that is stronger than they are."""
    draw = torch.Generator().manual_seed(seed)
    text = torch.randn(classes, 16, generator=draw)
    noise = torch.randn(classes, examples, 16, generator=draw) * 0.3
    return text, text[:, None] * 0.7 + noise + (torch.randn(classes, examples, 2, generator=draw) * 2 + 3) @ clutter


def found_share(rows: torch.Tensor, text: torch.Tensor) -> float:
    nearest = (F.normalize(rows, dim=1) @ F.normalize(text, dim=1).T).argmax(1)
    return float((nearest == torch.arange(len(text))).float().mean())


def test_training_lowers_the_loss_and_beats_the_average_on_classes_never_seen():
    clutter = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))
    text, examples = retrieval(300, 8, clutter, 1)
    new_text, new_examples = retrieval(50, 5, clutter, 2)
    settings = AggregatorTraining(
        steps=150, classes=32, rate=5e-3, layers=1, temperature=0.1, target="text", examples=5
    )
    model, losses = train_aggregator(list(examples), text, settings)
    assert len(losses) == 150 and sum(losses[-10:]) < 0.3 * sum(losses[:10])
    average = found_share(new_examples.mean(1), new_text)
    assert found_share(model(new_examples), new_text) > average + 0.4


def test_training_is_the_same_for_a_seed_and_never_shows_an_example_on_both_sides():
    draw = torch.Generator().manual_seed(3)
    views, text = torch.randn(6, 4, 3, 16, generator=draw), torch.randn(6, 16, generator=draw)
    runs = []
    for seed, target in ((1, "both"), (1, "both"), (2, "both"), (1, "examples")):
        settings = AggregatorTraining(steps=3, classes=4, layers=1, seed=seed, target=target)
        before = torch.get_rng_state()
        runs.append(train_aggregator(list(views), text if target == "both" else None, settings)[1])
        assert torch.equal(before, torch.get_rng_state())
    assert runs[0] == runs[1] and runs[0] != runs[2] and runs[0] != runs[3]
    from mvseg.vocabulary.fusion.training import _draw

    marked = torch.arange(4.0)[:, None, None].expand(4, 3, 16)  # an example is known by its value
    given, others = _draw([marked], AggregatorTraining(examples=2, target="both"), draw)
    assert float(given[0, :, 0].sum() + 2 * others[0, 0]) == pytest.approx(6)  # two given, the mean of the two others
    with pytest.raises(ValueError, match=r"at least 2 examples of every class, 1 classes have fewer"):
        train_aggregator([torch.ones(1, 16), torch.ones(2, 16)], torch.ones(2, 16))
    with pytest.raises(ValueError, match=r"needs a row of text for each of the 2 classes"):
        train_aggregator([torch.ones(2, 16)] * 2, None)
    with pytest.raises(ValueError, match=r"target 'words'"):
        AggregatorTraining(target="words")


def test_an_image_encoder_must_be_the_other_side_of_the_model(open_clip_files, tmp_path):
    architecture, checkpoint, model = open_clip_files
    text = f"open_clip:{architecture}:{checkpoint}"
    fingerprint = OpenClipTextEncoder(str(architecture), checkpoint).fingerprint
    assert build_paired_image_encoder(text, fingerprint).text_fingerprint == fingerprint
    assert build_paired_image_encoder("table:x.npz", fingerprint, text).text_fingerprint == fingerprint
    changed = {**model.state_dict(), "ln_final.bias": model.state_dict()["ln_final.bias"] + 1e-3}
    torch.save(changed, tmp_path / "changed.pt")
    with pytest.raises(ValueError, match=r"are not the two sides of one model"):
        build_paired_image_encoder(text, fingerprint, f"open_clip:{architecture}:{tmp_path}/changed.pt")
    with pytest.raises(ValueError, match=r"'minilm' names none"):
        build_paired_image_encoder("minilm", "ab" * 16)
