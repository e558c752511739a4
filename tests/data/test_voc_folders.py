"""VOC XML files as ImageNet has them: folders of classes, WordNet ids for names, images without a file; difficulty."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from detectron2.structures import Boxes, Instances
from PIL import Image

from mvseg.data import get_records, get_vocabulary
from mvseg.data.card import _read_builtin_table
from mvseg.data.catalog import dataset_report, get_card, register_builtin_cards
from mvseg.data.mappers import MultiDatasetMapper
from mvseg.data.statistics import dataset_statistics
from mvseg.evaluation import build_evaluator
from mvseg.vocabulary import tables

TENCH, CRANE_BIRD, CRANE_MACHINE = "n01440764", "n02012849", "n03126707"


def write_xml(folder: Path, stem: str, objects=(), size=(40, 30), filename=None, difficult=()):
    folder.mkdir(parents=True, exist_ok=True)
    body = "".join(
        f"<object><name>{name}</name><difficult>{int(place in difficult)}</difficult><bndbox><xmin>{x0}</xmin>"
        f"<ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
        for place, (name, (x0, y0, x1, y1)) in enumerate(objects)
    )
    text = f"<annotation><filename>{stem if filename is None else filename}</filename><size><width>{size[0]}</width>"
    (folder / f"{stem}.xml").write_text(text + f"<height>{size[1]}</height></size>{body}</annotation>")


def write_image(path: Path, size=(40, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((size[1], size[0], 3), np.uint8)).save(path)


@pytest.fixture
def imagenet(tmp_path):
    """Two classes with two images each, of which one has no boxes, and a folder of other files."""
    for wnid in (TENCH, CRANE_BIRD):
        for number in (1, 2):
            write_image(tmp_path / "Data/train" / wnid / f"{wnid}_{number}.JPEG")
        box = (wnid, (3, 4, 12, 13))
        write_xml(tmp_path / "Annotations/train" / wnid, f"{wnid}_1", [box, box])
    (tmp_path / "Data/train" / TENCH / "notes.txt").touch()
    return {
        "format": "voc",
        "image_root": str(tmp_path / "Data/train"),
        "annotations": str(tmp_path / "Annotations/train"),
    }


def test_folders_of_classes_with_wordnet_ids(imagenet, card):
    card(name="boxes", **imagenet, vocabulary="imagenet_1k", options={"only_shown_classes": True})
    records = get_records("boxes")
    words = get_vocabulary("boxes", embeddings=False)
    assert len(words) == 1000 and words.keys[0] == TENCH
    assert [Path(r["file_name"]).name for r in records] == [f"{TENCH}_1.JPEG", f"{CRANE_BIRD}_1.JPEG"]
    assert all(Path(r["file_name"]).is_file() for r in records)
    classes = [words.index("tench"), words.keys.index(CRANE_BIRD)]
    assert [r["verified_category_ids"] for r in records] == [[c] for c in classes]
    assert [[a["category_id"] for a in r["annotations"]] for r in records] == [[c, c] for c in classes]
    assert records[0]["annotations"][0]["bbox"] == [2, 3, 10, 10]
    counts = dataset_report("boxes").counts
    assert (counts["images"], counts["instances"], counts["images_without_xml"]) == (2, 4, 2)
    assert "images without an XML file: left out" in dataset_report("boxes").table()
    assert "2" in dataset_statistics("boxes", records, words.names, "boxes", 10).tables(5)


def test_photographs_of_the_classes(shared, tmp_path, card):
    """A few of ImageNet's photographs with boxes of our own, their sizes left open."""
    source = shared / "data" / "imagenet_sample"
    wnids = sorted(p.name for p in source.iterdir() if p.is_dir())[:5]
    sizes = {}
    for wnid in wnids:
        photo = next(p for p in (source / wnid).iterdir())
        (tmp_path / "images" / wnid).mkdir(parents=True)
        shutil.copy(photo, tmp_path / "images" / wnid / f"{wnid}_0{photo.suffix}")
        with Image.open(photo) as image:
            sizes[wnid] = image.size
        write_xml(tmp_path / "xml" / wnid, f"{wnid}_0", [(wnid, (1, 1, *image.size))], size=(0, 0))
    card(name="photos", format="voc", image_root=str(tmp_path / "images"), annotations=str(tmp_path / "xml"),
         vocabulary="imagenet_1k")  # fmt: skip
    records = get_records("photos")
    assert [(r["width"], r["height"]) for r in records] == [sizes[w] for w in wnids]
    keys = get_vocabulary("photos").keys
    assert [keys[r["annotations"][0]["category_id"]] for r in records] == wnids
    assert [r["annotations"][0]["bbox"][2:] for r in records] == [list(sizes[w]) for w in wnids]


def test_words_from_a_table_of_synsets(imagenet, tmp_path, card):
    write_xml(Path(imagenet["annotations"]) / CRANE_MACHINE, f"{CRANE_MACHINE}_1", [(CRANE_MACHINE, (1, 1, 9, 9))])
    table = tmp_path / "synset_words.txt"
    table.write_text(f"{TENCH} tench, Tinca tinca\n{CRANE_BIRD} crane\n{CRANE_MACHINE} crane\n")
    card(name="named", **imagenet, files={"classes": str(table)})
    assert get_vocabulary("named").names == (f"crane ({CRANE_BIRD})", f"crane ({CRANE_MACHINE})", "tench")
    card(name="fish", **imagenet, files={"classes": str(table)}, vocabulary=["tench", "crane"])
    assert [r["annotations"][0]["category_id"] for r in get_records("fish")] == [0, 1, 1]
    card(name="keys", **imagenet)
    assert get_vocabulary("keys").names == (TENCH, CRANE_BIRD, CRANE_MACHINE)


def test_the_cards_cost_nothing_before_they_are_used(monkeypatch):
    """ImageNet's words are made from packages that take seconds to import."""

    def stop():
        raise AssertionError("the words were made")

    monkeypatch.setitem(tables._AT_RUN_TIME, "imagenet_1k", stop)
    _read_builtin_table.cache_clear()  # another test may have made them
    assert {"imagenet_boxes_train", "imagenet_boxes_val"} <= set(register_builtin_cards())
    train = get_card("imagenet_boxes_train")
    assert (train.evaluator, train.vocabulary, train.options) == ("none", "imagenet_1k", {"only_shown_classes": True})
    with pytest.raises(AssertionError, match="the words were made"):
        get_vocabulary("imagenet_boxes_train")


def test_what_is_wrong_with_the_files(imagenet, tmp_path, card):
    folder = Path(imagenet["annotations"])
    card(name="few", **imagenet, vocabulary=["tench"])
    with pytest.raises(ValueError, match=rf"not in vocabulary 'few':\n  '{TENCH}' \({TENCH}_1.xml, object 1\)"):
        get_records("few")
    card(name="flag", **imagenet, options={"only_shown_classes": "yes"})
    with pytest.raises(ValueError, match=r"options.only_shown_classes is true or false, not 'yes'"):
        get_records("flag")
    card(name="table", **imagenet, files={"classes": "none.txt"})
    with pytest.raises(FileNotFoundError, match=r"classes \(files.classes\) .*none.txt does not exist"):
        get_records("table")
    card(name="lost", **{**imagenet, "annotations": str(tmp_path / "absent")}, prepare="Ask Bob.")
    with pytest.raises(FileNotFoundError, match=r"annotation folder .*absent does not exist.*Ask Bob"):
        get_records("lost")
    write_xml(folder, "outside", [(TENCH, (50, 5, 60, 9)), (TENCH, (30, 20, 60, 29)), (TENCH, (5, 5, 5, 5))])
    card(name="outside", **imagenet)
    record = get_records("outside")[0]
    assert [a["bbox"] for a in record["annotations"]] == [[29, 19, 11, 10]]
    counts = dataset_report("outside").counts
    assert (counts["outside"], counts["clipped"], counts["zero_area"], counts["instances"]) == (1, 1, 1, 5)
    for wnid in (TENCH, CRANE_BIRD):
        shutil.rmtree(folder / wnid)
    write_xml(folder, "outside", [])
    card(name="empty", **imagenet)
    with pytest.raises(ValueError, match=r"'empty': no usable image: 1 XML files in .*, none with an object"):
        get_records("empty")
    card(name="nothing", **imagenet, vocabulary=["tench"])
    with pytest.raises(ValueError, match=r"'nothing': no usable image: 1 images"):
        get_records("nothing")


@pytest.mark.parametrize("train", [False, True])
def test_difficult_objects_can_be_trained_on(tmp_path, card, train):
    write_image(tmp_path / "images/one.jpg")
    write_xml(tmp_path / "xml", "one", [("cat", (3, 4, 12, 13)), ("cat", (20, 4, 32, 13))], difficult=(1,))
    name = f"difficult_{train}"
    card(name=name, format="voc", image_root=str(tmp_path / "images"), annotations=str(tmp_path / "xml"),
         evaluator="voc", options={"train_difficult": train})  # fmt: skip
    record = get_records(name)[0]
    assert [(a["difficult"], a["iscrowd"]) for a in record["annotations"]] == [(0, 0), (1, int(not train))]
    counts = dataset_report(name).counts
    assert (counts["difficult"], counts["crowd"]) == (1, int(not train))
    mapper = MultiDatasetMapper(True, augmentations={}, default_augmentations=[T.NoOpTransform()])
    assert len(mapper(record)["instances"]) == 1 + train
    # in the evaluation they count for nothing, trained on or not; one class is enough
    evaluator = build_evaluator(name)
    found = Instances((30, 40))
    found.pred_boxes = Boxes(torch.tensor([[19.0, 3, 32, 13], [2, 3, 12, 13]]))
    found.scores, found.pred_classes = torch.tensor([0.9, 0.8]), torch.tensor([0, 0])
    evaluator.process([record], [{"instances": found}])
    assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(100)


def test_a_file_name_of_another_machine_leads_nowhere(tmp_path, card):
    """Annotation tools write their own paths; a file that happens to lie there is not the dataset's image."""
    foreign = tmp_path / "desk/a.jpg"
    write_image(foreign, (9, 9))
    write_image(tmp_path / "images/a.jpg")
    write_image(tmp_path / "images/b.jpg")
    box = [("cat", (3, 4, 12, 13))]
    write_xml(tmp_path / "xml", "a", box, filename=str(foreign))
    write_xml(tmp_path / "xml", "b", box, filename="../desk/a.jpg")
    card(name="desk", format="voc", image_root=str(tmp_path / "images"), annotations=str(tmp_path / "xml"))
    assert [Path(r["file_name"]) for r in get_records("desk")] == [tmp_path / "images/a.jpg", tmp_path / "images/b.jpg"]
