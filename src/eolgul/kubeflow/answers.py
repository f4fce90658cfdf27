"""What an answer of a Kubeflow address that is not the one asked for means, as one sentence."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from eolgul.errors import one_line

_LOGIN = "give a token with --token-file, or the cookies of a browser's session with --cookies"
# Words of the pages that dex, oauth2-proxy, Keycloak and Google's proxy answer with.
_LOGIN_PAGE = re.compile(r"log ?in|sign ?in|dex|oauth|openid|password", re.I)
_CERTIFICATE = "give the file of the authority that signed it with --ca (or --insecure, which accepts any certificate)"
_REASON = 300  # characters of a server's reason


def code(status: int | None) -> str:
    """A name for programs: `busy` for what may pass, `missing` for 404, `refused` for the rest."""
    if status is not None and status >= 500:
        return "busy"
    return {404: "missing", 409: "exists", 429: "busy"}.get(status or 0, "refused")


def refusal(host: str, status: int | None, reason: object, headers: Mapping[str, str], body: Any) -> str:
    """The sentence for a status that is not a success."""
    if status in (301, 302, 303, 307, 308):
        return _redirect(host, headers)
    said = _said(body)
    if status in (None, 0):  # the generated client's way of saying that TLS failed
        return _tls(host, str(reason))
    if status == 401:
        return f"{host}: the server knows nobody by these credentials (401{_in_brackets(said)}): {_LOGIN}"
    if status == 403:
        return f"{host}: the server forbids it (403{_in_brackets(said)}); may this user do it in this namespace?"
    if status == 404 and not said:
        return f"{host}: no Kubeflow Pipelines API (v2beta1) is there (404); expected an address such as https://kubeflow.example/pipeline"
    if status in (502, 503, 504) and not said:
        return f"{host}: the gateway answers {status} {one_line(reason)}: the API server behind it does not run"
    return f"{host}: the server refuses it ({status}): {said or one_line(reason)}"


def failure(host: str, error: BaseException, timeout: float) -> str:
    """The sentence for a request that got no answer."""
    import urllib3.exceptions as kinds

    reason: BaseException = error
    while isinstance(reason, kinds.MaxRetryError) and reason.reason is not None:
        reason = reason.reason
    if isinstance(reason, kinds.SSLError) or "certificate" in str(reason).lower():
        return _tls(host, str(reason))
    if isinstance(reason, kinds.NameResolutionError):
        return f"{host}: no computer of this name is known here"
    if isinstance(reason, kinds.TimeoutError) and not isinstance(reason, kinds.NewConnectionError):
        return silence(host, timeout)
    text = re.sub(r"^.*?(?:Failed to establish a new connection|Connection broken)[:\s]*", "", str(reason))
    text = re.sub(r"^\[Errno -?\d+\]\s*|^\('Connection aborted\.', |^\w+\(\d+, '|['\")]+$", "", text)
    return f"{host}: cannot be reached ({one_line(text)})"


def silence(host: str, timeout: float) -> str:
    """The sentence for no answer in time."""
    return f"{host}: no answer within {timeout:g} s (--timeout)"


def page(host: str, data: Any) -> str:
    """The sentence for a web page where an answer of the API was expected."""
    text = data.decode("utf-8", "replace") if isinstance(data, bytes) else str(data)
    if _LOGIN_PAGE.search(text):
        return f"{host}: the address wants a login: {_LOGIN}"
    return f"{host}: a web page answers, not Kubeflow Pipelines' API; expected an address such as https://kubeflow.example/pipeline"


def foreign(host: str, why: str) -> str:
    """The sentence for an answer that is JSON, but not KFP's."""
    return f"{host}: the answer is not one of Kubeflow Pipelines' API v2beta1 ({why})"


def _redirect(host: str, headers: Mapping[str, str]) -> str:
    where = next((value for name, value in headers.items() if name.lower() == "location"), "")
    to = urlsplit(where)
    if to.scheme == "https" and host.startswith("http://") and not _LOGIN_PAGE.search(where):
        return f"{host}: the address has moved to https; give https:// with --host"
    named = f" (it redirects to {one_line(to.netloc + to.path, 80)})" if to.netloc or to.path else ""
    return f"{host}: the address wants a login{named}: {_LOGIN}"


def _tls(host: str, text: str) -> str:
    lowered = text.lower()
    if "self-signed" in lowered or "self signed" in lowered or "unable to get local issuer" in lowered:
        return f"{host}: its certificate is not signed by an authority that this machine knows: {_CERTIFICATE}"
    if "hostname mismatch" in lowered or "doesn't match" in lowered or "not valid for" in lowered:
        return f"{host}: its certificate is for another name: {_CERTIFICATE}"
    if "expired" in lowered:
        return f"{host}: its certificate has expired"
    if "wrong version number" in lowered or "record layer" in lowered:
        return f"{host}: the server does not speak TLS; give http:// with --host"
    found = re.search(r"\[SSL[^\]]*\]\s*([^()]*)", text)
    return f"{host}: no secure connection ({one_line(found[1] if found else text)})"


def _said(body: Any) -> str:
    """The server's own words: grpc-gateway's message, the upload server's error_message, or plain text."""
    text = body.decode("utf-8", "replace") if isinstance(body, bytes) else str(body or "")
    try:
        said = json.loads(text)
    except ValueError:
        return "" if re.search(r"<\w+", text) else one_line(text, _REASON) if text.strip() else ""
    if not isinstance(said, Mapping):
        return one_line(text, _REASON)
    for name in ("message", "error_message", "error_description", "error"):
        if isinstance(said.get(name), str) and said[name].strip():
            return one_line(said[name], _REASON)
    return one_line(text, _REASON) if said else ""


def _in_brackets(said: str) -> str:
    return f": {said}" if said else ""
