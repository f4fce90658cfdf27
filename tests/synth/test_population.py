"""Which people exist: deterministic, different from each other, possible, named like K-FACE's."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("embreex")

from eolgul.errors import InputError
from eolgul.synth import (
    draw_person,
    identity_of,
    parse_origins,
    people,
    population,
)
from eolgul.synth.mesh import load_base
from eolgul.synth.person import head
from eolgul.synth.proportions import measures, plausible


def test_a_person_is_a_pure_function_of_the_seed_and_another_index_is_another_person() -> None:
    assert draw_person(5, 7) == draw_person(5, 7)
    assert draw_person(5, 7) != draw_person(5, 8)
    assert draw_person(5, 7) != draw_person(6, 7)


def test_the_population_is_like_kfaces() -> None:
    drawn = list(people(0, 0, 200))
    assert 0.4 < np.mean([p.male for p in drawn]) < 0.6
    assert min(p.age for p in drawn) >= 20 and max(p.age for p in drawn) < 60
    assert np.mean([p.origin[0] > 0.5 for p in drawn]) > 0.5


def test_origins_are_settable_and_other_shares_are_other_people() -> None:
    african = parse_origins("african=2, caucasian=0")
    assert african == (0, 1, 0)
    people_of = [draw_person(0, k, african) for k in range(60)]
    assert np.mean([p.origin[1] > 0.4 for p in people_of]) == 1
    assert np.mean([p.look["melanin"] for p in people_of]) > 2
    for wrong in ("martian=1", "asian=-1", "asian", "asian=0"):
        with pytest.raises(InputError, match="origins"):
            parse_origins(wrong)


def test_nobody_resembles_anybody_before_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def nearest(count: int) -> int:
        faces = np.array([population.descriptor(p) for p in people(3, 0, count)])
        apart = ((faces[:, None] - faces[None]) ** 2).sum(2)
        return int(apart[~np.eye(count, dtype=bool)].min())

    alone = draw_person(3, 40)
    assert nearest(150) >= population._NEAR
    # A stricter rule is kept too, which shows that it is the rule that keeps people apart.
    strict = 2 * nearest(150)
    monkeypatch.setattr(population, "_NEAR", strict)
    population._block.cache_clear()
    assert nearest(60) >= strict
    monkeypatch.undo()
    population._block.cache_clear()
    # Who person 40 is does not depend on who was asked for, nor in which order.
    assert [p.index for p in people(3, 39, 3)] == [39, 40, 41]
    assert draw_person(3, 40) == alone


def test_faces_are_possible_ones() -> None:
    drawn = [population._draw(0, k, 0, population.DEFAULT_ORIGINS) for k in range(40)]
    assert 0 < sum(map(plausible, drawn)) < 40  # some draws are not, and
    assert all(plausible(p) for p in people(0, 0, 40))  # those are drawn again
    person = draw_person(0, 3)
    vertices, base = head(person), load_base()
    philtrum = vertices[base.index(343), 1] - vertices[base.index(466), 1]
    np.testing.assert_allclose(measures(person)[0], philtrum, atol=0.004)


def test_identities_look_like_kfaces_but_are_of_no_year_it_was_made_in() -> None:
    names = {identity_of(0, k) for k in range(5000)}
    assert len(names) == 5000
    assert all(len(name) == 8 and name.isdigit() and name.startswith("99") for name in names)
