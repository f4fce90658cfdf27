"""Draw photos of people who do not exist, in K-FACE's and InsightFace's formats, for demos, tests and benchmarks.

Every output has a `synthetic.json` that marks it as synthetic.
"""

from eolgul.synth.draw import balanced, contact_sheet, draw_bin, draw_folders, draw_kface, draw_kind, draw_rec
from eolgul.synth.person import Person, identity_of
from eolgul.synth.population import DEFAULT_ORIGINS, draw_person, parse_origins, people
from eolgul.synth.rig import camera, light
from eolgul.synth.scene import Scene, Sitter
from eolgul.synth.store import VERSION

__all__ = [
    "DEFAULT_ORIGINS",
    "VERSION",
    "Person",
    "Scene",
    "Sitter",
    "balanced",
    "camera",
    "contact_sheet",
    "draw_bin",
    "draw_folders",
    "draw_kface",
    "draw_kind",
    "draw_person",
    "draw_rec",
    "identity_of",
    "light",
    "parse_origins",
    "people",
]
