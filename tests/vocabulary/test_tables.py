"""Built-in class-name tables: against the lists in ../shared/data/labels, and cases checked by hand."""

from __future__ import annotations

import csv
import json
import re
from collections import defaultdict
from pathlib import Path

import pytest
import torch

from mvseg.vocabulary import Vocabulary, builtin_tables, read_table
from mvseg.vocabulary.suggestions import normalize
from mvseg.vocabulary.tables import NAMES_FOLDER, builtin_table_path

SIZES = {
    "ade20k_150": 150,
    "ade20k_847": 847,
    "cityscapes_19": 19,
    "coco": 80,
    "coco_48_17": 65,
    "coco_panoptic_133": 133,
    "coco_stuff_171": 171,
    "imagenet_1k": 1000,
    "lvis_v1": 1203,
    "mapillary_65": 65,
    "objects365": 365,
    "objects365_v1": 365,
    "openimages_500": 500,
    "openimages_601": 601,
    "pascal_context_459": 459,
    "pascal_context_59": 59,
    "visual_genome": 1356,
    "visual_genome_150": 150,
    "voc": 20,
}


def table(name: str) -> Vocabulary:
    return Vocabulary.from_table(name)


@pytest.fixture(scope="module")
def labels(shared) -> Path:
    return shared / "data/labels"


def load(labels: Path, name: str):
    return json.loads((labels / name).read_text())


def found_by(words: Vocabulary, spellings: list[str]) -> list[int | None]:
    """Class index that each published spelling leads to."""
    return [words.positions.get(normalize(spelling)) for spelling in spellings]


def test_all_tables_are_there_with_their_sizes():
    assert {name: len(table(name)) for name in builtin_tables()} == SIZES


@pytest.mark.parametrize("name", sorted(SIZES))
def test_tables_are_sound(name):
    words = table(name)
    own = {normalize(word) for word in words.names}
    for word, synonyms, spellings in zip(words.names, words.synonyms, words.spellings, strict=True):
        assert not own & {normalize(synonym) for synonym in synonyms}, word  # a synonym is no other class's name
        assert len({normalize(s) for s in synonyms}) == len(synonyms), word
        assert not own & {normalize(spelling) for spelling in spellings}, word
    for text in (*words.names, *(s for group in (*words.synonyms, *words.parents) for s in group)):
        assert text == " ".join(text.split()) and text and "|" not in text, text
        if name != "imagenet_1k":
            assert "," not in text or name == "lvis_v1", text
    assert len({s for group in words.spellings for s in map(normalize, group)}) == sum(map(len, words.spellings))
    for word in words.names:
        assert word not in words.ancestors(word)


@pytest.mark.parametrize("path", sorted(NAMES_FOLDER.glob("*.tsv")), ids=lambda p: p.stem)
def test_table_files_say_what_they_are(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# ") and len(lines[0]) > 40
    assert len({line.count("\t") for line in lines if not line.startswith("#")}) == 1


def test_the_table_files_are_small():
    assert sum(path.stat().st_size for path in NAMES_FOLDER.glob("*.tsv")) < 160_000


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("coco", "coco_80.json"),
        ("coco_panoptic_133", "coco_panoptic_133.json"),
        ("coco_stuff_171", "coco_stuff10k_171.json"),
        ("cityscapes_19", "cityscapes_19.json"),
        ("objects365", "objects365_365_detic_fix.json"),
        ("visual_genome", "visualgenome_1356_categories.json"),
        ("visual_genome_150", "visualgenome_150_categories.json"),
        ("lvis_v1", "lvis_v1_1203.json"),
    ],
)
def test_ids_names_and_order(labels, name, file):
    words, rows = table(name), load(labels, file)
    assert words.ids == tuple(row["id"] for row in rows)
    assert found_by(words, [row["name"] for row in rows]) == list(range(len(rows)))
    if name.startswith(("coco_p", "city")):
        assert words.is_thing == tuple(bool(row["isthing"]) for row in rows)
    if name == "coco_stuff_171":
        assert words.is_thing == tuple(row["id"] <= 90 for row in rows)
        assert [words.names[i] for i in range(80)] == list(table("coco").names)


@pytest.mark.parametrize("name", ["pascal_context_59", "pascal_context_459"])
def test_pascal_context(labels, name):
    published = load(labels, name.replace("pascal_context_", "pascalcontex") + "_names.json")
    assert found_by(table(name), published) == list(range(len(published)))
    assert table(name).ids == tuple(range(1, len(published) + 1))


def test_voc(labels):
    lines = (labels / "mseg_dataset_lists/voc2012_names.txt").read_text().split()
    assert found_by(table("voc"), lines[1:]) == list(range(20))  # the first is background, pixel 0


def test_ade20k_150(labels):
    words, published = table("ade20k_150"), load(labels, "ade20k_150.json")
    parts = [[part.strip() for part in text.split(",")] for text in published]
    assert found_by(words, [part[0] for part in parts]) == list(range(150))
    assert words.ids == tuple(range(1, 151))
    own = set(words.names)
    for index, group in enumerate(parts):
        listed = {words.names[index], *words.synonyms[index], *words.spellings[index]}
        assert set(group) - own <= listed, group
    assert sum(words.is_thing) == 100


def test_ade20k_847(labels):
    words, rows = table("ade20k_847"), load(labels, "ade20k_847.json")
    assert words.ids == tuple(row["id"] for row in rows) and [r["trainId"] for r in rows] == list(range(847))
    own = set(words.names)
    for word, synonyms, row in zip(words.names, words.synonyms, rows, strict=True):
        group = [part.strip() for part in row["name"].split(",")]
        assert word in group and set(synonyms) <= set(group)
        assert set(group) - own <= set(synonyms), row["name"]
    other = [w for w, row in zip(words.names, rows, strict=True) if w != row["name"].split(",")[0].strip()]
    assert len(other) == 12


def test_mapillary(labels):
    words, rows = table("mapillary_65"), load(labels, "mapillary_vistas_65.json")
    assert len(rows) == 66 and not rows[65]["evaluate"]
    assert words.keys == tuple(row["name"] for row in rows[:65])
    assert words.is_thing == tuple(row["instances"] for row in rows[:65]) and sum(words.is_thing) == 37
    assert found_by(words, [row["readable"] for row in rows[:65]]) == list(range(65))
    assert words.ids == tuple(range(65))


def test_objects365_is_version_2_with_its_typos(labels):
    words = table("objects365")
    with (labels / "Objects365_names_fix.csv").open() as file:
        rows = list(csv.reader(file))
    assert found_by(words, [row[1] for row in rows]) == list(range(365))  # as released
    assert found_by(words, [row[2] for row in rows]) == list(range(365))  # as Detic writes them
    assert words.index("Moniter/TV") == words.index("monitor/tv") == 37


def hierarchy(labels: Path) -> dict[str, set[str]]:
    """MID to the MIDs of its parents, by recursion over Subcategory alone."""
    parents = defaultdict(set)

    def walk(node):
        for kind in ("Subcategory", "Part"):
            for child in node.get(kind, ()):
                if kind == "Subcategory":
                    parents[child["LabelName"]].add(node["LabelName"])
                walk(child)

    root = load(labels, "oid_600_hierarchy.json")
    walk(root)
    return {mid: found - {root["LabelName"]} for mid, found in parents.items()}


def test_openimages(labels):
    parents = hierarchy(labels)
    with (labels / "oid_601_class_descriptions.csv").open() as file:
        described = list(csv.reader(file))
    words, challenge = table("openimages_601"), table("openimages_500")
    assert words.keys == tuple(mid for mid, _ in described)
    assert found_by(words, [name for _, name in described]) == list(range(601))
    rows = load(labels, "oid_challenge_500.json")
    assert challenge.keys == tuple(r["freebase_id"] for r in rows) and challenge.ids == tuple(r["id"] for r in rows)
    name_of = dict(zip(words.keys, words.names, strict=True))
    assert challenge.names == tuple(name_of[mid] for mid in challenge.keys)
    for vocabulary in (words, challenge):
        for word, mid, found in zip(vocabulary.names, vocabulary.keys, vocabulary.parents, strict=True):
            assert set(found) == {name_of[p] for p in parents.get(mid, ())}, word
            above, waiting = set(), list(parents.get(mid, ()))
            while waiting:
                parent = waiting.pop()
                above.add(name_of[parent])
                waiting += parents.get(parent, ())
            assert set(vocabulary.ancestors(word)) == above, word
    assert challenge.ancestors("Cat") == ("Carnivore", "Mammal", "Animal")


def test_openimages_words_with_two_meanings():
    words = table("openimages_601")
    assert words.keys[words.index("Mouse")] == "/m/04rmv" and words.ancestors("mouse (animal)")[-1] == "Animal"
    assert words.keys[words.index("Computer mouse")] == "/m/020lf"
    assert words.parents[words.index("Organ")] == ("Musical instrument",)


def test_the_open_vocabulary_split_of_coco():
    words = table("coco_48_17")
    base = [w for w, novel in zip(words.names, words.novel, strict=True) if not novel]
    novel = {w for w, n in zip(words.names, words.novel, strict=True) if n}
    assert len(base) == 48
    # Bansal et al. 2018; facebookresearch/Detic, detic/data/datasets/coco_zeroshot.py at commit 1c21c9b9
    assert novel == {
        "airplane", "bus", "cat", "dog", "cow", "elephant", "umbrella", "tie", "snowboard", "skateboard", "cup",
        "knife", "cake", "couch", "keyboard", "sink", "scissors",
    }  # fmt: skip
    coco = table("coco")
    assert set(coco.names) - set(words.names) == {
        "traffic light", "fire hydrant", "stop sign", "parking meter", "tennis racket", "sports ball", "baseball bat",
        "baseball glove", "wine glass", "hot dog", "potted plant", "dining table", "cell phone", "teddy bear",
        "hair drier",
    }  # fmt: skip
    part = coco.subset(words.names)
    assert words.ids == part.ids and words.parents == part.parents and words.synonyms == part.synonyms


def test_imagenet_comes_from_the_installed_packages():
    words = table("imagenet_1k")
    assert (words.names[0], words.keys[0]) == ("tench", "n01440764") and "Tinca tinca" in words.synonyms[0]
    assert words.keys[1] == "n01443537" and words.names[999] == "toilet paper"
    assert words.names[657] != words.names[744] and {words.names[657], words.names[744]} == {"missile", "projectile"}
    assert words.names[836] != words.names[837]
    with pytest.raises(KeyError, match=r"from an installed package"):
        builtin_table_path("imagenet_1k")


def test_things_and_stuff_have_clean_words():
    panoptic = table("coco_panoptic_133")
    for spelling, word in (("tree-merged", "tree"), ("door-stuff", "door"), ("wall-other-merged", "wall")):
        assert panoptic.names[panoptic.index(spelling)] == word
    assert not any("merged" in word or "-" in word for word in panoptic.names)
    assert panoptic.ancestors("brick wall") == ("wall",) and panoptic.ancestors("car") == ("land vehicle", "vehicle")


def test_hypernym_rows_and_kinds_in_a_file_of_the_user(tmp_path):
    (tmp_path / "w.tsv").write_text(
        "id\tname\tkind\tparents\tkey\tspelling\n1\tcat\tthing\tfeline|pet\tn02\tKatze|kat\n2\tgrass\tstuff\t\tn12\t\n"
        "-\tfeline\t\tanimal\t\t\n-\tanimal\t\tliving thing\t\t\n"
    )
    words = Vocabulary.from_file(tmp_path / "w.tsv")
    assert words.names == ("cat", "grass") and words.is_thing == (True, False) and words.keys == ("n02", "n12")
    assert words.ancestors("cat") == ("feline", "pet", "animal", "living thing") and words.ancestors("grass") == ()
    assert words.index("KATZE") == 0
    (tmp_path / "w.yaml").write_text(
        "hypernyms: {feline: animal, animal: [living thing]}\n"
        "names:\n- {name: cat, parents: [feline, pet], kind: thing}\n- {name: grass, parents: plant, kind: stuff}\n"
    )
    words = Vocabulary.from_file(tmp_path / "w.yaml")
    assert words.ancestors("cat") == ("feline", "pet", "animal", "living thing")
    assert words.parents[1] == ("plant",) and words.is_thing == (True, False)
    mixed = [{"name": "a", "synonyms": ["b"], "novel": True, "def": "x"}, {"name": "c", "parents": "d"}]
    words = Vocabulary.from_categories(mixed, "mixed")
    assert words.synonyms == (("b",), ()) and words.parents == ((), ("d",)) and words.novel == (True, False)
    assert words.definitions == ("x", "")
    assert Vocabulary.from_categories([{"id": 1, "name": "sky", "isthing": 0}], "p").is_thing == (False,)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("w.tsv", "name\tkind\ncat\tanimal\n", "row 1: 'animal' is no kind of class: write thing or stuff"),
        ("w.yaml", "hypernyms: [a]\nnames: [cat]\n", "hypernyms is a mapping"),
        ("w.json", '[{"name": "cat", "isthing": 3}]', "3 is no kind of class"),
        ("w.json", '[{"name": "a", "id": 7}, {"name": "b"}]', "1 of 2 categories have no 'id', the first is 'b'"),
    ],
)
def test_wrong_kinds_and_hypernyms(tmp_path, file, text, message):
    (tmp_path / file).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_table(tmp_path / file)


@pytest.mark.parametrize(
    ("name", "file", "shared_words"),
    [("objects365", "o365_clip_a+cnamefix.npy", 183), ("openimages_500", "oid_clip_a+cname.npy", 235)],
)
def test_published_embeddings_are_in_our_order(shared, name, file, shared_words):
    """The same word in the same encoder: Detic's rows for another dataset and for LVIS are alike in our order alone."""
    folder = shared / "data/embeddings"
    lvis = table("lvis_v1").with_embeddings(folder / "lvis_v1_clip_a+cname.npy")
    words = table(name).with_embeddings(folder / file)
    a, b = (torch.nn.functional.normalize(v.embeddings, dim=1) for v in (words, lvis))
    pairs = [(i, lvis.positions[normalize(w)]) for i, w in enumerate(words.names) if normalize(w) in lvis.positions]
    cosine = torch.stack([a[i] @ b[j] for i, j in pairs])
    single = torch.tensor([words.names[i].isalpha() and not words.spellings[i] for i, _ in pairs])
    assert len(pairs) == shared_words and float(cosine[single].min()) > 0.99
    assert float(cosine.min()) > 0.87  # LVIS was embedded with its underscores, "Tennis" without its ball


def test_the_page_lists_every_table_with_its_size():
    page = (Path(__file__).resolve().parents[2] / "docs/vocabularies.md").read_text(encoding="utf-8")
    listed = {name: int(size) for name, size in re.findall(r"^\| `(\w+)` \| (\d+) \|", page, re.M)}
    assert listed == SIZES
