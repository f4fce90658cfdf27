"""What a change of the API's OpenAPI document breaks for clients that were generated from the earlier one."""

from __future__ import annotations

from typing import Any

Document = dict[str, Any]


def breaking_changes(old: Document, new: Document) -> list[str]:
    """One sentence per change that breaks a client: what is gone, what a request must have now, what an answer no longer says."""
    found: list[str] = []
    for path, operations in old["paths"].items():
        for method, before in operations.items():
            where = f"{method.upper()} {path}"
            after = new["paths"].get(path, {}).get(method)
            if after is None:
                found.append(f"{where} is gone")
                continue
            if before["operationId"] != after["operationId"]:
                found.append(f"{where}: the operation {before['operationId']} is called {after['operationId']} now")
            known = {item["name"]: item for item in before.get("parameters", [])}
            there = {item["name"]: item for item in after.get("parameters", [])}
            found += [f"{where}: the parameter {name} is gone" for name in known.keys() - there.keys()]
            found += [
                f"{where}: the parameter {name} must be given now"
                for name, item in there.items()
                if item.get("required") and not known.get(name, {}).get("required")
            ]
            for name in known.keys() & there.keys():
                found += _narrower(
                    f"{where}: the parameter {name}", known[name]["schema"], there[name]["schema"], old, new, True
                )
            bodies = [item.get("requestBody", {}).get("content", {}) for item in (before, after)]
            for kind, body in bodies[0].items():
                if kind not in bodies[1]:
                    found.append(f"{where}: no body as {kind} any more")
                else:
                    found += _narrower(f"{where}: the body", body["schema"], bodies[1][kind]["schema"], old, new, True)
            answers = [item["responses"]["200"].get("content", {}) for item in (before, after)]
            for kind, answer in answers[0].items():
                if kind not in answers[1]:
                    found.append(f"{where}: no answer as {kind} any more")
                else:
                    found += _narrower(
                        f"{where}: the answer", answer["schema"], answers[1][kind]["schema"], old, new, False
                    )
    return found


def _narrower(where: str, before: Document, after: Document, old: Document, new: Document, request: bool) -> list[str]:
    """Changes of a schema: of a request's that forbid what was allowed, of an answer's that say what could not come."""
    before, after = _resolved(before, old), _resolved(after, new)
    kinds, now = _kinds(before), _kinds(after)
    lost = kinds - now if request else now - kinds
    if kinds and now and lost:
        return [f"{where} may {'no longer' if request else 'now'} be {', '.join(sorted(lost))}"]
    found = []
    words, left = set(before.get("enum", [])), set(after.get("enum", []))
    if words and request and words - left:
        found.append(f"{where} no longer takes {', '.join(sorted(words - left))}")
    fields, there = before.get("properties", {}), after.get("properties", {})
    found += [f"{where}: {name} is gone" for name in sorted(fields.keys() - there.keys())]
    needed, now_needed = set(before.get("required", [])), set(after.get("required", []))
    if request:
        found += [f"{where}: {name} must be given now" for name in sorted(now_needed - needed)]
    else:
        found += [f"{where}: {name} may be absent now" for name in sorted((needed - now_needed) & there.keys())]
    for name in sorted(fields.keys() & there.keys()):
        found += _narrower(f"{where}: {name}", fields[name], there[name], old, new, request)
    if "items" in before and "items" in after:
        found += _narrower(f"{where}: an item", before["items"], after["items"], old, new, request)
    return found


def _resolved(schema: Document, document: Document) -> Document:
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema


def _kinds(schema: Document) -> set[str]:
    if "anyOf" in schema:
        return {str(item.get("type", item.get("$ref", "any"))) for item in schema["anyOf"]}
    return {str(schema["type"])} if "type" in schema else set()
