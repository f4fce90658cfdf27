"""Measure how the cost of large data sets grows: planning of K-FACE, assembly, opening for training, order, pairs, audit.

It makes manifests like those of MS1M (68 images per person) and K-FACE (400 people, conditions and landmarks of every
image) in seconds, without any image: shards are empty files of the right length. Every stage runs in a process of its own,
whose CPU time and peak memory above its start are printed for each size, with the exponent of the growth between the
smallest and the largest: 1 is linear. `--limits` ends with an error where a stage takes more than the bounds below.

Usage: scale.py [--rows N …] [--kface N …] [--limits] [--json]
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("OMP_NUM_THREADS", "1")
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch  # noqa: F401 - here, so that no stage counts the import

from eolgul.artifact import seal
from eolgul.assemble.config import AssembleConfig
from eolgul.assemble.step import assemble
from eolgul.audit.faces import Faces, held_out_parts, training_part
from eolgul.dataset import SCHEMA, FaceDataset
from eolgul.dataset.schema import REJECTED
from eolgul.evaluate.pairs import MAX_COUNTED, calibration_rows, held_out_pairs
from eolgul.extract import kface_tree
from eolgul.extract.config import ExtractConfig
from eolgul.extract.entries import Entry
from eolgul.extract.plan import Plan
from eolgul.extract.tree import Tree
from eolgul.formats import kface
from eolgul.train.data import TrainingData
from eolgul.train.recipe import Recipe

ROWS = (100_000, 400_000, 1_600_000)
KFACE = 0.1  # the share of K-FACE's rows
PER_PERSON = 68
SHARD_ROWS = {True: 2048, False: 50_000}  # an alignment's shards (K-FACE), and those of an extraction (MS1M)
# Peak memory above the start: megabytes that do not depend on the size, and bytes per row; about twice what is measured.
LIMITS = {
    "assemble": (160, 320),
    "open": (70, 90),
    "order": (70, 250),
    "pairs": (100, 90),
    "audit": (120, 450),
}
GROWTH = 1.4  # the largest exponent of CPU time; the fixed parts make it smaller than 1, and other work on the machine larger
_NOTICEABLE = 0.5  # CPU seconds; the growth of less is noise


def make_dataset(out: Path, rows: int, *, kface: bool) -> None:
    """Write an aligned FaceDataset of `rows` rows, of images that do not exist."""
    (out / "shards").mkdir(parents=True)
    random = np.random.default_rng(rows)
    known = {}
    with pq.ParquetWriter(out / "manifest.parquet", SCHEMA, compression="zstd") as writer:
        for number, begin in enumerate(range(0, rows, SHARD_ROWS[kface])):
            own = np.arange(begin, min(begin + SHARD_ROWS[kface], rows))
            table, size = _shard(f"{number:05}.tar", own, random, rows, kface)
            writer.write_table(table)
            with (out / "shards" / f"{number:05}.tar").open("wb") as file:
                file.truncate(size)
            known[f"shards/{number:05}.tar"] = {"sha256": f"{number:064x}", "size": size}
    pq.write_table(REJECTED.empty_table(), out / "rejected.parquet")
    people = 400 if kface else -(-rows // PER_PERSON)
    contents = {
        "images": rows,
        "identities": people,
        "rejected": 0,
        "rejected_by_reason": {},
        "benchmark": False,
        "name": out.name,
        "identities_known": True,
        "aligned": "arcface-112-v1",
        "detector": None,
    }
    seal(
        out,
        "FaceDataset",
        step="scale",
        version=1,
        recipe={},
        inputs=[],
        contents=contents,
        synthetic=True,
        known=known,
    )


def _shard(name: str, row: np.ndarray, random: np.random.Generator, rows: int, kface: bool) -> tuple[pa.Table, int]:
    count = len(row)
    people = 400 if kface else -(-rows // PER_PERSON)
    person = row * people // rows
    sizes = random.integers(3000, 12_000, count)
    offsets = np.cumsum(sizes + 512) - sizes
    identity = pc.utf8_lpad(pc.cast(pa.array(person), pa.string()), 8, "0")
    columns: dict[str, Any] = {
        "image_id": pc.binary_join_element_wise(identity, pc.cast(pa.array(row), pa.string()), "/"),
        "identity": identity,
        "label": pa.array(person, pa.int32()),
        "source": pa.repeat("kface" if kface else "ms1m", count),
        "shard": pa.repeat(name, count),
        "offset": pa.array(offsets),
        "size": pa.array(sizes),
        "sha256": _digests(random, count, 1 if kface else 99),
        "width": pa.repeat(pa.scalar(112, pa.int32()), count),
        "height": pa.repeat(pa.scalar(112, pa.int32()), count),
    }
    if kface:
        columns |= {
            "landmarks": pa.FixedSizeListArray.from_arrays(pa.array(random.random(10 * count, np.float32)), 10),
            "resolution": pa.repeat("High", count),
            "accessory": pc.binary_join_element_wise("S00", pc.cast(pa.array(row % 6 + 1), pa.string()), ""),
            "light": pc.binary_join_element_wise("L", pc.cast(pa.array(row % 30 + 1), pa.string()), ""),
            "expression": pc.binary_join_element_wise("E0", pc.cast(pa.array(row % 3 + 1), pa.string()), ""),
            "camera": pc.binary_join_element_wise("C", pc.cast(pa.array(row % 20 + 1), pa.string()), ""),
        }
    nothing = {field.name: pa.nulls(count, field.type) for field in SCHEMA if field.name not in columns}
    arrays = [(columns | nothing)[name].cast(SCHEMA.field(name).type) for name in SCHEMA.names]
    return pa.Table.from_arrays(arrays, schema=SCHEMA), int(offsets[-1] + sizes[-1] + 10_240)


def _digests(random: np.random.Generator, count: int, behind: int) -> pa.StringArray:
    """SHA-256s of images, one in a thousand of them that of an image so many rows behind."""
    words = random.integers(0, 2**63, (count, 4))
    for place in range(0, count - 1000, 1000):
        words[place] = words[place + behind]
    data = pa.py_buffer(words.astype(">i8").tobytes().hex().encode())
    return pa.StringArray.from_buffers(count, pa.py_buffer(np.arange(count + 1, dtype=np.int32) * 64), data)


def kface_files(images: int) -> Iterator[Entry]:
    """The walk of a K-FACE tree of so many images, each with its annotation; in the order of a real one."""
    names = [sorted(some) for some in (kface.ACCESSORIES, kface.LIGHTS, kface.EXPRESSIONS, kface.CAMERAS)]
    people = range(-(-images // math.prod(map(len, [kface.RESOLUTIONS, *names]))))
    tops = (
        f"{resolution}_Resolution/{19000000 + person}" for resolution in sorted(kface.RESOLUTIONS) for person in people
    )
    places = (f"{top}/{'/'.join(rest)}" for top in tops for rest in itertools.product(*names))
    for number, path in enumerate(itertools.islice(places, images)):
        time_ns = 1_600_000_000_000_000_000 + 1_000_003 * number
        yield Entry(f"{path}.jpg", 9000 + number % 977, (time_ns, time_ns + 17))
        yield Entry(f"{path}.txt", 150 + number % 13, (time_ns, time_ns + 19))


def plan_kface(images: int, **options: Any) -> Plan:
    """Plan the extraction of such a tree, of which no file exists."""
    with mock.patch.object(Tree, "files", lambda _: kface_files(images)):
        return kface_tree.plan_kface(Path("nowhere"), ExtractConfig(kind="kface", **options))


def stages(folder: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    """The stages by name, each a function to run in a process of its own; `assemble` makes what the later ones read."""
    out = folder / "assembled"
    yield "assemble", lambda: assemble([folder / "ms1m", folder / "kface"], out, AssembleConfig(seed=1))
    recipe = Recipe(batch_size=200)
    weighted = Recipe(batch_size=200, source_weights={"kface": 2.0})

    def order() -> Any:
        data = TrainingData(FaceDataset(out), weighted, workers=0)
        return [data.order(epoch) for epoch in range(2)]

    def pairs() -> Any:
        dataset = FaceDataset(out)
        chosen = held_out_pairs(dataset)
        return chosen, calibration_rows(dataset), calibration_rows(dataset, "test", most=MAX_COUNTED)

    def audit() -> Any:
        dataset = FaceDataset(out)
        learned, compared = Faces([training_part("a", dataset)]), Faces(held_out_parts("a", dataset))
        return learned.people(), compared.people(), learned.sampled(3)

    # With workers, which have to fit into /dev/shm.
    yield "open", lambda: TrainingData(FaceDataset(out), recipe, workers=2)
    yield "order", order
    yield "pairs", pairs
    yield "audit", audit


def measured(work: Callable[[], Any]) -> dict[str, float]:
    """The CPU and wall seconds and the peak memory (bytes above the start) of a function, in a process of its own."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            Path("/proc/self/clear_refs").write_text("5")  # the peak from here on
            before, cpu, wall = _status("VmRSS"), time.process_time(), time.monotonic()
            result = work()
            found = {
                "cpu": time.process_time() - cpu,
                "wall": time.monotonic() - wall,
                "peak": _status("VmHWM") - before,
                "kept": _status("VmRSS") - before,
            }
            del result
            os.write(writing, json.dumps(found).encode())
            status = 0
        except Exception as error:  # the child must not go on as the parent
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        data = file.read()
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        raise SystemExit("a stage failed; its error is above")
    return dict(json.loads(data))


def _status(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def run(rows: int) -> dict[str, dict[str, float]]:
    """Measure every stage at one size."""
    with tempfile.TemporaryDirectory(prefix="eolgul-scale-") as name:
        folder = Path(name)
        kface = int(rows * KFACE)

        def make() -> None:
            make_dataset(folder / "ms1m", rows - kface, kface=False)
            make_dataset(folder / "kface", kface, kface=True)

        found = {"make": measured(make)}
        for stage, work in stages(folder):
            found[stage] = measured(work)
            print(f"{rows:,} rows: {stage} {found[stage]['cpu']:.2f} CPU s, peak {found[stage]['peak'] / 1e6:.0f} MB",
                  file=sys.stderr, flush=True)  # fmt: skip
    return found


def growth(sizes: list[int], values: list[float]) -> float:
    """The exponent of growth between the smallest and the largest size; 0 where nothing can be measured."""
    if len(sizes) < 2 or min(values) <= 0:
        return 0.0
    return math.log(values[-1] / values[0]) / math.log(sizes[-1] / sizes[0])


def check(results: dict[int, dict[str, dict[str, float]]]) -> list[str]:
    """The stages that exceed the limits, as sentences."""
    sizes = sorted(results)
    wrong = []
    for stage, (fixed, per_row) in LIMITS.items():
        largest = results[sizes[-1]][stage]
        if largest["peak"] > (most := fixed * 1e6 + per_row * sizes[-1]):
            wrong.append(f"{stage}: {largest['peak'] / 1e6:.0f} MB at {sizes[-1]:,} rows, at most {most / 1e6:.0f}")
        exponent = growth(sizes, [results[size][stage]["cpu"] for size in sizes])
        if largest["cpu"] > _NOTICEABLE and exponent > GROWTH:
            wrong.append(f"{stage}: its CPU time grows with the power {exponent:.2f} of the rows, at most {GROWTH}")
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=list(ROWS))
    parser.add_argument(
        "--kface", type=int, nargs="+", help="only plan K-FACE trees of so many images, whole and a quarter"
    )
    parser.add_argument("--limits", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results = {}
    for images in sorted(options.kface or ()):
        whole, share = partial(plan_kface, images), partial(plan_kface, images, share="1/4")
        results[images] = {"plan": measured(whole), "share": measured(share)}
    results = results or {rows: run(rows) for rows in sorted(options.rows)}
    sizes = sorted(results)
    if options.json:
        print(json.dumps(results))
    else:
        for stage in results[sizes[0]]:
            for rows in sizes:
                one = results[rows][stage]
                print(
                    f"{stage:9} {rows:>10,} rows  {one['cpu']:7.2f} CPU s  {one['wall']:7.2f} s  "
                    f"peak {one['peak'] / 1e6:8.1f} MB  kept {one['kept'] / 1e6:8.1f} MB  {one['peak'] / rows:6.0f} B/row"
                )
            cpu, peak = (growth(sizes, [results[rows][stage][what] for rows in sizes]) for what in ("cpu", "peak"))
            print(f"{'':9} grows with rows^{cpu:.2f} (CPU), rows^{peak:.2f} (memory)")
    if options.limits and (wrong := check(results)):
        raise SystemExit("\n".join(wrong))


if __name__ == "__main__":
    main()
