"""Rendered images: deterministic, and different for other people, lights, expressions and accessories."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("embreex")

from support.drawing import picture

from eolgul.synth import Scene, Sitter, draw_person
from eolgul.synth.render import render
from eolgul.synth.rig import camera, light


def test_the_same_picture_twice_is_the_same_bytes(sitter: Sitter, scene: Scene) -> None:
    again = Sitter(draw_person(0, 3)).scene()
    view = camera("C8", "Low")
    first = render(scene, view, light("L1"), np.random.default_rng(2))
    assert np.array_equal(first, render(again, view, light("L1"), np.random.default_rng(2)))


def test_different_people_look_different(scene: Scene) -> None:
    other = Sitter(draw_person(0, 4)).scene()
    difference = np.abs(picture(scene) - picture(other))[30:90, 60:110]
    assert difference.mean() > 8


def test_light_and_expression_and_accessory_change_the_picture(sitter: Sitter, scene: Scene) -> None:
    bright = picture(scene)[30:95, 60:112]
    assert picture(scene, lamp="L6")[30:95, 60:112].mean() < 0.6 * bright.mean()
    assert picture(scene, lamp="L7").mean() < 30
    lit_left = picture(scene, lamp="L16")[40:90, 64:110]
    # L16 stands on the sitter's left, which is the image's right.
    assert lit_left[:, 23:].mean() > 1.3 * lit_left[:, :23].mean()
    for expression, accessory in (("E02", "S001"), ("E03", "S001"), ("E01", "S003"), ("E01", "S005")):
        changed = picture(sitter.scene(expression, accessory))
        assert (np.abs(changed - picture(scene)).max(2) > 25).sum() > 20, (expression, accessory)
