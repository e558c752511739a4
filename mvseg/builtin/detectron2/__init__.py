"""mvseg's built-in provider of Detectron2's interfaces (the installed Detectron2 wins where there is one)."""

import os

from ._missing import module_getattr  # its import also makes imports of modules that are left out say so

__getattr__ = module_getattr(__name__)

# OpenCV's OpenCL path is slower than its CPU path for small images and starts threads in every loader worker.
os.environ.setdefault("OPENCV_OPENCL_RUNTIME", "disabled")

__version__ = "0.6"
