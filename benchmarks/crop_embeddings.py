"""Crops per second of a teacher against the naive loop over crops, and what reading its embeddings costs in training.

python benchmarks/crop_embeddings.py --boxes 100 --teachers small ViT-B-32
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import mvseg  # noqa: F401  (first: it makes detectron2 importable)

# isort: split
import cv2
import numpy as np
import open_clip
import torch
from detectron2.data import transforms as T
from PIL import Image

from mvseg.data.augmentation import AugmentationSettings, build_augmentations
from mvseg.data.crop_embeddings import CONTENT, CropEmbeddingFolder, embeddings_of
from mvseg.data.proposal_files import finish_job, start_job, write_shard
from mvseg.modeling.crop_teacher import SCALES, CropTeacher
from mvseg.modeling.crops import crop_edges
from mvseg.vocabulary.encoders import OpenClipImageEncoder

HEIGHT, WIDTH = 480, 640
SMALL = {  # the size of a teacher that a CPU trains in minutes
    "embed_dim": 384,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8, "head_width": 32},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


def encoder_of(name: str, folder: Path) -> OpenClipImageEncoder:
    """An encoder with random weights."""
    if name == "small":
        (folder / "mvseg-bench-small.json").write_text(json.dumps(SMALL))
        open_clip.add_model_config(folder / "mvseg-bench-small.json")
        name = "mvseg-bench-small"
    torch.save(open_clip.create_model(name).state_dict(), folder / f"{name}.pt")
    return OpenClipImageEncoder(name, folder / f"{name}.pt")


def compare(name: str, folder: Path, picture: np.ndarray, boxes: np.ndarray) -> None:
    """Time both ways on equal crops, and compare what they give."""
    encoder = encoder_of(name, folder)
    teacher = CropTeacher(encoder)
    pixels, given = torch.from_numpy(picture).permute(2, 0, 1).contiguous(), torch.from_numpy(boxes)
    Image.fromarray(picture).save(folder / "a.png")
    teacher([pixels], [given[:4]])
    start = time.process_time()
    found = teacher([pixels], [given])[0]
    together = time.process_time() - start
    naive, start = [], time.process_time()
    for box in given:
        rows = 0
        for scale in SCALES:
            x0, y0, x1, y1 = crop_edges(box[None], scale, (HEIGHT, WIDTH))[0].tolist()
            rows = rows + encoder.encode([picture[y0:y1, x0:x1]])[0]
        naive.append(torch.nn.functional.normalize(rows, dim=0))
    alone = time.process_time() - start
    cosine = (found * torch.stack(naive)).sum(1).min()
    crops = len(boxes) * len(SCALES)
    print(
        f"{name}: {crops / together:.0f} crops/s together, {crops / alone:.0f} one by one: "
        f"{alone / together:.1f} times; "
        f"least cosine of both {cosine:.5f}"
    )


def reading(folder: Path, boxes: np.ndarray, width: int) -> None:
    """Time the reader at random places, with the augmentation of the boxes."""
    draw = np.random.default_rng(0)
    rows = draw.normal(size=(len(boxes), width))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)
    arrays = {"boxes": boxes, "scores": np.linspace(1, 0, len(boxes), dtype=np.float32), "embeddings": rows}
    start_job(folder, {"dataset": "drawn", "images_fingerprint": "", "width": width})
    for number in range(4):
        write_shard(folder, number, [(250 * number + i, arrays) for i in range(250)])
    finish_job(folder, 4, CONTENT)
    stored = CropEmbeddingFolder(folder)
    recipe = T.AugmentationList(build_augmentations("resize_crop", AugmentationSettings()))
    moves = recipe(T.AugInput(np.zeros((HEIGHT, WIDTH, 3), np.uint8)))
    start = time.process_time()
    for image in draw.permutation(1000)[:500].tolist():
        embeddings_of(stored.read(image), moves, (640, 640), 300)
    each = (time.process_time() - start) / 500
    print(f"reading and moving {len(boxes)} embeddings of width {width}: {1e3 * each:.2f} ms an image")


def main() -> None:
    """Measure CPU time of one thread."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--boxes", type=int, default=100)
    parser.add_argument("--teachers", nargs="*", default=["small", "ViT-B-32"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    draw = np.random.default_rng(0)
    small = draw.integers(0, 255, (HEIGHT // 16, WIDTH // 16, 3), dtype=np.uint8)
    picture = np.array(Image.fromarray(small).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))

    def boxes_of(count: int) -> np.ndarray:
        corner = draw.random((count, 2)) * [WIDTH - 20, HEIGHT - 20]
        far = corner + np.exp(draw.uniform(np.log(12), np.log(300), (count, 2)))
        return np.concatenate([corner, np.minimum(far, [WIDTH, HEIGHT])], 1).astype(np.float32)

    with tempfile.TemporaryDirectory() as name:
        for teacher in args.teachers:
            compare(teacher, Path(name), picture, boxes_of(args.boxes))
        reading(Path(name) / "stored", boxes_of(300), 512)


if __name__ == "__main__":
    main()
