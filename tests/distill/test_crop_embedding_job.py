"""Crop embeddings from proposals: pixels of the crops, the file, a kill, a full disk, several processes."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.utils import comm
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from mvseg.data import proposal_files
from mvseg.data.catalog import get_records, register_dataset, unregister_card
from mvseg.data.crop_embeddings import CropEmbeddingFolder
from mvseg.data.proposal_files import ProposalFileError, finish_job, start_job, write_shard
from mvseg.data.proposals import images_fingerprint
from mvseg.distill import EmbeddingJob, Selection, check_folder, embed_dataset, estimate_size
from mvseg.distill import __main__ as command
from mvseg.modeling.crop_teacher import CropTeacher
from mvseg.modeling.crops import crop_edges, cut_crops, resize_together
from mvseg.vocabulary.encoders import PixelSettings

IMAGES, SIDE, WIDTH = 7, 12, 5
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)


class PlainTeacher:
    """Takes images one by one, prepared by Pillow: the naive way."""

    fingerprint = "tiny"

    def __init__(self, resize: str = "shortest") -> None:
        draw = torch.Generator().manual_seed(0)
        self.matrix = torch.randn(3 * SIDE * SIDE, WIDTH, generator=draw)
        size: Any = SIDE if resize == "shortest" else (SIDE, SIDE)
        self.prepare = Compose([Resize(size, interpolation=InterpolationMode.BICUBIC), CenterCrop(SIDE)])

    def encode(self, images: Sequence[np.ndarray]) -> torch.Tensor:
        pixels = [np.array(self.prepare(Image.fromarray(image)), np.float32).transpose(2, 0, 1) for image in images]
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
        return ((torch.from_numpy(np.stack(pixels)) / 255 - mean) / std).flatten(1) @ self.matrix


class Teacher(PlainTeacher):
    """The same with batches of pixels."""

    pixels = PixelSettings((SIDE, SIDE), MEAN, STD)
    device = torch.device("cpu")
    last_call = 10**6  # it is killed with this batch

    def encode_pixels(self, pixels: torch.Tensor) -> torch.Tensor:
        Teacher.last_call -= 1
        if Teacher.last_call < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return pixels.flatten(1) @ self.matrix


@pytest.fixture(autouse=True)
def alive() -> None:
    Teacher.last_call = 10**6


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return np.array(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


@pytest.fixture
def job(tmp_path: Path) -> Iterator[EmbeddingJob]:
    """Seven pictures with up to 8 proposals; the third has none."""
    draw = np.random.default_rng(1)
    images, boxes = [], []
    for i in range(IMAGES):
        height, width = 40 + 5 * i, 70 - 4 * i
        Image.fromarray(picture(height, width, i)).save(tmp_path / f"{i}.png")
        images.append({"id": 50 - i, "file_name": f"{i}.png", "height": height, "width": width})
        boxes.append({"id": i + 1, "image_id": 50 - i, "category_id": 1, "bbox": [5, 5, 25, 20], "area": 500})
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "a.json").write_text(json.dumps(content))
    register_dataset(name="crops", format="coco", image_root=str(tmp_path), annotations=str(tmp_path / "a.json"))
    records = get_records("crops")
    start_job(tmp_path / "p", {"dataset": "crops", "images_fingerprint": images_fingerprint(records), "topk": 8})
    stored = []
    for i, record in enumerate(records):
        count = 0 if i == 2 else 8
        corner = draw.random((count, 2)) * [record["width"] - 12, record["height"] - 12]
        box = np.concatenate([corner, corner + 2 + draw.random((count, 2)) * 10], 1).astype(np.float32)
        scores = np.sort(draw.random(count).astype(np.float32))[::-1]
        stored.append((record["image_id"], {"boxes": box, "scores": scores}))
    write_shard(tmp_path / "p", 0, stored)
    finish_job(tmp_path / "p", 1)
    yield EmbeddingJob("crops", tmp_path / "p", tmp_path / "e", "tiny", Selection(6), 2, images_at_a_time=2)
    unregister_card("crops")


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_edges_are_expanded_rounded_outwards_and_clamped():
    boxes = torch.tensor([[10.2, 20.5, 20.2, 26.5], [0.0, 0.0, 4.0, 30.0], [7.0, 7.0, 7.0, 7.0], [49, 39, 50, 40]])
    assert crop_edges(boxes, 1.0, (40, 50)).tolist() == [
        [10, 20, 21, 27],
        [0, 0, 4, 30],
        [7, 7, 8, 8],
        [49, 39, 50, 40],
    ]
    assert crop_edges(boxes, 1.5, (40, 50))[:2].tolist() == [[7, 19, 23, 28], [0, 0, 5, 38]]


@pytest.mark.parametrize("resize", ["squash", "shortest"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_crops_are_those_of_pillow(resize: str, interpolation: str):
    """Both ways, on crops of 3 to 150 pixels: on average within a tenth of a level of 255, at most 4 levels."""
    image = picture(120, 150)
    corner = np.random.default_rng(0).random((40, 2)) * [140, 110]
    boxes = torch.from_numpy(np.concatenate([corner, corner + np.geomspace(3, 140, 80).reshape(2, 40).T], 1))
    edges = crop_edges(boxes, 1.0, (120, 150))
    edges = edges[(edges[:, 2:] - edges[:, :2]).max(1).values <= 8 * (edges[:, 2:] - edges[:, :2]).min(1).values]
    mode = {"bicubic": InterpolationMode.BICUBIC, "bilinear": InterpolationMode.BILINEAR}[interpolation]
    prepare = Compose([Resize((24, 24) if resize == "squash" else 24, interpolation=mode), CenterCrop(24)])
    expected = [np.array(prepare(Image.fromarray(image[y0:y1, x0:x1]))) for x0, y0, x1, y1 in edges.tolist()]
    settings = PixelSettings((24, 24), MEAN, STD, interpolation, resize)
    pixels = torch.from_numpy(image).permute(2, 0, 1)
    for cut in (cut_crops, resize_together):
        error = np.abs(cut(pixels, edges, settings).numpy() - np.stack(expected).transpose(0, 3, 1, 2))
        assert error.max() <= 4 and error.mean() < 0.1, cut


def test_a_batch_of_crops_is_what_one_crop_after_the_other_is():
    """Sum of 1x and 1.5x, then unit length: against the naive loop over crops with Pillow, written out."""
    image = picture(60, 80)
    boxes = torch.tensor([[10.0, 10, 30, 40], [0, 0, 80, 60], [50.5, 20.5, 60.5, 30.5], [70, 50, 80, 60]])
    plain = PlainTeacher()
    rows = []
    for x0, y0, x1, y1 in boxes.tolist():
        total = torch.zeros(WIDTH)
        for more in (0.0, 0.25):
            w, h = more * (x1 - x0), more * (y1 - y0)
            left, top = max(0, int(np.floor(x0 - w))), max(0, int(np.floor(y0 - h)))
            right, bottom = min(80, int(np.ceil(x1 + w))), min(60, int(np.ceil(y1 + h)))
            total += plain.encode([image[top:bottom, left:right]])[0]
        rows.append(total / total.norm())
    pixels = torch.from_numpy(image).permute(2, 0, 1).contiguous()
    for teacher in (CropTeacher(Teacher(), batch_size=3), CropTeacher(plain)):
        found, none = teacher([pixels, pixels], [boxes, boxes[:0]])
        torch.testing.assert_close(found, torch.stack(rows), rtol=0, atol=5e-3)
        assert none.shape == (0, WIDTH)
    squashed = CropTeacher(Teacher(), resize="squash")([pixels], [boxes])[0]
    torch.testing.assert_close(squashed, CropTeacher(PlainTeacher("squash"))([pixels], [boxes])[0], rtol=0, atol=5e-3)
    with pytest.raises(ValueError, match="PlainTeacher prepares its images itself"):
        CropTeacher(plain, resize="squash")


def test_what_is_stored_is_what_the_teacher_sees(job: EmbeddingJob, capsys: pytest.CaptureFixture[str]):
    teacher = CropTeacher(Teacher())
    assert embed_dataset(teacher, job) == IMAGES
    stored, proposals = CropEmbeddingFolder(job.output), proposal_files.ProposalFolder(job.proposals)
    for i, record in enumerate(get_records("crops")):
        read = stored.read(record["image_id"])
        np.testing.assert_array_equal(read["boxes"], proposals.read(record["image_id"])["boxes"][:6])
        image = torch.from_numpy(picture(record["height"], record["width"], i)).permute(2, 0, 1)
        expected = teacher([image], [torch.from_numpy(read["boxes"].copy())])[0]
        if len(expected):
            np.testing.assert_allclose(read["embeddings"], expected.numpy(), atol=1e-3)
    assert stored.width == WIDTH and read["embeddings"].dtype == np.float16
    boxes, size = estimate_size(job, WIDTH)
    assert boxes == 36 and size >= 36 * 2 * WIDTH
    assert command.main(["check", str(job.output)]) == 0
    assert "7 images of 'crops', 36 crops, width 5, teacher tiny" in capsys.readouterr().out


def test_filters_are_what_they_say(job: EmbeddingJob):
    arrays = {
        "boxes": np.array([[0, 0, 9, 9], [0, 0, 3, 9], [0, 0, 9, 5], [0, 0, 8, 8]], np.float32),
        "scores": np.array([0.9, 0.8, 0.7, 0.1], np.float32),
    }
    assert Selection(2).rows(arrays).tolist() == [0, 1]
    assert Selection(9, 0.1, 4).rows(arrays).tolist() == [0, 2]


def run_and_die(job: EmbeddingJob, calls: int) -> None:
    Teacher.last_call = calls
    embed_dataset(CropTeacher(Teacher()), job)


def test_a_killed_job_goes_on_and_ends_the_same(job: EmbeddingJob, tmp_path: Path):
    whole = EmbeddingJob(**{**vars(job), "output": tmp_path / "whole"})
    embed_dataset(CropTeacher(Teacher()), whole)
    process = multiprocessing.get_context("fork").Process(target=run_and_die, args=(job, 4))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    shards = sorted(job.output.glob("shard-*.json"))
    assert 0 < len(shards) < 4
    with pytest.raises(
        ProposalFileError, match=r"crop embeddings in .* not finished: run python -m mvseg.distill embed"
    ):
        CropEmbeddingFolder(job.output)
    kept = shards[0].stat().st_mtime_ns
    (job.output / ".shard-00003.boxes.npy.99").write_text("left by the kill")
    assert embed_dataset(CropTeacher(Teacher()), job) == IMAGES - 2 * len(shards)
    assert shards[0].stat().st_mtime_ns == kept
    assert files(job.output) == files(tmp_path / "whole")


def test_two_processes_write_what_one_writes(job: EmbeddingJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    embed_dataset(CropTeacher(Teacher()), EmbeddingJob(**{**vars(job), "output": tmp_path / "whole"}))
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(comm, "synchronize", lambda: None)
    monkeypatch.setattr(comm, "get_rank", lambda: 1)
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    job.output.mkdir()
    assert embed_dataset(CropTeacher(Teacher()), job) == 3
    monkeypatch.setattr(comm, "get_rank", lambda: 0)
    monkeypatch.setattr(comm, "is_main_process", lambda: True)
    assert embed_dataset(CropTeacher(Teacher()), job) == 4
    assert files(job.output) == files(tmp_path / "whole")


def test_a_full_disk_leaves_the_finished_shards(job: EmbeddingJob, monkeypatch: pytest.MonkeyPatch):
    real = proposal_files._write

    def full(path: Path, content: Any) -> None:
        if path.name == "shard-00002.embeddings.npy":
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, content)

    monkeypatch.setattr(proposal_files, "_write", full)
    with pytest.raises(
        OSError, match=r"no space left for shard 2 \(0.0 MiB\) in .*Make room, then run python -m mvseg"
    ):
        embed_dataset(CropTeacher(Teacher()), job)
    monkeypatch.setattr(proposal_files, "_write", real)
    assert sorted(path.name for path in job.output.glob("*.json")) == [
        "job.json",
        "shard-00000.json",
        "shard-00001.json",
    ]
    assert embed_dataset(CropTeacher(Teacher()), job) == IMAGES - 4
    assert check_folder(job.output)[0] == []


def test_what_does_not_fit_is_refused(job: EmbeddingJob):
    teacher = CropTeacher(Teacher())
    more = EmbeddingJob(**{**vars(job), "selection": Selection(300)})
    with pytest.raises(ValueError, match=r"'crops': 300 proposals .* are asked for, .*p holds at most 8"):
        embed_dataset(teacher, more)
    least = EmbeddingJob(**{**vars(job), "selection": Selection(6, least=4)})
    with pytest.raises(ValueError, match=r"image 48: 0 of its 0 proposals in .* pass the filters, 4 were promised"):
        embed_dataset(teacher, least)
    with pytest.raises(ProposalFileError, match=r"scales is \[1.0, 1.5\] there and \[1.0\] now"):
        embed_dataset(CropTeacher(Teacher(), scales=[1.0]), job)


def test_check_names_what_is_damaged(job: EmbeddingJob, capsys: pytest.CaptureFixture[str]):
    embed_dataset(CropTeacher(Teacher()), job)
    path = job.output / "shard-00001.embeddings.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert command.main(["check", str(job.output)]) == 1
    assert "shard-00001.*: missing, or another checksum" in capsys.readouterr().err
    assert embed_dataset(CropTeacher(Teacher()), job) == 2
    assert command.main(["check", str(job.output)]) == 0


def test_the_command(job: EmbeddingJob, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    monkeypatch.setattr(command, "build_image_encoder", lambda description, device: Teacher())
    given = ["embed", "crops", "--proposals", str(job.proposals), "--teacher", "tiny", "--output", str(job.output)]
    caplog.set_level("INFO")
    assert command.main([*given, "--topk", "6", "--num-workers", "0", "--device", "cpu", "--resize", "squash"]) == 0
    assert "about 36 boxes, each cropped at 2 sizes: 0.0 MiB on disk, about 0:00 on 1 process" in caplog.text
    manifest = json.loads((job.output / "manifest.json").read_text())
    assert (manifest["teacher"], manifest["resize"], manifest["topk"]) == ("tiny", "squash", 6)
    assert command.main([*given, "--num-workers", "0"]) == 1  # 300 of 8 proposals
