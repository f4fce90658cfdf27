"""Measure extraction against its peers in one run, as medians: reading records, extracting, opening a `.bin`.

`--memory` measures memory. The peers are mxnet 1.9.1's readers (in `.venv-mxnet`, see `make mxnet-env`), the original
project's extraction (decode with OpenCV, encode again, one file per image), and `cp` + `sha256sum` of the same bytes. The
records are JPEG noise of 112x112, about 8 kB each.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ.setdefault("OMP_NUM_THREADS", "1")
import cv2
import numpy as np
from PIL import Image

from eolgul.errors import InputError
from eolgul.extract.step import extract
from eolgul.formats.insightface import read_bin, write_bin, write_rec
from eolgul.formats.mxnet_reader import mxnet_python
from eolgul.formats.recordio import RecordReader, read_index

RECORDS, DISTINCT, ROUNDS = 120_000, 2_000, 5
PAIRS = 6_000

MXNET_RECORDS = """
import json, random, statistics, sys, time
import mxnet as mx
rec, rounds = sys.argv[1], int(sys.argv[2])
def speed(work):
    seconds, count = [], 0
    for _ in range(rounds):
        started = time.perf_counter(); count = work(); seconds.append(time.perf_counter() - started)
    return count / statistics.median(seconds)
def in_order():
    reader, count = mx.recordio.MXRecordIO(rec, "r"), 0
    while True:
        item = reader.read()
        if item is None:
            return count
        header, image = mx.recordio.unpack(item)
        count += 1
reader = mx.recordio.MXIndexedRecordIO(rec[:-4] + ".idx", rec, "r")
keys = list(reader.keys)
random.Random(0).shuffle(keys)
def at_random():
    for key in keys:
        header, image = mx.recordio.unpack(reader.read_idx(key))
    return len(keys)
print(json.dumps([speed(in_order), speed(at_random)]))
"""

# What insightface's load_bin does: every image decoded, and its mirror image beside it, as float tensors.
MXNET_BIN = """
import json, pickle, sys, time
import mxnet as mx
def peak():
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
open("/proc/self/clear_refs", "w").write("5")  # forget what the imports took
before = peak()
started = time.perf_counter()
with open(sys.argv[1], "rb") as file:
    images, same = pickle.load(file, encoding="bytes")
sets = [mx.nd.empty((len(images), 3, 112, 112)) for _ in range(2)]
for place, data in enumerate(images):
    image = mx.nd.transpose(mx.image.imdecode(data), axes=(2, 0, 1))
    for flip in (0, 1):
        sets[flip][place][:] = mx.ndarray.flip(data=image, axis=2) if flip else image
mx.nd.waitall()
print(json.dumps([time.perf_counter() - started, peak() - before]))
"""

OUR_BIN = """
import json, sys, time
from pathlib import Path
from eolgul.formats.insightface import read_bin
def peak():
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
open("/proc/self/clear_refs", "w").write("5")  # forget what the imports took
before = peak()
started = time.perf_counter()
read_bin(Path(sys.argv[1]))
print(json.dumps([time.perf_counter() - started, peak() - before]))
"""


def pictures() -> list[bytes]:
    made = []
    for seed in range(DISTINCT):
        small = np.random.default_rng(seed).integers(0, 256, (48, 48, 3), np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(small).resize((112, 112), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        made.append(buffer.getvalue())
    return made


def seconds(work: Callable[[], object], rounds: int = ROUNDS) -> float:
    taken = []
    for _ in range(rounds):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def say(what: str, **figures: object) -> None:
    rounded = {name: round(value, 2) if isinstance(value, float) else value for name, value in figures.items()}
    print(json.dumps({"what": what, **rounded}), flush=True)


def ask(python: Path | str, code: str, *words: str) -> list[float]:
    done = subprocess.run([str(python), "-c", code, *words], capture_output=True, text=True, check=True)
    return [float(value) for value in json.loads(done.stdout.splitlines()[-1])]


def reading(rec: Path, python: Path | None) -> None:
    index = read_index(rec.with_suffix(".idx"))
    offsets = index.offsets.tolist()
    random.Random(0).shuffle(offsets)
    with RecordReader(rec) as reader:
        views = len(offsets) / seconds(lambda: [None for _ in reader.images()])
        copies = len(offsets) / seconds(lambda: [None for _, record in reader.images() if not bytes(record.image)])
        at_random = len(offsets) / seconds(lambda: [None for at in offsets if not bytes(reader.image(at).image)])
    peer = ask(python, MXNET_RECORDS, str(rec), str(ROUNDS)) if python else [float("nan")] * 2
    say("records in order/s", eolgul=copies, without_copying=views, mxnet=peer[0], ratio=copies / peer[0], goal=3)
    say("records at random/s", eolgul=at_random, mxnet=peer[1], ratio=at_random / peer[1], goal=2)


def extracting(rec: Path, folder: Path) -> None:
    rounds = 3

    def ours() -> None:
        shutil.rmtree(folder / "out", ignore_errors=True)
        extract(rec, folder / "out")

    def original(count: int) -> None:
        """Decode, encode again, a file an image, in a folder an identity."""
        shutil.rmtree(folder / "files", ignore_errors=True)
        with RecordReader(rec) as reader:
            for number, (_, record) in enumerate(reader.images()):
                if number == 0:
                    continue
                if number > count:
                    return
                target = folder / "files" / str(int(record.labels[0]))
                target.mkdir(parents=True, exist_ok=True)
                pixels = cv2.imdecode(np.frombuffer(record.image, np.uint8), cv2.IMREAD_COLOR)
                assert pixels is not None
                cv2.imwrite(str(target / f"{number}.jpg"), pixels)

    def copy() -> None:
        subprocess.run(["cp", str(rec), str(folder / "copy")], check=True)
        subprocess.run(["sha256sum", str(folder / "copy")], check=True, stdout=subprocess.DEVNULL)

    cv2.setNumThreads(1)
    some = RECORDS // 20
    mine, theirs, copied = seconds(ours, rounds), seconds(lambda: original(some), rounds), seconds(copy, rounds)
    mine_rate, their_rate = RECORDS / mine, some / theirs
    megabytes = rec.stat().st_size / 1e6
    say("extraction, images/s", eolgul=mine_rate, original=their_rate, ratio=mine_rate / their_rate, goal=20)
    say(
        "extraction, MB/s",
        eolgul=megabytes / mine,
        cp_and_sha256sum=megabytes / copied,
        times_slower=mine / copied,
        limit=2,
    )


def opening(images: list[bytes], folder: Path, python: Path | None) -> None:
    path = folder / "set.bin"
    write_bin(
        path, [bytes(bytearray(images[number % DISTINCT])) for number in range(2 * PAIRS)], [True, False] * (PAIRS // 2)
    )
    assert len(read_bin(path).same) == PAIRS
    mine = [ask(sys.executable, OUR_BIN, str(path)) for _ in range(ROUNDS)]
    peer = ask(python, MXNET_BIN, str(path)) if python else [float("nan")] * 2
    took, grown = (statistics.median(column) for column in zip(*mine, strict=True))
    say("opening a .bin of 12,000, s", eolgul=took, load_bin=peer[0], ratio=peer[0] / took, goal=5)
    say("… its memory, MB", eolgul=grown / 1e3, load_bin=peer[1] / 1e3, share=grown / peer[1], limit=0.1)


@contextmanager
def peak() -> Iterator[list[int]]:
    """The most memory (kB) that this process's children and theirs have at one time together, what they share counted once."""
    most, over = [0], threading.Event()

    def look() -> None:
        while not over.wait(0.1):
            parents, share = {}, {}
            for place in Path("/proc").glob("[0-9]*"):
                try:
                    parents[int(place.name)] = int((place / "stat").read_text().rpartition(")")[2].split()[1])
                    share[int(place.name)] = int((place / "smaps_rollup").read_text().split("Pss:")[1].split()[0])
                except (OSError, IndexError):
                    continue
            ours = {os.getpid()}
            while more := {child for child, parent in parents.items() if parent in ours} - ours:
                ours |= more
            most[0] = max(most[0], sum(share.get(one, 0) for one in ours - {os.getpid()}))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield most
    finally:
        over.set()
        thread.join()


def memory(images: list[bytes], folder: Path, gigabytes: float) -> None:
    """A `.rec` of so many gigabytes through the command line, with two workers."""
    count = int(gigabytes * 1e9 / (sum(map(len, images)) / DISTINCT + 36))
    write_rec(folder / "big", ((number // 60, images[number % DISTINCT]) for number in range(count)))
    with peak() as most:
        started = time.perf_counter()
        command = [sys.executable, "-m", "eolgul", "extract", str(folder / "big"), str(folder / "big-out")]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        took = time.perf_counter() - started
    size = (folder / "big" / "train.rec").stat().st_size
    say(
        "a big .rec",
        gigabytes=size / 1e9,
        records=count,
        seconds=took,
        megabytes_per_second=size / 1e6 / took,
        peak_megabytes_of_all_processes=most[0] / 1e3,
        limit=500,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--memory", type=float, default=0, help="also extract a .rec of so many gigabytes")
    parser.add_argument("--work", type=Path, help="where files are made (default: the system's temporary folder)")
    options = parser.parse_args()
    try:
        python: Path | None = mxnet_python()
    except InputError as error:
        print(f"without mxnet's figures: {error}", file=sys.stderr)
        python = None
    with TemporaryDirectory(dir=options.work) as name:
        folder = Path(name)
        images = pictures()
        stated = write_rec(folder / "faces", ((number // 50, images[number % DISTINCT]) for number in range(RECORDS)))
        rec = folder / "faces" / "train.rec"
        say("records", count=RECORDS, identities=stated.identities, bytes_each=rec.stat().st_size / RECORDS)
        reading(rec, python)
        extracting(rec, folder)
        opening(images, folder, python)
        if options.memory:
            memory(images, folder, options.memory)


if __name__ == "__main__":
    main()
