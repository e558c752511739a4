"""Mistakes in a config: the message names the place and the key, and says how to write it."""

from __future__ import annotations

import pytest

from mvseg.config import load_config


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("SOLVER.BASE_LR", "1", r"command line: SOLVER.BASE_LR is a float such as 0.001, not the int 1: write 1.0"),
        ("SOLVER.MAX_ITER", "many", r"command line: SOLVER.MAX_ITER is an int .* not the str many"),
        ("DATASETS.TEST", "my_val", r"DATASETS.TEST is a tuple .*: write a list, such as \['my_val'\]"),
        ("DATASETS.MIX", "{'name': 'a'}", r"DATASETS.MIX is a list .*: write a list, such as \[{'name': 'a'}\]"),
        ("DATASETS.MIX", "['a']", r"DATASETS.MIX: every entry is a struct with the name .*; got 'a'"),
        ("DATASETS.MIX", "[{'ratio': 1}]", r"DATASETS.MIX: every entry is a struct with the name .*; got {'ratio': 1}"),
        ("SOLVER", "3", r"SOLVER is a section of keys, not the int 3"),
    ],
)
def test_value_of_the_wrong_type(key, value, message):
    with pytest.raises(ValueError, match=message):
        load_config(None, [key, value])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SOLVER: {BASE_LR: [1]}", r"given.yaml: SOLVER.BASE_LR is a float such as 0.001, not the list \[1\]"),
        ("SOLVER: {BASE_LR: 1\nMODEL: [", r"given.yaml is not YAML: .*line 1"),
        ("", r"given.yaml: a config file is a mapping of keys, this one is empty"),
        ("- 1", r"given.yaml: a config file is a mapping of keys, this one holds a list"),
    ],
)
def test_mistakes_in_a_file_name_the_file(tmp_path, text, message):
    path = tmp_path / "given.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"(?s){message}"):
        load_config(path)


def test_cards_are_found_from_any_working_folder(tmp_path, monkeypatch):
    (tmp_path / "project" / "configs").mkdir(parents=True)
    (tmp_path / "project" / "cards").mkdir()
    (tmp_path / "elsewhere" / "here").mkdir(parents=True)
    path = tmp_path / "project" / "configs" / "given.yaml"
    path.write_text("DATASETS: {CARDS: [cards, here, absent]}")
    monkeypatch.chdir(tmp_path / "elsewhere")
    found = load_config(path).DATASETS.CARDS
    assert found == [str(tmp_path / "project" / "cards"), "here", "absent"]
