"""Left out of the built-in provider; the name exists because demo scripts import it at their top."""

from detectron2._missing import placeholder

VideoVisualizer = placeholder("detectron2.utils.video_visualizer.VideoVisualizer")
