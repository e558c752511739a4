"""The predictor looks for what example pictures show, and the command makes rows of descriptions and examples."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from tiny_run import WIDTH, picture

from mvseg.inference import ExampleOptions, Predictor
from mvseg.vocabulary import OpenClipImageEncoder, OpenClipTextEncoder
from mvseg.vocabulary.__main__ import main
from mvseg.vocabulary.embedding_files import Provenance, read_embeddings, read_provenance, save_embeddings
from mvseg.vocabulary.fusion import load_aggregator

PLAIN = {"views": 0, "per_word": 0}


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> str:
    """A tiny random CLIP of the width of the tiny detector."""
    open_clip = pytest.importorskip("open_clip")
    folder = tmp_path_factory.mktemp("clip")
    config = {
        "embed_dim": WIDTH,
        "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "patch_size": 8, "head_width": 8},
        "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 8, "heads": 1, "layers": 1},
    }
    (folder / "mvseg-test-narrow.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder / "mvseg-test-narrow.json")
    torch.manual_seed(5)
    torch.save(open_clip.create_model("mvseg-test-narrow").state_dict(), folder / "w.pt")
    return f"open_clip:{folder / 'mvseg-test-narrow.json'}:{folder / 'w.pt'}"


@pytest.fixture(scope="module")
def sides(clip):
    return OpenClipTextEncoder(*clip.split(":")[1:]), OpenClipImageEncoder(*clip.split(":")[1:])


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MVSEG_CACHE", str(tmp_path / "cache"))


def unit(rows: torch.Tensor) -> torch.Tensor:
    return F.normalize(rows.double(), dim=-1)


def test_it_finds_what_looks_like_the_examples(run: Path, clip, sides):
    opts = ["MODEL.CLASSIFIER.TEXT_ENCODER", clip]
    text, image = sides
    shown = {"mug": [picture(1), Image.fromarray(picture(2))], "dog": [picture(3)]}
    options = ExampleOptions(fusion_weight=0.5, **PLAIN)
    found = Predictor.from_run(run, opts=opts, examples=shown, example_options=options, score_threshold=0.05)
    mug, dog = image.encode([picture(1), picture(2)]).double().mean(0), image.encode([picture(3)])[0]
    expected = unit(torch.stack([mug, dog.double()]))
    assert found.names == ("mug", "dog")
    torch.testing.assert_close(found.vocabulary.embeddings.double(), expected, atol=1e-6, rtol=1e-6)
    rows = found.model.roi_heads.box_predictor[0].cls_score.text.test_rows.double()
    torch.testing.assert_close(unit(rows), expected, atol=1e-6, rtol=1e-6)
    assert len(found(picture(1))[0]) > 0

    found.set_vocabulary("mug, zebra, dog", examples=shown)
    said = unit(text.encode(["mug", "zebra", "dog"]))
    fused = unit(said + 0.5 * torch.stack([expected[0], torch.zeros(WIDTH), expected[1]]))
    torch.testing.assert_close(found.vocabulary.embeddings.double(), fused, atol=1e-6, rtol=1e-6)
    with pytest.raises(ValueError, match=r"examples: 1 words are not in vocabulary 'custom': dog"):
        found.set_vocabulary("mug, zebra", examples=shown)
    with pytest.raises(ValueError, match="no example picture of mug"):
        found.set_vocabulary(None, examples={"mug": []})
    found.set_vocabulary("mug")
    torch.testing.assert_close(found.vocabulary.embeddings.double(), said[:1], atol=1e-6, rtol=1e-6)


def test_examples_need_the_image_side_of_the_detectors_text_encoder(run: Path, clip, sides, tmp_path: Path):
    shown = {"mug": [picture(1)]}
    with pytest.raises(ValueError, match=r"'table:.*' names none: say which image encoder"):
        Predictor.from_run(run, examples=shown)
    with pytest.raises(ValueError, match=r"are not the two sides of one model"):
        Predictor.from_run(run, examples=shown, example_options=ExampleOptions(clip))
    made = Provenance(clip, sides[0].fingerprint, "name")
    save_embeddings(tmp_path / "own.npz", torch.ones(1, WIDTH), ["cat"], made)
    opts = ["MODEL.CLASSIFIER.TEXT_ENCODER", f"table:{tmp_path / 'own.npz'}"]
    found = Predictor.from_run(run, opts=opts, examples=shown, example_options=ExampleOptions(clip, **PLAIN))
    torch.testing.assert_close(
        found.vocabulary.embeddings.double(), unit(sides[1].encode([picture(1)])), atol=1e-6, rtol=1e-6
    )
    (tmp_path / "mug").mkdir()
    (tmp_path / "mug" / "a.jpg").write_bytes(b"no picture")
    with pytest.raises(OSError, match=r"a.jpg: no image"):
        found.set_vocabulary(None, examples=tmp_path)


def command(*words: object) -> None:
    main([str(word) for word in words])


def test_the_command_makes_and_describes_rows(clip, sides, tmp_path: Path, capsys):
    text, image = sides
    said = {"cat": ["a small animal", "it purrs"], "dog": ["it barks"], "unused": ["nothing"]}
    (tmp_path / "d.json").write_text(json.dumps(said))
    for number, name in enumerate(["cat/1.png", "cat/2.png", "owl/1.png"]):
        (tmp_path / "ex" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(number)).save(tmp_path / "ex" / name)
    common = ["--encoder", clip, "--average", "raw", "--no-cache", "--dtype", "float32", "--views", 0]
    common += ["--descriptions", tmp_path / "d.json"]
    with pytest.raises(ValueError, match=r"2 of 4 words have neither a description nor an example: owl, tram"):
        command("embed", "--words", "cat,dog,owl,tram", *common, "--out", tmp_path / "e.npz")
    both = [*common, "--examples", tmp_path / "ex", "--fusion-weight", 2]
    command("embed", "--words", "cat,dog,owl", *both, "--out", tmp_path / "e.npz")
    printed = capsys.readouterr()
    assert "1 of its 3 words are not asked for" in printed.out
    assert "words with text alone: 1: dog" in printed.err and "words with images alone: 1: owl" in printed.err
    assert "words with fewer than 5 examples: 2: cat (2), owl (1)" in printed.err
    cat = unit(text.encode(said["cat"]).double().mean(0)) + 2 * unit(
        image.encode([picture(0), picture(1)]).double().mean(0)
    )
    expected = unit(torch.stack([cat, text.encode(said["dog"])[0].double(), image.encode([picture(2)])[0].double()]))
    rows, names = read_embeddings(tmp_path / "e.npz")
    torch.testing.assert_close(rows.double(), expected, atol=1e-6, rtol=1e-6)
    made = read_provenance(tmp_path / "e.npz")
    assert names == ("cat", "dog", "owl") and made.rows == ("2 descriptions + 2 examples", "1 description", "1 example")
    assert (made.fingerprint, made.image_fingerprint) == (text.fingerprint, image.fingerprint)
    assert (made.fusion_weight, made.prompts) == ("2", "") and made.descriptions.endswith("d.json")

    command("embed", "--words", "tram,owl,dog,cat", *both, "--missing", "prompt", "--out", tmp_path / "f.npz")
    again, _ = read_embeddings(tmp_path / "f.npz")
    torch.testing.assert_close(again[[3, 2]], rows[:2])  # the order of the words does not matter
    torch.testing.assert_close(unit(again[0]), unit(text.encode(["a tram"])[0]), atol=1e-6, rtol=1e-6)
    made = read_provenance(tmp_path / "f.npz")
    assert made.rows[:2] == ("prompt", "prompt + 1 example") and made.prompts == "single"
    assert "words whose text is their prompt: 2: tram, owl" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"--aggregator makes rows of image examples"):
        command("embed", "--words", "cat", *common, "--aggregator", "a", "--out", tmp_path / "g.npz")


def test_the_command_trains_an_aggregator_that_embed_uses(clip, sides, tmp_path: Path, capsys):
    for number in range(6):
        place = tmp_path / "ex" / ("cat", "dog", "owl")[number % 3]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(number)).save(place / f"{number}.png")
    common = ["--words", "cat,dog,owl", "--encoder", clip, "--no-cache", "--examples", tmp_path / "ex", "--views", 1]
    out = tmp_path / "a.safetensors"
    command("aggregate-train", *common, "--steps", 4, "--layers", 1, "--out", out)
    assert "3 words, 4 steps, loss" in capsys.readouterr().out
    model, facts = load_aggregator(out)
    assert (facts.width, facts.layers, facts.image_fingerprint) == (WIDTH, 1, sides[1].fingerprint)
    common[-1] = 0
    command("embed", *common, "--dtype", "float32", "--aggregator", out, "--out", tmp_path / "e.npz")
    images = [np.asarray(Image.open(tmp_path / "ex" / "dog" / f"{number}.png")) for number in (1, 4)]
    with torch.no_grad():
        expected = unit(model(F.normalize(sides[1].encode(images), dim=1)[None])[0])
    torch.testing.assert_close(read_embeddings(tmp_path / "e.npz")[0][1].double(), expected, atol=1e-5, rtol=1e-5)
    assert read_provenance(tmp_path / "e.npz").aggregator == str(out)
    with pytest.raises(ValueError, match=r"add --examples PLACE"):
        command("aggregate-train", "--words", "cat", "--encoder", clip, "--out", out)
