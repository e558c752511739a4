"""The world: a drawn, seeded universe of things on grounds, for experiments that need no download."""

from .grounds import GROUND_TABLE, GROUNDS, Ground
from .masks import mask_to_polygons
from .painting import COLORS
from .scene import STYLES, DrawnThing, Scene, SceneSpec, draw_scene
from .things import Hypernym, Thing, ancestors, hypernyms, things

__all__ = [
    "COLORS",
    "GROUNDS",
    "GROUND_TABLE",
    "STYLES",
    "DrawnThing",
    "Ground",
    "Hypernym",
    "Scene",
    "SceneSpec",
    "Thing",
    "ancestors",
    "draw_scene",
    "hypernyms",
    "mask_to_polygons",
    "things",
]
