"""Write what an endpoint does to the audit log, and count it in the metrics."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from eolgul.errors import InputError
from eolgul.serving import metrics
from eolgul.serving.endpoints.call import Call


@dataclass(slots=True)
class AuditEntry:
    """The person's pseudonym, the number of templates, and what else was changed (`Audit.write`), for the audit log."""

    person: str | None = None
    templates: int = 0
    target: str | None = None


@contextmanager
def audited(call: Call, action: str) -> Iterator[AuditEntry]:
    """Write the block's action and outcome, refusals included, to the audit log; the block fills the entry."""
    entry = AuditEntry()
    outcome = "error"
    try:
        yield entry
        outcome = "ok"
    except InputError as error:
        outcome = error.code
        raise
    finally:
        write(call, action, outcome, entry)


def write(call: Call, action: str, outcome: str, entry: AuditEntry) -> None:
    """Write one line to the audit log, and count the action in the metrics."""
    metrics.GALLERY.labels(action, outcome).inc()
    call.state.audit.write(
        action,
        tenant=call.caller.tenant,
        key_id=call.caller.key_id,
        model=call.model.digest,
        outcome=outcome,
        person=entry.person,
        templates=entry.templates,
        target=entry.target,
    )
