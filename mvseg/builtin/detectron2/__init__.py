"""mvseg's built-in provider of Detectron2's interfaces (the installed Detectron2 wins where there is one)."""

import os

# OpenCV's OpenCL path is slower than its CPU path for small images and starts threads in every loader worker.
os.environ.setdefault("OPENCV_OPENCL_RUNTIME", "disabled")

__version__ = "0.6"
