"""In how many training images each LVIS v1 category occurs."""

from .lvis_v1_categories import LVIS_CATEGORIES

LVIS_CATEGORY_IMAGE_COUNT = [{"id": row["id"], "image_count": row["image_count"]} for row in LVIS_CATEGORIES]
