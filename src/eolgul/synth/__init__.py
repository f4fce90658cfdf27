"""A studio full of people who do not exist, in K-FACE's structure: faces for demos, tests and benchmarks.

Everything drawn here is synthetic and says so in the ``synthetic.json`` beside it.
"""

from eolgul.synth.draw import VERSION, balanced, contact_sheet, draw_bin, draw_kface, draw_rec
from eolgul.synth.person import Person, draw_person, identity_of
from eolgul.synth.rig import camera, light
from eolgul.synth.scene import Scene, Sitter

__all__ = [
    "VERSION",
    "Person",
    "Scene",
    "Sitter",
    "balanced",
    "camera",
    "contact_sheet",
    "draw_bin",
    "draw_kface",
    "draw_person",
    "draw_rec",
    "identity_of",
    "light",
]
