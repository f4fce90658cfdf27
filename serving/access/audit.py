"""The audit log: one JSON line per change or export of a gallery and per change of the API keys, without names, embeddings or images."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from pathlib import Path

from eolgul.errors import InputError

logger = logging.getLogger("eolgul.audit")


class Audit:
    """Appends to a file, or to the logger `eolgul.audit` if there is no file."""

    def __init__(self, path: Path | None = None) -> None:
        """Check the file. InputError if it cannot be opened for appending."""
        self._path = path
        try:
            if path is not None:
                with path.open("a", encoding="utf-8"):
                    pass
        except OSError as error:
            raise InputError(f"{path}: the audit log cannot be written: {error.strerror}") from error

    def write(
        self, action: str, *, tenant: str, key_id: str, outcome: str, person: str | None = None, templates: int = 0,
        model: str | None = None, target: str | None = None,
    ) -> None:  # fmt: skip
        """Write one line.

        Args:
            action: `enroll`, `delete`, `delete_template`, `rename`, `metadata`, `export` when an export begins, `export_end` when it
                ends, `key_new`, `key_revoke`.
            tenant: The caller's tenant.
            key_id: The id of the caller's API key.
            outcome: `ok`, or the code of the error.
            person: The person's pseudonym.
            templates: Number of templates that were added, erased or exported.
            model: Digest of the served model.
            target: The new pseudonym of a renamed person, or the id of the API key that was made or revoked.

        Raises:
            OSError: The disk is full, for example; the caller decides whether an action without a record is acceptable.
        """
        record: dict[str, str | int | None] = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "tenant": tenant,
            "key_id": key_id,
            "action": action,
            "person": person,
            "templates": templates,
            "model": model,
            "outcome": outcome,
        }
        if target is not None:
            record["target"] = target
        line = json.dumps(record, ensure_ascii=False)
        if self._path is None:
            logger.info(line)
            return
        with self._path.open("a", encoding="utf-8") as file:  # opened every time, since log rotation may have moved it
            file.write(line + "\n")  # one write in append mode, so lines of several workers do not mix
