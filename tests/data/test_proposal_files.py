"""Stored proposals: what is written is read, a kill or damage is noticed, and boxes follow the augmentation."""

from __future__ import annotations

import json
import pickle
import resource
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from PIL import Image

from mvseg.config import get_cfg
from mvseg.data.catalog import register_dataset
from mvseg.data.mappers import MultiDatasetMapper
from mvseg.data.mixing import MixEntry
from mvseg.data.proposal_files import (
    ProposalFileError,
    ProposalFolder,
    add_array,
    finish_job,
    is_whole,
    start_job,
    write_shard,
)
from mvseg.data.proposals import images_fingerprint, open_proposals, proposal_folders, proposals_of

FACTS = {"dataset": "some", "images_fingerprint": "0123", "weights": "abcd", "topk": 9}


def seed_of(image_id: int | str) -> int:
    return zlib.crc32(str(image_id).encode()) % 97


def arrays_of(seed: int) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    count = seed % 5  # also images without any box
    corner = draw.random((count, 2)) * 40
    boxes = np.concatenate([corner, corner + 1 + draw.random((count, 2)) * 30], 1).astype(np.float32)
    return {"boxes": boxes, "scores": np.sort(draw.random(count).astype(np.float32))[::-1]}


def write(folder: Path, ids: list[Any], shard: int = 4) -> Path:
    start_job(folder, FACTS)
    for number, start in enumerate(range(0, len(ids), shard)):
        write_shard(folder, number, [(i, arrays_of(seed_of(i))) for i in ids[start : start + shard]])
    finish_job(folder, -(-len(ids) // shard))
    return folder


@pytest.mark.parametrize(
    "ids", [[7, 3, 12, 99, 5, 1, 1000, 44, 2], ["b", "a/ü", "c", 17, "0"], [5]], ids=["int", "text", "one"]
)
def test_every_image_is_found(tmp_path: Path, ids: list[Any]):
    folder = ProposalFolder(write(tmp_path / "p", ids))
    assert len(folder) == len(ids) and ids[0] in folder and 123456 not in folder and "zz" not in folder
    for copy in (folder, pickle.loads(pickle.dumps(folder))):
        for image_id in ids[::-1]:
            found, expected = copy.read(image_id), arrays_of(seed_of(image_id))
            assert set(found) == {"boxes", "scores"}
            np.testing.assert_array_equal(found["boxes"], expected["boxes"])
            np.testing.assert_array_equal(found["scores"], expected["scores"])
    with pytest.raises(KeyError, match=r"lack image 123456.*python -m mvseg"):
        folder.read(123456)
    assert folder.manifest["weights"] == "abcd" and folder.manifest["images"] == len(ids)


def test_further_arrays_lie_beside_the_boxes(tmp_path: Path):
    ids = [3, 4, 9, 8, 1]
    write(tmp_path, ids, shard=3)
    rows = [len(arrays_of(seed_of(i))["scores"]) for i in ids]
    values = np.arange(sum(rows) * 2, dtype=np.float16).reshape(-1, 2)
    add_array(tmp_path, 0, "embeddings", values[: sum(rows[:3])])
    add_array(tmp_path, 1, "embeddings", values[sum(rows[:3]) :])
    folder = ProposalFolder(tmp_path)
    for position, image_id in enumerate(ids):
        start = sum(rows[:position])
        np.testing.assert_array_equal(folder.read(image_id)["embeddings"], values[start : start + rows[position]])
    with pytest.raises(ValueError, match=r"has [0-9]+ rows, array 'embeddings' has 1"):
        add_array(tmp_path, 0, "embeddings", values[:1])


def test_damage_and_incomplete_folders_are_noticed(tmp_path: Path):
    ids = [1, 2, 3, 4, 6, 7]
    write(tmp_path, ids, shard=3)
    assert is_whole(tmp_path, 0) and is_whole(tmp_path, 1) and not is_whole(tmp_path, 2)
    file = tmp_path / "shard-00001.boxes.npy"
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    assert not is_whole(tmp_path, 1)
    folder = ProposalFolder(tmp_path, "dataset 'some'")
    folder.read(1)
    with pytest.raises(ProposalFileError, match=r"dataset 'some': image 6.*shard-00001.boxes.npy is damaged.*again"):
        folder.read(6)
    file.unlink()
    with pytest.raises(ProposalFileError, match=r"image 4.*shard-00001.boxes.npy.*again"):
        folder.read(4)
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(ProposalFileError, match=r"not finished: run python -m mvseg.inference.proposals"):
        ProposalFolder(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"dataset 'x': there are no stored proposals in .*nowhere"):
        ProposalFolder(tmp_path / "nowhere", "dataset 'x'")
    (tmp_path / "shard-00001.json").unlink()
    with pytest.raises(ProposalFileError, match=r"shard-00001.json is missing"):
        finish_job(tmp_path, 2)


def test_another_job_does_not_mix_into_a_folder(tmp_path: Path):
    start_job(tmp_path, FACTS)
    start_job(tmp_path, FACTS)
    with pytest.raises(ProposalFileError, match="weights is 'abcd' there and 'ffff' now"):
        start_job(tmp_path, {**FACTS, "weights": "ffff"})
    write_shard(tmp_path, 0, [(1, arrays_of(1)), (1, arrays_of(2))])
    with pytest.raises(ProposalFileError, match="image 1 is there twice"):
        finish_job(tmp_path, 1)
    with pytest.raises(ValueError, match="arrays of"):
        write_shard(tmp_path, 0, [(1, {"boxes": np.zeros((2, 4)), "scores": np.zeros(3)})])
    (tmp_path / "manifest.json").write_text(json.dumps({"version": 9}))
    with pytest.raises(ProposalFileError, match="version 9, this mvseg reads version 1"):
        ProposalFolder(tmp_path)


def test_memory_is_constant(tmp_path: Path):
    start_job(tmp_path, FACTS)
    boxes = np.ones((1000, 4), np.float32)
    for number in range(8):
        images = [(number * 1000 + i, {"boxes": boxes, "scores": boxes[:, 0]}) for i in range(250)]
        write_shard(tmp_path, number, images)
    finish_job(tmp_path, 8)
    folder = ProposalFolder(tmp_path)
    folder.read(0)
    before = own_memory()
    for number in range(8):
        for i in range(250):
            assert len(folder.read(number * 1000 + i)["boxes"]) == 1000
    assert own_memory() - before < 4 * 2**20  # the boxes are 40 MB


def own_memory() -> int:
    """Bytes that belong to this process alone; mapped files do not count."""
    fields = Path("/proc/self/statm").read_text().split()
    return (int(fields[1]) - int(fields[2])) * resource.getpagesize()


def test_proposals_follow_flip_resize_and_crop():
    boxes = np.array([[10, 20, 30, 60], [0, 0, 8, 8], [50, 10, 90, 30]], np.float32)
    scores = np.array([0.9, 0.5, 0.0], np.float32)
    given = {"boxes": boxes, "scores": scores}
    size = (80, 100)
    plain = proposals_of(given, T.TransformList([T.NoOpTransform()]), size, 10)
    np.testing.assert_array_equal(plain.proposal_boxes.tensor, boxes)
    np.testing.assert_allclose(plain.objectness_logits.sigmoid(), [0.9, 0.5, 1e-6], rtol=1e-5)
    flipped = proposals_of(given, T.TransformList([T.HFlipTransform(100)]), size, 10)
    assert flipped.proposal_boxes.tensor[0].tolist() == [70, 20, 90, 60]
    moves = T.TransformList([T.ResizeTransform(80, 100, 160, 200), T.CropTransform(30, 10, 100, 100, 200, 160)])
    moved = proposals_of(given, moves, (100, 100), 10)
    expected = [[0, 30, 30, 100], [70, 10, 100, 50]]  # twice as large, minus (30, 10), clipped; the second is outside
    assert moved.proposal_boxes.tensor.tolist() == expected and len(moved.objectness_logits) == 2
    best = proposals_of(given, moves, (100, 100), 1)
    assert best.proposal_boxes.tensor.tolist() == expected[:1]
    none = proposals_of({"boxes": boxes[:0], "scores": scores[:0]}, moves, (100, 100), 5)
    assert len(none) == 0 and none.proposal_boxes.tensor.shape == (0, 4)
    assert boxes[0].tolist() == [10, 20, 30, 60]  # what is stored stays


@pytest.fixture
def dataset(tmp_path: Path) -> Any:
    images = []
    for i in range(4):
        Image.fromarray(np.full((60, 80, 3), 10 * i, np.uint8)).save(tmp_path / f"{i}.png")
        images.append({"id": i + 1, "file_name": f"{i}.png", "height": 60, "width": 80})
    boxes = [{"id": i + 1, "image_id": i + 1, "category_id": 1, "bbox": [5, 5, 20, 20], "area": 400} for i in range(4)]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "a.json").write_text(json.dumps(content))
    name = f"stored_{tmp_path.name}"
    register_dataset(name=name, format="coco", image_root=str(tmp_path), annotations=str(tmp_path / "a.json"))
    return name


def stored_for(name: str, folder: Path, ids: tuple[int, ...] = (1, 2, 3, 4)) -> str:
    from mvseg.data.catalog import get_records

    start_job(folder, {**FACTS, "dataset": name, "images_fingerprint": images_fingerprint(get_records(name))})
    box = np.array([[8, 6, 40, 30], [70, 50, 80, 60]], np.float32)
    write_shard(folder, 0, [(i, {"boxes": box, "scores": np.array([0.8, 0.2], np.float32)}) for i in ids])
    finish_job(folder, 1)
    return str(folder)


def config(name: str, **datasets: Any) -> Any:
    cfg = get_cfg()
    cfg.MODEL.PROPOSAL_GENERATOR.NAME = "PrecomputedProposals"
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (name,)
    cfg.INPUT.MIN_SIZE_TRAIN = cfg.INPUT.MIN_SIZE_TEST = 120
    for key, value in datasets.items():
        cfg.DATASETS[key] = value
    return cfg


def test_the_mapper_gives_proposals(tmp_path: Path, dataset: str):
    from mvseg.data.catalog import get_records

    folder = stored_for(dataset, tmp_path / "p")
    record = get_records(dataset)[1]
    for is_train in (True, False):
        cfg = config(dataset, PROPOSAL_FILES_TRAIN=(folder,), PROPOSAL_FILES_TEST=(folder,))
        cfg.INPUT.RANDOM_FLIP = "none"
        found = MultiDatasetMapper(cfg, is_train)(record)["proposals"]
        assert found.image_size == (120, 160)
        assert found.proposal_boxes.tensor.tolist() == [[16, 12, 80, 60], [140, 100, 160, 120]]
        torch.testing.assert_close(found.objectness_logits.sigmoid(), torch.tensor([0.8, 0.2]))
    cfg = config(dataset, PROPOSAL_FILES_TEST=(folder,), PRECOMPUTED_PROPOSAL_TOPK_TEST=1)
    assert len(MultiDatasetMapper(cfg, False)(record)["proposals"]) == 1
    cfg.MODEL.PROPOSAL_GENERATOR.NAME = "CenterNet"
    assert "proposals" not in MultiDatasetMapper(cfg, False)(record)
    cfg.MODEL.LOAD_PROPOSALS = True
    assert "proposals" in MultiDatasetMapper(cfg, False)(record)


def test_where_the_folder_comes_from(tmp_path: Path, dataset: str):
    folder = stored_for(dataset, tmp_path / "p")
    assert MixEntry.from_dict({"name": dataset, "proposals": folder}).proposals == folder
    mixed = config(dataset, MIX=[{"name": dataset, "proposals": folder}], PROPOSAL_FILES_TRAIN=("other",))
    assert proposal_folders(mixed) == {dataset: folder} and len(open_proposals(mixed)[dataset]) == 4
    with pytest.raises(ValueError, match="PROPOSAL_FILES_TEST names 2 folders for 1 datasets"):
        proposal_folders(config(dataset, PROPOSAL_FILES_TEST=("a", "b")))
    mixed.MODEL.PROPOSAL_GENERATOR.NAME = "MultiDatasetRPN"
    with pytest.raises(ValueError, match=r"nothing reads them: set MODEL.PROPOSAL_GENERATOR.NAME PrecomputedProposals"):
        proposal_folders(mixed)
    name = f"{dataset}_card"
    fields = {"format": "coco", "image_root": str(tmp_path), "annotations": str(tmp_path / "a.json")}
    register_dataset(name=name, proposals=folder, **fields)
    assert proposal_folders(config(name)) == {name: folder}
    with pytest.raises(ValueError, match="must name a folder, got 3"):
        proposal_folders(config(dataset, MIX=[{"name": dataset, "proposals": 3}]))


def test_a_test_does_not_read_the_training_data(tmp_path: Path, dataset: str):
    """The proposals of a training set are checked against its records, which a test alone has no use for."""
    name = f"{dataset}_gone"
    register_dataset(name=name, format="coco", image_root="gone", annotations="gone.json", vocabulary=["a"])
    both = config(dataset, TRAIN=(name,), PROPOSAL_FILES_TRAIN=("gone",))
    both.DATASETS.TEST, both.DATASETS.PROPOSAL_FILES_TEST = (dataset,), (stored_for(dataset, tmp_path / "p"),)
    assert list(MultiDatasetMapper.from_config(both, is_train=False)["proposals"]) == [dataset]
    with pytest.raises(FileNotFoundError, match=f"dataset '{name}': there are no stored proposals in gone"):
        MultiDatasetMapper.from_config(both, is_train=True)


def test_proposals_of_other_images(tmp_path: Path, dataset: str):
    folder = Path(stored_for(dataset, tmp_path / "p"))
    content = json.loads((tmp_path / "a.json").read_text())
    content["images"] = content["images"][:3]
    content["annotations"] = content["annotations"][:3]
    (tmp_path / "b.json").write_text(json.dumps(content))
    name = f"{dataset}_less"
    register_dataset(name=name, format="coco", image_root=str(tmp_path), annotations=str(tmp_path / "b.json"))
    with pytest.raises(
        ProposalFileError, match=f"dataset '{name}'.*made for '{dataset}' with 4 images.*not the images"
    ):
        open_proposals(config(name, PROPOSAL_FILES_TEST=(str(folder),)))
    moved = [{"image_id": 1, "file_name": "/other/place/a.png", "height": 3, "width": 4}]
    assert images_fingerprint(moved) == images_fingerprint(
        [{**moved[0], "file_name": "/here/a.png", "annotations": [1]}]
    )
    assert images_fingerprint(moved) != images_fingerprint([{**moved[0], "height": 5}])
    assert images_fingerprint([]) != images_fingerprint(moved)
