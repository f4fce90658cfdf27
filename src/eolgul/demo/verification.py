"""Ask the running service about people of the test split, and read the counters that the requests move."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from eolgul.client import Client, EolgulError
from eolgul.dataset import FaceDataset
from eolgul.demo.progress import Progress
from eolgul.errors import InputError
from eolgul.images.decode import EXTENSIONS, decode, encode_png, probe
from eolgul.steps import bring
from eolgul.steps.places import place_of

_ACCEPTED = ("JPEG", "PNG", "WEBP")  # image formats that the service takes
_COUNTERS = ("eolgul_requests_total", "eolgul_cache_total", "eolgul_verdicts_total", "eolgul_rejections_total")
_ASKED = {"same": "two photos of one person", "different": "photos of two people"}

Pairs = Mapping[str, tuple[Path, Path]]


def verify_pairs(client: Client, pairs: Pairs, progress: Progress) -> list[dict[str, Any]]:
    """Ask about each pair twice; the second answer comes from the embedding cache.

    Args:
        client: of the running service.
        pairs: the expected verdict → two image files (see `choose_pairs`).
        progress: takes one line per answer.

    Returns:
        One answer per request, as JSON values, with `expected` added.

    Raises:
        InputError: the service refused a pair.
    """
    verdicts = []
    for expected, (left, right) in pairs.items():
        for request in ("first request", "repeated"):
            try:
                answer = client.verify(left, right)
            except EolgulError as error:
                raise InputError(f"the service refused {left.name} and {right.name}: {error.detail}") from error
            verdicts.append({"expected": expected, **answer.model_dump(mode="json")})
            why = ", ".join(one.reason for one in answer.reasons) or "within the threshold's confidence interval"
            correct = {expected: "correct", "undecided": why}
            known = sum(answer.cached)
            progress.detail(
                f"{_ASKED[expected]}, {request}: {answer.verdict} ({correct.get(answer.verdict, 'WRONG')}), "
                f"similarity {answer.similarity:.3f}, threshold {answer.threshold:.3f}, "
                f"{answer.timings_ms['total']:.0f} ms, {known} of 2 embeddings from the cache"
            )
    return verdicts


def choose_pairs(assembled_at: str, extracted_at: str, source: str, folder: Path) -> Pairs:
    """Write three original images of two random people (a fixed seed) of the test split below `folder`.

    Args:
        assembled_at: the reference of the assembled dataset.
        extracted_at: the reference of the source's images as they were extracted.
        source: the name of the source in the assembled dataset whose people are taken.
        folder: where the images go.

    Returns:
        {"same": (file, file), "different": (file, file)}.

    Raises:
        InputError: the test split holds no two people of `source`, or only one image of each.
    """
    assembled = FaceDataset(bring(assembled_at))
    originals = FaceDataset(bring(extracted_at))
    original_row = {image_id: row for row, image_id in enumerate(originals.column("image_id"))}
    ids, identities = assembled.column("image_id"), assembled.column("identity")
    people: dict[str, list[int]] = {}
    for row in assembled.rows("test"):
        prefix, _, image_id = ids[row].partition(".")
        if prefix == source and image_id in original_row:
            people.setdefault(identities[row], []).append(original_row[image_id])
    rng = np.random.default_rng(0)
    with_two_images = [rows for rows in people.values() if len(rows) > 1]
    if len(people) < 2 or not with_two_images:
        raise InputError(f"{place_of(assembled_at)}: the test split holds no two people of {source} with two images")
    first_person = with_two_images[rng.integers(len(with_two_images))]
    one, two = rng.choice(first_person, 2, replace=False)
    second_person = next(rows for rows in people.values() if rows is not first_person)
    folder.mkdir(parents=True, exist_ok=True)

    def write(name: str, row: int) -> Path:
        image = originals.read(int(row))
        kind = probe(image).format
        if kind not in _ACCEPTED:  # PNG loses nothing
            image, kind = encode_png(decode(image)[0]), "PNG"
        path = folder / f"{name}.{EXTENSIONS[kind]}"
        path.write_bytes(image)
        return path

    first = write("person-a-1", one)
    return {
        "same": (first, write("person-a-2", two)),
        "different": (first, write("person-b", rng.choice(second_person))),
    }


def read_counters(url: str) -> dict[str, float]:
    """The service's counters by name and labels, as Prometheus reads them."""
    counters = {}
    for line in httpx.get(f"{url}/metrics", timeout=30).text.splitlines():
        if line.startswith(_COUNTERS):
            name, _, value = line.rpartition(" ")
            counters[name] = float(value)
    return counters
