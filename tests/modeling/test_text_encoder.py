"""The encoder that a config names: words without embeddings get them, and embedding files are checked against it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from whole_models import WIDTH, WORDS, build, record, recording, rows_of, text_cfg

from mvseg.data.catalog import register_dataset, unregister_card
from mvseg.modeling.columns import training_label_space
from mvseg.modeling.words import WordEmbedder, check_encoders
from mvseg.vocabulary import Vocabulary
from mvseg.vocabulary.embedding_files import Provenance, save_embeddings

ALL = [*dict.fromkeys(WORDS["det_a"] + WORDS["det_b"]), "zebra"]
ENCODER = Provenance("tiny", "11" * 16, "single")


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A table in the place of an encoder; it says that the encoder ``tiny`` made it."""
    monkeypatch.setenv("MVSEG_CACHE", str(tmp_path / "cache"))
    save_embeddings(tmp_path / "all.npz", rows_of(ALL), ALL, ENCODER)
    return f"table:{tmp_path / 'all.npz'}"


@pytest.fixture
def cards(tmp_path: Path) -> Any:
    """Registers datasets of words, with or without a file of embeddings."""
    names = []

    def add(name: str, words: list[str], made: Provenance | None = None, rows: bool = True) -> str:
        embeddings = None
        if rows:
            save_embeddings(tmp_path / f"{name}.npz", rows_of(words), words, made)
            embeddings = str(tmp_path / f"{name}.npz")
        file = str(tmp_path / "none.json")
        register_dataset(name=name, format="coco", image_root=".", annotations=file, vocabulary=words,
                         embeddings=embeddings)  # fmt: skip
        names.append(name)
        return name

    yield add
    for name in names:
        unregister_card(name)


def cfg_of(*names: str, encoder: str = "", prompts: str = "name", **more: Any) -> Any:
    return text_cfg(*names, MODEL__CLASSIFIER__TEXT_ENCODER=encoder, MODEL__CLASSIFIER__PROMPTS=prompts, **more)


def test_datasets_without_embeddings_get_them(cards, table):
    a = cards("words_a", WORDS["det_a"], ENCODER)
    b = cards("words_b", WORDS["det_b"], rows=False)
    space = training_label_space(cfg_of(a, b, encoder=table))
    expected = torch.nn.functional.normalize(rows_of(WORDS["det_b"]), dim=1)
    torch.testing.assert_close(space.embeddings[:3], rows_of(WORDS["det_a"]))  # its file's
    torch.testing.assert_close(space.embeddings[3:], expected)
    with pytest.raises(ValueError, match=r"words_a: 8, words_b: none"):
        training_label_space(cfg_of(a, b))
    with pytest.raises(ValueError, match=r"MODEL.CLASSIFIER.TEXT_ENCODER to an encoder|TEXT_ENCODER"):
        build(cfg_of(b))


def test_model_speaks_words_that_bring_no_embeddings(cards, table):
    a = cards("words_a", WORDS["det_a"], ENCODER)
    model = build(cfg_of(a, encoder=table)).eval()
    without = Vocabulary.from_names(["zebra", "tram"])
    having = without.with_embeddings(rows_of(["zebra", "tram"]))
    found = []
    for words in (without, having):
        with model.use_vocabulary(words), torch.no_grad(), recording({}):
            found.append(model([{**record("det_a", 1), "dataset": a}])[0]["instances"])
    assert len(found[0]) > 0
    torch.testing.assert_close(found[0].scores, found[1].scores)
    with pytest.raises(ValueError, match=r"no row for 1 of 2 texts, such as 'zebras' \(nearest: zebra"):
        model.set_vocabulary(Vocabulary.from_names(["zebras", "tram"]))
    plain = build(cfg_of(a)).eval()
    with pytest.raises(ValueError, match=r"'words' has no text embeddings.*set MODEL.CLASSIFIER.TEXT_ENCODER"):
        plain.set_vocabulary(without)


def test_embedding_of_another_width_is_refused(cards, table, tmp_path):
    a = cards("words_a", WORDS["det_a"])
    save_embeddings(tmp_path / "wide.npz", torch.randn(1, WIDTH + 1), ["zebra"])
    model = build(cfg_of(a, encoder=f"table:{tmp_path / 'wide.npz'}"))
    with pytest.raises(ValueError, match=r"\(1, 9\), but this model's text rows are 8 wide"):
        model.set_vocabulary(Vocabulary.from_names(["zebra"]))


def test_files_of_different_encoders_do_not_mix(cards):
    a = cards("words_a", WORDS["det_a"], ENCODER)
    b = cards("words_b", WORDS["det_b"], Provenance("other", "22" * 16, "single"))
    c = cards("words_c", WORDS["det_b"])
    with pytest.raises(ValueError, match=r"different encoders.*'words_a'.*tiny \(11111111\).*'words_b'.*other"):
        training_label_space(cfg_of(a, b))
    cfg = cfg_of(a, c)  # a file that does not say who made it is believed
    assert training_label_space(cfg).n == 7
    cfg.DATASETS.TEST = (b, "of another module")
    with pytest.raises(ValueError, match=r"different encoders"):
        training_label_space(cfg)


def test_files_are_checked_against_the_models_encoder(cards, table, caplog):
    a = cards("words_a", WORDS["det_a"], ENCODER)
    b = cards("words_b", WORDS["det_b"], Provenance("other", "22" * 16, "photo"))
    check_encoders([a], WordEmbedder(table, "single"))
    assert caplog.text == ""
    with pytest.raises(ValueError, match=r"'words_b'.*made with other \(22222222\), but .* is table:.*\(11111111\)"):
        check_encoders([b], WordEmbedder(table, "photo"))
    with caplog.at_level(logging.WARNING):
        check_encoders([a], WordEmbedder(table, "clip_80"))
    assert "made with prompts 'single', but MODEL.CLASSIFIER.PROMPTS is 'clip_80'" in caplog.text
    with caplog.at_level(logging.WARNING):
        check_encoders([a], WordEmbedder("huggingface:not_here"))
    assert "not checked against the encoder, which is not here" in caplog.text


@pytest.mark.parametrize("encoder", ["huggingface:not_here", "nonsense", "table:not_here.npz"])
def test_encoder_that_is_not_there_is_named_with_its_key(encoder):
    with pytest.raises((ValueError, FileNotFoundError), match=f"MODEL.CLASSIFIER.TEXT_ENCODER '{encoder}': "):
        WordEmbedder(encoder)(Vocabulary.from_names(["cat"]))
    with pytest.raises(ValueError, match=r"prompts 'singel'.*nearest: single"):
        WordEmbedder("minilm", "singel")


def test_vocabulary_with_embeddings_needs_no_encoder():
    words = Vocabulary.from_names(["cat"]).with_embeddings(torch.ones(1, 3))
    assert WordEmbedder("huggingface:not_here")(words) is words
