"""Published accuracies of other models on the field's seven benchmarks, for comparison with the measured ones."""

from __future__ import annotations

from collections.abc import Sequence

from eolgul.evaluation.schema import Published, PublishedRow

# The seven sets and their numbers of pairs; the report says so where fewer were measured.
PAIRS = {
    "lfw": 6000,
    "cfp_ff": 7000,
    "cfp_fp": 7000,
    "agedb_30": 6000,
    "calfw": 6000,
    "cplfw": 6000,
    "vgg2_fp": 5000,
}
SETS = tuple(PAIRS)
# Accuracy in per cent by the reference protocol, in the order of SETS, as each project's own page states it.
_ROWS: tuple[tuple[str, tuple[float | None, ...]], ...] = (
    ("InsightFace_Pytorch IR-SE50, MS1M", (99.52, 99.62, 95.04, 96.22, 95.57, 91.07, 93.86)),
    ("InsightFace_Pytorch MobileFaceNet, MS1M", (99.18, 98.91, 89.86, 93.47, 94.02, 86.60, 91.00)),
    ("arcface_torch r50, MS1MV2 (flip)", (99.78, None, 97.94, 98.25, None, None, None)),
    ("arcface_torch MobileFaceNet, MS1MV2 (flip)", (99.72, None, 95.59, 97.05, None, None, None)),
    ("face.evoLVe IR-50, MS1M", (99.78, 99.69, 98.14, 97.53, 95.87, 92.45, 95.22)),
)


def published(names: Sequence[str]) -> Published | None:
    """Return the published results on those of the named sets that are known; None when no set is known."""
    known = [name for name in SETS if name in names]
    if not known:
        return None
    rows = []
    for model, values in _ROWS:
        by_set = dict(zip(SETS, values, strict=True))
        shares = {name: None if (value := by_set[name]) is None else round(value / 100, 6) for name in known}
        rows.append(PublishedRow(model=model, accuracy=shares))
    return Published(pairs={name: PAIRS[name] for name in known}, rows=rows)
