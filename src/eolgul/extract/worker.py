"""Read and check the images of a source, and write them shard by shard, in threads or in worker processes."""

from __future__ import annotations

import hashlib
import itertools
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, Self

import numpy as np

from eolgul.dataset import DatasetBuild, ShardWriter
from eolgul.errors import InputError, Reason, Rejection
from eolgul.extract.config import ExtractConfig
from eolgul.extract.plan import Candidate, Plan, Task, line, sha256_or_unreadable
from eolgul.files import sha256_bytes
from eolgul.images.decode import EXTENSIONS, ImageInfo, decode, encode_png
from eolgul.images.header import read_header
from eolgul.workers import map_in_order, report

Progress = Callable[[int], None]
_ALIGNED = (112, 112)  # the size of the alignment template
_CHUNK = 32
_REPORT = 512


class Checks(NamedTuple):
    """What is done with every image.

    `verify` decodes it. `exchange` says that its channels are blue, green, red, and stores it with red first, as PNG. `size`
    is the width and height that it must have, where the source states none.
    """

    verify: bool = False
    exchange: bool = False
    size: tuple[int, int] | None = None

    @classmethod
    def of(cls, config: ExtractConfig) -> Self:
        """What the options ask for."""
        return cls(config.verify, config.color == "bgr", _ALIGNED if config.aligned else None)

    @property
    def decodes(self) -> bool:
        """Whether every image is decoded."""
        return self.verify or self.exchange

    def run(self, candidate: Candidate) -> Checked:
        """Check one candidate."""
        return (_decode if self.decodes else _check_header)(self, candidate)


class Checked(NamedTuple):
    """A candidate with the bytes to store, and the SHA-256 of what was read: its header, or why it is rejected.

    `changed` says that the bytes to store are not those that were read.
    """

    candidate: Candidate
    data: bytes
    sha256: str
    info: ImageInfo | None
    rejection: Rejection | None
    changed: bool = False


def write_shards(
    build: DatasetBuild,
    plan: Plan,
    name: str,
    *,
    checks: Checks,
    workers: int,
    progress: Progress | None,
) -> None:
    """Write the shards of a plan that are missing.

    Memory: per worker some ten images, and the rows of the shard that it writes (about 1 kB per image).

    Args:
        build: the dataset.
        plan: the source.
        name: the source's name in the manifest.
        checks: what is done with every image.
        workers: processes, or threads where the plan has one shard or is not portable.
        progress: called with the number of images just done.
    """
    tasks = zip(plan.numbers, plan.tasks, strict=True)
    missing = [(number, task) for number, task in tasks if not build.is_finished(number)]
    if plan.portable and workers > 1 and len(missing) > 1:
        jobs = (_Job(build, number, task, name, checks) for number, task in missing)
        for _ in map_in_order(_write_in_worker, jobs, min(workers, len(missing)), progress):
            pass
    else:
        for number, task in missing:
            _write(build, number, task, name, checks, workers, progress or (lambda _: None))


def digest(plan: Plan, workers: int) -> str:
    """The digest of a source without an extraction: over what the tasks read, in order, and the files beside it."""
    total = hashlib.sha256()
    for task in plan.tasks:
        for checked in _checked(task.candidates(), _read, workers, slow=False):
            total.update(_lines(checked))
    total.update(also_read(plan))
    return total.hexdigest()


def also_read(plan: Plan) -> bytes:
    """The lines in the digest of a source of the small files beside what the tasks read."""
    return b"".join(line(path.name.encode(), sha256_or_unreadable(path)) for path in plan.also)


def _lines(checked: Checked) -> bytes:
    candidate = checked.candidate
    lines = line(candidate.name, checked.sha256)
    if candidate.beside is not None:
        name, path = candidate.beside
        lines += line(name, sha256_or_unreadable(path))
    return lines


def _write(
    build: DatasetBuild, number: int, task: Task, name: str, checks: Checks, threads: int, progress: Progress
) -> None:
    waiting = 0
    with build.shard(number, name) as shard:
        for checked in _checked(task.candidates(), checks.run, threads, slow=checks.decodes):
            _keep(shard, checked)
            waiting += 1
            if waiting == _REPORT:
                progress(waiting)
                waiting = 0
    progress(waiting)


def _keep(shard: ShardWriter, checked: Checked) -> None:
    candidate, data, sha256, info, rejection, changed = checked
    shard.note_read(_lines(checked))
    if rejection is not None:
        shard.reject(candidate.where, rejection, identity=candidate.identity)
        return
    assert info is not None and candidate.identity is not None
    shard.add(
        candidate.image_id,
        candidate.identity,
        data,
        extension=EXTENSIONS[info.format],
        size=(info.width, info.height),
        sha256=None if changed else sha256,
        facts=candidate.facts,
    )


def _checked(
    candidates: Iterator[Candidate], check: Callable[[Candidate], Checked], threads: int, *, slow: bool
) -> Iterator[Checked]:
    """Check every candidate, in order; in threads where reading or decoding (`slow`) releases the interpreter."""
    first = next(candidates, None)
    if first is None:
        return
    candidates = itertools.chain([first], candidates)
    if threads < 2 or not (slow or not isinstance(first.data, bytes)):
        yield from map(check, candidates)
        return
    with ThreadPoolExecutor(threads) as pool:
        ahead: deque[Future[list[Checked]]] = deque()
        try:
            for chunk in iter(lambda: list(itertools.islice(candidates, _CHUNK)), []):
                ahead.append(pool.submit(lambda some: [check(one) for one in some], chunk))
                if len(ahead) > 2 * threads:
                    yield from ahead.popleft().result()
            while ahead:
                yield from ahead.popleft().result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _read(candidate: Candidate) -> Checked:
    """Read the candidate's bytes and their SHA-256, without a check of the image."""
    data = candidate.data
    if not isinstance(data, bytes):
        try:
            data = data.read_bytes()
        except OSError as error:
            rejection = candidate.rejection or Rejection(Reason.UNREADABLE, error.strerror or str(error))
            return Checked(candidate, b"", "unreadable", None, rejection)
    return Checked(candidate, data, sha256_bytes(data), None, candidate.rejection)


def _check_header(checks: Checks, candidate: Candidate) -> Checked:
    """As `_read`, with a check of the image's structure and size."""
    if not isinstance(candidate.data, bytes) or candidate.rejection is not None:
        read = _read(candidate)
        if read.rejection is not None:
            return read
        data, sha256 = read.data, read.sha256
    else:
        data = candidate.data
        sha256 = sha256_bytes(data)
    try:
        info = read_header(data)
    except InputError as error:
        return Checked(candidate, b"", sha256, None, Rejection.from_error(error))
    size = candidate.size or checks.size
    if size is not None and (info.width, info.height) != size:
        width, height = size
        detail = f"{info.width}x{info.height} pixels, expected {width}x{height}"
        return Checked(candidate, b"", sha256, None, Rejection(Reason.WRONG_SIZE, detail))
    return Checked(candidate, data, sha256, info, None)


def is_usable(candidate: Candidate, checks: Checks) -> bool:
    """Whether a candidate becomes an image."""
    return checks.run(candidate).rejection is None


def _decode(checks: Checks, candidate: Candidate) -> Checked:
    """As `_check_header`, with a check that the image can be decoded, and with its channels exchanged if that is asked."""
    checked = _check_header(checks, candidate)
    if checked.rejection is None:
        try:
            pixels, _ = decode(checked.data)
        except InputError as error:
            rejection = Rejection.from_error(error)
            if rejection.code == Reason.NOT_AN_IMAGE:  # its header is one
                rejection = Rejection(Reason.UNDECODABLE, rejection.detail)
            return Checked(candidate, b"", checked.sha256, None, rejection)
        if checks.exchange and not (pixels[..., 0] == pixels[..., 2]).all():
            height, width = pixels.shape[:2]
            stored = encode_png(np.ascontiguousarray(pixels[..., ::-1]))
            return checked._replace(data=stored, info=ImageInfo("PNG", width, height), changed=True)
    return checked


class _Job(NamedTuple):
    """One shard to write, as a worker process receives it."""

    build: DatasetBuild
    number: int
    task: Task
    name: str
    checks: Checks


def _write_in_worker(job: _Job) -> None:
    _write(*job, threads=1, progress=report)
