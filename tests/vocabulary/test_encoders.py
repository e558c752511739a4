"""Text encoders on tiny random models, prompts, and the embed command."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from mvseg.vocabulary import (
    HuggingFaceTextEncoder,
    OpenClipTextEncoder,
    Vocabulary,
    build_text_encoder,
    embed_words,
)
from mvseg.vocabulary.__main__ import main
from mvseg.vocabulary.prompts import fill_template


class CountingEncoder:
    """Embeds a text by its length and its number of letters e."""

    def encode(self, texts):
        return torch.tensor([[float(len(t)), float(t.count("e"))] for t in texts])


def test_prompts_are_normalised_and_averaged():
    assert fill_template("a photo of a {}.", "trash_can") == "a photo of a trash can."
    with pytest.raises(ValueError, match=r"exactly one"):
        fill_template("a photo", "cat")
    found = embed_words(CountingEncoder(), ["ee", "x"], ["{}", "the {}"])
    first = torch.tensor([2.0, 2.0]) / 8**0.5 + torch.tensor([6.0, 3.0]) / 45**0.5
    second = torch.tensor([1.0, 0.0]) + torch.tensor([5.0, 1.0]) / 26**0.5
    expected = torch.stack([first / first.norm(), second / second.norm()])
    torch.testing.assert_close(found, expected)


@pytest.fixture(scope="module")
def open_clip_files(tmp_path_factory):
    """Architecture file and checkpoint of a tiny random CLIP."""
    open_clip = pytest.importorskip("open_clip")
    folder = tmp_path_factory.mktemp("clip")
    config = {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
    }
    architecture = folder / "mvseg-test-tiny.json"
    architecture.write_text(json.dumps(config))
    open_clip.add_model_config(architecture)
    torch.manual_seed(3)
    model = open_clip.create_model("mvseg-test-tiny").eval()
    torch.save(model.state_dict(), folder / "tiny.pt")
    return architecture, folder / "tiny.pt", model


def test_open_clip_encoder_reads_its_checkpoint(open_clip_files):
    import open_clip

    architecture, checkpoint, model = open_clip_files
    encoder = OpenClipTextEncoder(str(architecture), checkpoint, batch_size=2)
    texts = ["a cat", "a dog", "a traffic light " * 20]
    found = encoder.encode(texts)
    assert found.shape == (3, 24) and found.dtype == torch.float32 and not found.requires_grad
    tokens = open_clip.get_tokenizer("mvseg-test-tiny")(texts)
    with torch.no_grad():
        torch.testing.assert_close(found, model.encode_text(tokens))
    with pytest.raises(ValueError, match=r"at least one sentence"):
        encoder.encode([])


def test_open_clip_errors(open_clip_files, tmp_path):
    architecture, checkpoint, _ = open_clip_files
    with pytest.raises(ValueError, match=r"nearest: .*ViT-B-32"):
        OpenClipTextEncoder("ViTB-32", checkpoint)
    with pytest.raises(ValueError, match=r"nearest: .*laion2b_s34b_b79k"):
        OpenClipTextEncoder("ViT-B-32", "laion2b_s34b_b79")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"other.pt does not fit mvseg-test-tiny"):
        OpenClipTextEncoder(str(architecture), tmp_path / "other.pt")


@pytest.fixture(scope="module")
def bert_folder(tmp_path_factory):
    """Folder of a tiny random BERT with its tokenizer."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("bert")
    (folder / "vocab.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "red", "fox"])
    )
    transformers.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(4)
    config = transformers.BertConfig(
        vocab_size=9,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
    )
    transformers.BertModel(config).save_pretrained(folder, safe_serialization=True)
    return folder


def test_hugging_face_encoder_pools_the_tokens_only(bert_folder):
    import transformers

    encoder = HuggingFaceTextEncoder(bert_folder)
    found = encoder.encode(["a cat", "a red fox a red fox"])
    assert found.shape == (2, 16)
    model = transformers.BertModel.from_pretrained(bert_folder).eval()
    for row, ids in zip(found, ([2, 5, 6, 3], [2, 5, 7, 8, 5, 7, 8, 3])):
        with torch.no_grad():
            mean = model(torch.tensor([ids])).last_hidden_state[0].mean(0)
        torch.testing.assert_close(row, mean / mean.norm(), atol=1e-5, rtol=1e-5)


def test_hugging_face_errors(tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    with pytest.raises(FileNotFoundError, match=r"config.json is not in it"):
        HuggingFaceTextEncoder(tmp_path)
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install transformers"):
        HuggingFaceTextEncoder(tmp_path)


def test_build_text_encoder_wants_a_known_form():
    for text in ("bert", "open_clip:ViT-B-32", "huggingface:", "clip:x:y"):
        with pytest.raises(ValueError, match=r"write minilm, open_clip:"):
            build_text_encoder(text)


@pytest.mark.parametrize("ending", ["npy", "npz", "safetensors"])
def test_embed_command(bert_folder, tmp_path, capsys, ending):
    out = tmp_path / f"x/e.{ending}"
    main(["embed", "--words", "cat, fox", "--encoder", f"huggingface:{bert_folder}", "--template", "a red {}",
          "--dtype", "float32", "--out", str(out)])  # fmt: skip
    expected = HuggingFaceTextEncoder(bert_folder).encode(["a red cat", "a red fox"])
    words = Vocabulary.from_names(["cat", "fox"]).with_embeddings(out)
    torch.testing.assert_close(words.embeddings, expected)
    assert "2 words, width 16" in capsys.readouterr().out


def test_embed_command_refuses_another_ending(bert_folder, tmp_path):
    with pytest.raises(ValueError, match=r"ends in .npy"):
        main(["embed", "--words", "cat", "--encoder", f"huggingface:{bert_folder}", "--out", str(tmp_path / "e.pt")])


def test_module_is_a_command():
    result = subprocess.run([sys.executable, "-m", "mvseg.vocabulary", "--help"], capture_output=True, text=True)
    assert result.returncode == 0 and "embed" in result.stdout


def test_the_shapes_embeddings_mean_something():
    from mvseg.data.catalog import BUILTIN_CARDS

    rows = BUILTIN_CARDS / "shapes_words.txt"
    words = Vocabulary.from_file(rows).with_embeddings(BUILTIN_CARDS / "shapes_minilm.npy", width=384)
    table = words.embeddings
    assert np.allclose(table.norm(dim=1), 1, atol=1e-3)
    cosine = table @ table.T - torch.eye(len(words))
    assert words.names[int(cosine[words.index("disc")].argmax())] == "circle"
