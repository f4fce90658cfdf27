"""k8s/deploy.sh: refusals, the question and the calls, with a kubectl that only records its arguments."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml


def validate(document):
    """Raises where Kubernetes' schema refuses a document."""
    kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    kubernetes_validate.validate(document, "1.31.0", strict=True)


FAKE = """#!/bin/sh
printf "%s\\n" "$*" >>"{log}"
case "$*" in
  "config current-context") echo my-cluster ;;
  *"rollout status deployment/serving"*) exit {serving} ;;
  *"exec deployment/serving"*) echo '{readyz}' ;;
  *"apply -f -") cat >"{log}.applied" ;;
esac
"""


@pytest.fixture
def checkout(tmp_path, root):
    """A copy of k8s/ without anybody's secrets."""
    shutil.copytree(
        root / "k8s", tmp_path / "k8s", ignore=shutil.ignore_patterns("secrets.env", "api-keys.json", "encryption-keys")
    )
    return tmp_path


@pytest.fixture
def deploy(checkout, environment, tmp_path):
    log = tmp_path / "kubectl.log"

    def run(*arguments: str, serving: int = 0, readyz: str = "", **more: str):
        fake = tmp_path / "bin" / "kubectl"
        fake.parent.mkdir(exist_ok=True)
        fake.write_text(FAKE.format(log=log, serving=serving, readyz=readyz))
        fake.chmod(0o755)
        done = subprocess.run(
            [checkout / "k8s" / "deploy.sh", *arguments],
            env=environment(PATH=f"{fake.parent}:/usr/bin:/bin", **more),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        told = log.read_text().splitlines() if log.exists() else []
        return done, told

    return run


@pytest.fixture
def secrets(checkout):
    """Write secrets.env of an overlay: the example's keys with good values, some replaced."""

    def write(folder: str = "overlays/local", **replaced: str) -> None:
        example = checkout / "k8s" / folder / "secrets.env.example"
        keys = [line.partition("=")[0] for line in example.read_text().splitlines() if line and line[0] != "#"]
        lines = [f"{key}={replaced.get(key, f'good-value-{index}')}" for index, key in enumerate(keys)]
        example.with_name("secrets.env").write_text("\n".join(lines) + "\n")
        for name in ("api-keys.json", "encryption-keys"):
            example.with_name(name).write_text("made\n")

    return write


def changed(told: list[str]) -> list[str]:
    return [line for line in told if "apply" in line or "delete" in line]


@pytest.mark.parametrize("overlay", ["local", "production", "kubeflow"])
def test_without_secrets_it_says_so(deploy, overlay):
    done, told = deploy(overlay, YES="1")
    assert done.returncode == 2 and not changed(told)
    assert len(done.stderr.splitlines()) == 1
    assert f"{overlay}/secrets.env is missing" in done.stderr and "secrets.env.example" in done.stderr


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("change-me", "still has the example's value"),
        ("", "no value"),
        ('"quoted"', "no quotes"),
        ("a@b/c:defg", "digits"),
        ("short", "8"),
    ],
)
def test_bad_secrets_are_refused(deploy, secrets, value, sentence):
    secrets(REDIS_PASSWORD=value)
    done, told = deploy(YES="1")
    assert done.returncode == 2 and not changed(told)
    assert len(done.stderr.splitlines()) == 1 and "REDIS_PASSWORD" in done.stderr and sentence in done.stderr
    if value.startswith(('"', "a@")):
        assert value not in done.stderr, "a secret was printed"


def test_nobody_to_ask_changes_nothing(deploy, secrets):
    secrets()
    done, told = deploy()
    assert done.returncode == 2 and not changed(told) and "YES=1" in done.stderr
    assert "my-cluster" in done.stdout


def test_deploys_in_order(deploy, secrets, checkout):
    secrets("overlays/production")
    done, told = deploy("production", YES="1")
    assert done.returncode == 0, done.stderr
    assert "my-cluster" in done.stdout and "port-forward service/serving 3000:3000" in done.stdout
    assert changed(told) == [
        "-n eolgul delete job minio-setup --ignore-not-found",
        f"apply -k {checkout}/k8s/overlays/production",
    ]
    waited = [line for line in told if "rollout" in line or " wait " in line]
    assert [word for line in waited for word in line.split() if "/" in word] == [
        "statefulset/minio",
        "deployment/redis",
        "statefulset/gallery",
        "job/minio-setup",
        "deployment/serving",
    ]
    assert told.index(changed(told)[1]) < told.index(waited[0])


def test_no_model_yet_is_no_failure(deploy, secrets):
    secrets()
    done, _ = deploy(YES="1", serving=1, readyz="s3://eolgul: no model has been promoted yet; run `eolgul promote`")
    assert done.returncode == 0, done.stderr
    assert "has no model yet" in done.stdout


def test_the_words_it_waits_for_are_the_services(root):
    words = "no model has been promoted"
    assert (
        words in (root / "serving" / "inference" / "loader.py").read_text()
        and words in (root / "k8s" / "deploy.sh").read_text()
    )


def test_a_service_that_does_not_come_up_is_a_failure(deploy, secrets):
    secrets()
    done, _ = deploy(YES="1", serving=1, readyz="AccessDenied", TIMEOUT="1")
    assert done.returncode == 1 and "AccessDenied" in done.stderr


def test_kubeflow_goes_where_runs_happen(deploy, secrets, checkout):
    secrets("kubeflow")
    done, told = deploy("kubeflow", YES="1", KUBEFLOW_NAMESPACE="anna")
    assert done.returncode == 0, done.stderr
    assert changed(told) == [f"apply -n anna -k {checkout}/k8s/kubeflow"]


@pytest.mark.parametrize(
    ("namespace", "given", "account"),
    [
        ("anna", {}, "default-editor"),
        ("kubeflow", {}, "pipeline-runner"),
        ("anna", {"KUBEFLOW_SERVICE_ACCOUNT": "me"}, "me"),
    ],
)
def test_the_rights_to_train_on_several_machines(deploy, secrets, tmp_path, namespace, given, account):
    secrets("kubeflow")
    done, told = deploy("kubeflow", YES="1", KUBEFLOW_NAMESPACE=namespace, KUBEFLOW_TRAINJOBS="1", **given)
    assert done.returncode == 0, done.stderr
    assert told[-1] == "apply -f -"
    documents = list(yaml.safe_load_all((tmp_path / "kubectl.log.applied").read_text()))
    assert [one["kind"] for one in documents] == ["Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"]
    for document in documents:
        validate(document)
    for binding in documents[1::2]:
        assert binding["subjects"] == [{"kind": "ServiceAccount", "name": account, "namespace": namespace}]
    rights = {
        (group, resource): set(rule["verbs"])
        for document in documents[::2]
        for rule in document["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    # What `eolgul.kubeflow.trainjob` asks of Kubernetes, as the fake API of its tests sees it, and no more.
    assert rights[("trainer.kubeflow.org", "trainjobs")] == {"create", "get", "list", "watch", "delete"}
    assert rights[("trainer.kubeflow.org", "clustertrainingruntimes")] == {"get", "list"}
    assert rights[("", "pods/log")] == {"get"} and "create" not in rights[("", "pods")]
    assert not any("*" in verbs for verbs in rights.values())


def test_a_name_that_would_break_the_rights(deploy, secrets):
    secrets("kubeflow")
    done, told = deploy("kubeflow", YES="1", KUBEFLOW_TRAINJOBS="1", KUBEFLOW_SERVICE_ACCOUNT="a/b")
    assert done.returncode == 2 and "may contain only" in done.stderr and "apply -f -" not in told


def test_render_applies_nothing_and_leaves_nothing(deploy, checkout):
    before = set(checkout.glob("k8s/**/*"))
    done, told = deploy("--render", "local")
    assert done.returncode == 0, done.stderr
    [line] = told
    assert line.startswith("kustomize ")
    assert set(checkout.glob("k8s/**/*")) == before
    assert not Path(line.split()[1]).exists()


@pytest.mark.parametrize("arguments", [["nowhere"], ["../base"], ["local", "production"]])
def test_bad_arguments_are_refused(deploy, arguments):
    done, told = deploy(*arguments, YES="1")
    assert done.returncode == 2 and not told and len(done.stderr.splitlines()) == 1


def test_without_kubectl_it_says_so(checkout, environment, tmp_path):
    tools = tmp_path / "tools"  # a PATH with all that the script calls before it, and no kubectl
    tools.mkdir()
    for tool in ("bash", "dirname"):
        (tools / tool).symlink_to(str(shutil.which(tool)))
    done = subprocess.run(
        [checkout / "k8s" / "deploy.sh"], env=environment(PATH=str(tools)), capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and "kubectl is missing" in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", ["api-keys.json", "encryption-keys"])
def test_without_keys_for_the_service_it_says_so(deploy, secrets, checkout, name):
    secrets()
    (checkout / "k8s" / "overlays" / "local" / name).unlink()
    done, told = deploy(YES="1")
    assert done.returncode == 2 and not changed(told)
    assert len(done.stderr.splitlines()) == 1 and f"{name} is missing" in done.stderr
