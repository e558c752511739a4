"""Records, the default mapper, and loaders with and without workers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import (
    DatasetCatalog,
    DatasetFromList,
    DatasetMapper,
    MapDataset,
    MetadataCatalog,
    ToIterableDataset,
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.data import transforms as T
from detectron2.data.build import (
    build_batch_data_loader,
    filter_images_with_only_crowd_annotations,
    print_instances_class_histogram,
)
from detectron2.data.common import AspectRatioGroupedDataset
from detectron2.data.samplers import InferenceSampler, TrainingSampler
from detectron2.structures import BoxMode
from PIL import Image

from mvseg.provider import detectron2_provider

only_builtin = pytest.mark.skipif(detectron2_provider() != "builtin", reason="about mvseg's own provider")


@pytest.fixture
def dataset(tmp_path):
    """Six drawn images, wide and tall in turn, a box and a polygon in each; the last has only a crowd."""
    name = "contract_loader"
    rng = np.random.RandomState(0)
    records = []
    for index in range(6):
        size = (30, 50) if index % 2 == 0 else (50, 30)
        path = str(tmp_path / f"{index}.png")
        Image.fromarray(rng.randint(0, 255, (*size, 3)).astype(np.uint8)).save(path)
        annotation = {
            "bbox": [5.0, 6.0, 10.0, 12.0],
            "bbox_mode": BoxMode.XYWH_ABS,
            "category_id": index % 3,
            "segmentation": [[5.0, 6.0, 15.0, 6.0, 15.0, 18.0, 5.0, 18.0]],
            "iscrowd": int(index == 5),
        }
        records.append(
            {"file_name": path, "image_id": index, "height": size[0], "width": size[1], "annotations": [annotation]}
        )
    DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.get(name).thing_classes = ["a", "b", "c"]
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


@pytest.fixture
def cfg(dataset):
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (dataset,)
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.SOLVER.IMS_PER_BATCH = 2
    cfg.INPUT.MIN_SIZE_TRAIN = (60,)
    cfg.INPUT.RANDOM_FLIP = "none"
    cfg.INPUT.MIN_SIZE_TEST = 45
    return cfg


def test_records_are_filtered(dataset):
    assert len(get_detection_dataset_dicts(dataset)) == 5
    assert len(get_detection_dataset_dicts([dataset], filter_empty=False)) == 6
    assert len(filter_images_with_only_crowd_annotations([{"annotations": []}, {"annotations": [{"iscrowd": 0}]}])) == 1
    with pytest.raises(AssertionError):
        get_detection_dataset_dicts([])


@only_builtin
def test_images_without_annotations_key_are_kept(dataset):
    weak = {"file_name": "x", "height": 1, "width": 1}
    assert filter_images_with_only_crowd_annotations([weak, {"annotations": []}]) == [weak]


def test_class_numbers_are_checked(dataset):
    records = get_detection_dataset_dicts(dataset)
    with pytest.raises(AssertionError):
        print_instances_class_histogram(records, ["a", "b"])


def test_mapper_in_training(cfg, dataset):
    cfg.MODEL.MASK_ON = True
    record = DatasetCatalog.get(dataset)[0]
    mapped = DatasetMapper(cfg, is_train=True)(record)
    assert mapped["image"].shape == (3, 60, 100) and mapped["image"].dtype == torch.uint8
    expected = np.asarray(Image.open(record["file_name"]).resize((100, 60), Image.BILINEAR))[:, :, ::-1]
    assert np.array_equal(mapped["image"].permute(1, 2, 0).numpy(), expected)
    assert torch.equal(mapped["instances"].gt_boxes.tensor, torch.tensor([[10.0, 12, 30, 36]]))
    assert np.allclose(mapped["instances"].gt_masks.polygons[0][0], [10, 12, 30, 12, 30, 36, 10, 36])
    assert "annotations" not in mapped and "annotations" in record and (mapped["height"], mapped["width"]) == (30, 50)


def test_mapper_in_testing(cfg, dataset):
    mapped = DatasetMapper(cfg, is_train=False)(DatasetCatalog.get(dataset)[1])
    assert mapped["image"].shape == (3, 75, 45) and "instances" not in mapped and "annotations" not in mapped


def test_mapper_drops_crowds_and_masks(cfg, dataset):
    mapped = DatasetMapper(cfg, is_train=True)(DatasetCatalog.get(dataset)[5])
    assert len(mapped["instances"]) == 0
    assert not DatasetMapper(cfg, is_train=True)(DatasetCatalog.get(dataset)[0])["instances"].has("gt_masks")


def test_mapper_with_explicit_arguments_and_labels(dataset, tmp_path):
    record = dict(DatasetCatalog.get(dataset)[0])
    labels = np.arange(30 * 50).reshape(30, 50) % 7
    Image.fromarray(labels.astype(np.uint8)).save(tmp_path / "labels.png")
    record["sem_seg_file_name"] = str(tmp_path / "labels.png")
    mapper = DatasetMapper(
        True,
        augmentations=[T.HFlipTransform(50)],
        image_format="RGB",
        use_instance_mask=True,
        instance_mask_format="bitmask",
        recompute_boxes=True,
    )
    mapped = mapper(record)
    assert torch.equal(mapped["sem_seg"], torch.from_numpy(labels[:, ::-1].copy()).long())
    assert torch.equal(mapped["instances"].gt_boxes.tensor, torch.tensor([[35.0, 6, 45, 18]]))
    assert mapped["instances"].gt_masks.tensor.sum() == 120
    with pytest.raises(AssertionError):
        DatasetMapper(True, augmentations=[], image_format="RGB", recompute_boxes=True)


def test_training_batches(cfg, dataset):
    loader = build_detection_train_loader(cfg, sampler=TrainingSampler(5, seed=1))
    batches = list(itertools.islice(iter(loader), 6))
    order = list(itertools.islice(iter(TrainingSampler(5, seed=1)), 20))
    for batch in batches:
        assert len(batch) == 2 and len({record["width"] > record["height"] for record in batch}) == 1
    wide = [record["image_id"] for batch in batches for record in batch if record["image_id"] % 2 == 0]
    assert wide == [int(index) for index in order if index % 2 == 0][: len(wide)]


def identity(record):
    return record


@pytest.mark.parametrize("workers", [0, 2])
def test_plain_batches_follow_the_sampler(dataset, workers):
    loader = build_detection_train_loader(
        get_detection_dataset_dicts(dataset),
        mapper=identity,
        sampler=TrainingSampler(5, seed=2),
        total_batch_size=2,
        aspect_ratio_grouping=False,
        num_workers=workers,
    )
    ids = [[record["image_id"] for record in batch] for batch in itertools.islice(iter(loader), 5)]
    order = [int(index) for index in itertools.islice(iter(TrainingSampler(5, seed=2)), 10)]
    assert ids == [order[at : at + 2] for at in range(0, 10, 2)]


def test_test_loader_shows_every_image_once(cfg, dataset):
    loader = build_detection_test_loader(cfg, dataset)
    assert len(loader) == 6 and [batch[0]["image_id"] for batch in loader] == list(range(6))
    batched = build_detection_test_loader(DatasetCatalog.get(dataset), mapper=identity, batch_size=4)
    assert [len(batch) for batch in batched] == [4, 2]


def test_samplers_by_name(cfg):
    cfg.DATALOADER.SAMPLER_TRAIN = "RepeatFactorTrainingSampler"
    cfg.DATALOADER.REPEAT_THRESHOLD = 0.9
    loader = build_detection_train_loader(cfg)
    assert len(next(iter(loader))) == 2
    cfg.DATALOADER.SAMPLER_TRAIN = "NoSuchSampler"
    with pytest.raises(ValueError, match="NoSuchSampler"):
        build_detection_train_loader(cfg)


def test_batch_sizes_are_checked():
    with pytest.raises(AssertionError):
        build_batch_data_loader(DatasetFromList([1]), TrainingSampler(1), 0)
    with pytest.raises(ValueError):
        build_batch_data_loader(DatasetFromList([1]), TrainingSampler(1), 2, single_gpu_batch_size=2)


def test_lists_are_copied_or_serialised():
    items = [{"a": [1]}, {"b": 2}, {"c": np.arange(3)}]
    for dataset in (DatasetFromList(items), DatasetFromList(items, serialize=False)):
        dataset[0]["a"].append(5)
        assert dataset[0] == {"a": [1]} and len(dataset) == 3 and np.array_equal(dataset[2]["c"], [0, 1, 2])
    shared = DatasetFromList(items, copy=False, serialize=False)
    assert shared[0] is items[0]
    assert DatasetFromList([3, 4], serialize=tuple)[1] == 4


def test_unusable_records_are_replaced():
    dataset = MapDataset(DatasetFromList(list(range(10))), lambda number: number if number % 3 == 0 else None)
    assert len(dataset) == 10
    values = [dataset[index] for index in range(10)]
    assert all(value % 3 == 0 for value in values) and values[::3] == [0, 3, 6, 9]


def test_streams():
    stream = ToIterableDataset(DatasetFromList([10, 20, 30]), InferenceSampler(3))
    assert list(stream) == [10, 20, 30]
    assert list(MapDataset(stream, lambda number: number + 1 if number > 10 else None)) == [21, 31]
    loader = torch.utils.data.DataLoader(stream, num_workers=2, batch_size=None)
    assert sorted(loader) == [10, 20, 30], "workers must share the indices out"
    with pytest.raises(AssertionError):
        ToIterableDataset(stream, InferenceSampler(3))


def test_aspect_ratio_groups():
    records = [{"width": w, "height": 5, "id": i} for i, w in enumerate([9, 2, 8, 5, 7, 6, 1])]
    groups = [[record["id"] for record in batch] for batch in AspectRatioGroupedDataset(records, 2)]
    assert groups == [[0, 2], [1, 3], [4, 5]]
