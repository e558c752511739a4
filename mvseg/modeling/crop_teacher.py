"""A teacher: what an image encoder sees in the crops of boxes, at one or several sizes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from mvseg.modeling.crops import RESIZES, crop_edges, cut_crops, normalize_crops
from mvseg.vocabulary.encoders import ImageEncoder, PixelEncoder
from mvseg.vocabulary.suggestions import did_you_mean

SCALES = (1.0, 1.5)


class CropTeacher:
    """Embeds the crops of boxes with an image encoder.

    Args:
        encoder: the encoder; one that takes pixels (:class:`mvseg.vocabulary.encoders.PixelEncoder`) gets its crops in
            batches from its own device, another one gets them one by one, as images.
        scales: sizes of the crops as factors on the sides of the box; the embeddings of a box are added up.
        resize: "squash", "shortest", or "": as the encoder prepares whole images.
        batch_size: crops that the encoder sees at a time.
        dtype: type that the encoder computes in on its device; float32 for no other.

    Raises:
        ValueError: if there is no scale, or the way of resizing does not exist or cannot be chosen.
    """

    def __init__(
        self,
        encoder: ImageEncoder,
        scales: Sequence[float] = SCALES,
        resize: str = "",
        batch_size: int = 256,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if not scales or min(scales) <= 0 or batch_size < 1:
            raise ValueError(f"a teacher needs scales above 0 and batches of crops, not {scales} and {batch_size}")
        if resize and resize not in RESIZES:
            raise ValueError(f"crops cannot be resized by {resize!r}{did_you_mean(resize, RESIZES)}")
        self.encoder, self.scales, self.batch_size, self.dtype = encoder, tuple(scales), batch_size, dtype
        self.settings = encoder.pixels if isinstance(encoder, PixelEncoder) else None
        if resize and self.settings is None:
            raise ValueError(f"{type(encoder).__name__} prepares its images itself: resize {resize!r} is not possible")
        if resize and self.settings is not None:
            self.settings = dataclasses.replace(self.settings, resize=resize)

    @torch.no_grad()
    def __call__(self, images: Sequence[Tensor], boxes: Sequence[Tensor]) -> list[Tensor]:
        """Embed the crops of several images.

        Args:
            images: n images (3, H, W), uint8, RGB, of any sizes.
            boxes: for each its boxes (k, 4), x0, y0, x1, y1 in its pixels.

        Returns:
            For each the embeddings (k, D), float32, on the CPU, of unit length: those of the scales added up; (0, 0)
            where no image has a box.
        """
        edges = [self._edges(image, of_image) for image, of_image in zip(images, boxes, strict=True)]
        uniques = [of_image.unique(dim=0, return_inverse=True) for of_image in edges]  # clamped crops are often equal
        rows = self._encode(images, [unique for unique, _ in uniques])
        found = []
        for (unique, inverse), own in zip(uniques, edges, strict=True):
            of_image, rows = rows[: len(unique)], rows[len(unique) :]
            shape = (len(self.scales), len(own) // len(self.scales), of_image.shape[1])
            every = of_image[inverse.reshape(-1)].view(shape)
            found.append(normalize(every.sum(0), dim=1))
        return found

    def _edges(self, image: Tensor, boxes: Tensor) -> Tensor:
        size = (image.shape[-2], image.shape[-1])
        return torch.cat([crop_edges(boxes, scale, size) for scale in self.scales])

    def _encode(self, images: Sequence[Tensor], edges: Sequence[Tensor]) -> Tensor:
        if not sum(map(len, edges)):
            return torch.zeros(0, 0)
        if self.settings is None or not isinstance(self.encoder, PixelEncoder):
            crops = [
                image[:, y0:y1, x0:x1].permute(1, 2, 0).contiguous().cpu().numpy()
                for image, of_image in zip(images, edges, strict=True)
                for x0, y0, x1, y1 in of_image.tolist()
            ]
            return self.encoder.encode(crops)
        device = self.encoder.device
        rows, waiting = [], images[0].new_zeros((0, 3, *self.settings.size), dtype=torch.float32, device=device)
        for image, of_image in zip(images, edges, strict=True):
            pixels = image.to(device, non_blocking=True)
            for part in of_image.to(device).split(self.batch_size):
                waiting = torch.cat([waiting, cut_crops(pixels, part, self.settings)])
                while len(waiting) >= self.batch_size:
                    rows.append(self._run(waiting[: self.batch_size]))
                    waiting = waiting[self.batch_size :]
        if len(waiting):
            rows.append(self._run(waiting))
        return torch.cat(rows).float().cpu()

    def _run(self, crops: Tensor) -> Tensor:
        assert isinstance(self.encoder, PixelEncoder) and self.settings is not None
        pixels = normalize_crops(crops, self.settings)
        with torch.autocast(crops.device.type, self.dtype, enabled=self.dtype != torch.float32):
            return self.encoder.encode_pixels(pixels)
