"""From a teacher's view of image crops to what a detector learns from: ``python -m mvseg.distill``."""

from mvseg.distill.checking import check_folder
from mvseg.distill.embedding import EmbeddingJob, Selection, embed_dataset, estimate_size

__all__ = ["EmbeddingJob", "Selection", "check_folder", "embed_dataset", "estimate_size"]
