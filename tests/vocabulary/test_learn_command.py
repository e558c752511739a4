"""``learn`` and ``unidet`` as users start them: stored predictions, a detector on the world, published files."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from test_learned_label_space import evidence_of

from mvseg.config import load_config
from mvseg.data import register_builtin_cards
from mvseg.data.sources.world.write import write_world
from mvseg.vocabulary import LabelSpace, Vocabulary, read_mapping
from mvseg.vocabulary.__main__ import main
from mvseg.vocabulary.commands.unidet import read_unidet
from mvseg.vocabulary.learning import Header, PredictionWriter, StoredVocabulary, read_predictions, storage

WORDS = {"a": ["cat", "mouse"], "b": ["Cat", "Mouse", "dog"]}
COVERS = {
    "a": [frozenset(["cat"]), frozenset(["rodent"])],
    "b": [frozenset(["cat"]), frozenset(["computer mouse"]), frozenset(["dog"])],
}


def header_of(score: float = 0.1) -> Header:
    return Header(
        tuple(StoredVocabulary(n, tuple(w), ((),) * len(w)) for n, w in WORDS.items()), "abc", score, 300, 0.5
    )


def store(folder: Path, sets: Sequence[str] = ("a_val", "b_val"), expected: Sequence[str] = ("a_val", "b_val")) -> list:
    evidence = evidence_of(WORDS, COVERS, images=150)
    writer = PredictionWriter(folder, header_of(), expected, {"config": "x.yaml"})
    writer.write_embeddings({"a": np.eye(2, 3), "b": np.eye(3)})
    for one, name in zip(evidence, ("a_val", "b_val"), strict=True):
        if name not in sets:
            continue
        writer.start(name, one.name, one.objects, [f"{i}.jpg" for i in range(one.num_images)], None)
        found = one.detections
        for image in range(one.num_images):
            rows = found.images == image
            writer.add(image, found.columns[rows], found.boxes[rows], found.scores[rows])
        writer.finish()
    return evidence


def test_learn_from_stored_predictions(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(storage, "IMAGES_IN_SHARD", 40)  # several shards
    store(tmp_path / "found")
    main(["learn", "--predictions", str(tmp_path / "found"), "--output", str(tmp_path / "out")])
    text = capsys.readouterr().out
    assert "5 words of 2 vocabularies became 4: 1 merges (1 of 2 words)" in text
    assert "cat [a, b: Cat]: cost" in text and f"DATASETS.LABEL_SPACE {tmp_path / 'out' / 'mapping.csv'}" in text
    mapping = read_mapping(tmp_path / "out" / "mapping.csv")
    assert mapping == {
        "cat": {"a": ("cat",), "b": ("Cat",)}, "mouse (a)": {"a": ("mouse",)}, "Mouse (b)": {"b": ("Mouse",)},
        "dog": {"b": ("dog",)},
    }  # fmt: skip
    page = (tmp_path / "out" / "report.md").read_text()
    assert "config `x.yaml`" in page and "b on b_val: 150 images" in page and "| 1.000 |" in page  # the cosine of cat
    rows = list(csv.DictReader((tmp_path / "out" / "near_misses.tsv").open(), delimiter="\t"))
    assert [(row["words"], row["cosine"]) for row in rows] == [("mouse [a] + Mouse [b]", "1.000")]
    # Other settings need no model. If hardly any detection counts, the merge rests on little.
    arguments = ["learn", "--predictions", str(tmp_path / "found"), "--output", str(tmp_path / "strict")]
    main([*arguments, "--score", "0.99", "--images", "all"])
    assert "1 merges rest on little" in capsys.readouterr().out
    main([*arguments, "--score", "0.99", "--min-own", "0.1"])
    assert "5 words of 2 vocabularies became 5: 0 merges" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"scores above 0.1 only, not above 0.05"):
        main([*arguments, "--score", "0.05"])


def test_stored_predictions_are_what_was_written(tmp_path):
    evidence = store(tmp_path)
    for one, read in zip(evidence, read_predictions(tmp_path), strict=True):
        assert (read.name, read.words, read.num_images, read.judged) == (one.name, one.words, one.num_images, None)
        np.testing.assert_array_equal(read.detections.columns, one.detections.columns)
        np.testing.assert_allclose(read.detections.boxes, one.detections.boxes, rtol=1e-6)
        np.testing.assert_array_equal(read.objects.classes, one.objects.classes)
        assert read.embeddings is not None and read.embeddings.shape == (len(one.words), 3)


def test_predictions_that_are_not_whole(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no predictions: it has no manifest.json"):
        read_predictions(tmp_path)
    with pytest.raises(ValueError, match=r"name the detector that makes them with --config-file"):
        main(["learn", "--predictions", str(tmp_path), "--output", str(tmp_path)])
    store(tmp_path, sets=("a_val",))
    with pytest.raises(ValueError, match=r"is not complete, b_val is missing"):
        read_predictions(tmp_path)
    assert PredictionWriter(tmp_path, header_of(), ("a_val", "b_val")).done == ("a_val",)
    with pytest.raises(ValueError, match=r"predictions with other score_threshold: name another folder"):
        PredictionWriter(tmp_path, header_of(score=0.3), ("a_val", "b_val"))
    store(tmp_path, sets=("b_val",))  # goes on
    assert [one.num_images for one in read_predictions(tmp_path)] == [150, 150]
    shard = tmp_path / "a_val" / "detections_0000.npz"
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"detections_0000.npz is damaged"):
        read_predictions(tmp_path)
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=r"detections_0000.npz, which the manifest lists, does not exist"):
        read_predictions(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(ValueError, match=r"no manifest of version 1"):
        read_predictions(tmp_path)


def test_test_sets_of_one_vocabulary_are_one(tmp_path):
    evidence = evidence_of(WORDS, COVERS, images=20)
    writer = PredictionWriter(tmp_path, header_of(), ("one", "two"))
    for name, one in (("one", evidence[0]), ("two", evidence[0])):
        judged = np.array([[0, 0], [19, 1]])
        writer.start(name, "a", one.objects, range(20), judged)
        writer.add(3, np.array([4]), np.ones((1, 4)), np.array([0.5]))
        writer.finish()
    a, b = read_predictions(tmp_path)
    assert a.num_images == 40 and b.num_images == 0 and len(a.objects) == 2 * len(evidence[0].objects)
    assert a.detections.images.tolist() == [3, 23]
    assert a.judged is not None and a.judged.tolist() == [[0, 0], [19, 1], [20, 0], [39, 1]]


CONFIG = """
_BASE_: {base}
DATASETS:
  MIX: [{{name: world_coco_train}}, {{name: world_oid_train, annotation_scope: own}}]
  TEST: [world_coco_val, world_oid_val, world_new_words_val, world_tags_train]
MODEL: {{CLASSIFIER: {{NAME: linear}}}}
OUTPUT_DIR: {output}
"""


def test_a_detector_answers_with_all_columns(tmp_path, monkeypatch, capsys):
    """A real detector with random weights on a few drawn images: what is stored, what is left out, and errors."""
    from detectron2.modeling import build_model

    import mvseg.modeling  # noqa: F401

    names = ("world_coco", "world_oid", "world_new_words", "world_tags")
    write_world(tmp_path / "world", names, images=3, val_images=3, size=64, workers=1)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    register_builtin_cards()
    base = Path(__file__).resolve().parents[2] / "configs" / "world" / "Base-World.yaml"
    config = tmp_path / "partitioned.yaml"
    config.write_text(CONFIG.format(base=base, output=tmp_path / "run"))
    model = build_model(load_config(config))
    torch.save({"model": model.state_dict()}, tmp_path / "model.pth")
    arguments = ["learn", "--config-file", str(config), "--output", str(tmp_path / "out")]
    with pytest.raises(ValueError, match=r"name its --weights"):
        main(arguments)
    arguments += ["--weights", str(tmp_path / "model.pth")]
    main([*arguments, "--score", "0.0001", "--detections", "40", "MODEL.ROI_HEADS.NMS_CLASS_AGNOSTIC", "True"])
    text = capsys.readouterr().out
    assert "world_new_words_val is left out: its vocabulary 'world_new_words' is none of training" in text
    assert "world_tags_train is left out: its annotation has no boxes" in text
    coco, oid = read_predictions(tmp_path / "out" / "predictions")
    assert (coco.name, len(coco.words), oid.name, len(oid.words)) == ("world_coco", 40, "world_oid", 78)
    assert coco.judged is None and oid.judged is not None  # verified labels
    for one in (coco, oid):
        assert np.bincount(one.detections.images).tolist() == [40, 40, 40]
        assert one.detections.columns.min() < 40 <= one.detections.columns.max()  # of both vocabularies
        assert one.embeddings is not None
    assert oid.objects.classes.max() >= 60  # broader words of the hierarchy count
    main([*arguments, "--score", "0.0001", "--detections", "40"])
    assert "world_coco_val: its predictions are in" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"set DATASETS.LABEL_SPACE concatenate"):
        main([*arguments, "--predictions", str(tmp_path / "other"), "DATASETS.LABEL_SPACE", "merge_names"])


# --- label spaces in UniDet's format ---


@pytest.mark.parametrize(
    ("file", "words", "shared_words"),
    [("learned_mAP", 701, 189), ("manual", 659, 218), ("learned_mAP+M", 722, 195), ("leaned_mAP_tau30_668", 668, 213)],
)
def test_published_label_spaces(shared: Path, tmp_path: Path, capsys, file: str, words: int, shared_words: int):
    path = shared / "data" / "labels" / "unidet_label_spaces" / f"{file}.json"
    chosen = ["--words", "oid=openimages_500", "--words", "coco=coco"]
    main(["unidet", str(path), "--out", str(tmp_path / "map.csv"), *chosen])
    assert f"{words} words for" in capsys.readouterr().out
    mapping = read_mapping(tmp_path / "map.csv")
    assert (len(mapping), sum(len(places) > 1 for places in mapping.values())) == (words, shared_words)
    names: dict[str, list[str]] = {}
    for places in mapping.values():
        for name, (word,) in places.items():
            names.setdefault(name, []).append(word)
    vocabularies = {name: Vocabulary(name=name, names=tuple(found)) for name, found in names.items()}
    vocabularies |= {name: Vocabulary.from_table(name) for name in ("coco", "openimages_500")}
    space = LabelSpace.merge_mapping(vocabularies, tmp_path / "map.csv")
    assert space.n == words and len(vocabularies["objects365"]) == 365
    tree = json.loads(path.read_text())
    for ours, theirs in (("coco", "coco"), ("openimages_500", "oid")):  # the same column for every class index
        assert space.columns(ours).tolist() == tree["label_map"][theirs]


def test_label_spaces_of_another_form(tmp_path, shared: Path):
    path = tmp_path / "x.json"
    with pytest.raises(FileNotFoundError, match=r"x.json does not exist"):
        read_unidet(path)
    path.write_text('{"categories": []}')
    with pytest.raises(ValueError, match=r"no label space of UniDet's format: KeyError\('raw_data'\)"):
        read_unidet(path)
    tree = {
        "categories": [{"name": "_cat_Cat"}, {"name": "dog_house"}, {"name": "_"}],
        "raw_data": [["key", "a", "b"], ["", "cat", "Cat"], ["", "", "Kennel"], ["", "cow", ""]],
        "label_map_dict": {"a": {"0": 0, "1": 2}, "b": {"0": 0, "1": 1}},
    }
    path.write_text(json.dumps(tree))
    assert read_unidet(path) == {"cat": {"a": "cat", "b": "Cat"}, "dog house": {"b": "Kennel"}, "cow": {"a": "cow"}}
    cats = Vocabulary(name="cats", names=("cat", "caw"))
    with pytest.raises(ValueError, match=r"'a': vocabulary 'cats' has none of 1 words: cow; nearest: caw"):
        read_unidet(path, {"a": cats})
    with pytest.raises(ValueError, match=r"has no dataset 'c'; there are: a, b"):
        read_unidet(path, {"c": cats})
    tree["label_map_dict"]["a"]["2"] = 1
    path.write_text(json.dumps(tree))
    with pytest.raises(ValueError, match=r"no column of raw_data fits label_map_dict of 'a'"):
        read_unidet(path)
    with pytest.raises(ValueError, match=r"ends in .csv or .tsv"):
        main(["unidet", str(path), "--out", str(tmp_path / "map.yaml")])
    with pytest.raises(ValueError, match=r"expected DATASET=VOCABULARY"):
        main(["unidet", str(path), "--out", str(tmp_path / "map.csv"), "--words", "coco"])
