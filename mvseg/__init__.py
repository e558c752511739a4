"""mvseg: train one detector or segmenter from many datasets, then detect and segment with any words.

Importing this package makes ``detectron2`` importable: an installed Detectron2 if there is one, otherwise mvseg's own
built-in provider of the same interfaces (see :mod:`mvseg.provider`). Import mvseg before detectron2.
"""

from mvseg.provider import activate_detectron2

__version__ = "0.1.0"

activate_detectron2()
