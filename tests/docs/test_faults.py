"""The table of the pipeline's faults names tests that there are."""

from __future__ import annotations

import re

from support.places import ROOT, TESTS


def test_every_test_of_the_table_is_there() -> None:
    text = (ROOT / "docs" / "kubeflow-faults.md").read_text(encoding="utf-8")
    seen, last = 0, ""
    for file, name in re.findall(r"`([\w/…]+(?:\.py)?)(?:::(\w+))?`", text):
        if not (file.endswith(".py") or name):
            continue
        last = last if file == "…" else file
        assert (TESTS / last).is_file(), last
        assert not name or f"def {name}(" in (TESTS / last).read_text(encoding="utf-8"), f"{last}::{name}"
        seen += 1
    assert seen > 50
