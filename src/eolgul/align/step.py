"""Step 2 as a whole: FaceDataset of pictures → FaceDataset of 112x112 faces."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from eolgul.align.choose import POLICIES, choose
from eolgul.align.mtcnn import Detector
from eolgul.align.networks import export_onnx
from eolgul.align.similarity import SIZE, TEMPLATE_NAME, align_face
from eolgul.artifact import Artifact, open_artifact, reuse
from eolgul.dataset import FACTS, FaceDataset, FaceDatasetWriter, writing_dataset
from eolgul.errors import InputError
from eolgul.images import decode, encode_png
from eolgul.modelpackage import DetectorSettings

BACKENDS = ("onnx", "torch")
_CHUNK = 128
DEFAULT_SETTINGS = DetectorSettings()
_Result = tuple[bytes, dict[str, Any]] | tuple[str, str]


def align(
    dataset: Path,
    out: Path,
    *,
    settings: DetectorSettings = DEFAULT_SETTINGS,
    backend: str = "onnx",
    device: str = "cpu",
    workers: int = 2,
    progress: Callable[[int], None] | None = None,
) -> Artifact:
    """Find, choose and cut out one face an image; return the new FaceDataset at `out` (an equal one there is kept).

    Faces are stored as PNG, so that training and evaluation see the very pixels that serving will compute. The box,
    score and landmarks in the source picture go into the manifest. An image without a usable face is rejected
    (`no_face`, `several_faces`), and a Benchmark's pairs that need it are counted as lost. Rejections of the step
    before are carried on. InputError when the dataset is aligned already or a setting is unknown.
    """
    if settings.which not in POLICIES:
        raise InputError(f"which {settings.which!r}: expected one of {', '.join(POLICIES)}")
    if backend not in BACKENDS:
        raise InputError(f"backend {backend!r}: expected one of {', '.join(BACKENDS)}")
    source = FaceDataset(dataset)
    if is_aligned(source.artifact):
        raise InputError(f"{dataset}: aligned already ({source.artifact.contents['aligned']})")
    recipe = {
        "min_face_size": settings.min_face_size,
        "thresholds": list(settings.thresholds),
        "factor": settings.factor,
        "which": settings.which,
        "template": TEMPLATE_NAME,
        "backend": backend,
    }
    inputs = [source.artifact.reference]
    done = reuse(out, "FaceDataset", step="align", recipe=recipe, inputs=inputs)
    if done is not None:
        return done
    with (
        _detector(settings, backend, device) as detector,
        writing_dataset(out, step="align", recipe=recipe, inputs=inputs, synthetic=source.artifact.synthetic) as writer,
    ):
        contents = source.artifact.contents
        writer.describe(
            name=contents["name"],
            identities_known=contents["identities_known"],
            aligned=TEMPLATE_NAME,
            detector=asdict(settings),
        )
        rows = _align_rows(source, detector, writer, workers, progress)
        for row in source.rejected():
            writer.reject(**row)
        if contents["benchmark"]:
            _carry_pairs(source, rows, writer)
    return open_artifact(out)


def is_aligned(artifact: Artifact) -> bool:
    """Whether a FaceDataset's images are faces on the template already, so that this step has nothing to do."""
    return artifact.contents.get("aligned") == TEMPLATE_NAME


@contextmanager
def _detector(settings: DetectorSettings, backend: str, device: str) -> Iterator[Detector]:
    if backend == "torch":
        yield Detector.from_torch(settings, device)
        return
    with TemporaryDirectory() as folder:
        export_onnx(Path(folder))
        yield Detector.from_onnx(Path(folder), settings)


def _align_rows(
    source: FaceDataset,
    detector: Detector,
    writer: FaceDatasetWriter,
    workers: int,
    progress: Callable[[int], None] | None,
) -> dict[int, int]:
    """Align every row in order; the new manifest row of each old one that was kept."""
    ids, identities = source.column("image_id"), source.column("identity")
    sources = source.column("source")
    facts = {name: source.column(name) for name in FACTS}
    kept: dict[int, int] = {}

    def work(row: int) -> _Result:
        return _align_one(source.read(row), detector)

    with ThreadPoolExecutor(workers) as pool:
        for begin in range(0, len(source), _CHUNK):
            chunk = range(begin, min(begin + _CHUNK, len(source)))
            for row, (face, about) in zip(chunk, pool.map(work, chunk), strict=True):
                if isinstance(face, str):
                    assert isinstance(about, str)
                    writer.reject(ids[row], source=sources[row], identity=identities[row], reason=face, detail=about)
                    continue
                assert isinstance(about, dict)
                kept[row] = writer.images
                writer.add(
                    ids[row],
                    identities[row],
                    face,
                    extension="png",
                    size=(SIZE, SIZE),
                    source=sources[row],
                    facts={name: values[row] for name, values in facts.items()} | about,
                )
            if progress:
                progress(len(chunk))
    return kept


def _align_one(data: bytes, detector: Detector) -> _Result:
    """One encoded image → its face as PNG and what was found, or a reason code and a sentence."""
    try:
        image, _ = decode(data)
        (faces,) = detector.detect([image])
        row = choose(faces, detector.settings.which, (image.shape[1], image.shape[0]))
    except InputError as error:
        return error.code, str(error)
    if row is None:
        return "no_face", f"no face of at least {detector.settings.min_face_size} pixels found"
    face = align_face(image, faces.landmarks[row])
    found = {
        "box": faces.boxes[row].tolist(),
        "landmarks": faces.landmarks[row].ravel().tolist(),
        "detection_score": float(faces.scores[row]),
        "faces_found": len(faces),
    }
    return encode_png(face), found


def _carry_pairs(source: FaceDataset, rows: dict[int, int], writer: FaceDatasetWriter) -> None:
    pairs = source.pairs()
    both = [index for index in range(len(pairs)) if pairs.left[index] in rows and pairs.right[index] in rows]
    writer.pairs(
        [rows[pairs.left[index]] for index in both],
        [rows[pairs.right[index]] for index in both],
        [bool(pairs.same[index]) for index in both],
        [int(pairs.fold[index]) for index in both],
    )
    lost = source.artifact.contents["pairs_lost"] + len(pairs) - len(both)
    writer.describe(pairs=len(both), pairs_lost=lost)
