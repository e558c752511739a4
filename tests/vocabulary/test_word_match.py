"""Words of a vocabulary in sentences."""

from __future__ import annotations

import re
import string

import numpy as np
import pytest

from mvseg.vocabulary import Vocabulary
from mvseg.vocabulary.word_match import WordMatcher, plurals, tokens

WORDS = Vocabulary(
    "words",
    ("dog", "hot_dog", "bow_(weapon)", "bow_(ribbon)", "T-shirt", "knife", "glass", "eyeglasses", "scissors", "café"),
    synonyms=((), ("frankfurter",), (), (), ("tee shirt", "tee"), (), (), ("glasses",), (), ()),
)


def found(text: str, **options: bool) -> list[str]:
    return [WORDS.names[i] for i in WordMatcher(WORDS, **options).find(text)]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("A dog.", ["dog"]),
        ("the DOG's bowl, (dog) and dog", ["dog"]),
        ("hotdog, underdog, dogma", []),
        ("a hot dog", ["hot_dog"]),
        ("a hot-dog and a dog", ["dog", "hot_dog"]),
        ("hot dogs; two frankfurters", ["hot_dog"]),
        ("hot, dog", ["hot_dog"]),  # what divides words is not looked at
        ("a t shirt, a T-Shirt", ["T-shirt"]),
        ("tees", ["T-shirt"]),
        ("a bow and arrow", []),
        ("two knives", ["knife"]),
        ("glasses on a table", ["eyeglasses"]),  # said to be a synonym there, so no plural of glass
        ("scissors", ["scissors"]),
        ("scissor", []),
        ("a cafe\u0301", ["café"]),
        ("cafe", []),
        ("", []),
        ("dog hot", ["dog"]),
    ],
)
def test_words_in_sentences(text: str, names: list[str]):
    assert found(text) == names


def test_options():
    assert found("a frankfurter", synonyms=False) == []
    assert found("dogs", plurals=False) == []
    assert found("a hot dog", overlaps=True) == ["dog", "hot_dog"]
    assert found("bows", ambiguous=True) == ["bow_(weapon)", "bow_(ribbon)"]
    assert WordMatcher(WORDS).shared == {"bow"}


def test_a_name_comes_before_a_synonym():
    words = Vocabulary("w", ("cup", "mug"), synonyms=((), ("cup",)))
    assert WordMatcher(words).find("a cup") == [0]
    assert WordMatcher(words, ambiguous=True).find("a cup") == [0, 1]


@pytest.mark.parametrize(
    ("word", "plural"),
    [("dog", ("dogs",)), ("box", ("boxes",)), ("bus", ("buses",)), ("glass", ("glasses",)), ("berry", ("berries",)),
     ("toy", ("toys",)), ("fireman", ("firemen",)), ("knife", ("knives",)), ("jeans", ()), ("brush", ("brushes",)),
     ("u2", ()), ("x", ())],
)  # fmt: skip
def test_plurals(word: str, plural: tuple[str, ...]):
    assert plurals(word) == plural


def test_against_a_search_for_each_word():
    vocabulary = Vocabulary.from_table("lvis_v1")
    matcher = WordMatcher(vocabulary, plurals=False, overlaps=True, ambiguous=True)
    random = np.random.default_rng(0)
    spellings = [
        {" ".join(tokens(re.sub(r"\([^)]*\)", " ", t.replace("_", " ")))) for t in (n, *s)} - {""}
        for n, s in zip(vocabulary.names, vocabulary.synonyms, strict=True)
    ]
    pool = [part for names in spellings for name in names for part in name.split()] + list(string.ascii_lowercase)
    for _ in range(60):
        parts = random.choice(pool, 12).tolist()
        chosen = random.integers(len(spellings), size=3)
        for index in chosen.tolist():
            parts[3:3] = sorted(spellings[index])[0].split()
        text = f" {' '.join(parts)} "
        expected = [i for i, names in enumerate(spellings) if any(f" {name} " in text for name in names)]
        assert matcher.find(text.upper()) == expected
        assert set(chosen.tolist()) <= set(expected)
