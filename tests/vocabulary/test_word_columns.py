"""Which label columns the words of a test stand for: own columns, merged ones, mapped words, and what is refused."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from mvseg.vocabulary import LabelSpace, Vocabulary, WordColumns

STREETS = Vocabulary(name="streets", names=("car", "lorry", "pedestrian", "dog"))
TRAFFIC = Vocabulary(name="traffic", names=("person", "vehicle", "Dog"))
PETS = Vocabulary(name="pets", names=("dog", "cat"))
VOCABULARIES = {"streets_train": STREETS, "traffic_train": TRAFFIC, "pets_train": PETS, "pets_val": PETS}
SPACE = LabelSpace.concatenate(VOCABULARIES)
CAR, LORRY, PEDESTRIAN, DOG, PERSON, VEHICLE, DOG2, DOG3, CAT = range(9)
MERGE = {
    "vehicle": {"streets": ["car", "lorry"], "traffic_train": "vehicle"},
    "human": {"streets": "pedestrian", "traffic": "person"},
}
OTHER = Vocabulary(name="other", names=("rider", "walker", "ghost", "cat", "DOG"))


def listed(columns) -> list[list[int]]:
    return [group.tolist() for group in columns]


def test_a_training_vocabulary_has_its_own_columns():
    plain = WordColumns(SPACE)
    assert listed(plain.of(STREETS)) == [[0], [1], [2], [3]]
    assert listed(plain.of(PETS)) == [[DOG3], [CAT]]


def test_merged_words_are_the_columns_of_all_members():
    merged = WordColumns(SPACE, MERGE)
    vehicle, human = [CAR, LORRY, VEHICLE], [PEDESTRIAN, PERSON]
    assert listed(merged.of(STREETS)) == [vehicle, vehicle, human, [DOG]]
    assert listed(merged.of(TRAFFIC)) == [human, vehicle, [DOG2]]
    assert listed(merged.of(PETS)) == [[DOG3], [CAT]]
    asked = Vocabulary(name="asked", names=("Human", "lorry", "vehicle", "cat"))  # unified words, and words of training
    assert listed(merged.of(asked)) == [human, vehicle, vehicle, [CAT]]


def test_equal_spellings_of_another_vocabulary_are_all_meant(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO):
        assert listed(WordColumns(SPACE).of(Vocabulary(name="asked", names=("dog", "person")))) == [
            [DOG, DOG2, DOG3],
            [PERSON],
        ]
    assert "1 words are the mean of the logits of several columns: dog" in caplog.text


def test_mapped_words_of_a_test(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    table = tmp_path / "words.csv"
    table.write_text(
        "word,streets,traffic,unused\nrider,pedestrian,person,x\nwalker,pedestrian,,\nghost,,,\nDog,,Dog,\n"
    )
    with caplog.at_level(logging.INFO):
        found = WordColumns(SPACE, words=table).of(OTHER)
    assert listed(found) == [[PEDESTRIAN, PERSON], [PEDESTRIAN], [], [CAT], [DOG2]]  # a file outranks spelling
    assert "5 words of 'other': 4 as" in caplog.text and "will not be found: ghost" in caplog.text
    assert listed(WordColumns(SPACE, words=table).of(STREETS)) == [[0], [1], [2], [3]]  # a training set: as trained
    both = WordColumns(SPACE, {"human": {"streets": "pedestrian", "traffic": "person"}}, table)
    assert listed(both.of(OTHER))[1] == [PEDESTRIAN, PERSON]  # what is merged stays merged


def test_shared_columns_count_once():
    space = LabelSpace.merge_mapping(VOCABULARIES, MERGE)
    words = {"rider": {"streets": "pedestrian", "traffic": "person"}}
    assert listed(WordColumns(space, words=words).of(Vocabulary(name="t", names=("rider",)))) == [[1]]


@pytest.mark.parametrize(
    ("merge", "words", "message"),
    [
        ({"x": {"streets": "plane"}}, None, "no word 'plane'"),
        ({"x": {"streets": "car"}, "y": {"streets": "car"}}, None, "is in 'x' and in 'y'"),
        ({"x": {"boats": "sail"}}, None, "none of streets_train"),
        (None, {"x": {"pets": "bird"}}, "no word 'bird'"),
        (None, {"x": {}}, "none of streets_train"),
    ],
)
def test_wrong_mappings(merge, words, message: str):
    with pytest.raises(ValueError, match=message):
        WordColumns(SPACE, merge, words)


def test_unknown_words_are_never_guessed():
    with pytest.raises(ValueError, match=r"not trained with 3 of the 5 words .*rider, walker, ghost.*vocabulary match"):
        WordColumns(SPACE, MERGE).of(OTHER)
    with pytest.raises(FileNotFoundError, match=r"none\.csv"):
        WordColumns(SPACE, words="none.csv")
