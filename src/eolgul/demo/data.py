"""The demo's raw data: people drawn by `eolgul.synth`, or a folder of one's own photos, put into the bucket."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from eolgul import storage
from eolgul.artifact import sha256_file
from eolgul.demo.options import Options
from eolgul.errors import InputError
from eolgul.extract.config import source_name

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Raw:
    """Raw data in the bucket: what to learn from, `.bin` sets, the source whose people are verified, where it lies here."""

    sources: list[str]
    benchmarks: list[str]
    faces: str
    local: Path


def drawn(options: Options, bucket: str, say: Say) -> Raw:
    """Draw (or reuse) a K-FACE tree, a `train.rec` and a `.bin` of three disjoint groups of people, and upload them."""
    from eolgul.synth import draw_bin, draw_kface, draw_rec

    raw = options.work / "raw"
    raw.mkdir(parents=True, exist_ok=True)

    def progress(what: str) -> Callable[[int, int], None]:
        said = [0.0]

        def tell(done: int, total: int) -> None:
            if done == total or done / total >= said[0] + 0.25:
                said[0] = done / total
                say(f"  {what}: {done} of {total} images")

        return tell

    kface = draw_kface(raw / "kface", people=options.people, workers=options.workers, progress=progress("K-FACE tree"))
    rec = draw_rec(
        raw / "faces_drawn",
        people=options.rec_people,
        images=options.rec_images,
        workers=options.workers,
        progress=progress("train.rec"),
    )
    pairs = draw_bin(
        raw / "drawn_pairs.bin",
        people=options.bin_people,
        pairs=options.bin_pairs,
        workers=options.workers,
        progress=progress(".bin"),
    )
    for what, made in (("K-FACE tree", kface), ("train.rec", rec), (".bin", pairs)):
        how = "as drawn before" if made.get("cached") else f"drawn in {made['seconds']:.0f} s"
        say(f"  {what}: {made['images']} images of {made['identities']} people, {how}")
    for name in ("kface", "faces_drawn", "drawn_pairs.bin", "drawn_pairs.bin.synthetic.json"):
        _upload(raw / name, f"{bucket}/raw/{name}")
    say(f"  uploaded to {bucket}/raw/")
    return Raw(
        [f"{bucket}/raw/faces_drawn", f"{bucket}/raw/kface"],
        [f"{bucket}/raw/drawn_pairs.bin"],
        "kface",
        raw,
    )


def own_photos(options: Options, bucket: str, say: Say) -> Raw:
    """Upload `<identity>/<image>` folders of one's own; InputError when they are too few to hold people back."""
    source = options.source.expanduser() if options.source else None
    if source is None or not source.is_dir():
        raise InputError(f"{source}: no such folder; SOURCE is a folder of <identity>/<image files>")
    raw = (options.work / "raw").resolve()
    if source.resolve().is_relative_to(raw) or raw.is_relative_to(source.resolve()):
        raise InputError(f"{source}: the demo keeps its own copies in {raw}; SOURCE must lie elsewhere")
    people = [
        (entry, sum(1 for file in entry.rglob("*") if file.is_file() and not file.name.startswith(".")))
        for entry in sorted(source.iterdir())
        if entry.is_dir() and not entry.name.startswith(".")
    ]
    usable = [entry for entry, count in people if count >= options.min_images]
    if len(usable) < 12:
        raise InputError(
            f"{source}: {len(usable)} of {len(people)} identity folders have {options.min_images} images or more, "
            "expected at least 12 (people are held back for validation, calibration and test)"
        )
    chosen = usable[: options.max_identities]
    if len(chosen) < len(people):
        say(f"  taking {len(chosen)} of {len(people)} people: those with {options.min_images} images or more, "
            f"at most {options.max_identities} (MIN_IMAGES=…, MAX_IDENTITIES=… change that)")  # fmt: skip
    name = source_name(str(source.resolve()))
    if name in ("images", "data", "faces"):  # a folder's name says more when its own says nothing
        name = source_name(str(source.resolve().parent))
    stage = options.work / "raw" / name
    shutil.rmtree(stage, ignore_errors=True)
    for entry in chosen:
        try:
            shutil.copytree(entry, stage / entry.name)
        except shutil.Error as error:  # of each file that could not be copied: what, where to, why
            what, _, why = error.args[0][0]
            raise InputError(f"{what}: cannot be copied ({why}); mend it or take it out of the folder") from error
        except OSError as error:
            raise InputError(f"{error.filename or entry}: cannot be copied ({error.strerror})") from error
    _upload(stage, f"{bucket}/raw/{name}")
    say(f"  uploaded to {bucket}/raw/{name}/")
    return Raw([f"{bucket}/raw/{name}"], [], name, stage)


def _upload(path: Path, uri: str) -> None:
    """Publish unless the bucket holds the same names with the same sizes and the same content mark already."""
    mark = f"{uri.rstrip('/')}.sha256"
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    listing = "".join(f"{file.relative_to(path.parent).as_posix()} {sha256_file(file)}\n" for file in files).encode()
    if storage.read_bytes(mark) == listing:
        return
    storage.write_bytes(mark, b"")  # an upload that is cut off must not look like the one before it
    storage.publish(path, uri, replace=True)
    storage.write_bytes(mark, listing)
