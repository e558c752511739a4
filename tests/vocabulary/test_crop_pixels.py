"""A CLIP model sees the same in crops cut in batches as in crops that are given to it one by one."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from mvseg.modeling.crop_teacher import CropTeacher
from mvseg.vocabulary.encoders import OpenClipImageEncoder, PixelEncoder


def test_batched_crops_are_the_encoders_own(open_clip_files):
    architecture, checkpoint, _ = open_clip_files
    encoder = OpenClipImageEncoder(architecture.stem, checkpoint)
    assert isinstance(encoder, PixelEncoder) and encoder.pixels.size == (32, 32) and encoder.pixels.resize == "shortest"
    small = np.random.default_rng(0).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    image = np.array(Image.fromarray(small).resize((80, 60), Image.Resampling.BICUBIC))
    boxes = torch.tensor([[10.0, 10, 30, 40], [0, 0, 80, 60], [0, 20, 80, 25], [50, 20, 60, 30]])
    found = CropTeacher(encoder, scales=[1.0])([torch.from_numpy(image).permute(2, 0, 1)], [boxes])[0]
    crops = [image[y0:y1, x0:x1] for x0, y0, x1, y1 in boxes.int().tolist()]
    expected = torch.nn.functional.normalize(encoder.encode(crops), dim=1)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-3)
