"""The loaders: workers, processes, seeds, resume, broken files, bad datasets."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from drawn_records import draw_records

from mvseg.config import get_cfg
from mvseg.data.loader import MappedMixture, TrainLoader, build_test_loader, build_train_loader, load_records, seeded
from mvseg.data.mixing import Draw, MixtureSampler
from mvseg.data.reading import ImageReadError, ImageSizeError
from mvseg.data.streams import ShuffledStream


@pytest.fixture
def cfg(tmp_path, register):
    """Two datasets of 12 and 9 drawn images, batches of 4."""
    register("drawn_a", draw_records(tmp_path / "a", 12, masks=True, seed=1))
    register("drawn_b", draw_records(tmp_path / "b", 9, num_classes=2, seed=2), num_classes=4)
    cfg = get_cfg()
    cfg.DATASETS.MIX = [{"name": "drawn_a", "ratio": 1.0}, {"name": "drawn_b", "ratio": 2.0, "image_size": 24}]
    cfg.MODEL.MASK_ON = True
    cfg.SEED = 5
    cfg.SOLVER.IMS_PER_BATCH = 4
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.INPUT.AUGMENTATION, cfg.INPUT.TRAIN_SIZE, cfg.INPUT.MIN_SIZE_TEST = "resize_crop", 32, 20
    return cfg


def take(loader, count: int) -> list[list[dict]]:
    return [batch for batch, _ in zip(loader, range(count))]


def same(a: dict, b: dict) -> bool:
    boxes = [x["instances"].gt_boxes.tensor for x in (a, b)]
    names = (a["dataset"], a["image_id"]) == (b["dataset"], b["image_id"])
    return names and torch.equal(a["image"], b["image"]) and torch.equal(*boxes)


def assert_same(one: list[list[dict]], other: list[list[dict]]) -> None:
    assert [len(batch) for batch in one] == [len(batch) for batch in other]
    assert all(same(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True))


def test_batches_of_the_mixture(cfg):
    batches = take(build_train_loader(cfg), 30)
    samples = [sample for batch in batches for sample in batch]
    assert all(len(batch) == 4 for batch in batches)
    assert sum(s["dataset"] == "drawn_a" for s in samples) == pytest.approx(40, abs=6)
    for s in samples:
        assert s["supervision"] == ("masks" if s["dataset"] == "drawn_a" else "boxes")
        assert s["instances"].has("gt_masks") == (s["dataset"] == "drawn_a")
        assert max(s["image"].shape) <= (32 if s["dataset"] == "drawn_a" else 24)


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(cfg, workers: int):
    expected = take(build_train_loader(cfg), 12)
    cfg.DATALOADER.NUM_WORKERS = workers
    assert_same(expected, take(build_train_loader(cfg), 12))


def test_two_processes_see_what_one_sees(cfg, monkeypatch):
    whole = take(build_train_loader(cfg), 10)
    parts = []
    for rank in range(2):
        monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 2)
        monkeypatch.setattr("detectron2.utils.comm.get_rank", lambda rank=rank: rank)
        parts.append(take(build_train_loader(cfg), 10))
    assert_same(whole, [a + b for a, b in zip(*parts)])


def test_seed_decides(cfg):
    first = take(build_train_loader(cfg), 3)
    assert_same(first, take(build_train_loader(cfg), 3))
    cfg.SEED = 6
    assert not all(same(a, b) for x, y in zip(first, take(build_train_loader(cfg), 3)) for a, b in zip(x, y))


def test_an_image_is_augmented_anew_every_time(cfg):
    samples = [s for batch in take(build_train_loader(cfg), 30) for s in batch]
    one = [s["image"] for s in samples if s["dataset"] == "drawn_a" and s["image_id"] == 1]
    assert len({tuple(i.shape) for i in one}) > 1


def test_loading_leaves_the_random_state_of_training_alone(cfg):
    loader = build_train_loader(cfg)
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    take(loader, 2)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all() and random.getstate() == before[2]


def test_seeded_block():
    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()

    with seeded(2**62 + 3):
        first = draw()
    draw()
    with seeded(2**62 + 3):
        assert draw() == first
    with seeded(4):
        assert all(a != b for a, b in zip(draw(), first))


# ---- resume


@pytest.mark.parametrize("workers", [0, 2])
def test_resume_counts_what_was_handed_out(cfg, workers: int, tmp_path):
    straight = take(build_train_loader(cfg), 13)
    cfg.DATALOADER.NUM_WORKERS = workers
    stopped = build_train_loader(cfg)
    iterator = iter(stopped)
    for _ in range(7):
        next(iterator)
    assert stopped.step == 7
    assert workers == 0 or stopped.sampler.step > 7  # the workers were given more
    torch.save(stopped.state_dict(), tmp_path / "state.pth")
    cfg.SEED = -1  # a run without a seed draws one; the checkpoint's wins
    resumed = build_train_loader(cfg)
    resumed.load_state_dict(torch.load(tmp_path / "state.pth", weights_only=True))
    assert resumed.step == 7
    assert_same(straight[7:], take(resumed, 6))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_new_iterator_goes_on_and_ends_the_old_one(cfg, workers: int):
    straight = take(build_train_loader(cfg), 18)
    cfg.DATALOADER.NUM_WORKERS = workers
    loader = build_train_loader(cfg)
    first = iter(loader)
    batches = [next(first) for _ in range(3)]
    second = iter(loader)
    batches += [next(second) for _ in range(9)]
    with pytest.raises(RuntimeError, match=r"call iter\(\) again"):
        next(first)
    state = loader.state_dict()
    assert loader.step == 12
    next(second)
    loader.load_state_dict(state)
    with pytest.raises(RuntimeError, match=r"call iter\(\) again"):
        next(second)
    batches += take(loader, 6)
    assert_same(straight, batches)


# ---- bad input


def damage(cfg, dataset: str, *indices: int) -> list[str]:
    files = [DatasetCatalog.get(dataset)[index]["file_name"] for index in indices]
    for file in files:
        data = Path(file).read_bytes()
        Path(file).write_bytes(data[: len(data) // 2])
    return files


@pytest.mark.parametrize("workers", [0, 2])
def test_truncated_images_are_replaced_and_counted(cfg, workers: int, caplog):
    files = damage(cfg, "drawn_b", 3, 4)
    cfg.DATALOADER.MAX_BAD_IMAGES = 0.3
    expected = take(build_train_loader(cfg), 20)
    cfg.DATALOADER.NUM_WORKERS = workers
    loader = build_train_loader(cfg)
    batches = take(loader, 20)
    assert_same(expected, batches)  # the replacements are the same, too
    samples = [s for batch in batches for s in batch]
    assert len(samples) == 80 and not {s["file_name"] for s in samples} & set(files)
    assert sum(s["dataset"] == "drawn_b" for s in samples) == pytest.approx(53, abs=6)
    assert len(loader.bad_images) == 2
    assert "dataset 'drawn_b': 2 of 9 images unreadable" in loader.bad_images.summary()
    assert all(file in loader.bad_images.summary() and file in caplog.text for file in files)
    again = build_train_loader(cfg)
    again.load_state_dict(loader.state_dict())
    assert again.bad_images.summary() == loader.bad_images.summary()


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_truncated_images_stop_the_training(cfg, workers: int):
    files = damage(cfg, "drawn_b", 3, 4)
    cfg.DATALOADER.MAX_BAD_IMAGES = 0.12
    cfg.DATALOADER.NUM_WORKERS = workers
    with pytest.raises(ImageReadError, match=r"dataset 'drawn_b': 2 of 9 images are unreadable") as error:
        take(build_train_loader(cfg), 40)
    assert all(file in str(error.value) for file in files)


def test_missing_folder_stops_at_once(cfg):
    for record in DatasetCatalog.get("drawn_a"):
        Path(record["file_name"]).unlink()
    cfg.DATALOADER.MAX_BAD_IMAGES = 1.0
    with pytest.raises(
        ImageReadError, match=r"(?s)dataset 'drawn_a': 100 images in a row .*png: the file does not exist"
    ):
        take(build_train_loader(cfg), 3)


@pytest.mark.parametrize("workers", [0, 1])
def test_errors_name_the_image(cfg, workers: int):
    DatasetCatalog.get("drawn_a")[2]["width"] += 1
    cfg.DATALOADER.NUM_WORKERS = workers
    with pytest.raises(ImageSizeError, match=r"dataset 'drawn_a', image 2, .*2\.png"):
        take(build_train_loader(cfg), 40)


def test_errors_of_other_mappers_get_a_note(cfg):
    def mapper(record):
        raise KeyError("oops")

    with pytest.raises(KeyError) as error:
        take(build_train_loader(cfg, mapper=mapper), 1)
    assert "while loading dataset 'drawn_" in error.value.__notes__[0] and ".png" in error.value.__notes__[0]


def test_mapper_that_returns_none_asks_for_another_image(cfg):
    loader = build_train_loader(cfg, mapper=lambda record: record if record["image_id"] % 2 else None)
    assert all(s["image_id"] % 2 for batch in take(loader, 10) for s in batch)
    assert len(loader.bad_images) == 0
    with pytest.raises(ImageReadError, match="the mapper returned None"):
        take(build_train_loader(cfg, mapper=lambda record: None), 1)


def test_images_without_objects(cfg, register, tmp_path, caplog):
    records = draw_records(tmp_path / "c", 6)
    records[0]["annotations"] = []
    for annotation in records[1]["annotations"]:
        annotation["iscrowd"] = 1
    register("drawn_c", records)
    cfg.DATASETS.MIX = [{"name": "drawn_c"}]
    loader = build_train_loader(cfg)
    assert loader.report.datasets[0].images == 4 and loader.report.datasets[0].left_out == 2
    assert {s["image_id"] for batch in take(loader, 6) for s in batch} == {2, 3, 4, 5}
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    samples = [s for batch in take(build_train_loader(cfg), 6) for s in batch]
    assert {s["image_id"] for s in samples} == set(range(6))
    assert all(len(s["instances"]) == 0 for s in samples if s["image_id"] < 2)


def test_dataset_without_usable_images(cfg, register, tmp_path):
    records = draw_records(tmp_path / "c", 2)
    for record in records:
        record["annotations"] = []
    register("drawn_empty", records)
    register("drawn_nothing", [])
    cfg.DATASETS.MIX = [{"name": "drawn_empty"}]
    with pytest.raises(ValueError, match=r"'drawn_empty': none of its 2 images .*FILTER_EMPTY_ANNOTATIONS"):
        build_train_loader(cfg)
    with pytest.raises(ValueError, match="'drawn_nothing' has no images"):
        build_test_loader(cfg, "drawn_nothing")


def test_unknown_dataset(cfg):
    cfg.DATASETS.MIX = [{"name": "drawn_aa"}]
    with pytest.raises(KeyError, match="'drawn_aa' is not registered; nearest: drawn_a"):
        build_train_loader(cfg)


def test_declared_supervision_wins_over_the_guess(register, tmp_path):
    register("drawn_c", draw_records(tmp_path / "c", 2, masks=True), supervision="boxes")
    assert {r["supervision"] for r in load_records("drawn_c")} == {"boxes"}


# ---- the rest


def test_report_names_datasets_and_classes(cfg):
    report = build_train_loader(cfg).report
    a, b = report.datasets
    assert (a.images, b.images, report.epoch_images) == (12, 9, 21)
    assert (a.images_per_epoch, b.images_per_epoch) == pytest.approx((7, 14))
    assert b.class_names == tuple(f"drawn_b {i}" for i in range(4)) and set(b.unseen_classes) == {
        "drawn_b 2",
        "drawn_b 3",
    }
    objects = sum(len(r["annotations"]) for r in DatasetCatalog.get("drawn_b"))
    assert b.class_instances.sum() == pytest.approx(objects * 14 / 9)
    assert "drawn_a 1" in report.table() and "66.7%" in report.table()


def test_repeat_factors_of_a_config(cfg):
    cfg.DATASETS.MIX = []
    cfg.DATASETS.TRAIN = ("drawn_a",)
    cfg.DATALOADER.SAMPLER_TRAIN = "RepeatFactorTrainingSampler"
    cfg.DATALOADER.REPEAT_THRESHOLD = 1.0
    weights = build_train_loader(cfg).sampler.streams[0].weights()
    assert weights.max() > 1 and len(weights) == 12


def test_own_batch_size_per_dataset(cfg):
    cfg.DATALOADER.GROUPING = "dataset"
    cfg.DATASETS.MIX = [
        {"name": "drawn_a", "batch_size": 2},
        {"name": "drawn_b", "batch_size": 6, "augmentation": "lsj"},
    ]
    loader = build_train_loader(cfg)
    for batch in take(loader, 12):
        (dataset,) = {s["dataset"] for s in batch}
        assert len(batch) == {"drawn_a": 2, "drawn_b": 6}[dataset]
    assert loader.report.images_per_step == pytest.approx(3.0)


def test_records_are_stored_once_and_serialised(cfg):
    dataset = build_train_loader(cfg).dataset
    record = dataset.records[0][3]
    record["file_name"] = "changed"
    assert dataset.records[0][3]["file_name"] != "changed"
    assert len(dataset) == 21


def test_direct_use_without_a_config(tmp_path):
    records = draw_records(tmp_path, 4)
    dataset = MappedMixture(["x"], [records], lambda record: {"image_id": record["image_id"]})
    assert dataset[Draw(0, 2, 17)] == ({"image_id": 2}, [])
    loader = TrainLoader(dataset, MixtureSampler([ShuffledStream("x", 4)], shares=(1.0,), batch_sizes=(2,)))
    assert sorted(s["image_id"] for batch in take(loader, 2) for s in batch) == [0, 1, 2, 3]


def test_test_loader(cfg):
    batches = list(build_test_loader(cfg, "drawn_b"))
    assert [len(batch) for batch in batches] == [1] * 9
    assert [batch[0]["image_id"] for batch in batches] == list(range(9))
    assert "instances" not in batches[0][0] and min(batches[0][0]["image"].shape[1:]) == 20
    with_objects = list(build_test_loader(cfg, "drawn_b", with_annotations=True))
    assert [len(b[0]["instances"]) for b in with_objects] == [len(r["annotations"]) for r in load_records("drawn_b")]


def test_test_loader_stops_at_a_broken_image(cfg):
    (file,) = damage(cfg, "drawn_b", 4)
    with pytest.raises(ImageReadError, match=rf"test set 'drawn_b', image 4: .*{Path(file).name}.*results"):
        list(build_test_loader(cfg, "drawn_b"))
