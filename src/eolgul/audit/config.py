"""The options of the audit."""

from __future__ import annotations

from dataclasses import dataclass

from eolgul.config import Config, option


@dataclass(frozen=True)
class AuditConfig(Config):
    """How near two faces must be to count as found, and what the report shows."""

    contract: str | None = option(
        None, "Embedding contract of an ONNX file, as for evaluate. Default: insightface.", in_recipe=False
    )
    fmr: float = option(
        1e-6,
        "False match rate of the threshold on embeddings, on people of the benchmark that are known to differ; where "
        "they are too few to show it, the finest rate that they can.",
        least=1e-12,
        most=0.5,
    )
    false_findings: float = option(
        1.0,
        "Most comparisons of strangers that are expected to be found, of all that are made: with many faces this asks for "
        "a finer rate than fmr, read from the tail of the people known to differ where they are enough.",
        least=1e-6,
    )
    similarity: float | None = option(
        None,
        "Threshold on the cosine similarity of embeddings. Default: the one of fmr and false-findings.",
        least=-1,
        most=1,
    )
    hash_distance: int = option(
        24, "Most bits of 256 in which the difference hashes of two copies differ.", least=0, most=127
    )
    sample: int = option(
        0,
        "Most training images per identity that are hashed and embedded; 0 for all. Names and bytes: always all.",
        least=0,
    )
    pictures: bool = option(True, "Put pictures of the findings into the report.")
    shown: int = option(100, "Most findings of a kind that the report shows; audit.json has all.", least=1)
    cache: str | None = option(
        None, "Folder that keeps embeddings between runs.", in_recipe=False, envvar="EOLGUL_EMBEDDINGS"
    )
    device: str = option(
        "auto",
        "ONNX Runtime's device; auto takes a GPU if there is one.",
        choices=("auto", "cpu", "cuda"),
        in_recipe=False,
    )
    threads: int = option(2, "Threads of ONNX Runtime and of the search.", least=1, in_recipe=False)
