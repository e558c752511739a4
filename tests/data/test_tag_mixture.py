"""Boxes and tags in one mixture, on the drawn world: shares, own sizes and batches, frequencies of tags, tar files."""

from __future__ import annotations

import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from mvseg.config import get_cfg
from mvseg.data import get_records, get_vocabulary, register_dataset
from mvseg.data.catalog import register_builtin_cards, unregister_card
from mvseg.data.indexing import make_index
from mvseg.data.label_spaces import label_space
from mvseg.data.loader import build_train_loader
from mvseg.data.sources.world.write import write_world
from mvseg.data.streams import ClassCounts
from mvseg.data.tar_files import close_files

BOXES, TAGS = "world_lvis_train_norare", "world_tags_train"


@pytest.fixture(scope="module", autouse=True)
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("datasets")
    write_world(folder / "world", ["world_lvis", "world_tags"], images=24, val_images=2, size=64, workers=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETECTRON2_DATASETS", str(folder))
        register_builtin_cards()
        yield folder
    register_builtin_cards()
    close_files()


@pytest.fixture
def cfg():
    cfg = get_cfg()
    cfg.DATASETS.MIX = [
        {"name": BOXES, "ratio": 1, "batch_size": 2, "image_size": 48},
        {"name": TAGS, "ratio": 4, "batch_size": 8, "image_size": 24, "scale_range": [0.5, 1.5]},
    ]
    cfg.DATALOADER.GROUPING, cfg.DATALOADER.NUM_WORKERS, cfg.SEED = "dataset", 0, 0
    cfg.INPUT.AUGMENTATION, cfg.INPUT.SCALE_RANGE = "resize_crop", [0.9, 1.1]
    return cfg


def take(cfg, count: int) -> list[list[dict]]:
    return [batch for batch, _ in zip(build_train_loader(cfg), range(count))]


def test_ratio_size_and_batch_of_each_dataset(cfg):
    batches = take(cfg, 40)
    kinds = [{sample["dataset"] for sample in batch} for batch in batches]
    assert all(len(kind) == 1 for kind in kinds)
    counts = Counter(next(iter(kind)) for kind in kinds)
    assert abs(counts[BOXES] - 20) <= 1  # images 1:4 in batches of 2 and 8: as many batches of each
    for batch, kind in zip(batches, kinds, strict=True):
        tags = kind == {TAGS}
        assert len(batch) == (8 if tags else 2)
        for sample in batch:
            assert max(sample["image"].shape) <= (24 if tags else 48)
            assert (len(sample["instances"]) == 0) == tags
            assert (bool(sample.get("image_labels"))) == tags


def test_images_of_both_kinds_in_one_batch(cfg):
    for entry in cfg.DATASETS.MIX:
        del entry["batch_size"]
    cfg.DATALOADER.GROUPING, cfg.SOLVER.IMS_PER_BATCH = "mixed", 10
    batches = take(cfg, 10)
    counts = [Counter(sample["dataset"] for sample in batch)[TAGS] for batch in batches]
    assert sum(counts) == 80 and all(6 <= count <= 10 for count in counts)


def test_rare_tags_are_repeated(cfg):
    cfg.DATASETS.MIX = [{"name": TAGS, "sampler": "repeat_factor", "repeat_threshold": 0.3}]
    cfg.SOLVER.IMS_PER_BATCH = 8
    records = get_records(TAGS)
    share = Counter(label for record in records for label in record["image_labels"])
    factor = {
        record["image_id"]: max(1.0, *((0.3 * len(records) / share[label]) ** 0.5 for label in record["image_labels"]))
        for record in records
    }
    assert len({round(f, 3) for f in factor.values()}) >= 1 and max(factor.values()) > 1
    sampler = build_train_loader(cfg).sampler
    drawn = Counter(records[draw.record]["image_id"] for _ in range(150) for draw in sampler.next_batch())
    per_epoch = sum(factor.values())
    for image, wanted in factor.items():
        assert drawn[image] / 1200 * per_epoch == pytest.approx(wanted, abs=1.0 + 0.2 * wanted)


@pytest.mark.parametrize("workers", [0, 2])
def test_tar_files_give_the_same_batches(cfg, world: Path, tmp_path: Path, workers: int):
    for folder in sorted((world / "world/tags/train").iterdir()):  # a tar file for every class, as ImageNet-21k has
        with tarfile.open(tmp_path / f"{folder.name}.tar", "w") as tar:
            for file in sorted(folder.iterdir()):
                tar.add(file, file.name)
    make_index(tmp_path, "shard")
    words = str(world / "world/tags/synset_words.txt")
    register_dataset(
        name="tags_in_tar_files", format="tar_shards", image_root=str(tmp_path), files={"classes": words},
        vocabulary=list(get_vocabulary(TAGS, embeddings=False).names),
    )  # fmt: skip
    try:
        assert [r["image_labels"] for r in get_records("tags_in_tar_files")] == [
            r["image_labels"] for r in get_records(TAGS)
        ]
        cfg.DATASETS.MIX, cfg.DATALOADER.NUM_WORKERS = [{"name": "tags_in_tar_files"}], workers
        cfg.SOLVER.IMS_PER_BATCH, cfg.INPUT.RANDOM_FLIP, cfg.INPUT.AUGMENTATION = 12, "none", "resize_shortest_edge"
        cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (32,), 64
        found = {s["image_id"]: s for batch in take(cfg, 2) for s in batch}
        cfg.DATASETS.MIX = [{"name": TAGS}]
        expected = {s["image_id"]: s for batch in take(cfg, 2) for s in batch}
    finally:
        unregister_card("tags_in_tar_files")
    assert sorted(found) == sorted(expected) == list(range(1, 25))
    for image, sample in expected.items():
        assert torch.equal(sample["image"], found[image]["image"])
        assert sample["image_labels"] == found[image]["image_labels"]


def test_a_hundred_tags_and_none(tmp_path: Path, cfg, card):
    from format_files import picture

    words = [f"word {i}" for i in range(100)]
    for name in ("all", "one"):
        picture(tmp_path / f"{name}.png")
    (tmp_path / "list.tsv").write_text(f"all.png\t{'|'.join(map(str, range(100)))}\none.png\t7\n")
    card(name="many", format="image_folder", image_root=str(tmp_path), annotations=str(tmp_path / "list.tsv"),
         vocabulary=words, filter={})  # fmt: skip
    assert get_records("many")[0]["image_labels"] == list(range(100))
    cfg.DATASETS.MIX, cfg.SOLVER.IMS_PER_BATCH = [{"name": "many"}], 2
    assert sorted(len(s["image_labels"]) for s in take(cfg, 1)[0]) == [1, 100]
    fields = {"options": {"other_labels": "drop"}, "files": {"classes": str(named(tmp_path))}}
    card(name="few", format="image_folder", image_root=str(tmp_path), annotations=str(tmp_path / "list.tsv"),
         vocabulary=[*words[:7], *words[8:]], **fields)  # fmt: skip
    assert [len(r["image_labels"]) for r in get_records("few")] == [99, 0]
    cfg.DATASETS.MIX = [{"name": "few"}]
    assert [s["image_id"] for batch in take(cfg, 3) for s in batch] == [1] * 6  # nothing to learn from the other
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    batch = sorted(take(cfg, 1)[0], key=lambda s: s["image_id"])
    assert [s["image_labels"] for s in batch][1] == [] and len(batch[1]["instances"]) == 0


def named(folder: Path) -> Path:
    """Table of the words of the labels 0 to 99."""
    (folder / "classes.tsv").write_text("".join(f"{i}\tword {i}\n" for i in range(100)))
    return folder / "classes.tsv"


def test_the_order_of_the_epoch_needs_no_list_of_records(monkeypatch, cfg):
    from mvseg.data.columns import ColumnRecords

    assert isinstance(get_records(TAGS), ColumnRecords)
    made = []
    original = ColumnRecords._record
    monkeypatch.setattr(ColumnRecords, "_record", lambda self, row: made.append(row) or original(self, row))
    cfg.DATASETS.MIX = [{"name": TAGS, "sampler": "class_aware"}]
    cfg.SOLVER.IMS_PER_BATCH = 4
    loader = build_train_loader(cfg)
    assert len(made) <= 8  # those whose files are looked up
    del made[:]
    next(iter(loader))
    assert len(made) == 4 and len(np.unique(made)) >= 1


def test_tags_of_classes_that_have_boxes_elsewhere():
    apart = label_space([BOXES, TAGS], "concatenate", embeddings=False, image_counts=True)
    joined = label_space([BOXES, TAGS], "merge_names", embeddings=False, image_counts=True)
    words = get_vocabulary(TAGS, embeddings=False).names
    assert len(joined) == len(words) and len(apart) == 2 * len(words)
    shown = Counter(label for record in get_records(TAGS) for label in record["image_labels"])
    boxed = ClassCounts.from_records(get_records(BOXES), len(words)).image_count()
    known = get_vocabulary(BOXES, embeddings=False).image_count
    for index, word in enumerate(get_vocabulary(BOXES, embeddings=False).names):
        place = words.index(word)
        assert joined.columns(BOXES)[index] == joined.columns(TAGS)[place]
        assert joined.image_count[joined.columns(TAGS)[place]] == shown[place] + (known or boxed)[index]
