"""Tiny random text models, and a cache folder of the tests' own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

BERT_WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "red", "fox", "photo", "of", "x", "an", "bus"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test reads or writes the cache of the machine."""
    monkeypatch.setenv("MVSEG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def open_clip_files(tmp_path_factory):
    """Architecture file, checkpoint and model of a tiny random CLIP."""
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


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory):
    """Folder of a tiny random BERT with its tokenizer."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("bert")
    (folder / "vocab.txt").write_text("\n".join(BERT_WORDS))
    transformers.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(4)
    config = transformers.BertConfig(
        vocab_size=len(BERT_WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
    )
    transformers.BertModel(config).save_pretrained(folder, safe_serialization=True)
    return folder
