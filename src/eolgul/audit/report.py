"""The audit's report: one self-contained HTML file with the pictures of what was found side by side, the worst first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from eolgul.audit.schema import KINDS, AuditResult
from eolgul.evaluate.report.page import both, data_uri

WORDS = {
    "bytes": ("equal bytes", "바이트가 같음"),
    "hash": ("near hash", "지각 해시가 가까움"),
    "embedding": ("near embedding", "임베딩이 가까움"),
    "name": ("same name", "이름이 같음"),
}


def render(result: AuditResult, pictures: Mapping[str, bytes], shown: int) -> str:
    """Return the page, in English and Korean.

    Args:
        result: What the audit found.
        pictures: JPEGs by `against/<set>/<id>` and `train/<set>/<id>`; may be empty.
        shown: Most findings of a kind that are shown.
    """
    environment = Environment(
        loader=ChoiceLoader(
            [PackageLoader("eolgul.audit", "templates"), PackageLoader("eolgul.evaluate.report", "templates")]
        ),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )

    def count(value: Any) -> Markup:
        return both("unknown", "알 수 없음") if value is None else Markup(f"{value:,}")

    return environment.get_template("audit.html.j2").render(
        audit=result,
        kinds=KINDS,
        words={kind: both(*WORDS[kind]) for kind in KINDS},
        t=both,
        count=count,
        pictures={name: data_uri(data) for name, data in pictures.items()},
        shown=shown,
        alike=_alike(result, shown),
    )


def _alike(result: AuditResult, shown: int) -> str:
    """The names of the benchmarks that are perhaps one person, at most `shown` pairs."""
    found = result.threshold.alike if result.threshold else []
    words = [f"{item.first} / {item.second} ({item.similarity:.2f})" for item in found[:shown]]
    return "; ".join([*words, "…"] if len(found) > shown else words)
