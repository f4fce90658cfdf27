"""The search by two bytes per number leaves nobody out who may be among the best."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from eolgul.serving.gallery import blocks, index
from eolgul.serving.gallery.index import ModelIndex, Rows, TenantIndex, owners

SIZE = 48


def unit(rng: np.random.Generator, *shape: int) -> NDArray[np.float32]:
    values = rng.normal(size=shape).astype(np.float32)
    return np.asarray(values / np.linalg.norm(values, axis=-1, keepdims=True), np.float32)


def names(rng: np.random.Generator, count: int) -> list[str]:
    return [rng.bytes(16).hex() for _ in range(count)]


def exact(embeddings: NDArray[np.float32], people: list[str], query: NDArray[np.float32]) -> dict[str, float]:
    best: dict[str, float] = {}
    for person, score in zip(people, (embeddings @ query).tolist(), strict=True):
        best[person] = max(score, best.get(person, -2.0))
    return best


@pytest.mark.parametrize("seed", range(12))
def test_the_best_are_among_the_likeliest_whatever_was_added_and_removed(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "_CHUNK", 7)
    monkeypatch.setattr(index, "_BLOCK", 5)
    rng = np.random.default_rng(seed)
    held: dict[str, list[NDArray[np.float32]]] = {}
    model = ModelIndex(SIZE)
    for _ in range(8):
        people = names(rng, int(rng.integers(1, 30)))
        each = [person for person in people for _ in range(int(rng.integers(1, 4)))]
        # Of some, embeddings that differ by less than one step of the first byte.
        vectors = unit(rng, len(each), SIZE)
        if rng.random() < 0.5:
            vectors = vectors[:1] + 1e-3 * vectors
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        model.add(Rows.of(each, vectors))
        for person, vector in zip(each, vectors, strict=True):
            held.setdefault(person, []).append(vector)
        gone = [*rng.choice(list(held), int(rng.integers(0, len(held))), replace=False).tolist(), *names(rng, 1)]
        model.remove(owners(gone))
        for person in gone:
            held.pop(person, None)
        each = [person for person, own in held.items() for _ in own]
        assert len(model) == len(each) and model.people == len(held)
        if not held:
            continue
        everyone = np.stack([vector for own in held.values() for vector in own])
        for query in (*unit(rng, 3, SIZE), everyone[0]):
            best = exact(everyone, each, query)
            for k in (1, 3, 100):
                found = model.likeliest(query, k)
                assert len(set(found)) == len(found)
                by_score = sorted(best.values(), reverse=True)
                must = {person for person, score in best.items() if score > by_score[min(k, len(best)) - 1] + 1e-6}
                assert must <= set(found)
                assert len(found) >= min(k, len(best))
                mine = sorted((best[person] for person in found), reverse=True)[:k]
                np.testing.assert_allclose(mine, by_score[: len(mine)], atol=1e-6)


def test_few_are_returned_of_many() -> None:
    rng = np.random.default_rng(3)
    people = names(rng, 5000)
    model = ModelIndex(512)
    model.add(Rows.of(people, unit(rng, 5000, 512)))
    assert max(len(model.likeliest(query, 5)) for query in unit(rng, 20, 512)) <= 8


def test_a_thousand_equal_ones_are_bounded() -> None:
    rng = np.random.default_rng(4)
    model = ModelIndex(SIZE)
    model.add(Rows.of(names(rng, 1000), np.repeat(unit(rng, 1, SIZE), 1000, axis=0)))
    assert len(model.likeliest(unit(rng, SIZE), 5)) == 205


def test_what_is_removed_is_overwritten() -> None:
    rng = np.random.default_rng(5)
    people = names(rng, 3)
    model = ModelIndex(SIZE)
    model.add(Rows.of(people, unit(rng, 3, SIZE)))
    chunk = model._chunks[0]
    model.remove(owners(people))
    assert len(model) == model.people == 0 and model.likeliest(unit(rng, SIZE), 1) == []
    assert all(not values[:3].any() for values in chunk)


def test_zeros_and_large_numbers_can_be_held() -> None:
    rows = Rows.of(["0" * 32, "f" * 32], np.array([[0.0] * 8, [3e30] * 8], np.float32))
    assert np.isfinite(rows.scale).all() and rows.coarse.tolist() == [[0] * 8, [127] * 8]


def test_other_lengths_are_refused_and_models_are_apart() -> None:
    rng = np.random.default_rng(6)
    tenant = TenantIndex("1-0")
    one, two = names(rng, 2)
    tenant.add("a", Rows.of([one, two], unit(rng, 2, 8)))
    tenant.add("b", Rows.of([one], unit(rng, 1, 16)))
    with pytest.raises(ValueError, match="embeddings of 8 numbers, expected 16"):
        tenant.add("b", Rows.of([two], unit(rng, 1, 8)))
    tenant.forget([one])
    assert tenant.templates == len(tenant.model_index("a")) == 1 and len(tenant.model_index("c")) == 0
    assert tenant.nbytes == 2 * 8 + 24


def test_a_block_is_read_as_it_was_written() -> None:
    rng = np.random.default_rng(7)
    people = names(rng, 40)
    nobody = Rows.of([], np.empty((0, 4), np.float32))
    models = {"a": Rows.of(people, unit(rng, 40, 12)), "b": Rows.of(people[:3], unit(rng, 3, 7)), "": nobody}
    body = blocks.pack(models)
    for model, rows in blocks.unpack(body).items():
        for read, written in zip(rows, models[model], strict=True):
            np.testing.assert_array_equal(read, written)
    for cut in (0, 1, len(body) // 2, len(body) - 1):
        with pytest.raises(ValueError):
            blocks.unpack(body[:cut])
    with pytest.raises(ValueError, match="behind its end"):
        blocks.unpack(body + b"\0")


def test_people_are_in_the_block_of_their_first_digits() -> None:
    rng = np.random.default_rng(8)
    people = names(rng, 300)
    rows = Rows.of(people, unit(rng, 300, 8))
    for prefix in {blocks.prefix_of(person) for person in people}:
        own = [person for person in people if blocks.prefix_of(person) == prefix]
        np.testing.assert_array_equal(blocks.part(rows, prefix).owner, owners(own))
