"""Build the API's answers (`eolgul.client.answers`) from the results of the model."""

from __future__ import annotations

from typing import Any

from eolgul.client.answers import FaceFound, FaceQuality, PhotoReason
from eolgul.serving import metrics
from eolgul.serving.inference.model import Analysis, Face, ServedModel, Verdict


def face_fields(face: Face) -> dict[str, Any]:
    """The fields of a `DetectedFace`."""
    return {
        "box": face.box,
        "detection_score": face.detection_score,
        "landmarks": face.landmarks,
        "quality": FaceQuality(**face.quality),
        "reasons": face.reasons,
    }


def used_face(analysis: Analysis) -> FaceFound:
    """The face that the analysis is of."""
    size = (analysis.width, analysis.height)
    return FaceFound(**face_fields(analysis.face), count=analysis.faces, size=size)


def comparison_fields(verdict: Verdict) -> dict[str, Any]:
    """The fields of a `Comparison`."""
    return {
        "verdict": verdict.word,
        "reasons": tuple(PhotoReason(image=image, reason=reason) for image, reason in verdict.reasons),
        "same_at_threshold": verdict.same_at_threshold,
        "similarity": verdict.similarity,
        "false_match_rate": verdict.false_match_rate,
        "false_match_rate_interval": verdict.false_match_rate_interval,
        "log_likelihood_ratio": verdict.log_likelihood_ratio,
    }


def counted(verdict: Verdict) -> Verdict:
    """The verdict, counted in the metrics."""
    metrics.VERDICTS.labels(verdict.word).inc()
    if verdict.reasons:
        metrics.LOW_QUALITY.labels(verdict.reasons[0][1]).inc()
    metrics.SIMILARITY.observe(verdict.similarity)
    return verdict


def threshold_fields(model: ServedModel) -> dict[str, Any]:
    """The fields of a `Threshold`."""
    calibration = model.calibration
    return {
        "threshold": calibration.threshold,
        "threshold_interval": calibration.threshold_interval,
        "false_match_rate_floor": calibration.fmr_floor,
        "quality_rule": model.quality_rule,
    }
