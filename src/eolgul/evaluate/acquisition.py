"""Failures to acquire: images that were presented and gave no usable face (ISO/IEC 19795-1)."""

from __future__ import annotations

from collections import Counter
from typing import Any

from eolgul.dataset import FaceDataset
from eolgul.errors import InputError, Reason
from eolgul.evaluation.schema import Acquisition, AllPairs, AtThreshold, Generalized


def acquisition(dataset: FaceDataset, people: set[str] | None = None) -> Acquisition:
    """Count the failures among a dataset's images, or among those of its test `people` (names).

    Only the reasons that `Reason.is_acquisition_failure` names count: a duplicate, or an image whose description is at
    fault, says nothing about faces.

    Raises:
        InputError: `rejected.parquet` contains a reason that this version does not know.
    """
    rows: list[dict[str, Any]] = dataset.rejected()
    if people is not None:
        rows = [row for row in rows if row["identity"] in people]
    reasons: Counter[str] = Counter()
    for row in rows:
        try:
            reason = Reason(row["reason"])
        except ValueError as error:
            raise InputError(
                f"{dataset.path / 'rejected.parquet'}: reason {row['reason']!r}, expected one of {', '.join(Reason)}"
            ) from error
        if reason.is_acquisition_failure:
            reasons[str(reason)] += 1
    images = len(dataset) if people is None else len(dataset.rows("test"))
    failed = sum(reasons.values())
    return Acquisition(
        images=images,
        failed=failed,
        rate=failed / (failed + images) if images else None,
        by_reason=dict(sorted(reasons.items())),
        pairs_lost=dataset.artifact.contents.get("pairs_lost") if people is None else None,
    )


def generalized(rates: AllPairs | AtThreshold | None, acquired: Acquisition, pairs: int) -> Generalized | None:
    """Compute the generalized error rates of ISO/IEC 19795-1: a comparison that cannot be made is refused.

    GFRR = a + (1 - a) FNMR and GFAR = (1 - a) FMR, with the share a of comparisons that were not made: counted in pairs
    where a benchmark counts them (`pairs` were made), else 1 - (1 - f)^2 with the share f of images that gave no face:
    both images of a comparison must give one, and failures are taken as independent. None where the rates or the share
    are unknown.
    """
    if rates is None or acquired.rate is None:
        return None
    lost = acquired.pairs_lost
    missing = 1 - (1 - acquired.rate) ** 2 if lost is None else lost / (lost + pairs)
    return Generalized(
        basis="images" if lost is None else "pairs",
        not_compared=missing,
        gfrr=None if rates.fnmr is None else missing + (1 - missing) * rates.fnmr,
        gfar=None if rates.fmr is None else (1 - missing) * rates.fmr,
    )
