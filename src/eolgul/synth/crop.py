"""Draw aligned 112×112 faces under random conditions, rendered directly through the alignment.

The camera and the similarity that aligns its image are composed into one camera: no pixel is resampled and only 112×112
pixels are drawn.
"""

from __future__ import annotations

import numpy as np

from eolgul.faces.template import SIZE, TEMPLATE, similarity_transform
from eolgul.synth.mesh import Reals
from eolgul.synth.person import Person, generator
from eolgul.synth.render import jpeg, render
from eolgul.synth.rig import Camera, Light, expression_actions, free_camera
from eolgul.synth.scene import Scene, Sitter

# Standard deviation of a detector's landmark error, pixels of the crop.
_JITTER = 1.5


def aligned_faces(person: Person, count: int, stream: int) -> list[tuple[bytes, Reals]]:
    """Draw aligned faces of a person.

    About three images share one expression and one accessory, because each combination costs a scene; everything else
    differs between images.

    Args:
        person: who is drawn.
        count: number of images.
        stream: number of the random stream; different uses of the same person take different streams.

    Returns:
        (JPEG, truth) of each image; see `Scene.truth`.
    """
    sitter = Sitter(person)
    kinds = max(2, count // 3)
    faces: list[tuple[bytes, Reals]] = [(b"", np.zeros(0))] * count
    for kind in range(min(kinds, count)):
        rng = generator(person.seed, person.index, stream, 0, kind)
        scene = sitter.scene_of(_expression(person, rng), _accessory(rng))
        for k in range(kind, count, kinds):
            faces[k] = aligned_face(scene, generator(person.seed, person.index, stream, 1, k))
    return faces


def aligned_face(scene: Scene, rng: np.random.Generator) -> tuple[bytes, Reals]:
    """Draw one aligned JPEG of a scene from a random direction under a random light; returns it and its truth."""
    yaw = float(np.clip(rng.normal(0, 19), -42, 42))
    pitch = float(np.clip(rng.normal(2, 7), -16, 16))
    camera = as_detected(scene, free_camera(yaw, pitch, 346, 230), rng)
    # Half of the lamps stand in front, the others anywhere between the two sides.
    side = float(rng.normal(0, 15) if rng.random() < 0.5 else rng.uniform(-90, 90))
    lux = float(np.exp(rng.uniform(np.log(150), np.log(1000))))
    light = Light(side, float(rng.uniform(-12, 32)), lux, float(rng.uniform(7, 18)))
    blur = float(rng.uniform(0, 0.4)) if rng.random() < 0.4 else 0.0
    picture = render(scene, camera, light, rng, blur=blur, noise=float(rng.uniform(0.5, 2.0)))
    return jpeg(picture, int(rng.integers(78, 97))), scene.truth(camera)


def as_detected(scene: Scene, camera: Camera, rng: np.random.Generator) -> Camera:
    """The camera composed with the alignment by landmarks that carry a detector's error."""
    target = TEMPLATE + rng.normal(0, _JITTER, (5, 2))
    return camera.aligned(similarity_transform(scene.five(camera), target), SIZE)


def _expression(person: Person, rng: np.random.Generator) -> dict[str, float]:
    name = ("E01", "E02", "E03")[int(rng.choice(3, p=(0.5, 0.35, 0.15)))]
    strength = float(rng.uniform(0.3, 1.0))
    return {action: weight * strength for action, weight in expression_actions(person, name).items()}


def _accessory(rng: np.random.Generator) -> str:
    return ("S001", "S002", "S003", "S004", "S005")[int(rng.choice(5, p=(0.72, 0.12, 0.09, 0.02, 0.05)))]
