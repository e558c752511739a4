"""The tables of words for ImageNet-21k."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from format_files import SHARED

from mvseg.vocabulary import Vocabulary

FILE = Path(__file__).parents[2] / "datasets/prepare_imagenet21k.py"
spec = importlib.util.spec_from_file_location("prepare_imagenet21k", FILE)
prepare = importlib.util.module_from_spec(spec)
spec.loader.exec_module(prepare)

INDEX = """  1 a licence
crane n 2 3 @ ~ #m 2 1 03126707 02012849
dog n 2 5 @ ~ #m #p %p 2 1 02084071 10114209
domestic_dog n 1 3 @ ~ %p 1 0 02084071
"""
CATEGORIES = [
    {"name": "dog_(animal)", "synset": "domestic_dog.n.01", "def": "a pet"},
    {"name": "bird", "synset": "crane.n.02", "def": "a large bird"},
    {"name": "elk", "synset": "elk.n.01", "def": "not in the index"},
]


def test_numbers_of_wordnet(tmp_path: Path):
    (tmp_path / "index.noun").write_text(INDEX)
    numbers = prepare.wordnet_numbers(tmp_path)
    assert numbers["crane.n.02"] == "n02012849" and numbers["dog.n.01"] == numbers["domestic_dog.n.01"] == "n02084071"
    synsets = {"n02012849": ["crane"], "n02084071": ["dog"], "n1": ["elk"]}
    found = prepare.match_lvis(CATEGORIES, synsets, dict.fromkeys(synsets, ""), numbers)
    assert found == {"n02084071": "dog_(animal)", "n02012849": "bird"}
    (tmp_path / "index.noun").write_text("dog n many\n")
    with pytest.raises(ValueError, match=r"line 1 is not of WordNet's index.noun"):
        prepare.wordnet_numbers(tmp_path)


def test_without_wordnet():
    synsets = {"n1": ["crane"], "n2": ["crane", "lifter"], "n3": ["domestic dog", "dog"], "n4": ["elk"], "n5": ["elk"]}
    definitions = {"n1": "A large bird", "n2": "lifts things", "n3": "barks", "n4": "a", "n5": "b"}
    assert prepare.match_lvis(CATEGORIES, synsets, definitions, None) == {"n1": "bird", "n3": "dog_(animal)"}


def test_names_that_no_other_synset_has():
    synsets = {
        "n1": ["crane"],
        "n2": ["crane", "lifter"],
        "n3": ["dog", "hound"],
        "n4": ["Dog house", "dog"],
        "n5": ["ox"],
    }
    chosen = prepare.choose_names(synsets)
    assert chosen == {"n1": "crane (n1)", "n2": "lifter", "n3": "dog", "n4": "Dog house", "n5": "ox"}


def test_the_command(tmp_path: Path, capsys):
    (tmp_path / "lvis.json").write_text(json.dumps({"categories": CATEGORIES}))
    (tmp_path / "index.noun").write_text(INDEX)
    arguments = ["--output", str(tmp_path / "out"), "--lvis", str(tmp_path / "lvis.json")]
    assert prepare.main([*arguments, "--wordnet", str(tmp_path)]) == 0
    words = Vocabulary.from_file(tmp_path / "out/words.tsv")
    assert len(words) == len(set(words.keys)) == 21841
    assert words.names[words.keys.index("n02084071")] == "dog"
    table = (tmp_path / "out/lvis_classes.tsv").read_text()
    assert table == "n02012849\tbird\nn02084071\tdog_(animal)\n"
    assert "2 synsets of 3 words of LVIS, by WordNet's numbers" in capsys.readouterr().out
    assert prepare.main([*arguments, "--wordnet", str(tmp_path / "gone")]) == 1
    assert "gone" in capsys.readouterr().err


@pytest.mark.skipif(not (SHARED / "labels/imagenet_lvis_wnid.txt").exists(), reason="no shared data")
def test_words_of_lvis_against_the_published_list():
    tree = json.loads((SHARED / "labels/lvis_v1_1203.json").read_text())
    wanted = set((SHARED / "labels/imagenet_lvis_wnid.txt").read_text().split())
    found = prepare.match_lvis(tree, *prepare.read_synsets(), None)
    assert len(wanted & set(found)) >= 895 and len(set(found) - wanted) <= 45  # of 997; by WordNet's numbers all
