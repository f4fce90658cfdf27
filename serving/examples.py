"""Examples of the API for its OpenAPI document: one request and one answer per operation, one problem document per code."""

from __future__ import annotations

from typing import Any, Final

from eolgul.serving import problems

_MODEL = "d5f2c1b09a7e4d3f8c6b5a4e3d2c1b0a9f8e7d6c5b4a39281706f5e4d3c2b1a0"
_TEMPLATE = "9f86d081884c7d65"
_WHEN = "2026-11-02T09:30:00.000+00:00"
_KIM, _LEE = "Kim Min-jun", "Lee Seo-yeon"
_QUALITY = {
    "sharpness": 411.6, "brightness": 121.4, "contrast": 48.2, "yaw": 4.1, "inter_eye_distance": 62.3, "roll": -1.2, "detail": 8.7,
    "texture": 0.74, "noise": 1.9, "overexposed": 0.0, "cut": 0.0, "norm": 21.4,
}  # fmt: skip
_DETECTED = {
    "box": [121.5, 50.2, 220.3, 173.5],
    "detection_score": 0.9998,
    "landmarks": [[148.1, 98.4], [193.7, 97.2], [171.0, 122.8], [152.2, 145.9], [190.4, 144.6]],
    "quality": _QUALITY,
    "reasons": [],
}
_FACE = _DETECTED | {"count": 1, "size": [346, 230]}
_SAME = {
    "verdict": "same", "reasons": [], "same_at_threshold": True, "similarity": 0.731, "false_match_rate": 0.0008,
    "false_match_rate_interval": [0.0, 0.0024], "log_likelihood_ratio": 6.1,
}  # fmt: skip
_DIFFERENT = _SAME | {
    "verdict": "different", "same_at_threshold": False, "similarity": 0.056, "false_match_rate": 0.41,
    "false_match_rate_interval": [0.38, 0.44], "log_likelihood_ratio": -5.2,
}  # fmt: skip
_UNDECIDED = {
    "verdict": "undecided", "reasons": [], "same_at_threshold": True, "similarity": 0.731, "false_match_rate": None,
    "false_match_rate_interval": None, "log_likelihood_ratio": None,
}  # fmt: skip
_THRESHOLD = {
    "threshold": 0.572,
    "threshold_interval": [0.507, 0.612],
    "false_match_rate_floor": 0.0008,
    "quality_rule": "on",
}
_ANSWER = {
    "model": _MODEL,
    "synthetic": False,
    "timings_ms": {"decode": 1.9, "detect": 38.2, "embed": 41.5, "total": 88.1},
}
_EMBEDDING = [0.0312, -0.0487, 0.0119]  # shortened: there are `embedding_size` numbers, of length 1 together
_CANDIDATE = _SAME | {"person": _KIM, "template": _TEMPLATE}
_KEY = {
    "id": "3b0c51a2e9f4", "tenant": "acme", "scopes": ["verify", "detect"], "expires": "2027-06-30T00:00:00Z",
    "requests_per_minute": 120, "note": "door 3", "source": "http",
}  # fmt: skip
_PERSON = {
    "person": _KIM,
    "created_at": _WHEN,
    "metadata": {"badge": "0042"},
    "templates": [{"template": _TEMPLATE, "created_at": _WHEN, "model": _MODEL}],
}
_ERASED = {"person": _KIM, "templates": 1, "cache_cleared": True}
_PHOTO = "the bytes of a photo"

REQUESTS: Final[dict[str, dict[str, Any]]] = {
    "verify": {"image1": _PHOTO, "image2": _PHOTO},
    "verify_many": {"image": _PHOTO, "others": [_PHOTO, _PHOTO]},
    "verify_embedding": {
        "embedding1": {
            "embedding": _EMBEDDING,
            "model": _MODEL,
            "face": {"detection_score": 0.9998, "quality": _QUALITY},
        },
        "image": "/9j/4AAQSkZJRgABAQ==",
    },
    "verify_person": {"image": _PHOTO, "person": _KIM},
    "embed": {"image": _PHOTO},
    "embed_many": {"images": [_PHOTO, _PHOTO]},
    "detect": {"image": _PHOTO},
    "enroll": {"person": _KIM, "images": [_PHOTO]},
    "identify": {"image": _PHOTO},
    "update_person": {"person": "Kim Min-jun (Seoul)", "metadata": {"badge": "0042"}},
    "make_api_key": {"scopes": ["verify", "detect"], "expires": "2027-06-30T00:00:00Z", "note": "door 3"},
}
ANSWERS: Final[dict[str, Any]] = {
    "verify": _SAME | _THRESHOLD | _ANSWER | {"faces": [_FACE, _FACE], "cached": [False, True]},
    "verify_many": _THRESHOLD
    | _ANSWER
    | {
        "face": _FACE,
        "results": [
            {"index": 0, "comparison": _DIFFERENT, "face": _FACE},
            {
                "index": 1,
                "problem": problems.document("no_face", "no face was found in the image", field="others"),
            },
        ],
    },
    "verify_embedding": _SAME | _THRESHOLD | _ANSWER | {"face": _FACE, "cached": False, "unknown_quality": []},
    "verify_person": _SAME
    | _THRESHOLD
    | _ANSWER
    | {
        "person": _KIM,
        "template": _TEMPLATE,
        "templates": 2,
        "templates_of_other_models": 0,
        "face": _FACE,
        "cached": False,
    },
    "embed": _ANSWER
    | {
        "embedding": _EMBEDDING,
        "face": _FACE,
        "box": _FACE["box"],
        "detection_score": _FACE["detection_score"],
        "landmarks": _FACE["landmarks"],
        "cached": False,
    },
    "embed_many": _ANSWER
    | {
        "results": [
            {"index": 0, "embedding": _EMBEDDING, "face": _FACE, "cached": False},
            {"index": 1, "problem": problems.document("no_face", "no face was found in the image", field="images")},
        ]
    },
    "detect": _ANSWER | {"faces": [_DETECTED | {"chosen": True, "crop": None}], "size": [346, 230]},
    "enroll": _ANSWER | {"person": _KIM, "templates": [_TEMPLATE], "added": 1, "templates_total": 1, "faces": [_FACE]},
    "identify": _THRESHOLD
    | _ANSWER
    | {"face": _FACE, "candidates": [_CANDIDATE], "people": 1824, "templates_of_other_models": 0},
    "list_people": {
        "people": [
            {"person": _KIM, "templates": 1, "comparable": 1, "created_at": _WHEN, "metadata": {"badge": "0042"}},
            {"person": _LEE, "templates": 2, "comparable": 0, "created_at": _WHEN, "metadata": {}},
        ],
        "next": None,
        "total": 2,
    },
    "get_person": _PERSON,
    "update_person": _PERSON | {"person": "Kim Min-jun (Seoul)"},
    "erase_person": _ERASED,
    "erase_template": _ERASED,
    "export_gallery": (
        f'{{"person":"{_KIM}","template":"{_TEMPLATE}","created_at":"{_WHEN}","model":"{_MODEL}",'
        '"embedding":[0.0312,-0.0487,0.0119],"quality":{"sharpness":411.6},"metadata":{"badge":"0042"}}\n'
    ),
    "list_keys": {"keys": [_KEY]},
    "make_api_key": {
        "key": "eolgul_3b0c51a2e9f4_Zm9yIHRoZSBkb2N1bWVudGF0aW9uIG9ubHk-bm90LWE",
        "entry": _KEY,
        "valid_within_s": 5.0,
    },
    "revoke_api_key": {"revoked": _KEY, "refused_within_s": 5.0},
    "current_model": {
        "digest": _MODEL,
        "backbone": "mobilefacenet",
        "embedding_size": 512,
        "contract": {"size": 112, "detector": {"which": "largest"}},
        "synthetic": False,
        "threshold": 0.572,
        "threshold_interval": [0.507, 0.612],
        "calibration": {"subjects": 400},
        "quality_rule": "on",
        "false_match_rate": 0.001,
        "false_match_rate_interval": [0.0004, 0.0019],
        "training": None,
        "sets": [],
        "card": "/ui/card.html",
        "report": "/ui/report.html",
    },
}
PATHS: Final = {"person": _KIM, "template": _TEMPLATE, "key_id": _KEY["id"]}
# What a problem may say; the words may change, the codes may not.
_SENTENCES: Final = {
    "bad_request": "k: Input should be less than or equal to 100",
    "missing_field": "the request needs an image in the field image2",
    "unauthorized": "a valid API key is needed: send `Authorization: Bearer eolgul_…`",
    "forbidden": "this API key lacks the scope embed",
    "person_not_found": "the gallery has no such person",
    "template_not_found": "the person has no such template",
    "key_not_found": "there is no such API key",
    "not_found": "the served model has no card",
    "method_not_allowed": "The path does not support this method",
    "gallery_full": "a person has at most 20 templates",
    "person_exists": "the gallery has a person of the new name",
    "key_in_file": "the key is in the service's file of keys; revoke it there",
    "keys_full": "a tenant has at most 100 keys that were made over HTTP; revoke some",
    "model_mismatch": "embedding1 was made by another model than the one that answers; embed the photo again",
    "too_large": "image1 has 12582912 bytes, expected at most 10485760",
    "unsupported_format": "content type 'text/plain': expected multipart/form-data or application/json",
    "not_an_image": "the image cannot be decoded",
    "no_face": "no face was found in the image",
    "several_faces": "2 faces found, expected one",
    "too_many_faces": "41 faces found, expected at most 32",
    "bad_embedding": "embedding1 has 128 numbers, expected 512",
    "too_small": "the image has 16x16 pixels; a face needs 20 on each side",
    "low_quality": "photo 1 of 1 is too poor for a verdict (blurred)",
    "rate_limited": "more than 600 requests a minute with this API key; try again in 12 s",
    "client_closed": "the client disconnected",
    "internal": "unexpected error; the server's log has the details",
    "busy": "too many requests are waiting; try again in a moment",
    "gallery_unavailable": "the gallery cannot be reached; try again in a moment",
    "model_not_ready": "no model is loaded yet",
    "timeout": "no answer within 20 s",
}
_FIELDS: Final = {
    "bad_request": "k", "missing_field": "image2", "too_large": "image1", "not_an_image": "image1", "no_face": "image1",
    "several_faces": "image1", "too_many_faces": "image1", "bad_embedding": "embedding1", "model_mismatch": "embedding1",
    "too_small": "image1", "low_quality": "images", "person_exists": "person",
}  # fmt: skip
PROBLEMS: Final = {
    code: problems.document(
        code, sentence, field=_FIELDS.get(code), reasons=["blurred"] if code == "low_quality" else ()
    )
    for code, sentence in _SENTENCES.items()
}
# An answer that has no verdict, beside the one that has.
UNDECIDED: Final = {
    "verify": _UNDECIDED
    | _THRESHOLD
    | _ANSWER
    | {
        "reasons": [{"image": "image2", "reason": "blurred"}],
        "faces": [_FACE, _FACE | {"reasons": ["blurred"]}],
        "cached": [False, False],
    },
    "verify_embedding": _UNDECIDED
    | _THRESHOLD
    | _ANSWER
    | {"face": _FACE, "cached": False, "unknown_quality": ["embedding1"]},
}


def add_to(document: dict[str, Any]) -> None:
    """Put the examples into an OpenAPI document of the API."""
    document["components"]["examples"] = {
        code: {"summary": value["title"], "value": value} for code, value in PROBLEMS.items()
    }
    for operations in document["paths"].values():
        for operation in operations.values():
            name = operation["operationId"]
            for content in operation.get("requestBody", {}).get("content", {}).values():
                content["example"] = REQUESTS[name]
            for parameter in operation.get("parameters", ()):
                if parameter["in"] == "path":
                    parameter["example"] = PATHS[parameter["name"]]
            for content in operation["responses"]["200"]["content"].values():
                if name in UNDECIDED:
                    content["examples"] = {
                        "a verdict": {"value": ANSWERS[name]},
                        "undecided": {"summary": "why there is none is said", "value": UNDECIDED[name]},
                    }
                else:
                    content["example"] = ANSWERS[name]
