"""Dataset cards: fields and their errors, registration in Detectron2's catalogs, vocabularies and label spaces."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from coco_files import small_tree, write_coco
from detectron2.data import DatasetCatalog, MetadataCatalog

import mvseg.data as data
from mvseg.data import catalog
from mvseg.data.card import DatasetCard, load_card, make_card
from mvseg.vocabulary import Vocabulary

FIELDS = {"name": "x", "format": "coco", "image_root": "i", "annotations": "a.json"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"anotations": "b"}, r"dataset 'x': unknown field 'anotations'; nearest: annotations"),
        ({"supervision": "mask"}, r"unknown supervision 'mask'; nearest: masks"),
        ({"evaluator": "coc"}, r"unknown evaluator 'coc'; nearest: coco"),
        ({"filter": {"frequencies": ["r"]}}, r"unknown filter 'frequencies'; nearest: frequency"),
        ({"aliases": ["a"]}, r"aliases has the wrong form"),
        ({"image_root": ""}, r"image_root must be a non-empty text"),
    ],
)
def test_wrong_fields(change, message):
    with pytest.raises(ValueError, match=message):
        make_card({**FIELDS, **change})


def test_card_files(tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text("name: x\nformat: lvis\nimage_root: i\nannotations: a.json\nfilter: {novel: false}\n")
    card = load_card(file)
    assert card.evaluator == "lvis" and card.supervision == "boxes" and card.filter == {"novel": False}
    assert str(file) in card.where
    file.write_text("name: x\nformat: coco\n")
    with pytest.raises(ValueError, match=r"x.yaml: missing field\(s\) image_root, annotations"):
        load_card(file)
    file.write_text("- name: x\n")
    with pytest.raises(ValueError, match=r"x.yaml: a card is a mapping of fields, found list"):
        load_card(file)
    file.write_text("name: [x\n")
    with pytest.raises(ValueError, match=r"x.yaml is not valid YAML"):
        load_card(file)
    with pytest.raises(FileNotFoundError, match=r"absent.yaml"):
        load_card(tmp_path / "absent.yaml")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"holds no dataset card"):
        data.register_cards(tmp_path / "empty")


def test_unknown_format_and_vocabulary_fail_at_registration():
    with pytest.raises(ValueError, match=r"unknown format 'coc'; nearest: coco"):
        data.register_card(DatasetCard(**{**FIELDS, "format": "coc"}))
    with pytest.raises(ValueError, match=r"'lvis' is neither a built-in table \(.*nearest: lvis_v1\) nor a file"):
        data.register_dataset(**FIELDS, vocabulary="lvis")
    assert "x" not in DatasetCatalog.list()


def test_builtin_cards_replace_detectron2s_datasets():
    names = data.register_builtin_cards()
    assert {"coco_2017_train", "coco_2017_val", "lvis_v1_train", "lvis_v1_val", "lvis_v1_train_norare",
            "voc_2012_trainval", "world_coco_train", "world_oid_val", "world_new_words_val"} <= set(names)  # fmt: skip
    coco, lvis = MetadataCatalog.get("coco_2017_val"), MetadataCatalog.get("lvis_v1_train")
    assert coco.json_file.endswith("coco/annotations/instances_val2017.json") and coco.evaluator_type == "coco"
    assert coco.thing_classes[0] == "person" and coco.thing_dataset_id_to_contiguous_id[90] == 79
    assert lvis.evaluator_type == "lvis" and lvis.class_image_count[2] == {"id": 3, "image_count": 1911}
    assert lvis.supervision == "masks"
    assert data.get_vocabulary("lvis_v1_train_norare", embeddings=False).novel.count(True) == 337


def test_registered_dataset_is_read_once_and_lazily(tmp_path, card):
    fields = write_coco(tmp_path, small_tree())
    (tmp_path / "a.json").rename(tmp_path / "later.json")
    card(name="once", **fields, vocabulary=["cat", "dog", "traffic light"], supervision="masks")
    assert MetadataCatalog.get("once").thing_classes == ["cat", "dog", "traffic light"]
    with pytest.raises(FileNotFoundError):
        DatasetCatalog.get("once")
    (tmp_path / "later.json").rename(tmp_path / "a.json")
    records = DatasetCatalog.get("once")
    (tmp_path / "a.json").unlink()
    assert DatasetCatalog.get("once") == records == data.get_records("once")
    assert {record["dataset"] for record in records} == {"once"} and records[0]["supervision"] == "masks"


def test_vocabulary_from_the_file_and_evaluation_on_it(tmp_path, card):
    fields = write_coco(tmp_path, small_tree())
    card(name="own_words", **fields)
    words = data.get_vocabulary("own_words")
    assert words.names == ("cat", "dog", "traffic light") and words.ids == (2, 5, 11)
    metadata = MetadataCatalog.get("own_words")
    assert metadata.json_file == fields["annotations"]
    assert metadata.thing_dataset_id_to_contiguous_id == {2: 0, 5: 1, 11: 2}
    # Other words, order or ids than the file's: an evaluator must not read the file itself.
    card(name="reordered", **fields, vocabulary=["dog", "cat", "traffic light"])
    assert [a["category_id"] for a in DatasetCatalog.get("reordered")[0]["annotations"]] == [1, 2]
    (tmp_path / "w.txt").write_text("cat\ndog\ntraffic light\n")
    card(name="other_ids", **fields, vocabulary=str(tmp_path / "w.txt"))
    card(name="fewer", **fields, ignore=["dog"])
    for name in ("reordered", "other_ids", "fewer"):
        DatasetCatalog.get(name)
        assert not MetadataCatalog.get(name).get("json_file"), name


def test_aliases_rename_and_merge(tmp_path, card):
    fields = write_coco(tmp_path, small_tree())
    card(name="merged", **fields, vocabulary={"name": "w", "names": ["light", "animal"]},
         aliases={"cat": "animal", "dog": "animal", "traffic light": "light"})  # fmt: skip
    records = DatasetCatalog.get("merged")
    assert [[a["category_id"] for a in r["annotations"]] for r in records] == [[1, 0], [1]]
    assert data.get_vocabulary("merged").name == "w"
    card(name="typo", **fields, aliases={"dgo": "dog"})
    with pytest.raises(ValueError, match=r"aliases names 'dgo'.*nearest: dog"):
        DatasetCatalog.get("typo")


def test_category_absent_from_the_vocabulary(tmp_path, card):
    card(name="absent", **write_coco(tmp_path, small_tree()), vocabulary=["cat", "traffic_lights"])
    with pytest.raises(ValueError) as error:
        DatasetCatalog.get("absent")
    message = str(error.value)
    assert "'absent'" in message and "a.json" in message and "aliases:" in message
    assert "'dog' (id 5, annotation 4)" in message
    assert "'traffic light' (id 11, annotation 2); nearest: traffic_lights" in message
    card(name="spelled", **write_coco(tmp_path, small_tree()), vocabulary=["Cat", "Traffic_Light"], ignore=["dog"])
    assert len(DatasetCatalog.get("spelled")[0]["annotations"]) == 2
    assert catalog.dataset_report("spelled").counts["ignored"] == 1


def test_a_name_belongs_to_one_card(tmp_path, card):
    fields = write_coco(tmp_path, small_tree())
    made = card(name="taken", **fields)
    data.register_card(made)  # the same card again is fine
    with pytest.raises(ValueError, match=r"the name is taken by dataset 'taken'"):
        data.register_dataset(name="taken", **{**fields, "image_root": "elsewhere"})
    data.register_dataset(**{**FIELDS, "name": "coco_2017_train"}, vocabulary=["one"])
    try:
        assert MetadataCatalog.get("coco_2017_train").thing_classes == ["one"]
        data.register_builtin_cards()  # the user's card stays
        assert MetadataCatalog.get("coco_2017_train").thing_classes == ["one"]
    finally:
        catalog.unregister_card("coco_2017_train")
        data.register_builtin_cards()
    assert len(MetadataCatalog.get("coco_2017_train").thing_classes) == 80


def test_unknown_dataset_names_the_nearest():
    with pytest.raises(KeyError, match=r"no dataset 'coco_2017_tran'; nearest: coco_2017_train"):
        data.get_card("coco_2017_tran")
    for function in (data.get_vocabulary, data.get_records, catalog.dataset_report, catalog.unregister_card):
        with pytest.raises(KeyError, match=r"coco_2017_train"):
            function("coco_2017_tran")


def test_dataset_without_a_card(register):
    record = {"file_name": "a.png", "height": 2, "width": 2, "image_id": 1, "annotations": []}
    register("plain", [record], num_classes=2, thing_dataset_id_to_contiguous_id={4: 1, 9: 0})
    card = data.get_card("plain")
    assert (card.supervision, card.evaluator) == ("boxes", "coco")
    words = data.get_vocabulary("plain")
    assert (words.names, words.ids) == (("plain 0", "plain 1"), (9, 4))
    assert data.get_records("plain") == [{**record, "dataset": "plain", "supervision": "boxes"}]
    register("wordless", [], num_classes=0)
    with pytest.raises(ValueError, match=r"'wordless' has no card, and its metadata no thing_classes"):
        data.get_vocabulary("wordless")


def test_semantic_and_panoptic_datasets_without_a_card(register):
    register("stuff", [{"file_name": "a.png"}], evaluator_type="sem_seg", stuff_classes=["sky", "sea"])
    assert (data.get_card("stuff").supervision, data.get_card("stuff").evaluator) == ("semantic", "sem_seg")
    assert data.get_vocabulary("stuff").names == ("sky", "sea")
    assert data.get_records("stuff")[0]["supervision"] == "semantic"
    register("whole", [], evaluator_type="coco_panoptic_seg", json_file="a.json")
    assert (data.get_card("whole").supervision, data.get_card("whole").evaluator) == ("panoptic", "coco_panoptic_seg")
    register("apart", [], evaluator_type="coco_panoptic_seg", json_file="a.json", sem_seg_root="s")
    assert (data.get_card("apart").supervision, data.get_card("apart").evaluator) == ("masks", "coco")


def test_image_counts_from_the_records(tmp_path, card, caplog):
    tree = small_tree()
    twice = {**tree["annotations"][0], "id": 8}  # a second cat in the first image
    crowd = {**tree["annotations"][0], "id": 9, "image_id": 9, "iscrowd": 1}
    tree["annotations"] += [twice, crowd]
    (tmp_path / "words.txt").write_text("cat\ndog\ntraffic light\nzebra\n")
    (tmp_path / "counted.tsv").write_text("name\timage_count\ncat\t70\ndog\t80\n")
    words = {"vocabulary": str(tmp_path / "words.txt")}
    fields = write_coco(tmp_path / "here", tree)
    card(name="first", **fields, **words)
    card(name="second", **write_coco(tmp_path / "there", small_tree()), **words)
    card(name="gone", **{**fields, "annotations": str(tmp_path / "gone.json")}, vocabulary=["cat", "elk"])
    card(
        name="told", **{**fields, "annotations": str(tmp_path / "gone.json")}, vocabulary=str(tmp_path / "counted.tsv")
    )
    assert data.label_space(["first"], image_counts=True).image_count.tolist() == [1, 1, 1, 0]
    assert data.label_space(["first", "second"], image_counts=True).image_count.tolist() == [
        2,
        2,
        2,
        0,
    ]  # one vocabulary
    assert data.label_space(["first", "told"], "merge_names", image_counts=True).image_count.tolist() == [71, 81, 1, 0]
    assert data.label_space(["first"]).image_count is None  # nobody asked: nothing is read
    assert not caplog.records
    assert data.label_space(["gone"], image_counts=True).image_count.tolist() == [1, 1]  # to be evaluated
    assert "not counted, which only training needs" in caplog.text and "gone.json" in caplog.text


def test_embeddings_of_a_card(tmp_path, card):
    fields = write_coco(tmp_path, small_tree())
    np.save(tmp_path / "e.npy", np.eye(3, 4, dtype=np.float32))
    (tmp_path / "rows.txt").write_text("traffic light\ndog\ncat\n")
    card(name="embedded", **fields, embeddings=str(tmp_path / "e.npy"))
    card(name="other_rows", **fields, embeddings={"file": str(tmp_path / "e.npy"), "rows": str(tmp_path / "rows.txt")})
    assert data.get_vocabulary("embedded").embeddings.argmax(1).tolist() == [0, 1, 2]
    assert data.get_vocabulary("other_rows").embeddings.argmax(1).tolist() == [2, 1, 0]
    assert data.get_vocabulary("embedded", embeddings=False).embeddings is None
    space = data.label_space(["embedded", "other_rows"], "merge_names")
    assert space.n == 3 and torch.equal(space.embeddings, torch.eye(3, 4))
    assert data.label_space(["embedded", "other_rows"]).n == 6
    assert data.label_space(["embedded"], embeddings=False).embeddings is None
    with pytest.raises(ValueError, match=r"nearest: merge_names"):
        data.label_space(["embedded"], "merge_name")
    np.save(tmp_path / "short.npy", np.zeros((2, 4), np.float32))
    card(name="short", **fields, embeddings=str(tmp_path / "short.npy"))
    with pytest.raises(ValueError, match=r"'short'.*short.npy.*expected 3 rows.*found 2 rows"):
        data.get_vocabulary("short")
    card(name="lost", **fields, embeddings="lost.npy")
    with pytest.raises(FileNotFoundError, match=r"embedding file .*lost.npy does not exist"):
        data.get_vocabulary("lost")
    card(name="wrong", **fields, embeddings={"path": "e.npy"})
    with pytest.raises(ValueError, match=r"embeddings takes file and rows, found \['path'\]"):
        data.get_vocabulary("wrong")


def test_embeddings_from_several_tables(tmp_path, card):
    fields = write_coco(tmp_path, small_tree())
    np.save(tmp_path / "e.npy", np.array([[1, 0], [2, 0]], np.float32))
    np.save(tmp_path / "f.npy", np.array([[3, 0], [4, 0], [5, 0]], np.float32))
    (tmp_path / "e.txt").write_text("dog\nhorse\n")
    (tmp_path / "f.txt").write_text("dog\ncat\nTraffic_light\n")
    tables = [{"file": str(tmp_path / f"{x}.npy"), "rows": str(tmp_path / f"{x}.txt")} for x in "ef"]
    card(name="several", **fields, embeddings=tables)
    assert data.get_vocabulary("several").embeddings[:, 0].tolist() == [4, 1, 5]  # cat, dog, traffic light
    card(name="no_rows", **fields, embeddings=[{"file": str(tmp_path / "e.npy")}])
    with pytest.raises(ValueError, match=r"lists several tables, so .*e.npy needs rows"):
        data.get_vocabulary("no_rows")
    np.save(tmp_path / "f.npy", np.zeros((3, 5), np.float32))
    card(name="wide", **fields, embeddings=tables)
    with pytest.raises(ValueError, match=r"f.npy: expected embeddings of width 2, found width 5"):
        data.get_vocabulary("wide")


def test_files_next_to_the_card_and_under_the_root(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "root"))
    write_coco(tmp_path / "root/set", small_tree())
    folder = tmp_path / "cards"
    folder.mkdir()
    (folder / "w.txt").write_text("cat\ndog\ntraffic light\n")
    np.save(folder / "e.npy", np.eye(3, dtype=np.float32))
    (folder / "near.yaml").write_text(
        "name: near\nformat: coco\nimage_root: set/images\nannotations: set/a.json\n"
        "vocabulary: w.txt\nembeddings: e.npy\n"
    )
    assert data.register_cards([folder]) == ["near"]
    try:
        assert DatasetCatalog.get("near")[0]["file_name"] == str(tmp_path / "root/set/images/one.png")
        assert data.get_vocabulary("near").embeddings.shape == (3, 3)
    finally:
        catalog.unregister_card("near")


def test_novel_classes_are_filtered(tmp_path, card):
    tree = small_tree()
    for category, frequency in zip(tree["categories"], "rfc", strict=True):
        category.update(frequency=frequency, image_count=3)
    for image in tree["images"]:
        image.update(
            neg_category_ids=[5, 2], not_exhaustive_category_ids=[11], coco_url=f"http://x/images/{image['file_name']}"
        )
    fields = {**write_coco(tmp_path, tree), "format": "lvis", "image_root": str(tmp_path)}
    card(name="whole", **fields)
    card(name="norare", **fields, filter={"novel": False})
    card(name="frequent", **fields, filter={"frequency": ["f"]})
    assert [len(r["annotations"]) for r in DatasetCatalog.get("whole")] == [2, 1]
    assert [len(r["annotations"]) for r in DatasetCatalog.get("norare")] == [2, 0]  # dog is rare
    assert [len(r["annotations"]) for r in DatasetCatalog.get("frequent")] == [1, 0]
    assert catalog.dataset_report("norare").counts["filtered"] == 1
    assert data.get_vocabulary("norare").names == ("cat", "dog", "traffic light")
    assert isinstance(data.get_vocabulary("norare"), Vocabulary)
    card(name="no_frequency", **write_coco(tmp_path / "b", small_tree()), filter={"frequency": ["f"]})
    with pytest.raises(ValueError, match=r"filter by frequency, but vocabulary 'no_frequency' does not have it"):
        DatasetCatalog.get("no_frequency")


def test_words_come_from_the_first_of_several_tables_that_has_them(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[1.0, 0.0], [2.0, 0.0]]))
    np.save(tmp_path / "b.npy", np.array([[3.0, 0.0], [4.0, 0.0], [5.0, 0.0]]))
    (tmp_path / "a.txt").write_text("cat\ndog\n")
    (tmp_path / "b.txt").write_text("dog\nowl\nowl\n")  # a table may hold a name twice
    tables = [{"file": str(tmp_path / f"{t}.npy"), "rows": str(tmp_path / f"{t}.txt")} for t in "ab"]
    card = DatasetCard("x", "coco", ".", "x.json", vocabulary=["owl", "dog"], embeddings=tables)
    words = card.attach_embeddings(card.read_vocabulary())
    assert words.embeddings.tolist() == [[4.0, 0.0], [2.0, 0.0]]


def test_several_tables_need_their_row_names_and_one_width(tmp_path):
    np.save(tmp_path / "a.npy", np.eye(2))
    np.save(tmp_path / "b.npy", np.eye(3))
    (tmp_path / "a.txt").write_text("cat\ndog\n")
    (tmp_path / "b.txt").write_text("owl\nbat\nfly\n")
    tables = [{"file": str(tmp_path / f"{t}.npy"), "rows": str(tmp_path / f"{t}.txt")} for t in "ab"]
    for embeddings, complaint in ((tables, "width"), ([*tables[:1], {"file": str(tmp_path / "b.npy")}], "needs rows")):
        card = DatasetCard("x", "coco", ".", "x.json", vocabulary=["owl"], embeddings=embeddings)
        with pytest.raises(ValueError, match=complaint):
            card.attach_embeddings(card.read_vocabulary())
