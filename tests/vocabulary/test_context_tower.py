"""Vectors in the place of a sentence's first tokens: the model's own embeddings if they are those of the tokens."""

from __future__ import annotations

import json

import pytest
import torch

from mvseg.vocabulary import HuggingFaceTextEncoder, OpenClipTextEncoder
from mvseg.vocabulary.encoders import ContextTower


@pytest.fixture(params=["open_clip", "hugging_face"])
def encoder(request):
    if request.param == "open_clip":
        architecture, checkpoint, _ = request.getfixturevalue("open_clip_files")
        return OpenClipTextEncoder(str(architecture), checkpoint)
    return HuggingFaceTextEncoder(request.getfixturevalue("bert_folder"))


def test_the_tokens_own_vectors_give_the_plain_embedding(encoder):
    tower = encoder.context_tower()
    context = tower.vectors("a photo of a")
    assert context.shape == (4, tower.width)
    found = tower.encode(["cat", "red fox", "bus a cat"], context)
    expected = encoder.encode(["a photo of a cat", "a photo of a red fox", "a photo of a bus a cat"])
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
    # the hook is gone afterwards
    torch.testing.assert_close(encoder.encode(["a photo of a cat"]), expected[:1], atol=2e-5, rtol=1e-4)


def test_only_the_context_gets_a_gradient_and_the_words_matter(encoder):
    tower = encoder.context_tower()
    context = torch.randn(3, tower.width, requires_grad=True)
    rows = tower.encode(["cat", "fox"], context)
    assert (rows[0] - rows[1]).abs().max() > 1e-4
    rows[0, 0].backward()
    assert context.grad is not None and (context.grad.abs().sum(1) > 0).all()
    assert all(p.grad is None and not p.requires_grad for p in tower.model.parameters())


def test_no_room(encoder):
    tower = encoder.context_tower()
    with pytest.raises(ValueError, match=r"a context of \d+ tokens leaves no room"):
        tower.encode(["cat"], torch.zeros(40, tower.width))


def test_words_of_several_tokens_and_none(encoder):
    tower = encoder.context_tower()
    assert tower.vectors("a").shape[0] == 1 and tower.vectors("a cat a x").shape[0] == 4


def test_tokenizer_without_a_one_token_placeholder_is_refused():
    embedding = torch.nn.Embedding(9, 4)

    def letters(texts):  # another token at every position
        return {"ids": torch.tensor([list(range(5)) for _ in texts])}

    with pytest.raises(ValueError, match=r"does not turn the word 'x' into one token"):
        ContextTower(embedding, embedding, letters, lambda model, tokens: model(tokens["ids"]).mean(1))


def test_model_without_a_token_embedding_is_refused():
    from mvseg.vocabulary.encoders.clip import find_token_embedding

    with pytest.raises(ValueError, match=r"Linear has no token embedding"):
        find_token_embedding(torch.nn.Linear(1, 1))


def test_padding_behind_the_sentences_is_not_computed(open_clip_files):
    import open_clip

    architecture, checkpoint, model = open_clip_files
    encoder = OpenClipTextEncoder(str(architecture), checkpoint)
    lengths = []
    encoder._model.token_embedding.register_forward_hook(lambda _, __, output: lengths.append(output.shape[1]))
    tokenize = open_clip.get_tokenizer("mvseg-test-tiny")
    for texts, length in ((["a cat"], 4), (["a cat", "a red fox"], 5), (["a cat", "a fox " * 30], 16), ([""], 2)):
        with torch.no_grad():
            expected = model.encode_text(tokenize(texts))
        torch.testing.assert_close(encoder.encode(texts), expected, atol=1e-5, rtol=1e-5)
        assert lengths[-1] == length
    assert encoder._model.positional_embedding.shape[0] == encoder._model.attn_mask.shape[0] == 16  # as before


def test_other_text_sides_of_open_clip(tmp_path):
    """A text side that is not causal sees its padding, so it is run as it is; a context enters it all the same."""
    open_clip = pytest.importorskip("open_clip")
    config = {
        "embed_dim": 24,
        "custom_text": True,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2,
                     "no_causal_mask": True},
    }  # fmt: skip
    (tmp_path / "mvseg-test-custom.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "mvseg-test-custom.json")
    model = open_clip.create_model("mvseg-test-custom").eval()
    torch.save(model.state_dict(), tmp_path / "c.pt")
    encoder = OpenClipTextEncoder(str(tmp_path / "mvseg-test-custom.json"), tmp_path / "c.pt")
    tokens = open_clip.get_tokenizer("mvseg-test-custom")(["a photo of a cat", "a photo of a fox"])
    with torch.no_grad():
        expected = model.encode_text(tokens)
    torch.testing.assert_close(encoder.encode(["a photo of a cat", "a photo of a fox"]), expected)
    tower = encoder.context_tower()
    torch.testing.assert_close(tower.encode(["cat", "fox"], tower.vectors("a photo of a")), expected)
