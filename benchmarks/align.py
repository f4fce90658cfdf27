"""Measure face detection against facenet-pytorch in one run, with the same images and settings, for the same boxes.

It gives images per CPU second with one thread each (time of other programs does not count), as medians of interleaved
rounds; images per second of wall clock with every core, and of the whole step with one and two workers; and the peak
memory of one large image and of many. The images are LFW's from EOLGUL_SHARED or ../shared/data if it exists, else drawn
people; 864x576 is K-FACE's High size, to which the same images are enlarged.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
import cv2
import numpy as np
import torch
from facenet_pytorch import MTCNN

from eolgul.align.config import AlignConfig
from eolgul.align.step import align
from eolgul.dataset import FaceDataset, build_dataset
from eolgul.faces.mtcnn import Detector, Faces
from eolgul.faces.networks import export_onnx
from eolgul.images.decode import decode
from eolgul.model.package import DetectorSettings

COUNT, ROUNDS = 64, 5


def pictures() -> list[np.ndarray]:
    shared = Path(os.environ.get("EOLGUL_SHARED", Path(__file__).resolve().parents[2] / "shared" / "data"))
    files = sorted((shared / "lfw-1-5" / "images").glob("*/*.jpg"))[: COUNT * 50 : 50]
    if files:
        return [decode(file.read_bytes())[0] for file in files]
    from eolgul.synth import contact_sheet

    sheet = np.asarray(contact_sheet(COUNT, columns=8).convert("RGB"))
    height, width = sheet.shape[0] // (COUNT // 8), sheet.shape[1] // 8
    return [
        sheet[y * height : (y + 1) * height, x * width : (x + 1) * width].copy()
        for y in range(COUNT // 8)
        for x in range(8)
    ]


def on_canvas(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    """The picture enlarged to the canvas's height, in its middle."""
    scale = min(width / picture.shape[1], height / picture.shape[0])
    size = (round(picture.shape[1] * scale), round(picture.shape[0] * scale))
    canvas = np.full((height, width, 3), 96, np.uint8)
    left, top = (width - size[0]) // 2, (height - size[1]) // 2
    canvas[top : top + size[1], left : left + size[0]] = cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC)
    return canvas


def speeds(works: dict[str, Callable[[], object]], count: int) -> dict[str, float]:
    """Images per CPU second of each, its rounds taken in turn with the others'."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(ROUNDS + 1):
        for name, work in works.items():
            started = time.process_time()
            work()
            if turn:  # the first warms up
                seconds[name].append(time.process_time() - started)
    return {name: count / statistics.median(some) for name, some in seconds.items()}


def batched(images: list[np.ndarray], size: int) -> list[list[np.ndarray]]:
    return [images[at : at + size] for at in range(0, len(images), size)]


def same_boxes(peer: MTCNN, detector: Detector, images: list[np.ndarray]) -> bool:
    def same(theirs: np.ndarray | None, ours: Faces) -> bool:
        if theirs is None or len(theirs) != len(ours):
            return theirs is None and len(ours) == 0
        return all(np.abs(ours.boxes - box.astype(float)).max(axis=1).min() < 0.05 for box in theirs)

    return all(same(peer.detect(image)[0], detector.detect([image])[0]) for image in images)


def compare(images: list[np.ndarray], smallest: int, detectors: Path) -> None:
    settings = DetectorSettings(min_face_size=smallest)
    peer = MTCNN(min_face_size=smallest, thresholds=list(settings.thresholds), keep_all=True, device="cpu")
    ours = Detector.from_onnx(detectors, settings)

    def peer_in_batches(size: int) -> list[Any]:
        return [peer.detect(batch, landmarks=True) for batch in batched(images, size)]

    works: dict[str, Callable[[], object]] = {f"facenet {size}": partial(peer_in_batches, size) for size in (1, 4, 16)}
    works["eolgul 1"] = lambda: [ours.detect([image]) for image in images]
    works["eolgul 16"] = lambda: [ours.detect(batch) for batch in batched(images, 16)]
    measured = speeds(works, len(images))
    best = max(value for name, value in measured.items() if name.startswith("facenet"))
    row = {
        "size": f"{images[0].shape[1]}x{images[0].shape[0]}",
        "min_face_size": smallest,
        "images/s by batch": {name: round(value, 1) for name, value in measured.items()},
        "ratio to its best": round(max(measured["eolgul 1"], measured["eolgul 16"]) / best, 2),
        "same boxes": same_boxes(peer, ours, images),
        "load": round(os.getloadavg()[0], 1),
    }
    print(json.dumps(row))
    sys.stdout.flush()


def peer_on_all_cores(width: int, height: int, count: int, smallest: int) -> None:
    """In a process of its own, with torch's own threads: facenet-pytorch's images/s on the wall clock, by batch."""
    images = [on_canvas(picture, width, height) for picture in pictures()[:count]]
    peer = MTCNN(min_face_size=smallest, keep_all=True, device="cpu")
    speed = {}
    for size in (1, 4, 16):
        taken = []
        for turn in range(3):
            started = time.perf_counter()
            for batch in batched(images, size):
                peer.detect(batch, landmarks=True)
            if turn:
                taken.append(time.perf_counter() - started)
        speed[size] = count / min(taken)
    print(json.dumps(speed))


def all_cores(width: int, height: int, count: int, smallest: int, detectors: Path) -> None:
    """Both with every core: facenet-pytorch's threads are torch's, ours share the pictures, as `align --workers` does."""
    cores = len(os.sched_getaffinity(0))
    images = [on_canvas(picture, width, height) for picture in pictures()[:count]]
    ours = Detector.from_onnx(detectors, DetectorSettings(min_face_size=smallest))
    rounds: list[tuple[float, float]] = []
    for _ in range(3):
        words = [sys.executable, __file__, "peer", str(width), str(height), str(count), str(smallest)]
        own = os.environ | {"OMP_NUM_THREADS": str(cores)}
        theirs = json.loads(subprocess.run(words, check=True, capture_output=True, text=True, env=own).stdout)
        with ThreadPoolExecutor(cores) as pool:
            taken = []
            for _ in range(3):
                started = time.perf_counter()
                list(pool.map(ours.detect, batched(images, 4)))
                taken.append(time.perf_counter() - started)
        rounds.append((count / min(taken), max(theirs.values())))
    row = {
        "size": f"{width}x{height}",
        "min_face_size": smallest,
        "cores": cores,
        "images/s on the wall clock": {
            "eolgul": round(statistics.median(own for own, _ in rounds), 1),
            "facenet, its best batch": round(statistics.median(best for _, best in rounds), 1),
        },
        "ratio": round(statistics.median(own / best for own, best in rounds), 2),
        "load": round(os.getloadavg()[0], 1),
    }
    print(json.dumps(row), flush=True)


def step_speed(images: list[np.ndarray], repeats: int = 8) -> None:
    """The whole step (decode, detect, cut, encode, write) on the wall clock, with one worker and with two."""
    with TemporaryDirectory() as folder:
        source = Path(folder) / "source"
        with build_dataset(source, {"step": "benchmark"}) as build:
            with build.shard(0, "pictures") as shard:
                for number in range(repeats * len(images)):
                    picture = images[number % len(images)]
                    data = cv2.imencode(".jpg", picture[..., ::-1])[1].tobytes()
                    size = (picture.shape[1], picture.shape[0])
                    shard.add(f"p/{number}", "p", data, extension="jpg", size=size)
            build.finish(range(1))
            facts = {"name": "pictures", "identities_known": False, "aligned": None}
            build.seal(step="benchmark", version=1, recipe={}, inputs=[], synthetic=False, facts=facts)
        count = len(FaceDataset(source))
        speed = {}
        for workers in (1, 2):
            started = time.perf_counter()
            align(source, Path(folder) / f"out{workers}", AlignConfig(workers=workers))
            speed[f"{workers} workers"] = round(count / (time.perf_counter() - started), 1)
    print(json.dumps({"whole step, images/s on the wall clock": speed, "load": round(os.getloadavg()[0], 1)}))


def peak_kib() -> int:
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


def memory(who: str, width: int, height: int, count: int) -> None:
    """In a process of its own: MiB that detection adds at its peak to what the pictures take."""
    torch.set_num_threads(1)
    images = [on_canvas(picture, width, height) for picture in (pictures() * count)[:count]]
    if who == "eolgul":
        with TemporaryDirectory() as folder:
            export_onnx(Path(folder))
            detector = Detector.from_onnx(Path(folder), DetectorSettings())
        work: Callable[[], object] = lambda: detector.detect(images)  # noqa: E731
    else:
        peer = MTCNN(min_face_size=40, keep_all=True, device="cpu")
        work = lambda: peer.detect(images, landmarks=True)  # noqa: E731
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here (Linux)
    before = peak_kib()
    work()
    print((peak_kib() - before) // 1024)


def main() -> None:
    warnings.simplefilter("ignore")
    if sys.argv[1:2] == ["memory"]:
        memory(sys.argv[2], *(int(word) for word in sys.argv[3:6]))
        return
    if sys.argv[1:2] == ["peer"]:
        peer_on_all_cores(*(int(word) for word in sys.argv[2:6]))
        return
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    images = pictures()
    with TemporaryDirectory() as folder:
        export_onnx(Path(folder))
        compare(images, 20, Path(folder))
        compare(images, 40, Path(folder))
        compare([on_canvas(picture, 864, 576) for picture in images[:16]], 40, Path(folder))
        all_cores(250, 250, COUNT, 40, Path(folder))
        all_cores(864, 576, 32, 40, Path(folder))
    step_speed(images)
    for width, height, count in ((250, 250, 16), (250, 250, 256), (864, 576, 64), (4000, 3000, 1)):
        peaks = {}
        for who in ("facenet", "eolgul"):
            words = [sys.executable, __file__, "memory", who, str(width), str(height), str(count)]
            peaks[who] = int(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
        print(json.dumps({"peak MiB above the pictures": peaks, "pictures": f"{count} of {width}x{height}"}))
        sys.stdout.flush()


if __name__ == "__main__":
    main()
