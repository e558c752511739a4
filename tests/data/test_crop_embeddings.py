"""Stored crop embeddings in training: what is read, how it follows the augmentation, and what is refused."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from PIL import Image

from mvseg.config import get_cfg
from mvseg.data.catalog import get_records, register_dataset, unregister_card
from mvseg.data.crop_embeddings import (
    CONTENT,
    CropEmbeddingFolder,
    crop_embedding_folders,
    embeddings_of,
)
from mvseg.data.mappers import MultiDatasetMapper
from mvseg.data.proposal_files import ProposalFileError, finish_job, start_job, write_shard
from mvseg.data.proposals import images_fingerprint

WIDTH = 6


def rows_of(count: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(count, WIDTH))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


def write(folder: Path, images: dict[int, np.ndarray], fingerprint: str = "f", **facts: object) -> Path:
    job = {"dataset": "drawn", "images_fingerprint": fingerprint, "teacher": "t", "width": WIDTH, **facts}
    start_job(folder, job)
    parts = [
        (i, {"boxes": b, "scores": np.linspace(1, 0, len(b), dtype=np.float32), "embeddings": rows_of(len(b), i)})
        for i, b in images.items()
    ]
    for number in range(0, len(parts), 2):
        write_shard(folder, number // 2, parts[number : number + 2])
    finish_job(folder, -(-len(parts) // 2), CONTENT)
    return folder


BOXES = np.array([[0, 0, 40, 20], [30, 10, 50, 30], [8, 4, 18, 24], [60, 30, 80, 40]], np.float32)


def test_embeddings_follow_flip_resize_and_crop():
    """Twice as large, mirrored, then 60 x 100 pixels of it: computed by hand from the numbers of the boxes."""
    moves = T.TransformList(
        [T.ResizeTransform(50, 80, 100, 160), T.HFlipTransform(160), T.CropTransform(0, 0, 60, 100)]
    )
    arrays = {"boxes": BOXES, "embeddings": rows_of(4, 3)}
    found = embeddings_of(arrays, moves, (100, 60), topk=9, kept_area=0.5)
    # doubled and mirrored: [80 0 160 40], [60 20 100 60], [124 8 144 48], [0 60 40 80]; only the last is inside
    np.testing.assert_allclose(found.proposal_boxes.tensor.numpy(), [[0, 60, 40, 80]])
    np.testing.assert_array_equal(found.gt_embeddings.numpy(), arrays["embeddings"][3:])
    assert found.gt_embeddings.dtype == torch.float16 and found.image_size == (100, 60)


@pytest.mark.parametrize(("kept_area", "left"), [(0.5, [0, 2]), (0.51, [2]), (0.2, [0, 1, 2]), (0.0, [0, 1, 2])])
def test_a_box_that_lost_much_of_its_area_is_left_out(kept_area: float, left: list[int]):
    boxes = np.array([[0, 0, 40, 20], [16, 10, 36, 30], [8, 4, 18, 24], [20, 30, 80, 40]], np.float32)
    moves = T.TransformList([T.CropTransform(0, 0, 20, 50)])  # keeps 1/2, 1/5, all and nothing of them
    arrays = {"boxes": boxes, "embeddings": rows_of(4, 3)}
    found = embeddings_of(arrays, moves, (50, 20), topk=9, kept_area=kept_area)
    np.testing.assert_array_equal(found.gt_embeddings.numpy(), arrays["embeddings"][left])
    assert (found.proposal_boxes.tensor[:, 2] <= 20).all()
    best = embeddings_of(arrays, moves, (50, 20), topk=1, kept_area=kept_area)
    np.testing.assert_array_equal(best.gt_embeddings.numpy(), arrays["embeddings"][left[:1]])


def test_no_box_is_left():
    arrays = {"boxes": BOXES[3:], "embeddings": rows_of(1, 3)}
    found = embeddings_of(arrays, T.TransformList([T.CropTransform(0, 0, 20, 50)]), (50, 20), topk=9)
    assert len(found) == 0 and found.gt_embeddings.shape == (0, WIDTH)


def register(folder: Path, name: str, ids: list[int], width: int = 80) -> list[dict]:
    images = [{"id": i, "file_name": f"{i % 10}.png", "height": 50, "width": width} for i in ids]
    boxes = [{"id": i + 1, "image_id": i, "category_id": 1, "bbox": [5, 5, 25, 20], "area": 500} for i in ids]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "cat"}]}
    (folder / f"{name}{width}.json").write_text(json.dumps(content))
    file = str(folder / f"{name}{width}.json")
    register_dataset(name=name, format="coco", image_root=str(folder), annotations=file)
    return get_records(name)


@pytest.fixture
def dataset(tmp_path: Path) -> Iterator[tuple[Path, list[dict]]]:
    """Three pictures of a dataset "drawn" with crop embeddings, the last image without any."""
    for i in range(3):
        Image.fromarray(np.full((50, 80, 3), 40 * i, np.uint8)).save(tmp_path / f"{i}.png")
    records = register(tmp_path, "drawn", [0, 1, 2])
    write(tmp_path / "e", {0: BOXES, 1: BOXES[:2], 2: BOXES[:0]}, images_fingerprint(records))
    yield tmp_path / "e", records
    unregister_card("drawn")


def config(folder: Path | str | None, weight: float = 1.0) -> CfgNode:
    cfg = get_cfg()
    cfg.set_new_allowed(True)
    cfg.DATASETS.TRAIN = ("drawn",)
    cfg.DATASETS.MIX = [{"name": "drawn"} if folder is None else {"name": "drawn", "crop_embeddings": str(folder)}]
    if "DISTILLATION" not in cfg.MODEL:
        cfg.MODEL.DISTILLATION = CfgNode({"WEIGHT": 0.0, "MAX_REGIONS": 300})
    cfg.MODEL.DISTILLATION.WEIGHT, cfg.MODEL.DISTILLATION.MAX_REGIONS = weight, 3
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.RANDOM_FLIP = (100,), "none"
    return cfg


def test_the_mapper_delivers_them_in_training_alone(dataset):
    folder, records = dataset
    mapper = pickle.loads(pickle.dumps(MultiDatasetMapper(config(folder), True)))
    mapped = [mapper({**record, "dataset": "drawn"}) for record in records]
    assert [len(record["distill"]) for record in mapped] == [3, 2, 0]  # three are the most of an image
    np.testing.assert_allclose(mapped[0]["distill"].proposal_boxes.tensor.numpy(), 2 * BOXES[:3])
    np.testing.assert_array_equal(mapped[1]["distill"].gt_embeddings.numpy(), rows_of(2, 1))
    assert "distill" not in MultiDatasetMapper(config(folder), False)({**records[0], "dataset": "drawn"})
    assert "distill" not in MultiDatasetMapper(config(None), True)({**records[0], "dataset": "drawn"})


def test_what_nothing_learns_from_is_refused(dataset):
    folder, _ = dataset
    assert crop_embedding_folders(config(folder)) == {"drawn": str(folder)}
    with pytest.raises(ValueError, match=r"'drawn': crop_embeddings are named.*MODEL.DISTILLATION.WEIGHT above 0"):
        crop_embedding_folders(config(folder, 0.0))


def test_other_images_and_lacking_images_are_named(dataset, tmp_path: Path):
    folder, _ = dataset
    unregister_card("drawn")
    register(tmp_path, "drawn", [0, 1, 2], width=81)
    with pytest.raises(ProposalFileError, match=r"'drawn': the crop embeddings in .*e were made for.*mvseg.distill"):
        MultiDatasetMapper(config(folder), True)
    stored = CropEmbeddingFolder(folder, "dataset 'drawn'")
    with pytest.raises(KeyError, match=r"'drawn'.*lack image 77.*mvseg.distill embed"):
        stored.read(77)
    with pytest.raises(FileNotFoundError, match=r"no stored crop embeddings in .*nowhere; .*mvseg.distill embed DATA"):
        CropEmbeddingFolder(tmp_path / "nowhere")


def test_proposals_are_no_embeddings(tmp_path: Path):
    start_job(tmp_path / "p", {"dataset": "some", "images_fingerprint": "f"})
    write_shard(tmp_path / "p", 0, [(1, {"boxes": BOXES})])
    finish_job(tmp_path / "p", 1)
    with pytest.raises(ProposalFileError, match=r"holds 'mvseg proposals', not 'mvseg crop embeddings'"):
        CropEmbeddingFolder(tmp_path / "p")


def test_damage_is_noticed(dataset):
    folder, _ = dataset
    whole = np.load(folder / "shard-00000.embeddings.npy")
    damaged = whole.copy()
    damaged[4, 2] = np.nan
    np.save(folder / "shard-00000.embeddings.npy", damaged)
    stored = CropEmbeddingFolder(folder)
    np.testing.assert_array_equal(stored.read(0)["embeddings"], whole[:4])
    with pytest.raises(ProposalFileError, match=r"image 1: .* do not have the length 1.*mvseg.distill check"):
        stored.read(1)
    np.save(folder / "shard-00000.embeddings.npy", whole[:5])
    with pytest.raises(ProposalFileError, match=r"promises 6 proposals, its files have \{'embeddings': 5\}"):
        CropEmbeddingFolder(folder).read(0)
    np.save(folder / "shard-00000.embeddings.npy", whole[:, :4])
    with pytest.raises(ProposalFileError, match=r"have the shape \(4, 4\), the manifest says width 6"):
        CropEmbeddingFolder(folder).read(0)
    text = (folder / "shard-00000.embeddings.npy").read_bytes()
    (folder / "shard-00000.embeddings.npy").write_bytes(text[: len(text) // 2])
    with pytest.raises(ProposalFileError, match=r"cannot be read"):
        CropEmbeddingFolder(folder).read(0)


def test_two_teachers_are_refused(dataset, tmp_path: Path):
    folder, _ = dataset
    others = register(tmp_path, "drawn_too", [10, 11, 12])
    try:
        second = write(tmp_path / "f", {10: BOXES, 11: BOXES, 12: BOXES}, images_fingerprint(others), teacher="u")
        cfg = config(folder)
        cfg.DATASETS.TRAIN = ("drawn", "drawn_too")
        cfg.DATASETS.MIX = [*cfg.DATASETS.MIX, {"name": "drawn_too", "crop_embeddings": str(second)}]
        with pytest.raises(ProposalFileError, match=r"'drawn' .* and 'drawn_too' .* come from different teachers"):
            MultiDatasetMapper(cfg, True)
    finally:
        unregister_card("drawn_too")


def test_the_manifest_says_what_it_is(dataset):
    manifest = json.loads((dataset[0] / "manifest.json").read_text())
    assert manifest["format"] == CONTENT and CropEmbeddingFolder(dataset[0]).width == manifest["width"] == WIDTH
