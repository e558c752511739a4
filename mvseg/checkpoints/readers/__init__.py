"""How foreign weight files are recognised and how their parameter names become ours: one reader for each project.

A reader looks only at names and shapes; it builds no model and reads no file. ``registry.py`` says how to add one.
"""

from mvseg.checkpoints.readers import centernet2, detic, unidet, unidetector  # noqa: F401  (registers the readers)
from mvseg.checkpoints.readers.pretrained import translate_weights
from mvseg.checkpoints.readers.registry import READERS, Part, Reader, Rule, Translation, Unrecognised, get_reader

__all__ = ["READERS", "Part", "Reader", "Rule", "Translation", "Unrecognised", "get_reader", "translate_weights"]
