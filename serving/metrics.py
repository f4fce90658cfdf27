"""The Prometheus metrics of the service.

Import this only in the process that serves: the BentoML supervisor sets PROMETHEUS_MULTIPROC_DIR for its workers before
they start, and prometheus_client reads it when it is first imported.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

# Decoding takes under a millisecond for a thumbnail, detection seconds for 20 megapixels on one core.
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

REQUESTS = Counter("eolgul_requests_total", "Requests answered.", ["route", "status"])
REQUEST_SECONDS = Histogram("eolgul_request_seconds", "Seconds from request to answer.", ["route"], buckets=_SECONDS)
STAGE_SECONDS = Histogram("eolgul_stage_seconds", "Seconds of one stage for one image.", ["stage"], buckets=_SECONDS)
CACHE = Counter("eolgul_cache_total", "Embedding cache look-ups (hit, miss) and failures (error).", ["outcome"])
REJECTIONS = Counter("eolgul_rejections_total", "Requests answered with a problem document.", ["code"])
FACES = Histogram("eolgul_faces_per_image", "Faces found in an image.", buckets=(0, 1, 2, 3, 5, 10, 20))
BATCH = Histogram(
    "eolgul_batch_images", "Images that the networks processed together.", buckets=(1, 2, 3, 4, 6, 8, 16, 32)
)
QUEUE = Gauge(
    "eolgul_queue_images", "Images waiting for a thread, not counting those in work.", multiprocess_mode="livesum"
)
INSIDE = Gauge("eolgul_requests_inside", "Requests admitted and not yet answered.", multiprocess_mode="livesum")
RATE_LIMIT = Counter(
    "eolgul_rate_limit_total", "Requests whose rate was counted in this process only, because Redis failed.", ["where"]
)
GALLERY = Counter("eolgul_gallery_total", "Gallery operations.", ["operation", "outcome"])
SWAPS = Counter("eolgul_model_swaps_total", "Outcomes of attempts to load another model of the registry.", ["outcome"])
VERDICTS = Counter("eolgul_verdicts_total", "Verdicts.", ["verdict"])
LOW_QUALITY = Counter(
    "eolgul_undecided_for_quality_total",
    "Verdicts undecided for the quality of a photo, by its most severe reason.",
    ["reason"],
)
SIMILARITY = Histogram(
    "eolgul_similarity",
    "Cosine similarity of verified pairs; a drift shows that traffic no longer resembles the calibration set.",
    buckets=[step / 20 for step in range(-4, 21)],
)
MODEL_INFO = Gauge(
    "eolgul_model_info",
    "1 for the served model.",
    ["digest", "backbone", "synthetic"],
    multiprocess_mode="livemax",
)


# What prometheus_client says of a process, which it leaves out where there are several: each worker writes its own, and a scrape
# sums them. In no registry, since the library has registered the same names for one process.
CPU_SECONDS = Counter("process_cpu_seconds_total", "Processor time of the workers, in seconds.", registry=None)
RESIDENT_BYTES = Gauge(
    "process_resident_memory_bytes", "Memory of the workers.", registry=None, multiprocess_mode="livesum"
)
VIRTUAL_BYTES = Gauge(
    "process_virtual_memory_bytes", "Address space of the workers.", registry=None, multiprocess_mode="livesum"
)
OPEN_FDS = Gauge("process_open_fds", "Open files of the workers.", registry=None, multiprocess_mode="livesum")
MAX_FDS = Gauge("process_max_fds", "Files that the workers may open.", registry=None, multiprocess_mode="livesum")
START_SECONDS = Gauge(
    "process_start_time_seconds",
    "Start of the worker that started last, in seconds since 1970.",
    registry=None,
    multiprocess_mode="livemax",
)
_PROCESS_S = 5.0  # seconds between two looks at a process

# A counter that appears with its first event has not risen in Prometheus' eyes: those that alerts look at begin at 0.
for _outcome in ("swapped", "refused", "unreachable"):
    SWAPS.labels(_outcome)
for _outcome in ("hit", "miss", "error"):
    CACHE.labels(_outcome)
for _verdict in ("same", "different", "undecided"):
    VERDICTS.labels(_verdict)


@contextmanager
def stage(name: str, timings_ms: dict[str, float], images: int = 1) -> Iterator[None]:
    """Time a block that works on `images` images.

    The seconds per image are observed in `eolgul_stage_seconds{stage=name}`, once per image; the total in milliseconds is
    added to `timings_ms[name]`.
    """
    start = perf_counter()
    try:
        yield
    finally:
        seconds = perf_counter() - start
        for _ in range(images):
            STAGE_SECONDS.labels(name).observe(seconds / images)
        timings_ms[name] = timings_ms.get(name, 0.0) + seconds * 1000


def drop_exited_workers() -> None:
    """Drop the gauges (requests inside, images waiting, model) of worker processes that have exited.

    Their counters stay. Every worker calls this when it starts, since it may replace one that was killed.
    """
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    for file in Path(folder).glob("gauge_live*_*.db") if folder else ():
        pid = int(file.stem.rpartition("_")[2])
        if not _is_alive(pid):
            mark_process_dead(pid)  # type: ignore[no-untyped-call]


def _is_alive(pid: int) -> bool:
    try:
        return (
            Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
        )  # Z and X: ended, but not yet reaped
    except OSError:
        return False


class _OwnProcess:
    """Writes what this process uses: memory, processor time, open files."""

    def __init__(self) -> None:
        self._collector = ProcessCollector(registry=None)
        self._lock = threading.Lock()
        self._counted_s = 0.0  # processor time that `CPU_SECONDS` has

    def note(self) -> None:
        with self._lock:
            own = {sample.name: sample.value for family in self._collector.collect() for sample in family.samples}
            for gauge in (RESIDENT_BYTES, VIRTUAL_BYTES, OPEN_FDS, MAX_FDS, START_SECONDS):
                gauge.set(own.get(next(iter(gauge.describe())).name, 0.0))
            used_s = own.get("process_cpu_seconds_total", 0.0)
            CPU_SECONDS.inc(max(0.0, used_s - self._counted_s))  # a sum over processes would fall when one is replaced
            self._counted_s = used_s


_own_process = _OwnProcess()


async def note_process_repeatedly() -> None:
    """Write what this process uses every five seconds, for scrapes that another worker answers."""
    while True:
        await asyncio.to_thread(_own_process.note)
        await asyncio.sleep(_PROCESS_S)


def exposition(accept: str = "") -> tuple[bytes, str]:
    """What a scrape gets: the sum over all workers if there are several, otherwise this process's figures.

    Returns:
        The text in the format that the header `Accept` asks for (OpenMetrics, or Prometheus' own), and its media type.
    """
    encode, media_type = choose_encoder(accept)
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return encode(REGISTRY), media_type
    _own_process.note()
    registry = CollectorRegistry()
    registry.register(_AllWorkers())
    return encode(registry), media_type


class _AllWorkers(Collector):
    """The metrics of all workers, without what OpenMetrics forbids: sum and count of a histogram that has buckets below 0."""

    def collect(self) -> Iterator[Metric]:
        for metric in MultiProcessCollector(None).collect():  # type: ignore[no-untyped-call]
            if any(sample.labels.get("le", "").startswith("-") for sample in metric.samples):
                metric.samples = [sample for sample in metric.samples if sample.name.endswith("_bucket")]
            yield metric
