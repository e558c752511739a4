"""Parts of the visualizer: masks in any form, panoptic segmentations, and the canvas."""

from functools import cached_property
from typing import Any

import cv2
import matplotlib.figure as mplfigure
import numpy as np
import pycocotools.mask as mask_util
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg


class GenericMask:
    """A mask given as array (H, W), polygons or RLE, available as array and as polygons."""

    def __init__(self, mask_or_polygons: Any, height: int, width: int) -> None:
        self.height, self.width = height, width
        given = mask_or_polygons
        if isinstance(given, dict):
            rle = mask_util.frPyObjects(given, height, width) if isinstance(given["counts"], list) else given
            given = mask_util.decode(rle)
        if isinstance(given, list):
            self._outlines = [np.asarray(polygon).reshape(-1) for polygon in given], False
        elif isinstance(given, np.ndarray):
            if given.shape != (height, width):
                raise AssertionError(f"a mask of shape {given.shape} does not fit an image of {height} x {width}")
            self.mask = given.astype("uint8")
        else:
            raise ValueError(f"a mask is an array, a list of polygons or an RLE dict, not {type(given).__name__}")

    @cached_property
    def mask(self) -> np.ndarray:
        """The mask, (H, W) uint8."""
        return self.polygons_to_mask(self._outlines[0])

    @cached_property
    def _outlines(self) -> tuple[list[np.ndarray], bool]:
        return self.mask_to_polygons(self.mask)

    @property
    def polygons(self) -> list[np.ndarray]:
        """Outlines as flat arrays x0, y0, x1, ..."""
        return self._outlines[0]

    @property
    def has_holes(self) -> bool:
        """Whether the polygons alone would fill holes of the mask."""
        return self._outlines[1]

    def mask_to_polygons(self, mask: np.ndarray) -> tuple[list[np.ndarray], bool]:
        """Trace the outlines; also say whether there are holes."""
        pixels = np.ascontiguousarray(mask.astype("uint8"))
        contours, hierarchy = cv2.findContours(pixels, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        if hierarchy is None:
            return [], False
        has_holes = bool((hierarchy.reshape(-1, 4)[:, 3] >= 0).any())
        # Contours run through pixel centres, which lie at +0.5 in image coordinates.
        return [contour.reshape(-1) + 0.5 for contour in contours if len(contour) >= 3], has_holes

    def polygons_to_mask(self, polygons: list[np.ndarray]) -> np.ndarray:
        """Fill polygons, shape (H, W) uint8."""
        rles = mask_util.frPyObjects([polygon.tolist() for polygon in polygons], self.height, self.width)
        return mask_util.decode(mask_util.merge(rles))

    def area(self) -> int:
        """Number of pixels."""
        return self.mask.sum()

    def bbox(self) -> np.ndarray:
        """Enclosing box (x0, y0, x1, y1)."""
        box = mask_util.toBbox(mask_util.encode(np.asfortranarray(self.mask)))
        return np.concatenate([box[:2], box[:2] + box[2:]])


class _PanopticPrediction:
    """Masks of a panoptic segmentation: ids (H, W) with segments_info, or (without it) category * divisor + number."""

    def __init__(self, panoptic_seg: torch.Tensor, segments_info: list[dict] | None, metadata: Any = None) -> None:
        if segments_info is None:
            things = set(metadata.thing_dataset_id_to_contiguous_id.values())
            labels = [label for label in torch.unique(panoptic_seg).tolist() if label != -1]
            classes = [int(label // metadata.label_divisor) for label in labels]
            rows = zip(labels, classes)
            segments_info = [{"id": label, "category_id": c, "isthing": c in things} for label, c in rows]
        self._seg = panoptic_seg
        self._info = {segment["id"]: segment for segment in segments_info}
        ids, areas = (values.tolist() for values in torch.unique(panoptic_seg, return_counts=True))
        self._largest_first = sorted(ids, key=dict(zip(ids, areas)).__getitem__, reverse=True)

    def non_empty_mask(self) -> np.ndarray:
        """Where there is any segment, (H, W) bool."""
        return np.isin(self._seg.numpy(), list(self._info))

    def _masks(self, things: bool) -> Any:
        for key in self._largest_first:
            segment = self._info.get(key)
            if segment is not None and bool(segment["isthing"]) == things:
                mask = (self._seg == key).numpy()
                if mask.any():
                    yield mask, segment

    def semantic_masks(self) -> Any:
        """Yield (mask (H, W) bool, segment) of stuff, largest first."""
        return self._masks(things=False)

    def instance_masks(self) -> Any:
        """Yield (mask (H, W) bool, segment) of things, largest first."""
        return self._masks(things=True)


class VisImage:
    """An image on a matplotlib canvas of the same number of pixels times scale."""

    def __init__(self, img: np.ndarray, scale: float = 1.0) -> None:
        self.img, self.scale = img, scale
        self.height, self.width = img.shape[:2]
        self.fig = mplfigure.Figure(frameon=False)
        self.dpi = self.fig.get_dpi()
        # The small addition keeps matplotlib from rounding a pixel away.
        size = [(side * self.scale + 1e-2) / self.dpi for side in (self.width, self.height)]
        self.fig.set_size_inches(*size)
        self.canvas = FigureCanvasAgg(self.fig)
        self.ax = self.fig.add_axes([0.0, 0.0, 1.0, 1.0])
        self.ax.axis("off")
        self.reset_image(img)

    def reset_image(self, img: np.ndarray) -> None:
        """Replace the background."""
        self.show(img.astype("uint8"))

    def show(self, pixels: np.ndarray) -> None:
        """Draw an array over the whole area, RGB or RGBA."""
        self.ax.imshow(pixels, extent=(0, self.width, self.height, 0), interpolation="nearest")

    def save(self, filepath: str) -> None:
        """Write the picture; the ending decides about the format."""
        self.fig.savefig(filepath)

    def get_image(self) -> np.ndarray:
        """Return the picture, (H * scale, W * scale, 3) RGB uint8."""
        self.canvas.draw()
        return np.asarray(self.canvas.buffer_rgba())[:, :, :3].copy()
