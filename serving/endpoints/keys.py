"""The endpoints by which a tenant's admin makes, lists and revokes API keys of that tenant."""

from __future__ import annotations

from datetime import UTC, datetime

from fastapi import APIRouter, Request
from starlette.responses import Response

from eolgul.client.gallery_answers import KeyMade, KeyRevoked, KeysAnswer, KeyShown, NewKey
from eolgul.serving.access.keys import ADMIN, ApiKey, make_key
from eolgul.serving.access.stored_keys import WITHIN_S, StoredKeys
from eolgul.serving.endpoints.audited import audited
from eolgul.serving.endpoints.body import read_object
from eolgul.serving.endpoints.call import Call, admitted_call, json_response, openapi_answers
from eolgul.serving.openapi import json_body
from eolgul.serving.problems import RejectionError

router = APIRouter(prefix="/v1/keys", tags=["keys"])


@router.get("", responses=openapi_answers(KeysAnswer, "gallery_unavailable", images=False))
async def list_keys(request: Request) -> Response:
    """List the API keys of the caller's tenant: those of the service's file and those made over HTTP, without secrets."""
    async with admitted_call(request, ADMIN) as call:
        stored = await _stored(call).read()
        in_file = call.state.keys.in_file
        shown = [_shown(key, True) for key in in_file.values()]
        shown += [_shown(key, False) for key in stored.values() if key.id not in in_file]
        own = sorted((key for key in shown if key.tenant == call.caller.tenant), key=lambda key: key.id)
        return json_response(KeysAnswer(keys=tuple(own)))


@router.post(
    "",
    responses=openapi_answers(
        KeyMade, "keys_full", "gallery_unavailable", "too_large", "unsupported_format", images=False
    ),
    openapi_extra=json_body(NewKey, "what the new key may do, as JSON"),
)
async def make_api_key(request: Request) -> Response:
    """Make an API key of the caller's tenant. The answer is the only place where it is shown; the service keeps its hash.

    Its rate limit is at most that of the caller's key.
    """
    async with admitted_call(request, ADMIN) as call:
        stored = _stored(call)
        wanted = await read_object(request, call.memory, NewKey)
        if wanted.expires is not None and wanted.expires <= datetime.now(UTC):
            raise RejectionError("expires lies in the past", "bad_request", "expires")
        text, key = make_key(
            tenant=call.caller.tenant,
            scopes=wanted.scopes,
            expires=wanted.expires,
            requests_per_minute=_limit(call, wanted.requests_per_minute),
            note=wanted.note,
        )
        with audited(call, "key_new") as entry:
            entry.target = key.id
            await stored.add(key)
        call.state.keys.stored = {**(call.state.keys.stored or {}), key.id: key}
        return json_response(KeyMade(key=text, entry=_shown(key, False), valid_within_s=WITHIN_S))


@router.delete(
    "/{key_id}",
    responses=openapi_answers(KeyRevoked, "key_not_found", "key_in_file", "gallery_unavailable", images=False),
)
async def revoke_api_key(request: Request, key_id: str) -> Response:
    """Revoke an API key that was made over HTTP. Keys of the service's file are revoked there."""
    async with admitted_call(request, ADMIN) as call:
        with audited(call, "key_revoke") as entry:
            held = call.state.keys.in_file.get(key_id)
            if held is not None and held.tenant == call.caller.tenant:
                entry.target = key_id
                raise RejectionError("the key is in the service's file of keys; revoke it there", "key_in_file")
            key = await _stored(call).remove(call.caller.tenant, key_id)
            entry.target = key.id
        call.state.keys.stored = {
            other: entry for other, entry in (call.state.keys.stored or {}).items() if other != key_id
        }
        return json_response(KeyRevoked(revoked=_shown(key, False), refused_within_s=WITHIN_S))


def _limit(call: Call, wanted: int | None) -> int | None:
    """The rate limit of a new key. RejectionError if it is above that of the caller's key, which many keys would evade."""
    own = call.caller.requests_per_minute
    most = call.state.settings.requests_per_minute if own is None else own
    if wanted is not None and most and wanted > most:
        raise RejectionError(
            f"expected at most {most} requests a minute, as the key that asks", "bad_request", "requests_per_minute"
        )
    return own if wanted is None else wanted


def _stored(call: Call) -> StoredKeys:
    if call.state.stored_keys is None:
        raise RejectionError(
            "this service has no gallery (EOLGUL_GALLERY_URL is not set), which keeps the keys that are made over HTTP",
            "gallery_unavailable",
        )
    return call.state.stored_keys


def _shown(key: ApiKey, in_file: bool) -> KeyShown:
    return KeyShown(**key.model_dump(exclude={"sha256"}), source="file" if in_file else "http")
