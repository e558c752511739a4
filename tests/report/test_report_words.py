"""The words of the report: shared ones, new ones, and similarities against brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from mvseg.report import read_run
from mvseg.report.html import png_uri
from mvseg.report.similarity import paint, similarity_figure
from mvseg.report.words import boundaries, closest_pairs, look_up_words, shared_words, similarity_map, unit_rows
from mvseg.vocabulary import Vocabulary


def random_groups(sizes=(5, 7, 4), width=6) -> dict[str, Vocabulary]:
    groups = {}
    for g, size in enumerate(sizes):
        names = tuple(f"g{g} word {i}" for i in range(size))
        groups[f"set {g}"] = Vocabulary(name=f"v{g}", names=names, embeddings=torch.randn(size, width))
    return groups


def test_the_words_of_a_run(run_folder):
    words = look_up_words(read_run(run_folder))
    assert list(words.groups) == ["pets", "street"] and words.missing == []
    assert words.new_words("exam") == ["tram"] and words.new_words("unknown") is None
    assert shared_words(words.groups) == [("cat", ["pets", "street"])]
    # cat and Cat are spelt alike; of the others dog (0.8, 0.6) and car (0.6, 0.8) are most alike: 0.96
    assert closest_pairs(words.groups, 1)[0] == (pytest.approx(0.96), "pets", "dog", "street", "car")


def test_a_synonym_makes_a_word_shared():
    a = Vocabulary(name="a", names=("sofa", "cup"), synonyms=(("couch",), ()))
    b = Vocabulary(name="b", names=("couch", "Cup"))
    assert shared_words({"A": a, "B": b}) == [("couch", ["A: sofa", "B"]), ("cup", ["A", "B"])]
    c = Vocabulary(name="c", names=("sofa", "mug"), synonyms=(("couch",), ()))
    found = shared_words({"A": a, "B": b, "C": c})  # "couch" and "sofa" are one entry, though both are spellings of it
    assert found == [("sofa", ["A", "B: couch", "C"]), ("cup", ["A", "B"])]


@pytest.mark.parametrize(("cells", "size"), [(100, 1), (16, 1), (8, 2), (5, 4)])
def test_the_map_holds_block_means_of_the_cosines(cells: int, size: int):
    rows = normalize(torch.randn(16, 6).double(), dim=1).float()
    values, block = similarity_map(rows, cells)
    cosine = (rows.double() @ rows.double().T).numpy()
    m = 16 // size
    expected = cosine.reshape(m, size, m, size).mean(axis=(1, 3))
    assert block == size and values.shape == (m, m)
    np.testing.assert_allclose(values, expected, atol=1e-6)


def test_the_last_block_may_be_smaller():
    rows = normalize(torch.randn(7, 3), dim=1)
    values, block = similarity_map(rows, 3)
    assert block == 3 and values.shape == (3, 3)
    np.testing.assert_allclose(values[2, 2], 1, atol=1e-6)


def test_closest_pairs_are_those_of_all_pairs(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("mvseg.report.words.BLOCK", 3)
    groups = random_groups()
    groups["set 1"] = Vocabulary(
        name="v1", names=("G0_word 0", *groups["set 1"].names[1:]), embeddings=groups["set 1"].embeddings
    )  # spelt like a word of set 0: never a pair with it
    names = [word for words in groups.values() for word in words.names]
    owner = [name for name, words in groups.items() for _ in words.names]
    rows = unit_rows(groups).double()
    pairs = [
        (float(rows[i] @ rows[j]), owner[i], names[i], owner[j], names[j])
        for i in range(16) for j in range(i + 1, 16)
        if owner[i] != owner[j] and (i, j) != (0, 5)
    ]  # fmt: skip
    found = closest_pairs(groups, 10)
    assert [p[1:] for p in found] == [p[1:] for p in sorted(pairs, reverse=True)[:10]]
    np.testing.assert_allclose([p[0] for p in found], [p[0] for p in sorted(pairs, reverse=True)[:10]], atol=1e-6)


def test_no_map_without_embeddings():
    plain = {"a": Vocabulary(name="a", names=("x", "y"))}
    assert similarity_figure(plain) == "" and closest_pairs({**plain, **random_groups()}) == []
    assert unit_rows({**plain, **random_groups()}) is None


def test_the_figure_labels_few_words_and_none_of_many():
    few, many = similarity_figure(random_groups()), similarity_figure(random_groups((60, 60)))
    assert few.count("g0 word 1") == 2 and "g0 word 1" not in many
    assert "set 1 (60 words)" in many and "blocks" not in few
    assert "blocks of 3 neighbouring words" in similarity_figure(random_groups((700, 700)))
    assert list(boundaries(random_groups())) == [("set 0", 0, 5), ("set 1", 5, 12), ("set 2", 12, 16)]


def test_colours_go_from_white_to_dark():
    picture = paint(np.array([[0.2, 0.35], [0.5, 0.9]], np.float32), 0.2, 0.5).astype(int)
    assert picture[0, 0].tolist() == [255, 255, 255] and picture[1, 1].tolist() == picture[1, 0].tolist() == [8, 29, 88]
    assert 30 < picture[0, 1].mean() < 220


def test_pictures_of_few_colours_are_stored_exactly():
    import base64
    import io

    from PIL import Image

    picture = paint(np.random.default_rng(0).random((90, 90), np.float32), 0, 1)
    uri = png_uri(picture)
    stored = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB")
    assert (np.asarray(stored) == picture).all() and len(uri) < 90 * 90 * 1.5
