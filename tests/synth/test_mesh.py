"""The base mesh: shape parameters, subdivision, normals."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("embreex")

from eolgul.synth.mesh import load_base, shape_parameters, subdivision, vertex_normals


def test_shape_parameters_move_both_sides_of_the_face() -> None:
    names = [p.name for p in shape_parameters()]
    assert len(names) > 90
    eyes = next(p for p in shape_parameters() if p.name == "eyes/eye-scale-incr")
    assert sorted(eyes.positive) == ["eyes/l-eye-scale-incr", "eyes/r-eye-scale-incr"]
    assert sorted(eyes.negative) == ["eyes/l-eye-scale-decr", "eyes/r-eye-scale-decr"]


def test_subdivision_keeps_a_plane_flat_and_refines_every_quad_into_four() -> None:
    base, fine = load_base(), subdivision()
    assert len(fine.fine) == 4 * len(base.quads)
    plane = base.vertices @ np.array([[1.0, 0], [0, 1], [0, 0]], np.float32) + 1
    flat = fine.apply(np.concatenate([plane, np.ones((len(plane), 1), np.float32)], 1))
    np.testing.assert_allclose(flat[:, 2], 1, atol=1e-5)
    assert flat.shape == (fine.total, 3)


def test_normals_of_the_face_point_out_of_it() -> None:
    base = load_base()
    normals = vertex_normals(base.vertices, base.quads[:, :3])
    assert normals[base.index(5054), 2] > 0.5
