"""Run by test_fuzz in a process of its own: readers against damaged and hostile files, one after another.

    python -m support.fuzzing <folder> <seed> <cases>

Prints one JSON object: cases by kind, results, refusals, and what should not have happened.
"""

from __future__ import annotations

import builtins
import copyreg
import faulthandler
import functools
import io
import json
import operator
import os
import pickle
import random
import re
import resource
import signal
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import blosc
import numpy as np

from eolgul.errors import InputError
from eolgul.formats import carrays, kface, pair_lists
from eolgul.formats.identities import read_identities
from eolgul.formats.insightface import iter_rec, read_bin, read_property, write_bin, write_rec
from eolgul.formats.lst import Row, read_lst, write_lst
from eolgul.formats.recordio import MAGIC_BYTES, RecordReader, RecordWriter, pack_image, read_index

LIMIT = 3 << 30  # bytes of address space, most of which the libraries' own maps take
SECONDS = 3
HUGE = [
    b"9" * 25,
    b"-1",
    b"18446744073709551616",
    b"2147483648",
    b"1e309",
    b"nan",
    b"-0",
    b"0x10",
    b"",
    "٣".encode(),
    b"9" * 5000,
]
WORDS = [0xFFFFFFFF, 0x7FFFFFFF, 0x1FFFFFFF, 0x80000000, 0x3FFFFFFF, 0xFFFF, 0, 1]
# Where in the file, or what of it there should be more or fewer of.
PLACE = re.compile(r"byte \d|line \d|record \d|image \d|flag \d|\d (lines|images|flags|bytes|pair lines|record)")
# What is true of a whole file.
WHOLE = re.compile(
    r"expected a (pair|list)|more than \d+ bytes|empty, expected|no (identity|pair) in it|"
    r"no record found|holds only|without folds|is (an? [\w ]+|RecordIO|nothing but zero bytes)[^,]*, expected",
    re.DOTALL,
)


class Hang(BaseException):
    """A case took too long. No handler of a reader catches it."""


def _hang(*_: object) -> None:
    raise Hang


# ---- good files


def seeds(folder: Path) -> dict[str, list[bytes]]:
    """Good files of every kind, to be damaged."""
    dice = random.Random(5)
    good: dict[str, list[bytes]] = {name: [] for name in READERS}
    folder.mkdir()
    write_rec(
        folder / "r", [(n // 3, dice.randbytes(dice.randrange(1, 90)) + MAGIC_BYTES * (n % 3)) for n in range(12)]
    )
    good["rec"].append((folder / "r/train.rec").read_bytes())
    good["idx"].append((folder / "r/train.idx").read_bytes())
    good["property"].append(b"85742,112,112\n5822653\n")
    with RecordWriter(folder / "im2rec.rec") as writer:
        for key in range(9):
            labels: float | list[float] = [float(key), 1.0] if key % 2 else float(key)
            writer.write(key, pack_image(labels, dice.randbytes(40) + bytes(key % 4) + MAGIC_BYTES * (key % 4)))
    good["rec"].append((folder / "im2rec.rec").read_bytes())
    images = [dice.randbytes(dice.randrange(1, 60)) for _ in range(8)]
    write_bin(folder / "a.bin", images, [True, False, True, True])
    good["bin"].append((folder / "a.bin").read_bytes())
    arrays = [np.frombuffer(image, np.uint8) for image in images]
    for protocol in range(6):
        good["bin"].append(pickle.dumps((arrays, [np.True_, np.False_] * 2), protocol))
        good["bin"].append(pickle.dumps((images, np.array([True, False] * 2)), protocol))
    for separator in (" ", "\t", ", ", ";"):
        rows = [[n, n + 0.5] for n in range(7)] + [[1, 2, 30, 40]] * 6
        good["annotation"].append("\n".join(separator.join(map(str, row)) for row in rows).encode())
    lines = [f"ann\t{n}\t{n + 1}" if n % 4 < 2 else f"ann\t{n}\tbob\t{n}" for n in range(8)]
    good["pairs"].append("\n".join(["2\t2", *lines]).encode())
    good["kface pairs"].append(b"19062421/S001/L1/E01/C4.jpg 19062421/S003/L30/E03/C20.jpg 1\n1 C1 2 C2 0\n" * 10)
    good["identities"].append(b"19062421\n19062422\n")
    write_lst(
        folder / "a.lst", [Row("a/1.jpg", 3, True), Row("b", 4, False, (1, 2, 3, 4.5), tuple(map(float, range(10))))]
    )
    good["lst"].append((folder / "a.lst").read_bytes())
    chunk = dice.randbytes(4 * 3 * 112 * 112 // 8) * 8
    values = (np.frombuffer(chunk[: 3 * 112 * 112], np.uint8).reshape(1, 3, 112, 112).astype("<f4") - 127.5) / 127.5
    for codec in ("blosclz", "lz4", "zlib", "zstd"):
        packed = blosc.compress(values.repeat(2, 0).astype("<f4").tobytes(), typesize=4, cname=codec)
        good["carray chunk"].append(b"blpk\x01\0\0\0" + struct.pack("<q", 1) + packed)
    good["carray sizes"].append(b'{"shape": [2, 3, 112, 112], "nbytes": 301056, "cbytes": 0}\n')
    good["carray storage"].append(b'{"dtype": "float32", "cparams": {"clevel": 5}, "chunklen": 2, "dflt": 0.0}\n')
    buffer = io.BytesIO()
    np.save(buffer, np.array([True]))
    good["carray list"].append(buffer.getvalue())
    return good


# ---- damage


def damaged(dice: random.Random, data: bytes, text: bool) -> bytes:
    """Bytes flipped, cut, inserted, moved; numbers blown up."""
    made = bytearray(data)
    for _ in range(dice.choice([1, 1, 1, 2, 3, 8])):
        place = dice.randrange(len(made) + 1)
        choice = dice.randrange(8)
        if choice == 0 and made:
            made[place % len(made)] ^= 1 << dice.randrange(8)
        elif choice == 1 and made:
            made[place % len(made)] = dice.choice([0, 255, 127, 128, ord("\n"), ord("."), dice.randrange(256)])
        elif choice == 2:
            del made[place:]
        elif choice == 3:
            del made[place : place + dice.choice([1, 2, 3, 4, 40])]
        elif choice == 4:
            made[place:place] = dice.choice([MAGIC_BYTES, dice.randbytes(dice.randrange(1, 9)), b"\0" * 8, b"\n"])
        elif choice == 5:
            length = dice.randrange(1, 60)
            made[place:place] = made[place // 2 : place // 2 + length]
        elif text:
            numbers = list(re.finditer(rb"\d+", made))
            if numbers:
                found = dice.choice(numbers)
                made[found.start() : found.end()] = dice.choice(HUGE)
        elif len(made) >= 4:
            place = min(place // 4 * 4 if dice.random() < 0.7 else place, len(made) - 4)
            struct.pack_into("<I", made, place, dice.choice(WORDS) | dice.choice([0, 0, 1 << 29, 5 << 29]) & 0xFFFFFFFF)
    return bytes(made)


# ---- readers


def _rec(folder: Path, data: bytes) -> None:
    path = folder / "case.rec"
    path.write_bytes(data)
    for record in iter_rec(path):
        assert record.rejection is None or re.search(r"case\.rec at byte \d", record.rejection.detail), record
    with RecordReader(path) as reader:
        for place in (0, 4, 8, len(data) // 2, len(data), -1, 1 << 62):
            try:
                reader.read(place)
            except InputError as error:
                assert re.search(r"case\.rec at byte -?\d", str(error)), error
        for _ in reader.scan(len(data) // 3):
            pass


def _idx(folder: Path, data: bytes) -> None:
    (folder / "stale.idx").write_bytes(data)
    index = read_index(folder / "stale.idx")
    assert len(index.keys) == len(index.offsets)
    for record in iter_rec(folder / "stale.rec"):  # the .rec beside it is good: what an index names it or is given up
        assert record.rejection is None or "stale.rec at byte" in record.rejection.detail, record


def _reader(name: str, read: Callable[[Path], Any]) -> Callable[[Path, bytes], None]:
    def run(folder: Path, data: bytes) -> None:
        (folder / name).write_bytes(data)
        read(folder / name)

    return run


def _carray(name: str) -> Callable[[Path, bytes], None]:
    def run(folder: Path, data: bytes) -> None:
        path = folder / "case" / name if name else folder / "case_list.npy"
        good = path.read_bytes()
        path.write_bytes(data)
        try:
            for image in carrays.read_carray(folder / "case").images():
                assert image.shape == (112, 112, 3)
        finally:
            path.write_bytes(good)

    return run


READERS: dict[str, Callable[[Path, bytes], None]] = {
    "rec": _rec,
    "idx": _idx,
    "property": _reader("property", read_property),
    "bin": _reader("case.bin", read_bin),
    "annotation": _reader("C7.txt", kface.read_annotation),
    "pairs": _reader("pairs.txt", pair_lists.read_pairs),
    "kface pairs": _reader("Q1.txt", kface.read_kface_pairs),
    "identities": _reader("ids.txt", read_identities),
    "lst": _reader("case.lst", lambda path: list(read_lst(path))),
    "carray chunk": _carray("data/__0.blp"),
    "carray sizes": _carray("meta/sizes"),
    "carray storage": _carray("meta/storage"),
    "carray list": _carray(""),
}
NAMES = {"rec": "case.rec", "idx": "stale", "property": "property", "bin": "case.bin", "annotation": "C7.txt",
         "pairs": "pairs.txt", "kface pairs": "Q1.txt", "identities": "ids.txt", "lst": "case.lst"}  # fmt: skip
TEXT = {"idx", "property", "annotation", "pairs", "kface pairs", "identities", "lst", "carray sizes", "carray storage"}
SHARES = {"rec": 9, "idx": 4, "bin": 9, "annotation": 4, "pairs": 4, "lst": 4, "carray chunk": 4, "carray list": 3}


# ---- pickles that want to do something


class Call:
    """Pickles as a call."""

    def __init__(self, call: Any, *words: Any, state: Any = None) -> None:
        self.parts = (call, words) if state is None else (call, words, state)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.parts


class New:
    """Pickles as `cls.__new__(cls, …)`, with keyword arguments."""

    def __init__(self, cls: type, *words: Any, **named: Any) -> None:
        self.what = (cls, words, named)

    def __reduce__(self) -> tuple[Any, ...]:
        cls, words, named = self.what
        return vars(copyreg)["__newobj_ex__"], (cls, words, named)


def hostile(canary: Path) -> Iterator[bytes]:
    """Pickles that would write the canary if anything in them were run."""
    touch = f"touch {canary}"
    code = f"open({str(canary)!r}, 'w')"
    chain = Call(builtins.getattr, Call(builtins.__import__, "os"), "system")
    held = np.empty(2, object)
    held[:] = [Call(os.system, touch), b"x"]
    wants: list[Any] = [
        Call(os.system, touch),
        Call(os.popen, touch),
        Call(builtins.eval, code),
        Call(builtins.exec, code),
        Call(builtins.open, str(canary), "w"),
        Call(io.open, str(canary), "w"),
        Call(Path.touch, canary),
        Call(subprocess.Popen, touch, -1, None, None, None, None, None, True, True),
        Call(subprocess.check_output, ["touch", str(canary)]),
        Call(functools.reduce, builtins.getattr, ["a", "b"]),
        Call(Call(functools.partial, os.system, touch)),
        Call(operator.methodcaller("system", touch), Call(builtins.__import__, "os")),
        Call(Call(operator.attrgetter, "system"), os.path),
        Call(builtins.map, os.system, [touch]),
        Call(builtins.list, Call(builtins.map, os.system, [touch])),
        chain,
        Call(chain, touch),
        held,
        Call(np.load, str(canary)),
        Call(np.frombuffer, b"x", "u1"),
        Call(np.array, held),
        Call(vars(copyreg)["_reconstructor"], dict, object, None),
        Call(vars(copyreg)["_reconstructor"], Path, object, None),
        Call(pickle.loads, pickle.dumps(Call(os.system, touch))),
        Call(np.ndarray, (1,), "O", b"A" * 8),
        Call(np.ndarray, (1 << 40,), "u1"),
        Call(np.dtype, "O", False, True, state={"a": Call(os.system, touch)}),
        New(np.ndarray, (2,), "u1"),
        New(Path, str(canary)),
    ]
    for want in wants:
        for value in (want, ([want, b"x"], [True]), ([b"x", b"x"], [want]), {"a": want}, ([[want], b"x"], [True])):
            for protocol in range(6):
                try:
                    yield pickle.dumps(value, protocol)
                except (pickle.PicklingError, TypeError, AttributeError, ValueError):
                    continue  # a protocol that cannot say it
    line = canary.as_posix().encode()
    for name in (
        b"os\nsystem",
        b"posix\nsystem",
        b"builtins\neval",
        b"__builtin__\neval",
        b"numpy\nos.system",
        b"_codecs\nlookup",
    ):
        call = b"touch " + line if b"system" in name else b"open('" + line + b"','w')"
        yield b"c" + name + b"\n(V" + call + b"\ntR."
        yield b"(V" + call + b"\ni" + name + b"\n."
        yield b"(c" + name + b"\nV" + call + b"\no."
        yield (
            b"\x80\x04\x8c"
            + bytes([len(name.split(b"\n")[0])])
            + name.replace(b"\n", b"\x8c" + bytes([len(name.split(b"\n")[1])]), 1)
            + b"\x93\x8c"
            + bytes([min(len(call), 255)])
            + call[:255]
            + b"\x85R."
        )
        yield b"c_codecs\nencode\nc" + name + b"\nb(V" + call + b"\nVlatin1\ntR."
        yield b"cnumpy\ndtype\n(c" + name + b"\ntR."
        yield b"cnumpy.core.multiarray\n_reconstruct\n(c" + name + b"\nI0\nVb\ntR."
    yield b"Pos.system\n."  # a persistent id
    yield b"\x80\x02\x82\x01."  # an extension's code
    yield b"\x80\x05\x97."  # a buffer from outside
    yield b"\x80\x04\x95" + b"\xff" * 8 + b"N."  # a frame of 16 exabytes
    yield b"\x80\x04B\xff\xff\xff\xff."
    yield b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f."
    yield b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x7f."
    yield b"L" + b"9" * 100_000 + b"L\n."
    yield b"\x80\x02\x8b\xff\xff\xff\x7f."


# ---- the run


def one(kind: str, folder: Path, data: bytes, found: dict[str, Any]) -> None:
    """A case: it ends in a result or in a sentence with a file and a place, in time."""
    faulthandler.dump_traceback_later(10 * SECONDS, exit=True)  # what hangs outside of Python ends the process
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        READERS[kind](folder, data)
        found["results"] += 1
    except InputError as error:
        found["refusals"] += 1
        name, said = NAMES.get(kind, "case"), str(error)
        if name not in said or "\n" in said or "MemoryError" in said or len(said) > 600:
            wrong(found, kind, data, f"sentence: {said[:300]}")
        elif not PLACE.search(said) and not WHOLE.search(said):
            wrong(found, kind, data, f"no place: {said}")
    except BaseException as error:
        wrong(found, kind, data, f"{type(error).__name__}: {error}")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def wrong(found: dict[str, Any], kind: str, data: bytes, what: str) -> None:
    if len(found["wrong"]) < 20:
        found["wrong"].append(f"{kind}: {what[:400]}; {len(data)} bytes, {data[:200]!r}")


def main(folder: Path, seed: int, cases: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT, LIMIT))
    signal.signal(signal.SIGALRM, _hang)
    good = seeds(folder / "good")
    for place, name in (("carray chunk", "case/data/__0.blp"), ("carray sizes", "case/meta/sizes"),
                        ("carray storage", "case/meta/storage"), ("carray list", "case_list.npy"),
                        ("rec", "stale.rec"), ("idx", "stale.idx")):  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(good[place][0])
    found: dict[str, Any] = {"kinds": Counter(), "results": 0, "refusals": 0, "wrong": []}
    started = time.monotonic()
    for kind, files in good.items():
        for data in files:
            READERS[kind](folder, data)  # undamaged, they are read
    canary = folder / "canary"
    for value in hostile(canary):
        one("bin", folder, value, found)
        found["kinds"]["hostile bin"] += 1
    results = found["results"]
    dice = random.Random(seed)
    villains = list(hostile(canary))
    for _ in range(cases // 10):  # damaged ones too: a byte that is lost may open a door
        one("bin", folder, damaged(dice, dice.choice(villains), False), found)
        found["kinds"]["damaged hostile bin"] += 1
    for value in villains[::7]:
        header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,)}\n"
        one("carray list", folder, b"\x93NUMPY\x01\0" + struct.pack("<H", len(header)) + header + value, found)
        one("carray list", folder, value, found)
        found["kinds"]["hostile carray list"] += 2
    kinds = [kind for kind in READERS for _ in range(SHARES.get(kind, 1))]
    for _ in range(cases):
        kind = dice.choice(kinds)
        one(kind, folder, damaged(dice, dice.choice(good[kind]), kind in TEXT), found)
        found["kinds"][kind] += 1
    faulthandler.cancel_dump_traceback_later()
    found |= {
        "hostile results": results,
        "canary": canary.exists(),
        "seconds": round(time.monotonic() - started, 1),
        "peak_megabytes": int(re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[0]) // 1024,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
