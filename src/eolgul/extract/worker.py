"""The workers of an extraction: each writes whole parts, and stops between two images when it is told to."""

from __future__ import annotations

import hashlib
import itertools
from collections import deque
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from eolgul.dataset import Build, Part
from eolgul.errors import InputError
from eolgul.extract.sources import Candidate, Plan, Task, line, sha256_or_nothing
from eolgul.files import sha256_bytes
from eolgul.images.decode import EXTENSIONS, ImageInfo, decode
from eolgul.images.header import outline
from eolgul.workers import map_in_order, report

Progress = Callable[[int], None]
_CHUNK = 32
_REPORT = 512


class Checked(NamedTuple):
    """A candidate with its bytes: what it is, or the reason and the sentence why it is not taken."""

    candidate: Candidate
    data: bytes
    sha256: str
    info: ImageInfo | None
    problem: tuple[str, str] | None


def work(
    build: Build,
    plan: Plan,
    name: str,
    *,
    wanted: Collection[str],
    verify: bool,
    workers: int,
    progress: Progress | None,
) -> tuple[dict[str, int], str]:
    """Write the parts that are missing and merge all; the rows of the wanted ids, and the digest of the source."""
    missing = [number for number in range(len(plan.tasks)) if not build.is_finished(number)]
    if plan.portable and workers > 1 and len(missing) > 1:
        jobs = (_Job(build.folder, number, plan.tasks[number], name, verify) for number in missing)
        for _ in map_in_order(_write_in_worker, jobs, min(workers, len(missing)), progress):
            pass
    else:
        for number in missing:
            _write(build.folder, number, plan.tasks[number], name, verify, workers, progress or (lambda _: None))
    return build.merge(len(plan.tasks), wanted, _also(plan))


def digest(plan: Plan, workers: int) -> str:
    """The digest of a source, as `work` gives it, without an extraction: over what its tasks read, in their order."""
    total = hashlib.sha256()
    for task in plan.tasks:
        for checked in _checked(task.candidates(), _read, workers):
            total.update(_lines(checked))
    total.update(_also(plan))
    return total.hexdigest()


def _also(plan: Plan) -> bytes:
    return b"".join(line(path.name.encode(), sha256_or_nothing(path)) for path in plan.also)


def _lines(checked: Checked) -> bytes:
    candidate = checked.candidate
    lines = line(candidate.name, checked.sha256)
    if candidate.beside is not None:
        name, path = candidate.beside
        lines += line(name, sha256_or_nothing(path))
    return lines


def _write(folder: Path, number: int, task: Task, name: str, verify: bool, threads: int, progress: Progress) -> None:
    part = Part(folder, number, name)
    try:
        waiting = 0
        for checked in _checked(task.candidates(), _decode if verify else _look, threads):
            _keep(part, checked)
            waiting += 1
            if waiting == _REPORT:
                progress(waiting)
                waiting = 0
    except BaseException:
        part.give_up()
        raise
    part.close()
    progress(waiting)


def _keep(part: Part, checked: Checked) -> None:
    candidate, data, sha256, info, problem = checked
    part.note_read(_lines(checked))
    if problem is not None:
        reason, detail = problem
        part.reject(candidate.where, identity=candidate.identity, reason=reason, detail=detail)
        return
    assert info is not None and candidate.identity is not None
    extension = EXTENSIONS[info.format]
    part.add(candidate.image_id, candidate.identity, data, extension, info.width, info.height, sha256, candidate.facts)


def _checked(candidates: Iterator[Candidate], check: Callable[[Candidate], Checked], threads: int) -> Iterator[Checked]:
    """Check every candidate, in order; in threads where reading or decoding gives the others time to run."""
    first = next(candidates, None)
    if first is None:
        return
    candidates = itertools.chain([first], candidates)
    if threads < 2 or not (check is _decode or isinstance(first.data, Path)):
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
    """The candidate's bytes and their sha256, nothing being asked of them."""
    data = candidate.data
    if isinstance(data, Path):
        try:
            data = data.read_bytes()
        except OSError as error:
            problem = candidate.problem or ("unreadable", error.strerror or str(error))
            return Checked(candidate, b"", "unreadable", None, problem)
    return Checked(candidate, data, sha256_bytes(data), None, candidate.problem)


def _look(candidate: Candidate) -> Checked:
    """As `_read`, and whether the image's structure and size are as they should be."""
    if isinstance(candidate.data, Path) or candidate.problem is not None:
        read = _read(candidate)
        if read.problem is not None:
            return read
        data, sha256 = read.data, read.sha256
    else:
        data = candidate.data
        sha256 = sha256_bytes(data)
    try:
        info = outline(data)
    except InputError as error:
        return Checked(candidate, b"", sha256, None, (error.code, str(error)))
    if candidate.size is not None and (info.width, info.height) != candidate.size:
        width, height = candidate.size
        problem = ("wrong_size", f"{info.width}x{info.height} pixels, expected {width}x{height}")
        return Checked(candidate, b"", sha256, None, problem)
    return Checked(candidate, data, sha256, info, None)


def _decode(candidate: Candidate) -> Checked:
    """As `_look`, and whether the image can be decoded."""
    looked = _look(candidate)
    if looked.problem is None:
        try:
            decode(looked.data)
        except InputError as error:
            code = "undecodable" if error.code == "not_an_image" else error.code
            return Checked(candidate, b"", looked.sha256, None, (code, str(error)))
    return looked


class _Job(NamedTuple):
    """One part to write, as a worker process gets it."""

    folder: Path
    number: int
    task: Task
    name: str
    verify: bool


def _write_in_worker(job: _Job) -> None:
    _write(*job, threads=1, progress=report)
