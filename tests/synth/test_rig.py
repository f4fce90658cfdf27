"""K-FACE's cameras and lights."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("embreex")

from eolgul.faces.template import TEMPLATE, similarity_transform
from eolgul.synth import Scene
from eolgul.synth.rig import camera, camera_angles, light


def test_cameras_stand_where_kface_says() -> None:
    assert camera_angles("C1") == (90, 0) and camera_angles("C7") == (0, 0) and camera_angles("C13") == (-90, 0)
    assert camera_angles("C14") == (45, 30) and camera_angles("C20") == (-30, -15)
    with pytest.raises(ValueError, match="C21"):
        camera("C21", "Middle")


def test_lights_have_kfaces_lux() -> None:
    assert [light(f"L{n}").lux for n in range(1, 8)] == [1000, 400, 200, 150, 100, 40, 0]
    assert light("L8").pitch > 0 > light("L12").pitch
    assert [light(f"L{n}").yaw for n in (16, 19, 22, 25, 28)] == [90, 45, 0, -45, -90]


def test_rays_go_through_the_pixels_points_are_projected_to(scene: Scene) -> None:
    view = camera("C15", "Middle")
    pixels = view.project(scene.landmarks)
    rays = view.rays(pixels)
    towards = scene.landmarks - view.position()
    towards /= np.linalg.norm(towards, axis=1, keepdims=True)
    np.testing.assert_allclose(rays, towards, atol=1e-5)
    crop = view.aligned(similarity_transform(pixels[[1, 2, 0, 3, 4]], TEMPLATE), 112)
    np.testing.assert_allclose(crop.rays(crop.project(scene.landmarks)), towards, atol=1e-5)
    assert np.abs(crop.project(scene.landmarks)[[1, 2, 0, 3, 4]] - TEMPLATE).max() < 12
