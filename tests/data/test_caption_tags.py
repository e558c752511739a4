"""Tags from sentences: tables as Conceptual Captions has them, and COCO captions."""

from __future__ import annotations

from pathlib import Path

import pytest
from format_files import SHARED, caption_set, caption_tree, picture

from mvseg.config import get_cfg
from mvseg.data import get_records, get_vocabulary
from mvseg.data.catalog import dataset_report
from mvseg.data.loader import build_train_loader

LINES = "A dog and two cats\ta.jpg\nnothing\tb.jpg\n  \tc.jpg\nHot dog: a d\u00f6ner\td.jpg\n"


def table(folder: Path, text: str = LINES, **more) -> dict:
    for name in "abcd":
        picture(folder / "images" / f"{name}.jpg")
    (folder / "captions.tsv").write_text(text)
    fields = {"name": "told", "format": "caption_table", "image_root": str(folder / "images")}
    return {**fields, "annotations": str(folder / "captions.tsv"), **more}


def test_captions_of_a_table(tmp_path: Path, card):
    made = card(**table(tmp_path))
    records = get_records("told")
    assert (made.supervision, made.evaluator) == ("captions", "none")
    assert [r["captions"] for r in records] == [["A dog and two cats"], ["nothing"], ["  "], ["Hot dog: a döner"]]
    assert [Path(r["file_name"]).name for r in records] == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    assert "image_labels" not in records[0] and records[3]["image_id"] == 4
    assert dataset_report("told").counts["empty_sentences"] == 1


def test_tags_of_a_table(tmp_path: Path, card):
    card(**table(tmp_path, supervision="tags", vocabulary=["cat", "dog", "hot_dog", "elk"]))
    records = get_records("told")
    assert [r["image_labels"] for r in records] == [[0, 1], [], [], [2]]
    assert records[0]["captions"] == ["A dog and two cats"] and records[0]["annotations"] == []
    counts = dataset_report("told").counts
    assert [counts[k] for k in ("words_found", "tags", "annotated_images")] == [2, 3, 2]
    assert [r["image_labels"] for r in records.without_empty()] == [[0, 1], [2]]


@pytest.mark.parametrize(
    ("options", "labels"),
    [({"plurals": False}, [[1], [2]]), ({"overlaps": True}, [[0, 1], [1, 2]]), ({}, [[0, 1], [2]])],
)
def test_how_words_are_matched(tmp_path: Path, card, options: dict, labels: list):
    card(**table(tmp_path, vocabulary=["cat", "dog", "hot_dog"], options=options))
    assert [r["image_labels"] for r in get_records("told")][::3] == labels


def test_ignored_and_filtered_words(tmp_path: Path, card):
    (tmp_path / "words.tsv").write_text("name\tnovel\ncat\t1\ndog\t0\nhot_dog\t0\n")
    card(**table(tmp_path, supervision="tags", vocabulary=str(tmp_path / "words.tsv"), filter={"novel": False},
                 ignore=["hot_dog"]))  # fmt: skip
    assert [r["image_labels"] for r in get_records("told")] == [[1], [], [], []]
    with pytest.raises(ValueError, match=r"ignore names 'hotdog', not in vocabulary"):
        card(**table(tmp_path, supervision="tags", vocabulary=["dog"], ignore=["hotdog"]) | {"name": "wrong"})
        get_records("wrong")


def test_a_table_with_a_header_and_addresses(tmp_path: Path, card):
    text = (
        "\ufeffid\turl\ttext\n0\thttp://x.y/z/a.jpg?s=1\tone\n1\thttp://x.y/q/gone.jpg\ttwo\n2\thttp://q/d.jpg\tthree\n"
    )
    options = {"header": True, "caption": "text", "image": "url", "file_name": "{name}", "missing": "skip"}
    card(**table(tmp_path, text, options=options))
    records = get_records("told")
    assert [(r["captions"], r["image_id"], Path(r["file_name"]).name) for r in records] == [
        (["one"], 1, "a.jpg"), (["three"], 3, "d.jpg")]  # fmt: skip
    assert dataset_report("told").counts["missing_images"] == 1


def test_names_by_row(tmp_path: Path, card):
    for row in range(2):
        picture(tmp_path / f"images/{row:08d}.jpg")
    (tmp_path / "list.txt").write_text("00000001\n")
    card(**table(tmp_path, "a\tu\nb\tv\n", options={"file_name": "{row:08d}.jpg"}, split=str(tmp_path / "list.txt")))
    assert [r["captions"] for r in get_records("told")] == [["b"]]


@pytest.mark.parametrize(
    ("text", "more", "message"),
    [
        ("one\n", {}, r"line 1: 1 columns, 2 are needed, divided by tabs; found 'one'"),
        ("a\tb.jpg\nb\t \n", {}, r"line 2: no image is named"),
        ("a\tb.jpg\n", {"options": {"image": 3}}, "line 1: 2 columns, 4 are needed"),
        ("a\tb.jpg\n", {"options": {"image": "url"}}, r"options.image must be the number of a column"),
        ("a\tb.jpg\n", {"options": {"header": True, "image": "ur"}}, r"has no column 'ur'; it has|has no column 'ur'"),
        ("a\tb.jpg\n", {"options": {"file_name": "{key}"}}, r"no template of \{value\}"),
        ("a\tb.jpg\n", {"options": {"missing": "maybe"}}, "options.missing 'maybe'"),
        ("a\tb.jpg\n", {"options": {"plurals": "yes"}, "vocabulary": ["a"]}, "options.plurals must be true or false"),
        ("a\tb.jpg\n", {"supervision": "tags"}, "name their words"),
        ("a\tx/y.jpg\n", {}, "none of 1 images looked up is there"),
        ("", {}, "no usable image: 0 images"),
        ("a\tx/y.jpg\n", {"options": {"missing": "skip"}}, "no usable image: 0 images"),
    ],
)
def test_wrong_tables(tmp_path: Path, card, text: str, more: dict, message: str):
    card(**table(tmp_path, text, **more))
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        get_records("told")
    assert "dataset 'told'" in str(error.value)


def test_tags_of_coco_captions(tmp_path: Path, card):
    tree = caption_tree()
    tree["annotations"].append({"id": 4, "image_id": 2, "caption": "and a dog"})
    words = ["cat", "dog", "elk"]
    card(name="all", **caption_set(tmp_path, tree), supervision="tags", vocabulary=words)
    assert [r["image_labels"] for r in get_records("all")] == [[0, 1], [0, 1], []]
    assert get_vocabulary("all").names == tuple(words) and get_records("all")[0]["annotations"] == []
    first = {"options": {"first_sentence": True}}
    card(name="first", **caption_set(tmp_path, tree), supervision="tags", vocabulary=words, **first)
    assert [r["image_labels"] for r in get_records("first")] == [[0, 1], [0], []]
    card(name="both", **caption_set(tmp_path, tree), vocabulary=words)
    record = get_records("both")[1]
    assert record["supervision"] == "captions" and record["image_labels"] == [0, 1] and len(record["captions"]) == 2
    card(name="none", **caption_set(tmp_path, tree), supervision="tags")
    with pytest.raises(ValueError, match=r"to find tags in sentences, name their words"):
        get_records("none")


def test_sentences_of_mirrored_images(tmp_path: Path, card):
    card(**table(tmp_path, "a cat left of it\ta.jpg\n", supervision="tags", vocabulary=["cat"]))
    cfg = get_cfg()
    cfg.DATASETS.TRAIN, cfg.SEED, cfg.SOLVER.IMS_PER_BATCH, cfg.DATALOADER.NUM_WORKERS = ("told",), 0, 8, 0
    batch = next(iter(build_train_loader(cfg)))
    assert {sample["captions"][0] for sample in batch} == {"a cat left of it", "a cat right of it"}


@pytest.mark.skipif(not SHARED.exists(), reason="no shared data")
def test_words_of_real_sentences(card, tmp_path: Path):
    lines = []
    for file in sorted((SHARED / "flickr30k_entities").rglob("*.txt")):
        picture(tmp_path / f"images/{file.stem}.jpg")
        for line in file.read_text().splitlines():
            words = [w for w in line.replace("[", " ").replace("]", " ").split() if not w.startswith("/")]
            lines.append(f"{' '.join(words)}\t{file.stem}.jpg\n")
    if not lines:
        pytest.skip("no sentences")
    card(**table(tmp_path, "".join(lines), supervision="tags", vocabulary="lvis_v1"))
    names = get_vocabulary("told").names
    found = {r["captions"][0]: {names[label] for label in r["image_labels"]} for r in get_records("told")}
    assert len(found) == 25 and sum(map(bool, found.values())) >= 20
    told = next(text for text in found if text.startswith("A man in a yellow shirt and black apron"))
    assert found[told] == {"apron", "newspaper", "person", "shirt"}
    assert found[next(text for text in found if text.startswith("Several men play cards"))] == {
        "card",
        "person",
        "table",
    }
