"""The random numbers of a whole batch are those of a generator per image."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eolgul.train.augment import augment, only_mirrors
from eolgul.train.draws import first_draws
from eolgul.train.recipe import Recipe

words = st.integers(0, 2**32 - 1)


@given(seed=words, epoch=st.integers(0, 100) | words, positions=st.lists(words, max_size=20))
def test_the_first_number_of_each_generator(seed: int, epoch: int, positions: list[int]) -> None:
    expected = [np.random.default_rng([seed, epoch, position]).random() for position in positions]
    assert first_draws(seed, epoch, np.array(positions, np.int64)).tolist() == expected


@pytest.mark.parametrize("flip", [0.0, 0.3, 1.0])
def test_a_batch_is_mirrored_as_its_faces_are(flip: float) -> None:
    recipe = replace(Recipe(), flip=flip, seed=7)
    assert only_mirrors(recipe)
    faces = np.random.default_rng(0).integers(0, 256, (64, 5, 5, 3), np.uint8)
    positions = np.arange(1000, 1064)
    expected = np.stack([augment(face, recipe, [7, 3, int(at)]) for face, at in zip(faces, positions, strict=True)])
    mirrored = first_draws(7, 3, positions) < recipe.flip
    faces[mirrored] = faces[mirrored, :, ::-1]
    np.testing.assert_array_equal(faces, expected)


def test_other_changes_need_a_generator_of_their_own() -> None:
    changes: list[dict[str, Any]] = [
        {name: 1} for name in ("shift", "photometric", "saturation", "crop", "low_resolution")
    ]
    for change in changes:
        assert not only_mirrors(replace(Recipe(), **change))
    assert not only_mirrors(replace(Recipe(), seed=2**32))
