"""The commands as a person types them: one JSON line on stdout and nothing else, the exit code, the sentence on stderr."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable
from typing import Any

import pytest
from support.kubeflow import Kubeflow

from eolgul.cli.main import main
from eolgul.kubeflow import runs, versions
from eolgul.pipelines import catalogue, compiled, images

Run = Callable[..., tuple[int, Any, str]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The pipeline, compiled once: that takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EOLGUL_IMAGE_PREFIX", "registry.example/eolgul")
        return compiled.compiled()


@pytest.fixture
def run(
    whole: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], server: Kubeflow
) -> Run:
    """Run a command as the console script does, in this process: exit code, the JSON of stdout's one line, stderr."""
    monkeypatch.setenv("EOLGUL_IMAGE_PREFIX", "registry.example/eolgul")
    real = compiled.compiled

    def once(pipeline: str = catalogue.DEFAULT) -> list[dict[str, Any]]:
        images.resolve_images()
        return copy.deepcopy(whole) if pipeline == catalogue.DEFAULT else real(pipeline)

    monkeypatch.setattr(compiled, "compiled", once)
    monkeypatch.setattr(versions, "revision", lambda: "abc123")
    monkeypatch.setattr(runs, "EVERY", 0.01)
    monkeypatch.setattr("signal.signal", lambda *_: None)

    def call(*words: str, host: bool = True) -> tuple[int, Any, str]:
        argv = ["eolgul", "pipeline", *words, *(["--host", server.address, "--timeout", "5"] if host else [])]
        monkeypatch.setattr(sys, "argv", argv)
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capfd.readouterr()
        assert out.count("\n") <= 1, out
        return int(ended.value.code or 0), json.loads(out) if out else None, err

    return call


FIRST = ("--param", "workspace=s3://eolgul/runs/first")


def test_submit_says_one_line_and_sends_the_pipeline(run: Run, server: Kubeflow) -> None:
    status, said, err = run("submit", *FIRST, "--param", "align_parts=3", "--run-name", "one")
    assert (status, err) == (0, "")
    assert said["run_id"] == "r-1" and said["kfp"] == "2.15.0" and said["name"] == "one"
    sent = server.runs["r-1"]
    assert sent["runtime_config"]["parameters"] == {"workspace": "s3://eolgul/runs/first", "align_parts": 3}
    executors = sent["pipeline_spec"]["pipeline_spec"]["deploymentSpec"]["executors"]
    assert executors["exec-train"]["container"]["image"].startswith("registry.example/eolgul/train:")


@pytest.mark.parametrize(
    ("mode", "says"),
    [("dex", "wants a login"), ("run:401", "401"), ("run:400", "unknown template"), ("502", "gateway")],
)
def test_a_refused_submit_exits_with_2_and_one_sentence(run: Run, server: Kubeflow, mode: str, says: str) -> None:
    server.mode = mode
    status, said, err = run("submit", *FIRST)
    assert (status, said) == (2, None)
    assert err.startswith(f"eolgul: {server.address}: ") and err.count("\n") == 1 and says in err


def test_submit_asks_for_a_recent_kfp_unless_told_not_to(run: Run, server: Kubeflow) -> None:
    server.version = "2.5.0"
    status, _, err = run("submit", *FIRST)
    assert status == 2 and "the pipeline needs KFP 2.14, which Kubeflow 1.11 has" in err and not server.runs
    assert run("submit", *FIRST, "--any-version")[0] == 0
    server.version = "unknown"
    status, said, err = run("submit", *FIRST)
    assert (status, said["kfp"]) == (0, None) and "does not say which KFP it is" in err


def test_submit_and_wait_follow_a_run(run: Run, server: Kubeflow) -> None:
    status, said, err = run("submit", *FIRST, "--wait")
    assert (status, said["state"], said["run_id"]) == (0, "SUCCEEDED", "r-1")
    assert "extract: running\n" in err
    server.states = ["RUNNING", "FAILED"]
    for words in (("submit", *FIRST, "--wait"), ("wait", "r-1")):
        status, said, err = run(*words)
        assert status == 1 and said["state"] == "FAILED"
        assert err.splitlines()[-1] == "eolgul: extract: s3://nope/raw/orl: NoSuchBucket, the bucket does not exist"


def test_upload_and_a_run_of_the_version(run: Run, server: Kubeflow) -> None:
    status, said, _ = run("upload")
    assert (status, said["version"], said["pipeline"], said["uploaded"]) == (0, "abc123", "face-recognition", True)
    assert run("upload")[1]["uploaded"] is False
    said = run("submit", *FIRST, "--upload", "--version-name", "other")[1]
    assert said["version"] == "other"
    assert server.runs["r-1"]["pipeline_version_reference"]["pipeline_version_id"] == said["pipeline_version_id"]
    assert run("upload", "--pipeline-name", "mine", "--version-name", "v")[1]["pipeline"] == "mine"


def test_schedule(run: Run, server: Kubeflow) -> None:
    status, said, _ = run("schedule", *FIRST, "--cron", "0 3 * * 1")
    assert (status, said["recurring_run_id"], said["name"]) == (0, "s-1", "face-recognition")
    status, _, err = run("schedule", *FIRST, "--every", "7d")
    assert status == 2 and "--replace" in err
    assert run("schedule", *FIRST, "--every", "7d", "--replace")[1]["replaced"] == ["s-1"]
    assert run("schedule", *FIRST)[2] == "eolgul: expected --cron or --every: when a run begins\n"


@pytest.mark.parametrize("words", [("submit", *FIRST), ("upload",), ("schedule", *FIRST, "--every", "1d")])
def test_a_dry_run_asks_the_server_nothing(run: Run, server: Kubeflow, words: tuple[str, ...]) -> None:
    status, said, _ = run(*words, "--dry-run", "--namespace", "mine")
    assert status == 0 and said["dry_run"] and said["namespace"] == "mine" and not server.seen
    assert all(image.startswith("registry.example/eolgul/") for image in said["images"])
    if words[0] != "upload":
        assert said["parameters"] == {"workspace": "s3://eolgul/runs/first"}


@pytest.mark.parametrize("command", [("submit", *FIRST), ("upload",), ("schedule", *FIRST, "--every", "1d")])
def test_without_a_registry_nothing_is_sent(
    run: Run, server: Kubeflow, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.delenv("EOLGUL_IMAGE_PREFIX")
    status, _, err = run(*command)
    assert status == 2 and "EOLGUL_IMAGE_PREFIX is not set" in err and not server.seen


def test_experiment_and_credentials_of_the_environment(
    run: Run, server: Kubeflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.token = "secret-token"
    monkeypatch.setenv("KFP_HOST", server.address)
    monkeypatch.setenv("KFP_TOKEN", "secret-token")
    monkeypatch.setenv("KF_PIPELINES_DEFAULT_EXPERIMENT_NAME", "theirs")
    run("submit", *FIRST, host=False)
    assert server.experiments["e-1"]["display_name"] == "theirs"
    monkeypatch.setenv("KF_PIPELINES_OVERRIDE_EXPERIMENT_NAME", "forced")
    run("submit", *FIRST, "--experiment", "mine")
    assert server.experiments["e-2"]["display_name"] == "forced"


def test_several_users(run: Run, server: Kubeflow) -> None:
    server.multi_user = True
    status, _, err = run("submit", *FIRST)
    assert status == 2 and "--namespace" in err
    assert run("submit", *FIRST, "--namespace", "mine")[1]["namespace"] == "mine"
    assert run("upload", "--namespace", "mine")[0] == 0
    assert server.pipelines["p-1"]["namespace"] == "mine"


def test_every_command_takes_the_pipelines_name(run: Run, server: Kubeflow) -> None:
    which = ("--pipeline", "roll-back", "--param", "reason=the new one is slow")
    assert run("submit", *which)[0] == 0
    sent = server.runs["r-1"]
    assert sent["runtime_config"]["parameters"] == {"reason": "the new one is slow"}
    assert sent["pipeline_spec"]["pipeline_spec"]["pipelineInfo"]["name"] == "roll-back"
    assert sent["display_name"].startswith("roll-back ")
    assert run("upload", "--pipeline", "roll-back")[1]["pipeline"] == "roll-back"
    assert run("schedule", *which, "--every", "7d")[1]["name"] == "roll-back"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("submit", "--pipeline", "promote"), "pipeline promote: expected --param model=…"),
        (("schedule", "--pipeline", "retrain", "--every", "7d"), "pipeline retrain: expected --param dataset=…"),
        (("submit", "--pipeline", "roll-back", *FIRST, "--param", "align_parts=3"), "parameter 'align_parts=3'"),
        (("upload", "--pipeline", "rollback"), "pipeline 'rollback': expected one of face-recognition, "),
    ],
)
def test_parameters_are_checked_before_anything_is_sent(
    run: Run, server: Kubeflow, words: tuple[str, ...], says: str
) -> None:
    status, said, err = run(*words)
    assert (status, said) == (2, None) and err.startswith(f"eolgul: {says}") and not server.seen
