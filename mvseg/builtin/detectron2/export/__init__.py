"""Left out of the built-in provider."""

from detectron2._missing import missing

raise missing(__name__)
