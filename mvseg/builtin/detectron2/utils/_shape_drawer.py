"""Single shapes on a canvas: text, boxes, circles, lines, polygons, masks."""

import colorsys
from collections.abc import Sequence
from typing import Any

import cv2
import matplotlib.colors as mplc
import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, Polygon, Rectangle
from matplotlib.text import Text

from ._visual_parts import GenericMask, VisImage
from .colormap import random_color

# Connected parts of a mask above this number of pixels get a label of their own.
_LARGE_MASK_AREA_THRESH = 120000


class ShapeDrawer:
    """Base of the Visualizer: draws on ``self.output``."""

    output: VisImage
    _default_font_size: float

    def draw_text(
        self, text, position, *, font_size=None, color="g", horizontal_alignment="center", rotation=0
    ) -> VisImage:
        """Write on a dark box; position (x, y) is the upper end of the text. It is kept inside the picture."""
        bright = np.maximum(mplc.to_rgb(color), 0.2)
        bright[np.argmax(bright)] = max(0.8, bright.max())
        box = {"facecolor": "black", "alpha": 0.8, "pad": 0.7, "edgecolor": "none"}
        size = (font_size or self._default_font_size) * self.output.scale
        placed = {"va": "top", "ha": horizontal_alignment, "rotation": rotation, "zorder": 10}
        style = {"size": size, "family": "sans-serif", "bbox": box, "color": tuple(bright)}
        self._move_inside(self.output.ax.text(*position, text, **style, **placed))
        return self.output

    def _move_inside(self, text: Text) -> None:
        extent = text.get_window_extent(self.output.canvas.get_renderer())  # pixels of the picture, y upwards
        width, height = self.output.width * self.output.scale, self.output.height * self.output.scale
        right = max(min(0.0, width - extent.x1), -extent.x0)  # too long a text keeps its beginning
        down = max(min(0.0, extent.y0), extent.y1 - height)
        x, y = text.get_position()
        text.set_position((x + right / self.output.scale, y + down / self.output.scale))

    def draw_box(
        self, box_coord: Sequence[float], alpha: float = 0.5, edge_color: Any = "g", line_style: str = "-"
    ) -> VisImage:
        """Draw the outline of a box (x0, y0, x1, y1)."""
        left, top, right, bottom = box_coord
        width = max(self._default_font_size / 4, 1) * self.output.scale
        style = {"edgecolor": edge_color, "linewidth": width, "alpha": alpha, "linestyle": line_style}
        self.output.ax.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, **style))
        return self.output

    def draw_circle(self, circle_coord: Sequence[float], color: Any, radius: float = 3) -> VisImage:
        """Draw a filled circle about (x, y)."""
        self.output.ax.add_patch(Circle(circle_coord, radius=radius, fill=True, color=color))
        return self.output

    def draw_line(self, x_data, y_data, color: Any, linestyle: str = "-", linewidth: float | None = None) -> VisImage:
        """Draw a line through points."""
        width = max(linewidth if linewidth is not None else self._default_font_size / 3, 1) * self.output.scale
        self.output.ax.add_line(Line2D(x_data, y_data, linewidth=width, color=color, linestyle=linestyle))
        return self.output

    def draw_binary_mask(
        self, binary_mask, color=None, *, edge_color=None, text=None, alpha=0.5, area_threshold=10
    ) -> VisImage:
        """Draw a mask (H, W); parts smaller than area_threshold pixels are left out."""
        color = mplc.to_rgb(random_color(rgb=True, maximum=1) if color is None else color)
        mask = GenericMask(np.asarray(binary_mask).astype("uint8"), self.output.height, self.output.width)
        drawn = mask.has_holes
        if mask.has_holes:
            # A polygon cannot leave a hole open, so the pixels are drawn.
            rgb = np.broadcast_to(color, (*mask.mask.shape, 3))
            self.output.show(np.concatenate([rgb, mask.mask[..., None] * float(alpha)], axis=2))
        for polygon in [] if mask.has_holes else mask.polygons:
            points = polygon.reshape(-1, 2)
            if cv2.contourArea(points.astype(np.float32)) >= (area_threshold or 0):
                self.draw_polygon(points, color, edge_color=edge_color, alpha=alpha)
                drawn = True
        if text is not None and drawn:
            self._draw_text_in_mask(mask.mask, text, self._change_color_brightness(color, brightness_factor=0.7))
        return self.output

    def draw_polygon(self, segment: np.ndarray, color: Any, edge_color: Any = None, alpha: float = 0.5) -> VisImage:
        """Draw a filled polygon, points (N, 2)."""
        if edge_color is None:
            # A light edge on dark pictures and the other way round is hard to tell apart when nearly opaque.
            edge_color = self._change_color_brightness(color, brightness_factor=-0.7) if alpha > 0.8 else color
        colors = {"facecolor": (*mplc.to_rgb(color), alpha), "edgecolor": (*mplc.to_rgb(edge_color), 1)}
        width = max(self._default_font_size // 15 * self.output.scale, 1)
        self.output.ax.add_patch(Polygon(segment, fill=True, linewidth=width, **colors))
        return self.output

    def _draw_text_in_mask(self, binary_mask: np.ndarray, text: str, color: Any) -> None:
        """Label the largest connected part, and every other one that is large."""
        count, parts, stats, _ = cv2.connectedComponentsWithStats(binary_mask, connectivity=8)
        if count <= 1:
            return
        areas = stats[1:, cv2.CC_STAT_AREA]
        for part, area in enumerate(areas, start=1):
            if part == int(areas.argmax()) + 1 or area > _LARGE_MASK_AREA_THRESH:
                center = np.median((parts == part).nonzero(), axis=1)[::-1]
                self.draw_text(text, center, color=color)

    def _change_color_brightness(self, color: Any, brightness_factor: float) -> tuple[float, ...]:
        """Scale the lightness of a colour by 1 + brightness_factor (in [-1, 1])."""
        hue, lightness, saturation = colorsys.rgb_to_hls(*mplc.to_rgb(color))
        lightness = min(lightness * (1 + brightness_factor), 1.0)
        return tuple(np.clip(colorsys.hls_to_rgb(hue, lightness, saturation), 0.0, 1.0))
