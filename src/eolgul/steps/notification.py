"""Report how a run ended to a webhook, as JSON. Whatever goes wrong is a sentence, and the run stays what it is."""

from __future__ import annotations

import hashlib
import hmac
import os
import time
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from eolgul import __version__
from eolgul.artifact import canonical_json
from eolgul.errors import InputError, one_line
from eolgul.kubeflow.patience import LateError, within
from eolgul.steps.outcome import Outcome, read_outcome

LIMIT = 30.0
"""Seconds after which the webhook is given up, in all."""
_ATTEMPTS = 3
_PAUSE = 1.0  # seconds before the second attempt, and twice that before the third
_ENDED = {"COMPLETE": "SUCCEEDED", "CACHED": "SUCCEEDED", "SUCCEEDED": "SUCCEEDED", "FAILED": "FAILED",
          "CANCELED": "CANCELLED", "CANCELLED": "CANCELLED"}  # fmt: skip
_TRANSIENT = (429, 500, 502, 503, 504)


def report(pipeline: str, workspace: str, run: str, state: str, error: str = "", *, limit: float = LIMIT) -> str:
    """Send the outcome of a run to the webhook that EOLGUL_WEBHOOK_URL names.

    The body is signed with EOLGUL_WEBHOOK_KEY, and EOLGUL_WEBHOOK_TOKEN is sent as a bearer token, where they are set.

    Args:
        pipeline: The pipeline's name.
        workspace: Where the run's tasks said how it ended.
        run: The run's id.
        state: The state that KFP gives.
        error: The message that KFP gives; "" without one.
        limit: Seconds for all of it.

    Returns:
        A sentence about what was done. Nothing is raised.
    """
    url = os.environ.get("EOLGUL_WEBHOOK_URL", "").strip()
    if not url:
        return "no notification: EOLGUL_WEBHOOK_URL is not set"
    try:
        return within(limit, lambda: _post(url, canonical_json(message(pipeline, workspace, run, state, error)), limit))
    except LateError:
        return f"the notification was not sent: no answer within {limit:g} s"
    except Exception as failure:
        return f"the notification was not sent: {_said(failure)}"


def message(pipeline: str, workspace: str, run: str, state: str, error: str = "") -> dict[str, Any]:
    """The JSON that is sent.

    Returns:
        `pipeline`, `run_id`, `state` (SUCCEEDED, FAILED, CANCELLED, or UNKNOWN where neither KFP nor a task says), `task` that
        failed and its `error`, `model` (digest), whether it was `promoted` and the `reason`, `time`, `version`. What is not
        known is null.
    """
    try:
        outcome = read_outcome(workspace, run)
    except Exception as failure:  # S3 may be what failed
        outcome = Outcome("", f"the workspace cannot be read: {_said(failure)}", {})
    ended = _ENDED.get(state.upper()) or _guess(outcome)
    failed = ended != "SUCCEEDED"
    return {
        "pipeline": pipeline,
        "run_id": run,
        "state": ended,
        "task": (failed and outcome.task) or None,
        "error": (failed and (outcome.error or one_line(error, 1000) if outcome.error or error else "")) or None,
        "model": outcome.result.get("digest"),
        "promoted": outcome.result.get("promoted"),
        "reason": outcome.result.get("reason"),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": __version__,
    }


def _guess(outcome: Outcome) -> str:
    """The state by what the tasks say: KFP before 2.17 calls a group of tasks running that has ended."""
    return "FAILED" if outcome.task else "SUCCEEDED" if "promoted" in outcome.result else "UNKNOWN"


def _post(url: str, body: bytes, limit: float) -> str:
    """Send the body. Returns a sentence; the address's path may be a secret and is in none."""
    import requests

    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError("EOLGUL_WEBHOOK_URL: expected an address that begins with https:// or http://")
    headers = {"Content-Type": "application/json", "User-Agent": f"eolgul/{__version__}"}
    if token := os.environ.get("EOLGUL_WEBHOOK_TOKEN", "").strip():
        headers["Authorization"] = f"Bearer {token}"
    if key := os.environ.get("EOLGUL_WEBHOOK_KEY", "").strip():
        headers["X-Eolgul-Signature-256"] = f"sha256={hmac.new(key.encode(), body, hashlib.sha256).hexdigest()}"
    said = ""
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(_PAUSE * 2 ** (attempt - 1))
        try:
            # `stream`: what the answer's body holds is of no interest. A redirect would send the token to another server.
            with requests.post(url, data=body, headers=headers, timeout=limit / _ATTEMPTS, allow_redirects=False,
                               stream=True) as answer:  # fmt: skip
                status = answer.status_code
        except requests.RequestException as failure:
            said = f"{parts.hostname}: {_said(failure)}"
            continue
        if status < 300:
            return f"the outcome was sent to {parts.hostname} ({status})"
        if status < 400:
            return f"the notification was not sent: {parts.hostname} redirects ({status}), expected the webhook itself"
        said = f"{parts.hostname} answers {status}"
        if status not in _TRANSIENT:
            break
    return f"the notification was not sent: {said}"


def _said(failure: Exception) -> str:
    """What went wrong, without the address: requests puts all of it into its sentences."""
    return one_line(failure) if isinstance(failure, InputError) else type(failure).__name__
