"""``python -m mvseg.vocabulary embed|inspect|compare|merge`` on small vocabularies with known embeddings."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mvseg.vocabulary import HuggingFaceTextEncoder, LabelSpace, Vocabulary
from mvseg.vocabulary.__main__ import main
from mvseg.vocabulary.commands import common
from mvseg.vocabulary.commands.common import read_words
from mvseg.vocabulary.commands.neighbours import closest_pairs, count_pairs, nearest
from mvseg.vocabulary.embedding_files import Provenance, read_provenance, save_embeddings
from mvseg.vocabulary.encoders import cache_folder


@pytest.mark.parametrize("ending", ["npy", "npz", "safetensors"])
def test_embed(bert_folder, tmp_path, capsys, ending):
    out = tmp_path / f"x/e.{ending}"
    main(["embed", "--words", "cat, fox", "--encoder", f"huggingface:{bert_folder}", "--template", "a red {}",
          "--dtype", "float32", "--out", str(out)])  # fmt: skip
    encoder = HuggingFaceTextEncoder(bert_folder)
    words = Vocabulary.from_names(["cat", "fox"]).with_embeddings(out)
    torch.testing.assert_close(words.embeddings, encoder.encode(["a red cat", "a red fox"]))
    assert "2 words, width 16" in capsys.readouterr().out
    expected = Provenance(f"huggingface:{bert_folder}", encoder.fingerprint, "a red {}", "normalized", "ignore")
    assert read_provenance(out) == (None if ending == "npy" else expected)


def test_embed_averages_prompts_and_synonyms(bert_folder, tmp_path):
    (tmp_path / "w.tsv").write_text("name\tsynonyms\ncat\tred fox\nbus\t\n")
    out = tmp_path / "e.npz"
    main(["embed", "--words", str(tmp_path / "w.tsv"), "--encoder", f"huggingface:{bert_folder}", "--prompts", "name",
          "--prompts", "a {}", "--synonyms", "average", "--dtype", "float32", "--out", str(out)])  # fmt: skip
    said = (["cat", "a cat", "red fox", "a red fox"], ["bus", "a bus"])
    rows = [HuggingFaceTextEncoder(bert_folder).encode(sentences).mean(0) for sentences in said]
    expected = torch.stack([row / row.norm() for row in rows])
    torch.testing.assert_close(Vocabulary.from_names(["cat", "bus"]).with_embeddings(out).embeddings, expected)


def test_embed_keeps_a_cache_unless_told_not_to(bert_folder, tmp_path):
    command = ["embed", "--words", "cat", "--encoder", f"huggingface:{bert_folder}", "--out", str(tmp_path / "e.npz")]
    main([*command, "--no-cache"])
    assert not cache_folder().exists()
    main([*command, "--cache", str(tmp_path / "here")])
    assert not cache_folder().exists() and list((tmp_path / "here").rglob("*.npz"))
    main(command)
    assert list(cache_folder().rglob("*.npz"))


def test_embed_takes_twenty_thousand_words_and_says_how_far_it_is(tmp_path, monkeypatch, capsys):
    class Quick:
        fingerprint = "quick"

        def encode(self, texts):
            return torch.tensor([[len(t), sum(map(ord, t)), 1.0] for t in texts])

    monkeypatch.setattr(common, "build_text_encoder", lambda *_: Quick())
    monkeypatch.setattr(common, "PATIENCE", 0.0)
    (tmp_path / "w.txt").write_text("\n".join(f"wörd {i}🚗" for i in range(20_000)))
    main(["embed", "--words", str(tmp_path / "w.txt"), "--encoder", "x", "--out", str(tmp_path / "e.npz")])
    found = Vocabulary.from_names([f"wörd {i}🚗" for i in range(20_000)]).with_embeddings(tmp_path / "e.npz")
    assert len(found) == 20_000
    assert "2,048 of 20,000 sentences embedded" in capsys.readouterr().err


def test_embed_refuses_another_ending_before_it_works(tmp_path):
    with pytest.raises(ValueError, match=r"ends in .npy"):
        main(["embed", "--words", "cat", "--encoder", "nonsense", "--out", str(tmp_path / "e.pt")])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("cat,,dog", r"word 2 of 3 is empty"),
        ("", r"word 1 of 1 is empty"),
        ("cat, dog, CAT", r"cat = CAT"),
        ("cat, dog, cat", r"the same name twice: cat"),
        ("gone.txt", r"gone.txt does not exist"),
        ("gone.npz", r"gone.npz does not exist"),
        ("coco@gone.npz", r"gone.npz does not exist"),
    ],
)
def test_words_that_cannot_be_read(words, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_words(words)


def test_words_of_every_form(tmp_path, capsys):
    assert read_words("cat, red car ,🦊, кошка,").names == ("cat", "red car", "🦊", "кошка")
    assert len(read_words("coco")) == 80
    rows = torch.randn(2, 3)
    save_embeddings(tmp_path / "e.npz", rows, ["dog", "Cat"])
    found = read_words(str(tmp_path / "e.npz"))
    assert found.names == ("dog", "Cat") and found.name == "e"
    torch.testing.assert_close(read_words(f"cat@{tmp_path}/e.npz").embeddings, rows[1:])
    np.save(tmp_path / "e.npy", rows.numpy())
    with pytest.raises(ValueError, match=r"does not carry its words: write WORDS@"):
        read_words(str(tmp_path / "e.npy"))
    assert read_words("lvis_v2").names == ("lvis_v2",)
    assert "nearest: lvis_v1" in capsys.readouterr().err


def unit(*angles: float) -> torch.Tensor:
    """Embeddings in a plane, by their angles in degrees."""
    radians = torch.tensor(angles) / 180 * torch.pi
    return torch.stack([radians.cos(), radians.sin()], 1)


@pytest.fixture
def two_sets(tmp_path: Path) -> tuple[str, str]:
    """Two vocabularies: the same word, a synonym, a like word, a word far apart, and one of another kind."""
    (tmp_path / "a.tsv").write_text(
        "name\tsynonyms\tparents\ncat\t\tanimal\ntv\ttelevision\t\nsofa\t\t\nmouse\t\t\nbat\t\tanimal\n"
    )
    (tmp_path / "b.tsv").write_text(
        "name\tsynonyms\tparents\nCat\tkitty\tanimal\ntelevision\t\t\ncouch\t\t\nmouse\t\t\nbat\t\tsports gear\n"
    )
    save_embeddings(tmp_path / "a.npz", unit(0, 40, 80, 120, 170), ["cat", "tv", "sofa", "mouse", "bat"])
    save_embeddings(tmp_path / "b.npz", unit(0, 60, 85, 200, 170), ["Cat", "television", "couch", "mouse", "bat"])
    return f"{tmp_path}/a.tsv@{tmp_path}/a.npz", f"{tmp_path}/b.tsv@{tmp_path}/b.npz"


def test_compare(two_sets, tmp_path, capsys):
    main(["compare", *two_sets, "--threshold", "0.99", "--csv", str(tmp_path / "r/r.csv"),
          "--picture", str(tmp_path / "p/s.png")])  # fmt: skip
    shown = capsys.readouterr().out
    assert "cat [a] = Cat [b] (1.00)" in shown and "bat [a] = bat [b] (1.00): animal against sports gear" in shown
    with (tmp_path / "r/r.csv").open(encoding="utf-8") as file:
        rows = {(r["kind"], r["first_word"], r["second_word"]): r for r in csv.DictReader(file)}
    assert set(rows) == {
        ("name", "cat", "Cat"),
        ("synonym", "tv", "television"),
        ("similar", "sofa", "couch"),
        ("conflict", "mouse", "mouse"),
        ("conflict", "bat", "bat"),
    }
    assert float(rows["synonym", "tv", "television"]["cosine"]) == pytest.approx(np.cos(np.radians(20)), abs=1e-3)
    assert "far apart" in rows["conflict", "mouse", "mouse"]["note"]
    table = [line.split() for line in shown.splitlines()[:3]]
    assert table == [["shared", "with", "a", "b"], ["a", "5", "3"], ["b", "3", "5"]]

    from PIL import Image

    picture = np.asarray(Image.open(tmp_path / "p/s.png").convert("RGB"))
    assert picture.shape[1] > 1000 and len(np.unique(picture.reshape(-1, 3), axis=0)) > 50


def test_compare_without_embeddings_says_what_it_cannot_see(capsys):
    main(["compare", "coco", "voc", "cat, zebra"])
    shown = capsys.readouterr().out
    assert "add --encoder minilm" in shown and "cat [coco] = cat [words 3]" in shown
    with pytest.raises(ValueError, match=r"at least two"):
        main(["compare", "coco"])


def test_embeddings_of_different_encoders_are_not_compared(tmp_path):
    for name, width, fingerprint in (("a", 2, "one"), ("b", 2, "two"), ("c", 3, "one")):
        made = Provenance(f"encoder {fingerprint}", fingerprint)
        save_embeddings(tmp_path / f"{name}.npz", torch.randn(2, width), ["cat", "dog"], made)
    a, b, c = (str(tmp_path / f"{name}.npz") for name in "abc")
    with pytest.raises(ValueError, match=r"different encoders.*encoder one.*encoder two"):
        main(["compare", a, b])
    with pytest.raises(ValueError, match=r"different width.*a: 2, c: 3"):
        main(["compare", a, c])
    with pytest.raises(ValueError, match=r"coco has no embeddings and the others have"):
        main(["compare", a, "coco"])


def test_the_picture_pools_what_it_cannot_show(monkeypatch):
    from mvseg.vocabulary.commands import drawing

    monkeypatch.setattr(drawing, "CELLS", 3)
    units = torch.nn.functional.normalize(torch.randn(7, 4), dim=1)
    cell = [0, 0, 0, 1, 1, 2, 2]
    members = [[i for i in range(7) if cell[i] == c] for c in range(3)]
    expected = [[np.mean([float(units[i] @ units[j]) for i in a for j in b]) for b in members] for a in members]
    np.testing.assert_allclose(drawing._pooled_cosines(units), expected, atol=1e-6)


@pytest.mark.parametrize("by", ["name", "similarity", "mapping"])
def test_merge(two_sets, tmp_path, capsys, by):
    more = {"name": [], "similarity": ["--threshold", "0.93"], "mapping": ["--mapping", str(tmp_path / "m.csv")]}[by]
    (tmp_path / "m.csv").write_text("unified,a,b\nscreen,tv,television\nseat,sofa,couch\n")
    main(["merge", *two_sets, "--by", by, *more, "--out", str(tmp_path / "out")])
    with (tmp_path / "out/mapping.tsv").open(encoding="utf-8") as file:
        mapping = {row["unified"]: (row["a"], row["b"]) for row in csv.DictReader(file, delimiter="\t")}
    with (tmp_path / "out/merges.csv").open(encoding="utf-8") as file:
        evidence = {row["unified"]: row["evidence"] for row in csv.DictReader(file)}
    merged = {name: words for name, words in mapping.items() if all(words)}
    expected = {
        "name": {"cat": ("cat", "Cat"), "mouse": ("mouse", "mouse"), "bat": ("bat", "bat")},
        "similarity": {
            "cat": ("cat", "Cat"),
            "tv": ("tv", "television"),
            "sofa": ("sofa", "couch"),
            "bat": ("bat", "bat"),
        },
        "mapping": {"screen": ("tv", "television"), "seat": ("sofa", "couch")},
    }[by]
    assert merged == expected and set(evidence) == set(expected)
    words = Vocabulary.from_file(tmp_path / "out/vocabulary.tsv")
    assert words.names == tuple(mapping) and "became" in capsys.readouterr().out
    assert words.with_embeddings(tmp_path / "out/embeddings.npz").embeddings.shape == (len(words), 2)
    if by == "similarity":  # two words of one spelling that are far apart stay two, with different names
        assert mapping["mouse"] == ("mouse", "") and mapping["mouse (b)"] == ("", "mouse")
        assert evidence["tv"] == "television [b] synonym 0.940" and evidence["sofa"] == "couch [b] similar 0.996"
        assert words.synonyms[words.index("cat")] == ("kitty",) and words.parents[words.index("bat")] == (
            "animal",
            "sports gear",
        )

    vocabularies = {"a": read_words(two_sets[0]), "b": read_words(two_sets[1])}
    space = LabelSpace.merge_mapping(vocabularies, tmp_path / "out/mapping.tsv")
    assert space.names == words.names
    for unified, pair in mapping.items():
        for dataset, word in zip("ab", pair):
            if word:
                column = int(space.columns(dataset)[vocabularies[dataset].index(word)])
                assert space.names[column] == unified


def test_merge_wants_a_mapping_where_it_is_by_mapping(tmp_path):
    with pytest.raises(ValueError, match=r"go together"):
        main(["merge", "coco", "voc", "--by", "mapping", "--out", str(tmp_path)])
    with pytest.raises(ValueError, match=r"text embeddings"):
        main(["merge", "coco", "voc", "--by", "similarity", "--out", str(tmp_path)])


def test_inspect(tmp_path, capsys):
    (tmp_path / "w.tsv").write_text(
        "name\tsynonyms\tfrequency\ncat\tkitty|pet\tf\ndog\tpet\tr\nbus\t\tr\n电车\t\tc\n", encoding="utf-8"
    )
    save_embeddings(tmp_path / "e.npz", unit(0, 10, 89, 89.5), ["cat", "dog", "bus", "电车"])
    main(["inspect", f"{tmp_path}/w.tsv@{tmp_path}/e.npz", "--near", "BUS", "--threshold", "0.98"])
    shown = capsys.readouterr().out
    assert "4 words" in shown and "rare 2, common 1, frequent 1" in shown and "not in ASCII letters: 1" in shown
    assert "pet: cat, dog" in shown
    assert "bus = 电车" in shown and "cat ~ dog (0.98)" in shown and "not told apart: 1" in shown
    assert "nearest to BUS: 电车 (1.00), dog (0.19), cat (0.02)" in shown
    with pytest.raises(KeyError, match=r"no word 'bass'; there are: cat, dog, bus"):
        main(["inspect", f"{tmp_path}/w.tsv@{tmp_path}/e.npz", "--near", "bass"])


def test_inspect_finds_what_the_encoder_confuses(tmp_path, monkeypatch, capsys):
    class Planned:
        fingerprint = "planned"

        def encode(self, texts):
            angles = {"cat": 0.0, "dog": 90.0, "kitty": 10.0, "hound": 20.0, "tram": 200.0}
            return torch.cat([unit(angles[text]) for text in texts])

    monkeypatch.setattr(common, "build_text_encoder", lambda *_: Planned())
    (tmp_path / "w.tsv").write_text("name\tsynonyms\ncat\tkitty\ndog\thound\n")
    main(["inspect", str(tmp_path / "w.tsv"), "--encoder", "x", "--prompts", "name", "--near", "tram"])
    shown = capsys.readouterr().out
    assert "words that the encoder confuses: 1" in shown
    assert "hound (of dog, 0.34) is nearer to cat (0.94)" in shown
    assert "nearest to tram: dog (-0.34), cat (-0.94)" in shown


def test_pairs_and_neighbours_against_brute_force(monkeypatch):
    from mvseg.vocabulary.commands import neighbours

    monkeypatch.setattr(neighbours, "BLOCK", 7)
    words = Vocabulary.from_names([f"w{i}" for i in range(30)])
    words = words.with_embeddings(torch.randn(30, 5))
    unit_rows = torch.nn.functional.normalize(words.embeddings.double(), dim=1)
    cosine = (unit_rows @ unit_rows.T).numpy()
    pairs = sorted(((cosine[i, j], i, j) for i in range(30) for j in range(i + 1, 30)), reverse=True)
    found = closest_pairs(words, 12)
    assert [(a, b) for a, b, _ in found] == [(f"w{i}", f"w{j}") for _, i, j in pairs[:12]]
    np.testing.assert_allclose([value for *_, value in found], [value for value, *_ in pairs[:12]], atol=1e-5)
    assert count_pairs(words, 0.5) == sum(value >= 0.5 for value, *_ in pairs)
    assert len(closest_pairs(words, 1000)) == len(pairs)
    near = nearest(words, words.embeddings, 3, list(range(30)))
    for i, line in enumerate(near):
        order = [j for j in np.argsort(-cosine[i]) if j != i][:3]
        assert [name for name, _ in line] == [f"w{j}" for j in order]


def test_module_is_a_command_with_clear_errors(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert "{embed,aggregate-train,inspect,compare,merge," in capsys.readouterr().out
    command = [sys.executable, "-m", "mvseg.vocabulary", "inspect", "cat,,dog"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1 and result.stderr.strip() == "error: word 2 of 3 is empty in 'cat,,dog'"


def test_words_that_the_tokenizer_does_not_know_are_named(bert_folder, tmp_path, capsys):
    main(["embed", "--words", "cat, 🦊, red fox, a 猫", "--encoder", f"huggingface:{bert_folder}",
          "--out", str(tmp_path / "e.npz")])  # fmt: skip
    assert "cannot read 2 of the words (🦊, a 猫)" in capsys.readouterr().err


def test_one_word_has_no_neighbours_and_may_have_been_a_table(bert_folder, capsys):
    main(["inspect", "cocoo", "--encoder", f"huggingface:{bert_folder}"])
    shown = capsys.readouterr()
    assert "one word has no neighbours" in shown.out and "smallest" not in shown.out
    assert "'cocoo' is no built-in table or file of names; nearest: coco" in shown.err
