"""Who changed or took what from a gallery: a line of JSON an action. No name of a person, no embedding, no picture."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from pathlib import Path

from eolgul.errors import InputError

logger = logging.getLogger("eolgul.audit")


class Audit:
    """Appends to a file, or to the log `eolgul.audit` where there is none."""

    def __init__(self, path: Path | None = None) -> None:
        """InputError when the file cannot be opened for appending."""
        self._path = path
        try:
            if path is not None:
                with path.open("a", encoding="utf-8"):
                    pass
        except OSError as error:
            raise InputError(f"{path}: the audit log cannot be written: {error.strerror}") from error

    def write(
        self, action: str, *, tenant: str, key_id: str, outcome: str, person: str | None = None, templates: int = 0,
        model: str | None = None,
    ) -> None:  # fmt: skip
        """One action (`enroll`, `delete`, `delete_template`; `export` as it begins, `export_end` with how many templates
        left), `person` by pseudonym only. OSError when the disk is full: the
        caller decides whether an action without a trace may stand."""
        record = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "tenant": tenant,
            "key_id": key_id,
            "action": action,
            "person": person,
            "templates": templates,
            "model": model,
            "outcome": outcome,
        }
        line = json.dumps(record, ensure_ascii=False)
        if self._path is None:
            logger.info(line)
            return
        with self._path.open("a", encoding="utf-8") as file:  # opened each time: log rotation may have moved it
            file.write(line + "\n")  # one write in append mode: lines of several workers do not mix
