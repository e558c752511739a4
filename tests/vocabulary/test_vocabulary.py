"""Vocabulary: name tables, look-ups with nearest names, files of names, and text embeddings from files."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
import torch

from mvseg.vocabulary import Vocabulary, builtin_tables, nearest_names, read_table


def test_builtin_tables_have_the_published_facts():
    coco, lvis, voc = (Vocabulary.from_table(name) for name in ("coco", "lvis_v1", "voc"))
    assert {"coco", "lvis_v1", "voc"} <= set(builtin_tables())
    assert (len(coco), len(lvis), len(voc)) == (80, 1203, 20)
    assert coco.ids[:3] == (1, 2, 3) and coco.ids[-1] == 90 and coco.names[-1] == "toothbrush"
    assert [lvis.frequency.count(f) for f in "rcf"] == [337, 461, 405]
    assert sum(lvis.novel) == 337 and not any(coco.novel)
    assert lvis.ids == tuple(range(1, 1204))
    spray = lvis.index("aerosol_can")
    assert (lvis.image_count[spray], lvis.instance_count[spray]) == (64, 109)
    assert lvis.synonyms[spray] == ("spray_can",)
    # LVIS defines the groups by the number of training images: rare 1-10, common 11-100, frequent more.
    groups = ["r" if count <= 10 else "c" if count <= 100 else "f" for count in lvis.image_count]
    assert groups == list(lvis.frequency)
    assert voc.names == tuple(sorted(voc.names))


def test_lvis_table_against_the_label_file(shared):
    rows = json.loads((shared / "data/labels/lvis_v1_1203.json").read_text())
    lvis = Vocabulary.from_table("lvis_v1")
    reference = Vocabulary.from_categories(rows, "reference")
    for field in ("names", "ids", "frequency", "image_count", "synonyms"):
        assert getattr(lvis, field) == getattr(reference, field), field
    coco = Vocabulary.from_categories(json.loads((shared / "data/labels/coco_80.json").read_text()), "reference")
    assert (coco.names, coco.ids) == (Vocabulary.from_table("coco").names, Vocabulary.from_table("coco").ids)


def test_index_ignores_spelling_and_suggests():
    lvis = Vocabulary.from_table("lvis_v1")
    assert lvis.names[lvis.index("trash can")] == "trash_can"
    assert lvis.index("Aerosol_Can") == 0
    with pytest.raises(KeyError, match=r"nearest: .*giraffe"):
        lvis.index("girafe")
    with pytest.raises(KeyError, match=r"synonym of aerosol_can"):
        lvis.index("spray can")
    with pytest.raises(KeyError, match=r"nearest: .*lvis_v1"):
        Vocabulary.from_table("lvis")
    assert nearest_names("car", ["cart", "dog", "Car"])[0] == "Car"


def test_subset_takes_everything_along():
    lvis = Vocabulary.from_table("lvis_v1")
    lvis = lvis.with_embeddings(torch.arange(1203.0)[:, None].repeat(1, 4))
    part = lvis.subset(["zebra", "aerosol_can"], name="two")
    assert part.names == ("zebra", "aerosol_can") and part.name == "two"
    assert part.ids == (lvis.ids[lvis.index("zebra")], 1)
    assert part.frequency == ("f", "c") and part.novel == (False, False)
    assert part.embeddings[:, 0].tolist() == [float(lvis.index("zebra")), 0.0]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"names": ()}, "no words"),
        ({"names": ("a", "b", "a")}, "same name twice: a"),
        ({"names": ("a", "", "c", " _ ", "\u200b")}, "word 2, 4, 5 of 5 is empty"),
        (
            {"names": ("Trash_Can", "b", "trash can")},
            "differ only in case.*: Trash_Can = trash can",
        ),
        ({"names": ("caf\u00e9", "cafe\u0301")}, "differ only in case"),
        ({"names": ("a", "b"), "parents": ((), ("B",))}, "'b' is given as its own parent"),
        ({"names": ("a", "b"), "is_thing": (True,)}, "2 words but 1 values in is_thing"),
        ({"names": ("a", "b"), "ids": (3, 3)}, "same id twice: 3"),
        ({"names": ("a", "b"), "image_count": (1,)}, "2 words but 1 values in image_count"),
        ({"names": ("a", "b"), "embeddings": torch.zeros(3, 4)}, "expected 2 rows"),
        ({"names": ("a",), "embeddings": torch.tensor([[float("nan")]])}, "NaN or infinity in 1"),
    ],
)
def test_wrong_fields(fields, message):
    with pytest.raises(ValueError, match=message):
        Vocabulary(name="v", **fields)


def test_files_of_names(tmp_path):
    (tmp_path / "w.txt").write_text("\ufeffcat\n\n dog \n")  # as Windows' editor saves it
    (tmp_path / "w.tsv").write_text("# comment\nid\tname\tsynonyms\tnovel\n7\tcat\tkitten|kitty\tyes\n9\tdog\t\tno\n")
    (tmp_path / "w.yaml").write_text("names: [cat, dog]\n")
    (tmp_path / "w.json").write_text(
        json.dumps({"categories": [{"id": 9, "name": "dog", "supercategory": "x"}, {"id": 7, "name": "cat"}]})
    )
    for ending in ("txt", "tsv", "yaml", "json"):
        words = Vocabulary.from_file(tmp_path / f"w.{ending}")
        assert words.names == ("cat", "dog") and words.name == "w"
    assert Vocabulary.from_file(tmp_path / "w.json").ids == (7, 9)
    table = Vocabulary.from_file(tmp_path / "w.tsv")
    assert (table.ids, table.synonyms, table.novel) == ((7, 9), (("kitten", "kitty"), ()), (True, False))
    assert Vocabulary.from_file(tmp_path / "w.txt").ids == (1, 2)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("w.tsv", "nme\ncat\n", "unknown column 'nme'; nearest: name"),
        ("w.tsv", "id\tname\n1\n", "row 1 has 1 cells"),
        ("w.tsv", "id\tname\nx\tcat\n", "row 1: 'x' is not an integer"),
        ("w.txt", "\n", "holds no class names"),
        ("w.json", "{", "not valid JSON"),
        ("w.json", '[{"id": 3}]', "category 0 has no name"),
        ("w.doc", "cat", "ends in"),
    ],
)
def test_wrong_files_of_names(tmp_path, file, text, message):
    (tmp_path / file).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_table(tmp_path / file)
    with pytest.raises(FileNotFoundError, match=r"absent.txt"):
        read_table(tmp_path / "absent.txt")


def test_embeddings_from_every_kind_of_file(tmp_path):
    from safetensors.torch import save_file

    table = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    np.save(tmp_path / "e.npy", table.numpy().astype(np.float16))
    np.savez(tmp_path / "e.npz", embeddings=table.numpy())
    save_file({"embeddings": table}, tmp_path / "e.safetensors")
    words = Vocabulary.from_names(["cat", "dog"])
    for ending in ("npy", "npz", "safetensors"):
        found = words.with_embeddings(tmp_path / f"e.{ending}").embeddings
        assert found.dtype == torch.float32 and torch.equal(found, table)


def test_embedding_rows_of_another_table(tmp_path):
    np.save(tmp_path / "e.npy", np.eye(4, dtype=np.float32))
    rows = Vocabulary(name="rows", names=("Zebra", "tv", "Traffic_Light", "dog"), synonyms=((), ("telly",), (), ()))
    words = Vocabulary(name="w", names=("traffic light", "telly", "hound"), synonyms=((), (), ("dog",)))
    found = words.with_embeddings(tmp_path / "e.npy", rows=rows).embeddings
    assert found.argmax(1).tolist() == [2, 1, 3]
    np.savez(tmp_path / "named.npz", embeddings=np.eye(2, dtype=np.float32), names=np.array(["dog", "cat"]))
    found = Vocabulary.from_names(["cat"]).with_embeddings(tmp_path / "named.npz").embeddings
    assert found.tolist() == [[0.0, 1.0]]
    with pytest.raises(ValueError, match=r"e.npy.*1 of 2 words have no row: 'zebbra' \(nearest: Zebra\)"):
        Vocabulary.from_names(["dog", "zebbra"]).with_embeddings(tmp_path / "e.npy", rows=rows)


def test_wrong_embedding_files(tmp_path):
    words = Vocabulary.from_names(["cat", "dog"])
    np.save(tmp_path / "rows.npy", np.zeros((3, 5), np.float32))
    with pytest.raises(ValueError, match=r"rows.npy.*'words'.*expected 2 rows.*found 3 rows of width 5"):
        words.with_embeddings(tmp_path / "rows.npy")
    np.save(tmp_path / "width.npy", np.zeros((2, 5), np.float32))
    with pytest.raises(ValueError, match=r"width.npy.*expected embeddings of width 512, found width 5"):
        words.with_embeddings(tmp_path / "width.npy", width=512)
    np.save(tmp_path / "nan.npy", np.array([[1, 2], [np.inf, 1]], np.float32))
    with pytest.raises(ValueError, match=r"nan.npy.*1 row\(s\): 1"):
        words.with_embeddings(tmp_path / "nan.npy")
    np.save(tmp_path / "flat.npy", np.zeros(2, np.float32))
    with pytest.raises(ValueError, match=r"flat.npy.*found an array of shape \(2,\)"):
        words.with_embeddings(tmp_path / "flat.npy")
    np.save(tmp_path / "objects.npy", np.array([{}, {}]), allow_pickle=True)
    with pytest.raises(ValueError, match=r"objects.npy cannot be read"):
        words.with_embeddings(tmp_path / "objects.npy")
    (tmp_path / "e.pt").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"ends in .npy"):
        words.with_embeddings(tmp_path / "e.pt")
    with pytest.raises(FileNotFoundError, match=r"absent.npy"):
        words.with_embeddings(tmp_path / "absent.npy")


def test_published_clip_rows_fit_the_tables(shared):
    folder = shared / "data/embeddings"
    coco = Vocabulary.from_table("coco").with_embeddings(folder / "coco_clip_a+cname.npy", width=512)
    lvis = Vocabulary.from_table("lvis_v1").with_embeddings(folder / "lvis_v1_clip_a+cname.npy", width=512)
    same = [(c, lvis.names.index(word)) for c, word in enumerate(coco.names) if word in lvis.names]
    a, b = (torch.nn.functional.normalize(v.embeddings, dim=1) for v in (coco, lvis))
    assert len(same) > 30
    assert all(float(a[i] @ b[j]) > 0.99 for i, j in same)  # the same words in the same encoder: rows are in order
    voc = Vocabulary.from_table("voc").with_embeddings(folder / "coco_clip_a+cname.npy", rows=coco)
    assert torch.equal(voc.embeddings[voc.index("sofa")], coco.embeddings[coco.index("couch")])


def test_words_of_any_language_and_emoji(tmp_path):
    names = ["自転車", "собака", "ÉCHARPE", "🐶", "❤️", "قطة", "Straße", "a/b"]
    (tmp_path / "w.txt").write_text("\n".join(names), encoding="utf-8")
    words = Vocabulary.from_file(tmp_path / "w.txt")
    assert words.names == tuple(names)
    for asked, index in (("Собака", 1), ("e\u0301charpe", 2), ("❤", 4), ("STRASSE", 6), ("自転車", 0), ("قطة", 5)):
        assert words.index(asked) == index
    with pytest.raises(KeyError, match=r"no word '🐱'"):
        words.index("🐱")


def test_twenty_thousand_words_are_quick():
    names = [f"thing number {i}" for i in range(20_000)]
    start = time.perf_counter()
    words = Vocabulary.from_names(names)
    words = words.with_embeddings(torch.ones(20_000, 2))
    assert [words.index(name.upper()) for name in names] == list(range(20_000))
    part = words.subset(names[::-1])
    assert part.names[0] == names[-1]
    assert len(words.with_embeddings(torch.ones(20_000, 2), rows=part).names) == 20_000
    with pytest.raises(ValueError, match=r"20000 of 20000 words have no row"):
        Vocabulary.from_names([f"x{i}" for i in range(20_000)]).with_embeddings(torch.ones(1, 2), rows=["zzz"])
    with pytest.raises(ValueError, match=r"same name twice"):
        Vocabulary.from_names([*names, *names])
    assert time.perf_counter() - start < 5  # 0.3 s on the reference machine; quadratic look-ups take a minute


def test_shown_in_one_line():
    words = Vocabulary.from_table("coco").with_embeddings(torch.zeros(80, 4))
    assert repr(words) == "Vocabulary('coco', 80 words: person, bicycle, car, ..., embeddings of width 4)"
    assert repr(Vocabulary.from_names(["a"])) == "Vocabulary('words', 1 word: a)"


def test_ancestors_go_through_words_and_hypernyms():
    words = Vocabulary(
        name="w",
        names=("Animal", "house_cat", "big cat", "rock"),
        parents=((), ("feline", "pet"), ("Feline",), ()),
        hypernyms={"Feline": ("carnivore",), "carnivore": ("animal",), "pet": ("ANIMAL", "companion")},
    )
    assert words.ancestors("house cat") == ("feline", "pet", "carnivore", "Animal", "companion")
    assert words.ancestors("Big_Cat") == ("Feline", "carnivore", "Animal")
    assert words.ancestors("rock") == words.ancestors("animal") == ()
    part = words.subset(["big cat"])
    assert part.ancestors("big cat") == ("Feline", "carnivore", "animal")  # animal is no word here: as it is written
    with pytest.raises(ValueError, match=r"in a circle: a -> b -> c -> a"):
        Vocabulary(name="r", names=("a", "b", "c"), parents=(("b",), ("c",), ("a",)))
    with pytest.raises(KeyError, match=r"no word 'dog'"):
        words.ancestors("dog")


def test_parents_in_the_vocabulary_are_followed():
    words = Vocabulary(name="w", names=("cat", "pet", "animal"), parents=(("Pet",), ("animal",), ()))
    assert words.ancestors("cat") == ("pet", "animal")


def test_spellings_of_the_files_are_found_but_are_not_names():
    words = Vocabulary(name="w", names=("tree", "bush"), spellings=(("tree-merged", "arbor"), ("TREE", "shrub")))
    assert words.index("Tree-Merged") == 0 and words.index("shrub") == 1
    assert words.index("tree") == 0  # a name goes before another word's spelling
    rows = Vocabulary.from_names(["arbor", "shrub"])
    found = words.with_embeddings(torch.eye(2), rows=rows)
    assert torch.equal(found.embeddings, torch.eye(2))
    assert torch.equal(rows.with_embeddings(torch.eye(2).flip(0), rows=words).embeddings, torch.eye(2).flip(0))


def test_subset_keeps_the_new_fields():
    words = Vocabulary.from_table("coco_panoptic_133").subset(["sky", "cat"])
    assert words.is_thing == (False, True) and words.spellings[0] == ("sky-other-merged",)
    assert words.ancestors("cat") == ("mammal", "animal") and words.keys is None
    few = Vocabulary.from_table("openimages_601").subset(
        ["Cat", "Animal"]
    )  # carnivore and mammal are no words any more
    assert few.ancestors("cat") == ("Carnivore", "Mammal", "Animal")
