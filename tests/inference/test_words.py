"""From a text to words: tables, datasets, files, lists in any language, prompts, thresholds, and mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_run import TRAINED

from mvseg.inference.embedding import words_of
from mvseg.inference.words import near_vocabularies, parse_thresholds, parse_words, read_words, thresholds_of
from mvseg.vocabulary import LabelSpace, Vocabulary


def test_a_list_in_any_language_with_prompts():
    asked = parse_words(" cat ,  red   car,кот,猫\uff0c犬\u3001🦓, sofa = a couch | a {} in a room")
    assert asked.vocabulary.names == ("cat", "red car", "кот", "猫", "犬", "🦓", "sofa")
    assert asked.prompts == {"sofa": ("a couch", "a sofa in a room")}
    assert parse_words(["a, b", "c"]).vocabulary.names == ("a, b", "c")
    assert len(parse_words("crème, creme").vocabulary) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "word 1 of 1 is empty"),
        ("cat,,dog", r"word 2 of 3 is empty \(''\)"),
        ("cat, dog, ", "word 3 of 3 is empty"),
        ("cat,\u200b\u00a0,dog", "word 2 of 3 is empty"),  # nothing that can be seen
        ("=a cat", "word 1 of 1 is empty"),
        ("Red Car, cat, red_car", "2 spellings of words are there more than once: Red Car, red_car"),
        ("cr\u00e8me, cre\u0300me", "more than once: crème"),  # one letter, or letter and accent
        ("cat=a cat|", "word 'cat' has an empty prompt"),
    ],
)
def test_mistakes_in_a_list(text: str, message: str):
    with pytest.raises(ValueError, match=message):
        parse_words(text)


def test_tables_datasets_and_files(tmp_path: Path, run: Path):
    assert read_words("coco").vocabulary.names[:2] == ("person", "bicycle")
    assert len(read_words("lvis").vocabulary) == 1203  # the only table that begins so
    with pytest.raises(ValueError, match="'openimages' may be openimages_500, openimages_601: write the whole name"):
        read_words("openimages")
    dataset = read_words("tiny_run_train").vocabulary
    assert dataset.names == tuple(TRAINED) and dataset.embeddings.shape == (3, 8)
    (tmp_path / "words.txt").write_text("cat\nsofa=a couch|a settee\n\nRed Car\n")
    asked = read_words(str(tmp_path / "words.txt"))
    assert asked.vocabulary.names == ("cat", "sofa", "Red Car") and asked.prompts["sofa"] == ("a couch", "a settee")
    with pytest.raises(FileNotFoundError, match=r"words\.tsv does not exist"):
        read_words(str(tmp_path / "words.tsv"))
    assert read_words("giraffe").vocabulary.names == ("giraffe",)
    assert "lvis_v1" in near_vocabularies("lvis_v2") and near_vocabularies("red car") == []


def test_thresholds():
    own = parse_thresholds("cat=0.3, Red_Car = 1")
    assert own == {"cat": 0.3, "Red_Car": 1.0}
    assert parse_thresholds("") == {}
    words = Vocabulary.from_names(["dog", "red car", "cat"])
    assert thresholds_of(words, 0.5, own) == [0.5, 1.0, 0.3]
    for text in ("cat", "cat=high", "cat=3", "cat=nan", "=0.3", "dog=0.2, cat="):
        with pytest.raises(
            ValueError, match=f"threshold '{text.split(', ')[-1]}': write WORD=NUMBER, the number from 0"
        ):
            parse_thresholds(text)
    with pytest.raises(ValueError, match=r"a threshold for 'car', .* nearest: .*red car"):
        thresholds_of(words, 0.5, {"car": 0.2})


def test_the_words_of_a_label_space_are_listed_once():
    a = Vocabulary(name="a", names=("cat", "trash can"), embeddings=torch.eye(2))
    b = Vocabulary(name="b", names=("Trash_Can", "bus"), embeddings=5 + torch.eye(2))
    words = words_of(LabelSpace.concatenate({"a": a, "b": b}))
    assert words.names == ("cat", "trash can", "bus")
    assert words.embeddings.tolist() == [[1, 0], [0, 1], [5, 6]]
