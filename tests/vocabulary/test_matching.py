"""Words of test sets matched to a label space: the rule by hand, ties, the command, and the file that a model reads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mvseg.vocabulary import LabelSpace, Vocabulary, WordColumns, read_mapping
from mvseg.vocabulary.__main__ import main
from mvseg.vocabulary.matching import DISTANCES, mapping_rows, match_words

A = Vocabulary(
    name="a", names=("car", "motorcycle", "Cabinet/shelf", "carrot", "couch"), synonyms=((), (), (), (), ("sofa",))
)
B = Vocabulary(name="b", names=("Car", "human--person", "Street light", "cycle"))
SPACE = LabelSpace.concatenate({"a_train": A, "b_train": B, "b_val": B})
CAR, MOTORCYCLE, CABINET, CARROT, COUCH, CAR2, PERSON, LIGHT, CYCLE = range(9)


def found(word: str, **options) -> tuple[float, tuple[int, ...]]:
    match = match_words(Vocabulary(name="t", names=(word,)), SPACE, **options)[0]
    return match.distance, match.columns


@pytest.mark.parametrize(
    ("word", "distance", "columns"),
    [
        ("CAR", 0.0, (CAR, CAR2)),  # a tie: both are kept
        ("person", 0.0, (PERSON,)),
        ("thing--person", 0.0, (PERSON,)),
        ("shelf", 0.0, (CABINET,)),
        ("sofa", 0.005, (COUCH,)),
        ("light", 0.01, (LIGHT,)),
        ("bicycle", 0.01, (CYCLE,)),
        ("motor cycle", 0.0, (MOTORCYCLE,)),  # spaces do not count
        ("caravan", 0.02, (CAR, CAR2)),
        ("street", 0.02, (LIGHT,)),
        ("zebra", 1.0, ()),
    ],
)
def test_by_name(word: str, distance: float, columns: tuple[int, ...]):
    assert found(word) == (distance, columns)


def test_whole_words():
    assert found("bicycle", whole_words=True) == (1.0, ())
    assert found("light", whole_words=True) == (0.01, (LIGHT,))
    assert found("street", whole_words=True) == (0.02, (LIGHT,))
    assert DISTANCES["name"] < DISTANCES["synonym"] < DISTANCES["ending"] < DISTANCES["beginning"]


def test_by_meaning_where_no_name_matches():
    rows = torch.eye(9)
    space = LabelSpace.concatenate({"a": A.with_embeddings(rows[:5]), "b": B.with_embeddings(rows[5:])})
    words = Vocabulary(name="t", names=("zebra", "lamp", "carrot"))
    table = torch.zeros(3, 9)
    table[0, [PERSON, LIGHT]] = 1.0  # as near to one as to the other
    table[1, [LIGHT, CAR]] = torch.tensor([3.0, 4.0])
    table[2, PERSON] = 1.0  # a name outranks it
    zebra, lamp, carrot = match_words(words.with_embeddings(table), space)
    assert zebra.columns == (PERSON, LIGHT) and zebra.distance == pytest.approx(1 - 0.5**0.5, abs=1e-6)
    assert (lamp.columns, lamp.way) == ((CAR,), "similar") and lamp.distance == pytest.approx(0.2, abs=1e-6)
    assert (carrot.columns, carrot.way) == ((CARROT,), "name")
    zebra = match_words(words.with_embeddings(table), space, largest=0.25)[0]
    assert (zebra.columns, zebra.distance, zebra.way) == ((), 1.0, "")
    with pytest.raises(ValueError, match="3 wide"):
        match_words(words.with_embeddings(torch.ones(3, 3)), space)


def test_a_unified_word_is_called_by_all_its_members():
    space = LabelSpace.merge_mapping({"a": A, "b": B}, {"vehicle": {"a": "car", "b": "Car"}})
    match = match_words(Vocabulary(name="t", names=("car", "vehicle")), space)
    assert [m.columns for m in match] == [(0,), (0,)]
    rows = mapping_rows(match, space)
    assert rows == [["word", "a", "b"], ["car", "car", "Car"], ["vehicle", "car", "Car"]]


def test_command_writes_what_a_model_reads(tmp_path: Path, capsys: pytest.CaptureFixture):
    files = {}
    for vocabulary in (A, B):
        files[vocabulary.name] = tmp_path / f"{vocabulary.name}.txt"
        files[vocabulary.name].write_text("\n".join(vocabulary.names) + "\n")
    tests = [tmp_path / "one.txt", tmp_path / "two.txt"]
    tests[0].write_text("car\nzebra\nstreet\n")
    tests[1].write_text("Car\nbicycle\n")
    out = tmp_path / "words.csv"
    main(["match", *map(str, tests), "--to", str(files["a"]), str(files["b"]), "--out", str(out)])
    shown = capsys.readouterr().out
    assert "car [a], Car [b]" in shown and "zebra" in shown and "no embeddings" in shown
    assert "one: 3 words: 1 equal names, 1 the beginning of a name, 1 no match; 1 with several columns" in shown
    assert read_mapping(out) == {
        "car": {"a": ("car",), "b": ("Car",)},
        "zebra": {},
        "street": {"b": ("Street light",)},
        "bicycle": {"b": ("cycle",)},
    }
    columns = WordColumns(SPACE, words=out).of(Vocabulary.from_file(tests[0]))
    assert [c.tolist() for c in columns] == [[CAR, CAR2], [], [LIGHT]]
    with pytest.raises(ValueError, match=r"ends in \.csv or \.tsv"):
        main(["match", "cat,dog", "--to", "cat,bird", "--out", "x.yaml"])
