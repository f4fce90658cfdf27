"""What Prometheus can ask. Import this only in the process that serves: the BentoML supervisor sets
PROMETHEUS_MULTIPROC_DIR for its workers before they start, and prometheus_client reads it when it is first imported."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

# Decoding takes under a millisecond for a thumbnail, detection seconds for 20 megapixels on one core.
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

REQUESTS = Counter("eolgul_requests_total", "Requests answered.", ["route", "status"])
REQUEST_SECONDS = Histogram("eolgul_request_seconds", "Seconds from request to answer.", ["route"], buckets=_SECONDS)
STAGE_SECONDS = Histogram("eolgul_stage_seconds", "Seconds of one stage for one image.", ["stage"], buckets=_SECONDS)
CACHE = Counter("eolgul_cache_total", "Embedding cache look-ups (hit, miss) and failures (error).", ["outcome"])
REJECTIONS = Counter("eolgul_rejections_total", "Requests that got a problem document.", ["code"])
FACES = Histogram("eolgul_faces_per_image", "Faces found in an image.", buckets=(0, 1, 2, 3, 5, 10, 20))
BATCH = Histogram("eolgul_batch_images", "Images the networks worked on together.", buckets=(1, 2, 3, 4, 6, 8, 16, 32))
QUEUE = Gauge(
    "eolgul_queue_images", "Images waiting for a thread, without those worked on.", multiprocess_mode="livesum"
)
INSIDE = Gauge("eolgul_requests_inside", "Requests admitted and not yet answered.", multiprocess_mode="livesum")
RATE_LIMIT = Counter("eolgul_rate_limit_total", "Requests whose rate was counted in this process alone.", ["where"])
GALLERY = Counter("eolgul_gallery_total", "Gallery operations.", ["operation", "outcome"])
SWAPS = Counter("eolgul_model_swaps_total", "What became of another model in the registry.", ["outcome"])
VERDICTS = Counter("eolgul_verdicts_total", "Verdicts given.", ["verdict"])
SIMILARITY = Histogram(
    "eolgul_similarity",
    "Cosine similarity of verified pairs: its drift shows when traffic no longer looks like the calibration set.",
    buckets=[step / 20 for step in range(-4, 21)],
)
MODEL_INFO = Gauge(
    "eolgul_model_info",
    "1 for the model that is served.",
    ["digest", "backbone", "synthetic"],
    multiprocess_mode="livemax",
)


@contextmanager
def stage(name: str, timings_ms: dict[str, float], images: int = 1) -> Iterator[None]:
    """Time a block: observed in `eolgul_stage_seconds{stage=name}`, as much for each of `images`, and added to
    `timings_ms[name]` (milliseconds)."""
    start = perf_counter()
    try:
        yield
    finally:
        seconds = perf_counter() - start
        for _ in range(images):
            STAGE_SECONDS.labels(name).observe(seconds / images)
        timings_ms[name] = timings_ms.get(name, 0.0) + seconds * 1000


def forget_the_dead() -> None:
    """Drop what processes that are gone held at their end (requests inside, images waiting, a model). What they counted
    stays. A worker that starts calls this, perhaps in the place of one that was killed."""
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    for file in Path(folder).glob("gauge_live*_*.db") if folder else ():
        pid = int(file.stem.rpartition("_")[2])
        if not _lives(pid):
            mark_process_dead(pid)  # type: ignore[no-untyped-call]


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"  # a zombie is not reaped yet
    except OSError:
        return False


def exposition() -> bytes:
    """The text a scrape gets: the sum over all workers when there are several, this process's figures otherwise."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return generate_latest(REGISTRY)
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)
