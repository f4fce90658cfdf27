"""Measure what is fetched from S3: by extractions with a selection, by a part of a `.rec` and of an alignment, by streaming.

It starts SeaweedFS on this machine, writes noisy pictures there, and counts the bytes of every object or range that is read,
beside all bytes of the source. `--stream` also prints how many training images a second two workers decode from there: in
the first pass over the data, in the second from the cache, and from the disk.

Usage: fetched.py [--people N] [--stream]
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
import numpy as np

from eolgul import steps, storage
from eolgul.align.config import AlignConfig
from eolgul.assemble.config import AssembleConfig
from eolgul.dataset import FaceDataset
from eolgul.dataset.far import Cache
from eolgul.demo import embedded
from eolgul.extract.config import ExtractConfig
from eolgul.formats.insightface import write_rec
from eolgul.formats.kface import Selection
from eolgul.images.decode import encode_png
from eolgul.steps.places import bring_tables
from eolgul.storage import far
from eolgul.storage.s3 import minio_client
from eolgul.train.data import TrainingData
from eolgul.train.recipe import Recipe

KFACE = "resolutions=High,Low accessories=S001-S002 lights=L1-L10 expressions=E01 cameras=C7"
COUNTED = [0]  # bytes


def count_reads() -> None:
    """Count every byte that this process reads from S3, but for listings and cards."""
    client, get = minio_client(), far.FarFile._get

    def ranged(self: far.FarFile, offset: int, length: int) -> bytes:

        data = get(self, offset, length)
        COUNTED[0] += len(data)
        return data

    def whole(*args: Any, **named: Any) -> Any:

        result = type(client).fget_object(client, *args, **named)
        COUNTED[0] += Path(named["file_path"]).stat().st_size
        return result

    far.FarFile._get = ranged  # type: ignore[method-assign]
    client.fget_object = whole


def write_sources(folder: Path, people: int) -> None:
    """Write identity folders, a K-FACE tree and a `.rec` of the same people, all of noisy pictures."""
    random = np.random.default_rng(0)
    for person in range(people):
        for number in range(10):
            file = folder / "folders" / f"s{person:03}" / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(_noise(random, 96, 112))
        for condition in Selection.parse(KFACE).conditions():
            file = folder / "kface" / condition.path(f"{person:08}")
            file.parent.mkdir(parents=True, exist_ok=True)
            high = condition.resolution == "High"
            file.write_bytes(_noise(random, *((864, 576) if high else (173, 115))))
    rows = [(person, _noise(random, 112, 112)) for person in range(people) for _ in range(20)]
    write_rec(folder / "rec", rows)


def _noise(random: np.random.Generator, width: int, height: int) -> bytes:
    return encode_png(random.integers(0, 64, (height, width, 3), np.uint8))


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=30)
    parser.add_argument("--stream", action="store_true", help="measure training's reading, too")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, embedded.s3(Path(name) / "s3", patient=False) as server:
        folder = Path(name)
        os.environ |= server.environment(folder / "cache")
        storage.forget_settings()
        storage.make_bucket("s3://data")
        write_sources(folder / "raw", given.people)
        for source in ("folders", "kface", "rec"):
            storage.publish(folder / "raw" / source, f"s3://data/raw/{source}")
        count_reads()
        measure(folder)
        if given.stream:
            stream(folder)


def measure(folder: Path) -> None:
    """Print a line for each case."""

    def run(what: str, whole: int, work: Callable[[], object]) -> None:

        COUNTED[0] = 0
        work()
        print(
            f"| {what} | {whole / 1e6:.1f} MB | {COUNTED[0] / 1e6:.2f} MB | {100 * COUNTED[0] / whole:.1f} % |",
            flush=True,
        )

    def extract(source: str, out: str, **options: Any) -> Callable[[], object]:
        place = f"s3://data/raw/{source}"
        return lambda: steps.extract(place, f"s3://data/{out}", ExtractConfig(workers=1, **options))

    size = {
        name: sum(size for _, size, _ in storage.describe(f"s3://data/raw/{name}"))
        for name in ("folders", "kface", "rec")
    }
    print("| what | all of it | fetched | share |\n|---|---|---|---|")
    run("folders, --max-identities 2", size["folders"], extract("folders", "x1", max_identities=2))
    run("K-FACE, --selection resolutions=Low", size["kface"], extract("kface", "x2", selection="resolutions=Low"))
    run("K-FACE, whole", size["kface"], extract("kface", "x3", kind="kface"))
    run("`.rec`, --part 2/8", size["rec"], extract("rec", "x4", part="2/8"))
    run("alignment, --part 1/8", size["kface"],
        lambda: steps.align("s3://data/x3", f"{folder}/a1", AlignConfig(part="1/8", min_face_size=100, min_eyes=1)))  # fmt: skip


def stream(folder: Path) -> None:
    """Print the images a second of training's reading, by where the images lie."""
    steps.extract(f"{folder}/raw/rec", "s3://data/faces", ExtractConfig(name="rec"))
    steps.assemble(
        ["s3://data/faces"], "s3://data/assembled", AssembleConfig(validation=0.1, calibration=0.1, test=0.1)
    )
    (folder / "images").mkdir()
    tables, shards = bring_tables("s3://data/assembled", Cache(folder / "images", 10**9))
    recipe = Recipe.load("demo", ["batch_size=64", "photometric=0", "shift=0"])

    def rate(dataset: FaceDataset) -> float:
        data = TrainingData(dataset, recipe, workers=2)
        started = time.monotonic()
        images = sum(len(batch.labels) for batch in data.batches(0))
        return images / (time.monotonic() - started)

    far_away = FaceDataset(tables, shards=shards)
    first, second = rate(far_away), rate(far_away)
    disk = rate(FaceDataset(steps.bring("s3://data/assembled")))
    print(f"training reads {first:.0f} images/s from S3, {second:.0f} from the cache, {disk:.0f} from the disk")


if __name__ == "__main__":
    main()
