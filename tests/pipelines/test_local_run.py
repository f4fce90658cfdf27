"""What a local run says, and what it leaves behind in its process."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from google.protobuf import json_format
from kfp import local
from kfp.local.logging_utils import indented_print
from support.compiled import graphs

from eolgul.pipelines import local_run
from eolgul.pipelines.catalogue import PIPELINES, runnable
from eolgul.pipelines.local_run import own_print


@pytest.mark.parametrize("name", PIPELINES)
def test_every_task_is_of_the_run_that_was_begun(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EOLGUL_WEBHOOK_URL", "https://example.invalid")
    spec = json_format.MessageToDict(runnable(name, "this-one").pipeline_spec)
    constants = [
        item["runtimeValue"]["constant"]
        for graph in graphs(spec)
        for task in graph.values()
        if "runtimeValue" in (item := task.get("inputs", {}).get("parameters", {}).get("run", {}))
    ]
    assert len(constants) >= 3 and set(constants) == {"this-one"}


def test_a_run_says_what_it_made_itself_when_another_began_in_its_workspace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Pipeline:
        component_spec = SimpleNamespace(inputs={"workspace": SimpleNamespace(default="")})

        def __init__(self, run: str) -> None:
            self.run = run

        def __call__(self, workspace: str) -> None:
            for run in (self.run, "of-somebody-else"):
                note = Path(workspace) / "runs" / run / "extract-faces.json"
                note.parent.mkdir(parents=True)
                note.write_text(json.dumps({"reference": f"made by {run}"}))

    def begin(name: str, run: str) -> Any:
        return Pipeline(run)

    monkeypatch.setattr(local_run, "runnable", begin)
    monkeypatch.setattr(local, "init", lambda *_, **__: None)
    said = local_run.run_local({"workspace": str(tmp_path)}, tmp_path / "kfp")
    assert said["run"].startswith("local-") and said["artifacts"] == {"extract-faces": f"made by {said['run']}"}


def test_print_is_as_before_when_tasks_ended_in_another_order_than_they_began() -> None:
    before = builtins.print
    with own_print():
        first, second = indented_print(), indented_print()
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        second.__exit__(None, None, None)
        assert builtins.print is not before  # what KFP leaves; if this fails, `own_print` can go
    assert builtins.print is before
