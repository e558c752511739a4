"""Prompts: sets of templates, how names are said, and averages over sentences against sums in float64."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import pytest
import torch

from mvseg.vocabulary import PROMPTS, PromptSet, Vocabulary, embed_vocabulary, embed_words, get_prompts, spoken
from mvseg.vocabulary.prompts import fill_template
from mvseg.vocabulary.wording import spoken_names


class HashEncoder:
    """Embeds every text by a pseudo-random vector of its own length; remembers what it was asked."""

    width = 6

    def __init__(self) -> None:
        self.asked: list[str] = []

    def row(self, text: str) -> np.ndarray:
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
        generator = np.random.default_rng(seed)
        return generator.normal(size=self.width) * 10 ** generator.uniform(-2, 2)

    def encode(self, texts):
        self.asked += texts
        return torch.tensor(np.stack([self.row(text) for text in texts]), dtype=torch.float32)


def mean_of(sentences: list[str], average: str) -> np.ndarray:
    """The average by its definition, in float64."""
    rows = np.stack([HashEncoder().row(s).astype(np.float32).astype(np.float64) for s in sentences])
    if average == "raw":
        return rows.mean(0)
    mean = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).mean(0)
    return mean / np.linalg.norm(mean)


TEMPLATES = ("{}", "a photo of {a} {}.", "the {}", "many {}")


@pytest.mark.parametrize("average", ["normalized", "raw"])
def test_words_are_averaged_before_or_after_normalisation(average):
    words = ["trash_can", "apple", "猫", "🦊"]
    found = embed_words(HashEncoder(), words, TEMPLATES, average)
    assert found.dtype == torch.float32 and found.shape == (4, 6)
    said = ("trash can", "a"), ("apple", "an"), ("猫", "a"), ("🦊", "a")
    for row, (word, article) in zip(found.double().numpy(), said, strict=True):
        sentences = [word, f"a photo of {article} {word}.", f"the {word}", f"many {word}"]
        np.testing.assert_allclose(row, mean_of(sentences, average), rtol=2e-6, atol=1e-7)
    if average == "normalized":
        np.testing.assert_allclose(found.norm(dim=1).numpy(), 1, rtol=1e-6)


def test_one_raw_prompt_is_the_encoder_itself():
    found = embed_words(HashEncoder(), ["cat", "dog"], ["a {}"], "raw")
    assert torch.equal(found, HashEncoder().encode(["a cat", "a dog"]))


WORDS = Vocabulary(
    name="w",
    names=("sofa_bed", "person, individual, someone", "mouse_(animal)", "cabinet/shelf"),
    synonyms=(("convertible_couch", "Sofa bed"), ("human",), (), ("rack",)),
)


@pytest.mark.parametrize("average", ["normalized", "raw"])
def test_synonym_ensemble_is_the_mean_over_all_sentences(average):
    found = embed_vocabulary(HashEncoder(), WORDS, "a {}; the {}", synonyms="average", average=average)
    assert found.names == WORDS.names and found.synonyms == WORDS.synonyms and WORDS.embeddings is None
    groups = (
        ("sofa bed", "convertible couch"),  # the synonym that only repeats the name counts once
        ("person", "individual", "someone", "human"),
        ("mouse (animal)",),
        ("cabinet or shelf", "rack"),
    )
    for row, names in zip(found.embeddings.double().numpy(), groups, strict=True):
        sentences = [template + name for template in ("a ", "the ") for name in names]
        np.testing.assert_allclose(row, mean_of(sentences, average), rtol=2e-6, atol=1e-7)


def test_names_alone_and_parentheses():
    encoder = HashEncoder()
    embed_vocabulary(encoder, WORDS, "name", parentheses="drop")
    assert encoder.asked == ["sofa bed", "person", "mouse", "cabinet or shelf"]
    kept = embed_vocabulary(HashEncoder(), WORDS, "single")
    expected = embed_words(HashEncoder(), ["sofa bed", "person", "mouse (animal)", "cabinet or shelf"], ["a {}"])
    assert torch.equal(kept.embeddings, expected)


def test_a_sentence_keeps_its_commas_as_a_word():
    encoder = HashEncoder()
    embed_words(encoder, ["red car, parked"], "name")
    assert encoder.asked == ["red car, parked"]


@pytest.mark.parametrize(
    ("name", "keep", "drop"),
    [
        ("trash_can", "trash can", "trash can"),
        ("person, individual, someone", "person", "person"),
        ("Cabinet/shelf", "Cabinet or shelf", "Cabinet or shelf"),
        ("Tape Measure/ Ruler", "Tape Measure or Ruler", "Tape Measure or Ruler"),
        ("mouse_(computer_equipment)", "mouse (computer equipment)", "mouse"),
        ("bow (ribbon, tie), knot", "bow (ribbon, tie)", "bow"),
        ("  traffic   light ", "traffic light", "traffic light"),
        ("(only)", "(only)", "(only)"),  # nothing would be left
        ("自転車", "自転車", "自転車"),
        ("écharpe_rouge", "écharpe rouge", "écharpe rouge"),
        ("🐶", "🐶", "🐶"),
        ("post-it", "post-it", "post-it"),
    ],
)
def test_spoken(name, keep, drop):
    assert spoken(name) == keep
    assert spoken(name, "drop") == drop
    with pytest.raises(ValueError, match=r"choose 'keep' or 'drop'"):
        spoken(name, "maybe")


def test_spoken_names_are_listed_once_and_the_name_comes_first():
    assert spoken_names("TV", ["tv", "television", "Television "]) == ["TV", "television"]
    assert spoken_names("couch, sofa", ["settee", "", "sofa"]) == ["couch", "sofa", "settee"]


def test_every_built_in_word_can_be_said():
    for table in ("lvis_v1", "ade20k_847", "objects365", "openimages_601", "imagenet_1k"):
        for name in Vocabulary.from_table(table).names:
            said = spoken(name)
            assert said and not set("_,/") & set(said.partition("(")[0]), name


def test_published_sets():
    assert list(PROMPTS) == ["name", "single", "photo", "clip_80", "vild_63"]
    assert PROMPTS["name"].templates == ("{}",) and PROMPTS["single"].templates == ("a {}",)
    assert PROMPTS["photo"].templates == ("a photo of a {}",)
    for name, count in (("clip_80", 80), ("vild_63", 63)):
        templates = PROMPTS[name].templates
        assert len(templates) == len(set(templates)) == count
        assert all(template.count("{}") == 1 for template in templates)


def test_clip_80_are_the_sentences_of_open_clip():
    open_clip = pytest.importorskip("open_clip")
    said = [fill_template(template, "axolotl") for template in PROMPTS["clip_80"].templates]
    assert said == [template("axolotl") for template in open_clip.OPENAI_IMAGENET_TEMPLATES]


def test_vild_63_says_what_the_published_set_says():
    encoder = HashEncoder()
    embed_words(encoder, ["Orange_Juice", "Cat"], PROMPTS["vild_63"])
    orange, cat = encoder.asked[::2], encoder.asked[1::2]
    for sentence in (
        "There is an orange juice in the scene.",
        "This is a photo of one orange juice in the scene.",
        "itap of an orange juice.",  # neither "a" nor "the" begins it: no "This is"
        "This is a good photo of an orange juice.",
        "This is a photo of a small orange juice.",
        "This is a jpeg corrupted photo of the orange juice.",
        "This is a photo of the hard to see orange juice.",
        "This is an embroidered orange juice.",
        "This is a painting of a orange juice.",  # the published set has a fixed article here
    ):
        assert sentence in orange
    assert "This is a black and white photo of a cat." in cat and "There is a cat in the scene." in cat
    assert sum(s.endswith("in the scene.") for s in cat) == 5
    assert sum(s.startswith("This is ") for s in cat) == 63 - 2 - 3
    assert sum(" an orange juice" in s for s in orange) == 15 and sum(" a cat" in s for s in cat) == 16


def test_get_prompts():
    assert get_prompts("clip_80") is PROMPTS["clip_80"]
    assert get_prompts(" a {} ;; the {}; ").templates == ("a {}", "the {}")
    both = get_prompts("clip_80; {}.")  # the 81 of UniDetector
    assert both.templates == (*PROMPTS["clip_80"].templates, "{}.") and not both.lower
    assert get_prompts("vild_63;{}").lower
    for text, message in (
        ("clip80", r"'clip80'.*name, single.*nearest: clip_80"),
        ("a photo", r"template with one \{\}"),
        ("{} and {}", r"template with one \{\}"),
        (" ; ", r"are empty"),
    ):
        with pytest.raises(ValueError, match=message):
            get_prompts(text)


def test_templates_are_given_in_every_form():
    expected = embed_words(HashEncoder(), ["cat"], ["a {}", "the {}"])
    for form in ("a {};the {}", PromptSet("x", ("a {}", "the {}")), PromptSet("x", lambda: ("a {}", "the {}"))):
        assert torch.equal(embed_words(HashEncoder(), ["cat"], form), expected)


def test_wrong_options():
    with pytest.raises(ValueError, match=r"choose 'normalized' or 'raw'"):
        embed_words(HashEncoder(), ["cat"], average="mean")
    with pytest.raises(ValueError, match=r"choose 'ignore' or 'average'"):
        embed_vocabulary(HashEncoder(), WORDS, synonyms="all")
    with pytest.raises(ValueError, match=r"at least one prompt template"):
        embed_words(HashEncoder(), ["cat"], [])
    with pytest.raises(ValueError, match=r"exactly one"):
        embed_words(HashEncoder(), ["cat"], ["a photo"])


def test_the_order_of_prompts_does_not_matter():
    prompts = list(PROMPTS["vild_63"].templates)
    first = embed_words(HashEncoder(), ["cat", "dog"], prompts, "raw")
    second = embed_words(HashEncoder(), ["cat", "dog"], prompts[::-1], "raw")
    torch.testing.assert_close(first, second, rtol=3e-7, atol=0)


def test_minilm_knows_that_synonyms_help():
    """On the real sentence encoder that a package carries: the ensemble lies between name and synonym."""
    pytest.importorskip("transformers")
    from mvseg.vocabulary import build_text_encoder

    try:
        encoder = build_text_encoder("minilm")
    except (ImportError, FileNotFoundError, ValueError) as error:
        pytest.skip(f"no minilm here: {error}")
    words = Vocabulary(name="w", names=("couch", "zebra"), synonyms=(("sofa",), ()))
    alone = embed_vocabulary(encoder, words).embeddings
    both = embed_vocabulary(encoder, words, synonyms="average").embeddings
    sofa = embed_words(encoder, ["sofa"])
    assert torch.equal(both[1], alone[1])
    assert float(both[0] @ sofa[0]) > float(alone[0] @ sofa[0]) > float(alone[1] @ sofa[0])
    assert dataclasses.replace(words, embeddings=both).embeddings.shape == (2, 384)
