"""The demo's raw data in the bucket: people drawn by `eolgul.synth`, or a folder of one's own photos."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eolgul import storage
from eolgul.demo.options import DemoOptions
from eolgul.errors import InputError
from eolgul.extract.config import source_name
from eolgul.files import sha256_file
from eolgul.formats.synthetic import mark_of
from eolgul.images.header import read_header

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class RawData:
    """Raw data in the bucket.

    Attributes:
        sources: places of the data to train on.
        benchmarks: places of verification sets (`.bin`).
        faces: name of the source whose people are verified at the end.
        local: the folder of the same data on this machine.
        images: usable images of one's own photos; None: people are drawn.
    """

    sources: list[str]
    benchmarks: list[str]
    faces: str
    local: Path
    images: int | None = None


def drawn(options: DemoOptions, bucket: str, say: Say) -> RawData:
    """Draw (or reuse) a K-FACE tree, a `train.rec` and a `.bin` of three disjoint sets of people, and upload them."""
    from eolgul.synth import draw_bin, draw_kface, draw_rec

    raw = options.work / "raw"
    raw.mkdir(parents=True, exist_ok=True)

    def draw(what: str, writer: Callable[..., dict[str, Any]], name: str, **arguments: Any) -> None:
        quarter = 0

        def progress(done: int, total: int) -> None:
            nonlocal quarter
            if 4 * done // total > quarter and done < total:
                quarter = 4 * done // total
                say(f"{what}: {done} of {total} images")

        facts = writer(raw / name, workers=options.workers, progress=progress, **arguments)
        how = "drawn before" if facts["cached"] else f"drawn in {facts['seconds']:.0f} s"
        say(f"{what}: {facts['images']} images of {facts['identities']} people, {how}")

    much = options.amounts
    draw("K-FACE tree", draw_kface, "kface", people=much.people, images_per_person=much.images)
    draw("train.rec", draw_rec, "faces_drawn", people=much.rec_people, images=much.rec_images, style=much.rec_style)
    draw("verification set (.bin)", draw_bin, "drawn_pairs.bin", people=much.bin_people, pairs=much.bin_pairs)
    for name in ("kface", "faces_drawn", "drawn_pairs.bin", mark_of(raw / "drawn_pairs.bin").name):
        _upload(raw / name, f"{bucket}/raw/{name}")
    say(f"uploaded to {bucket}/raw/")
    return RawData(
        sources=[f"{bucket}/raw/faces_drawn", f"{bucket}/raw/kface"],
        benchmarks=[f"{bucket}/raw/drawn_pairs.bin"],
        faces="kface",
        local=raw,
    )


def own_photos(options: DemoOptions, bucket: str, say: Say) -> RawData:
    """Upload a folder of one's own photos, `<identity>/<image>`.

    Raises:
        InputError: the folder is missing, lies in the demo's own, cannot be read, or holds fewer than 12 usable people.
    """
    source = options.source.expanduser() if options.source else None
    if source is None or not source.is_dir():
        raise InputError(f"{source}: no such folder; SOURCE is a folder of <identity>/<image files>")
    raw = (options.work / "raw").resolve()
    if source.resolve().is_relative_to(raw) or raw.is_relative_to(source.resolve()):
        raise InputError(f"{source}: the demo keeps its own copies in {raw}; SOURCE must lie elsewhere")
    people = {
        entry: _count_images(entry)
        for entry in sorted(source.iterdir())
        if entry.is_dir() and not entry.name.startswith(".")
    }
    usable = [entry for entry, count in people.items() if count >= options.min_images]
    if len(usable) < 12:
        raise InputError(
            f"{source}: {len(usable)} of {len(people)} identity folders have at least {options.min_images} usable images, "
            "expected at least 12 (validation, calibration and test take people of their own)"
        )
    chosen = usable[: options.max_identities]
    if len(chosen) < len(people):
        say(f"taking {len(chosen)} of {len(people)} people: those with at least {options.min_images} usable images, "
            f"at most {options.max_identities} people (MIN_IMAGES=…, MAX_IDENTITIES=… change that)")  # fmt: skip
    name = source_name(str(source.resolve()))
    if name in ("images", "data", "faces"):  # the parent folder says more
        name = source_name(str(source.resolve().parent))
    stage = options.work / "raw" / name
    shutil.rmtree(stage, ignore_errors=True)
    for entry in chosen:
        try:
            shutil.copytree(entry, stage / entry.name)
        except shutil.Error as error:  # one (source, destination, reason) per file
            file, _, reason = error.args[0][0]
            raise InputError(f"{file}: cannot be copied ({reason}); repair it or remove it from the folder") from error
        except OSError as error:
            raise InputError(f"{error.filename or entry}: cannot be copied ({error.strerror})") from error
    _upload(stage, f"{bucket}/raw/{name}")
    say(f"uploaded to {bucket}/raw/{name}/")
    images = sum(people[entry] for entry in chosen)
    return RawData(sources=[f"{bucket}/raw/{name}"], benchmarks=[], faces=name, local=stage, images=images)


def _count_images(folder: Path) -> int:
    """The number of images that the extraction will take from a person's folder: whole, and of a format that it reads."""
    count = 0
    for file in folder.rglob("*"):
        if any(part.startswith(".") for part in file.relative_to(folder).parts):
            continue
        with suppress(OSError, InputError):
            if file.is_file():  # a pipe would wait for a writer
                read_header(file.read_bytes())
                count += 1
    return count


def _upload(path: Path, uri: str) -> None:
    """Publish `path` unless the bucket already holds the same files: the object `<uri>.sha256` lists their digests."""
    mark = f"{uri.rstrip('/')}.sha256"
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    listing = "".join(f"{file.relative_to(path.parent).as_posix()} {sha256_file(file)}\n" for file in files).encode()
    if storage.read_bytes(mark) == listing:
        return
    storage.write_bytes(mark, b"")  # an interrupted upload must not carry the list of the one before
    storage.publish(path, uri, replace=True)
    storage.write_bytes(mark, listing)
