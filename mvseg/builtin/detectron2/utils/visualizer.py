"""Draws annotations and predictions of all kinds on an image."""

from enum import Enum, unique
from typing import Any

import matplotlib.colors as mplc
import numpy as np
import torch
from detectron2._missing import missing, placeholder
from detectron2.structures import BitMasks, Boxes, BoxMode, PolygonMasks
from PIL import Image

from ._shape_drawer import _LARGE_MASK_AREA_THRESH, ShapeDrawer  # noqa: F401
from ._visual_parts import GenericMask, VisImage, _PanopticPrediction
from .colormap import random_color
from .file_io import PathManager

# Labels of objects below this number of pixels are written beside them.
_SMALL_OBJECT_AREA_THRESH = 1000
_OFF_WHITE, _RED = (1.0, 1.0, 240.0 / 255), (1.0, 0, 0)


@unique
class ColorMode(Enum):
    """How instances are coloured: each in its own colour, by class, or by colour over a grey background."""

    IMAGE = 0
    SEGMENTATION = 1
    IMAGE_BW = 2


def _create_text_labels(classes, scores, class_names, is_crowd=None) -> list[str] | None:
    """Make labels such as "person 93%", as far as the parts are known."""
    labels = None
    if classes is not None:
        labels = [class_names[number] if class_names else str(number) for number in classes]
    if scores is not None:
        percent = [f"{score * 100:.0f}%" for score in scores]
        labels = [f"{label} {text}" for label, text in zip(labels, percent)] if labels else percent
    if labels and is_crowd is not None:
        labels = [f"{label}|crowd" if crowd else label for label, crowd in zip(labels, is_crowd)]
    return labels


class Visualizer(ShapeDrawer):
    """Draws on one image; every ``draw_*`` and ``overlay_*`` method returns the VisImage ``self.output``.

    Args:
        img_rgb: (H, W, 3) RGB in 0..255.
        metadata: class names and colours of the dataset.
        scale: enlarges the picture.
        instance_mode: how instances are coloured.
        font_size_scale: enlarges the text.
    """

    def __init__(self, img_rgb, metadata=None, scale=1.0, instance_mode=ColorMode.IMAGE, font_size_scale=1.0) -> None:
        if metadata is None:
            from detectron2.data import MetadataCatalog

            metadata = MetadataCatalog.get("__nonexist__")
        self.img = np.asarray(img_rgb).clip(0, 255).astype(np.uint8)
        self.metadata = metadata
        self.output = VisImage(self.img, scale=scale)
        self.cpu_device = torch.device("cpu")
        size = np.sqrt(self.output.height * self.output.width)
        self._default_font_size = max(size // 90, 10 // scale) * font_size_scale
        self._instance_mode = instance_mode

    # ---- whole annotations and predictions --------------------------------------------------------------------------

    def draw_instance_predictions(self, predictions: Any, jittering: bool = True) -> VisImage:
        """Draw Instances with pred_boxes, pred_masks, scores, pred_classes (each optional), on the CPU."""
        fields = predictions.get_fields()
        boxes, scores = fields.get("pred_boxes"), fields.get("scores")
        classes = fields["pred_classes"].tolist() if "pred_classes" in fields else None
        labels = _create_text_labels(classes, scores, self.metadata.get("thing_classes"))
        masks = None
        if "pred_masks" in fields:
            masks = [GenericMask(np.asarray(mask), *self.img.shape[:2]) for mask in fields["pred_masks"]]
        colors, alpha = None, 0.5
        if self._instance_mode == ColorMode.SEGMENTATION and classes is not None and self._class_color(0) is not None:
            plain = [self._class_color(number) for number in classes]
            colors, alpha = [self._jitter(color) for color in plain] if jittering else plain, 0.8
        if self._instance_mode == ColorMode.IMAGE_BW:
            shown = fields["pred_masks"].any(dim=0).numpy() if "pred_masks" in fields and len(predictions) else None
            self.output.reset_image(self._create_grayscale_image(shown))
            alpha = 0.3
        return self.overlay_instances(masks=masks, boxes=boxes, labels=labels, assigned_colors=colors, alpha=alpha)

    def draw_sem_seg(self, sem_seg, area_threshold=None, alpha=0.8, draw_text=True, edge_color=_OFF_WHITE) -> VisImage:
        """Draw a label map (H, W) of stuff classes, large ones first; labels without a class name are left out."""
        label_map = sem_seg.numpy() if isinstance(sem_seg, torch.Tensor) else np.asarray(sem_seg)
        names = self.metadata.stuff_classes
        labels, areas = np.unique(label_map, return_counts=True)
        for label in labels[np.argsort(-areas)]:
            if label >= len(names):
                continue
            mask, text = (label_map == label).astype(np.uint8), names[label] if draw_text else None
            look = {"edge_color": edge_color, "alpha": alpha, "area_threshold": area_threshold}
            self.draw_binary_mask(mask, self._class_color(label, "stuff_colors"), text=text, **look)
        return self.output

    def draw_panoptic_seg(self, panoptic_seg, segments_info, area_threshold=None, alpha=0.7) -> VisImage:
        """Draw a panoptic segmentation: ids (H, W) int, and their segments (None: see _PanopticPrediction)."""
        prediction = _PanopticPrediction(panoptic_seg, segments_info, self.metadata)
        if self._instance_mode == ColorMode.IMAGE_BW:
            self.output.reset_image(self._create_grayscale_image(prediction.non_empty_mask()))
        for mask, segment in prediction.semantic_masks():
            number = segment["category_id"]
            look = {"edge_color": _OFF_WHITE, "alpha": alpha, "area_threshold": area_threshold}
            name = self.metadata.stuff_classes[number]
            self.draw_binary_mask(mask, self._class_color(number, "stuff_colors"), text=name, **look)
        things = list(prediction.instance_masks())
        if not things:
            return self.output
        masks, segments = zip(*things)
        classes = [segment["category_id"] for segment in segments]
        scores = [segment["score"] for segment in segments] if all("score" in s for s in segments) else None
        crowds = [segment.get("iscrowd", 0) for segment in segments]
        labels = _create_text_labels(classes, scores, self.metadata.thing_classes, crowds)
        plain = [self._class_color(number) for number in classes]
        colors = None if None in plain else [self._jitter(color) for color in plain]
        return self.overlay_instances(masks=list(masks), labels=labels, assigned_colors=colors, alpha=alpha)

    draw_panoptic_seg_predictions = draw_panoptic_seg

    def draw_dataset_dict(self, dic: dict) -> VisImage:
        """Draw whatever a record has: annotations, sem_seg (or its file), panoptic segmentation."""
        annotations = dic.get("annotations")
        if annotations:
            masks = [anno["segmentation"] for anno in annotations if "segmentation" in anno]
            boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in annotations if "bbox" in a]
            classes, crowds = ([anno.get(key, 0) for anno in annotations] for key in ("category_id", "iscrowd"))
            colors = None
            if self._instance_mode == ColorMode.SEGMENTATION and self._class_color(0) is not None:
                colors = [self._jitter(self._class_color(number)) for number in classes]
            self.overlay_instances(
                labels=_create_text_labels(classes, None, self.metadata.get("thing_classes"), crowds),
                boxes=np.asarray(boxes, dtype=float) if len(boxes) == len(annotations) else None,
                masks=masks if len(masks) == len(annotations) else None,
                assigned_colors=colors,
            )
        sem_seg = dic.get("sem_seg")
        if sem_seg is None and "sem_seg_file_name" in dic:
            sem_seg = self._read_labels(dic["sem_seg_file_name"])
        if sem_seg is not None:
            self.draw_sem_seg(sem_seg, area_threshold=0, alpha=0.5)
        ids = dic.get("pan_seg")
        if ids is None and "pan_seg_file_name" in dic:
            colors = self._read_labels(dic["pan_seg_file_name"]).astype(np.int64)
            ids = colors[..., 0] + 256 * colors[..., 1] + 256**2 * colors[..., 2]
        if ids is not None:
            self.draw_panoptic_seg(torch.as_tensor(ids), dic["segments_info"], area_threshold=0, alpha=0.5)
        return self.output

    @staticmethod
    def _read_labels(path: str) -> np.ndarray:
        with PathManager.open(path, "rb") as file:
            return np.array(Image.open(file))

    def overlay_instances(
        self, *, boxes=None, labels=None, masks=None, keypoints=None, assigned_colors=None, alpha=0.5
    ) -> VisImage:
        """Draw boxes, masks and labels of N instances, large ones first, each in one colour.

        Args:
            boxes: Boxes or array (N, 4), absolute XYXY.
            labels: N texts.
            masks: PolygonMasks, BitMasks, array (N, H, W), or a list of what GenericMask takes.
            keypoints: for Detectron2's signature; must be None.
            assigned_colors: N matplotlib colours; None: random ones.
            alpha: opacity of the masks.
        """
        if keypoints is not None:
            raise missing("structures.Keypoints")
        boxes = None if boxes is None else self._convert_boxes(boxes)
        masks = None if masks is None else self._convert_masks(masks)
        counts = {len(part) for part in (boxes, masks, labels, assigned_colors) if part is not None}
        if len(counts) > 1:
            raise AssertionError(f"boxes, masks, labels and colours are for different numbers of instances: {counts}")
        count = counts.pop() if counts else 0
        if count == 0:
            return self.output
        colors = assigned_colors or [random_color(rgb=True, maximum=1) for _ in range(count)]
        if boxes is not None:
            sizes = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
        else:
            sizes = np.array([mask.area() for mask in masks]) if masks is not None else np.zeros(count)
        for index in np.argsort(-sizes, kind="stable"):
            if boxes is not None:
                self.draw_box(boxes[index], edge_color=colors[index])
            if masks is not None:
                for polygon in masks[index].polygons:
                    self.draw_polygon(polygon.reshape(-1, 2), colors[index], alpha=alpha)
            if labels is not None and (boxes is not None or masks is not None):
                parts = (None if part is None else part[index] for part in (boxes, masks))
                self._label_instance(labels[index], *parts, colors[index])
        return self.output

    def _label_instance(self, text: str, box: np.ndarray | None, mask: GenericMask | None, color: Any) -> None:
        if box is None:
            if not mask.area():
                return
            box = mask.bbox()
            position, align = np.median(mask.mask.nonzero(), axis=1)[::-1], "center"
        else:
            position, align = box[:2], "left"
        width, height = box[2] - box[0], box[3] - box[1]
        if width * height < _SMALL_OBJECT_AREA_THRESH * self.output.scale or height < 40 * self.output.scale:
            below_fits = box[3] < self.output.height - 5
            position = (box[0], box[3]) if below_fits else (box[2], box[1])
        # Text grows with the object, between 0.6 and once the default size.
        share = height / np.sqrt(self.output.height * self.output.width)
        size = float(np.clip((share - 0.02) / 0.08 + 1, 1.2, 2)) * 0.5 * self._default_font_size
        lighter = self._change_color_brightness(color, brightness_factor=0.7)
        self.draw_text(text, position, color=lighter, horizontal_alignment=align, font_size=size)

    overlay_rotated_instances = placeholder("utils.visualizer.Visualizer.overlay_rotated_instances")
    draw_rotated_box_with_label = placeholder("utils.visualizer.Visualizer.draw_rotated_box_with_label")
    draw_and_connect_keypoints = placeholder("utils.visualizer.Visualizer.draw_and_connect_keypoints")

    # ---- colours and conversions ------------------------------------------------------------------------------------

    def _class_color(self, number: int, key: str = "thing_colors") -> tuple[float, ...] | None:
        """Colour of a class in [0, 1], or None if the metadata has none."""
        colors = self.metadata.get(key)
        return None if not colors or number >= len(colors) else tuple(value / 255 for value in colors[number])

    def _jitter(self, color: Any) -> tuple[float, ...]:
        """Move a colour by half a unit in a random direction, so that neighbours of one class differ."""
        step = np.random.rand(3)
        step = step / np.linalg.norm(step) * 0.5
        return tuple(np.clip(step + mplc.to_rgb(color), 0, 1))

    def _create_grayscale_image(self, mask: np.ndarray | None = None) -> np.ndarray:
        """Return the image in grey, except where the mask (H, W) is true."""
        grey = np.repeat(self.img.mean(axis=2, keepdims=True), 3, axis=2)
        return grey if mask is None else np.where(np.asarray(mask, dtype=bool)[..., None], self.img, grey)

    def _convert_boxes(self, boxes: Any) -> np.ndarray:
        return boxes.tensor.detach().numpy() if isinstance(boxes, Boxes) else np.asarray(boxes)

    def _convert_masks(self, masks_or_polygons: Any) -> list[GenericMask]:
        items = masks_or_polygons
        if isinstance(items, PolygonMasks):
            items = items.polygons
        elif isinstance(items, BitMasks):
            items = items.tensor
        items = [item.numpy() if isinstance(item, torch.Tensor) else item for item in items]
        size = (self.output.height, self.output.width)
        return [item if isinstance(item, GenericMask) else GenericMask(item, *size) for item in items]

    def get_output(self) -> VisImage:
        """Return the picture with everything drawn so far."""
        return self.output
