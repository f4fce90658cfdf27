"""A TrainJob: what is asked of the cluster, how it is followed, and that none is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from support.kubernetes_api import NAMESPACE, TASK_POD, Cluster, cluster, wait_for
from support.places import TESTS

from eolgul.errors import InputError
from eolgul.kubeflow import trainjob
from eolgul.kubeflow.trainjob import Nodes, Patience, Trainer, manifest

pytest.importorskip("kubeflow.trainer", reason="the kubeflow SDK is not installed (pip install 'eolgul[pipeline]')")

from kubeflow_trainer_api import models

JOB = Nodes(("train", "--recipe", "demo", "--", "s3://b/data", "s3://b/model"), nodes=2, processes=4, gpus=4,
            runtime="torch-distributed")  # fmt: skip


@pytest.fixture
def kubernetes() -> Iterator[Cluster]:
    with cluster() as state:
        yield state


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def trainer(kubernetes: Cluster, lines: list[str], monkeypatch: pytest.MonkeyPatch) -> Trainer:
    monkeypatch.setenv("KFP_POD_NAME", "train-pod-1")
    patience = Patience(every=0.01, away=0.2, start=3600, told=3600)
    return Trainer(client(kubernetes.address), lines.append, patience)


def client(address: str) -> Any:
    from kubeflow.common.types import KubernetesBackendConfig
    from kubeflow.trainer import TrainerClient
    from kubernetes.client import Configuration

    configuration = Configuration(host=address)
    configuration.retries = False
    return TrainerClient(KubernetesBackendConfig(namespace=NAMESPACE, client_configuration=configuration))


def sent(kubernetes: Cluster) -> dict[str, Any]:
    (job,) = kubernetes.jobs.values()
    return job


def test_the_nodes_are_like_the_tasks_pod(kubernetes: Cluster, trainer: Trainer) -> None:
    trainer.run(JOB)
    job = sent(kubernetes)
    spec = job["spec"]
    assert spec["runtimeRef"]["name"] == "torch-distributed" and spec["runtimeRef"]["kind"] == "ClusterTrainingRuntime"
    assert job["metadata"]["ownerReferences"] == [
        {"apiVersion": "v1", "kind": "Pod", "name": "train-pod-1", "uid": "u-1"}
    ]
    node = spec["trainer"]
    assert node["image"].startswith("registry.example/eolgul/train@sha256:")
    assert node["command"] == ["torchrun", "-m", "eolgul", *JOB.command]
    assert (node["numNodes"], node["numProcPerNode"]) == (2, 4)
    assert node["resourcesPerNode"] == {
        "limits": {"cpu": "8", "memory": "64Gi", "nvidia.com/gpu": "4"},
        "requests": {"cpu": "4", "nvidia.com/gpu": "4"},
    }
    # Keys stay in their Secret; what Kubeflow Pipelines sets for its launcher stays away.
    assert [one["name"] for one in node["env"]] == [
        "EOLGUL_S3_ENDPOINT",
        "EOLGUL_S3_SECRET_KEY",
        "ORT_DISABLE_TELEMETRY",
    ]
    assert node["env"][1]["valueFrom"]["secretKeyRef"]["name"] == "eolgul-s3" and "value" not in node["env"][1]
    (patch,) = spec["runtimePatches"]
    (part,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    pod = part["template"]["spec"]["template"]["spec"]
    assert part["name"] == "node" and pod["nodeSelector"] == {"pool": "gpu"}
    assert [one["key"] for one in pod["tolerations"]] == ["nvidia.com/gpu"]
    assert pod["volumes"] == [
        {"name": "dshm", "emptyDir": {"medium": "Memory", "sizeLimit": "4Gi"}}, {"name": "scratch", "emptyDir": {}}
    ]  # fmt: skip
    (container,) = pod["containers"]
    assert [one["mountPath"] for one in container["volumeMounts"]] == ["/dev/shm", "/scratch"]
    assert "env" not in container  # the Trainer's webhook refuses them there
    assert pod["imagePullSecrets"] == [{"name": "registry-key"}] and pod["serviceAccountName"] == "default-editor"


def test_the_api_knows_every_field() -> None:
    """The models of the Trainer's API drop what they do not know: nothing may be dropped on the way to the server."""
    made = manifest(TASK_POD, JOB, name="eolgul-1")
    again = models.TrainerV1alpha1TrainJob.from_dict(made)
    assert again is not None and again.to_dict() == made
    assert models.TrainerV1alpha1TrainJob.from_json(again.to_json()) == again


def test_a_training_without_gpus_asks_for_none() -> None:
    job = Nodes(JOB.command, nodes=2, processes=1, gpus=0, runtime="torch-distributed")
    made = manifest(TASK_POD, job, name="eolgul-1")["spec"]["trainer"]
    assert made["resourcesPerNode"] == {"limits": {"cpu": "8", "memory": "64Gi"}, "requests": {"cpu": "4"}}


@pytest.mark.parametrize("kind", ["nvidia.com/gpu", "amd.com/gpu", "nvidia.com/mig-3g.40gb"])
def test_the_nodes_get_the_gpus_that_the_pod_asks_none_of(kind: str) -> None:
    own = {part: {"cpu": "8", "memory": "64Gi", kind: "0"} for part in ("limits", "requests")}
    spec = cast("dict[str, Any]", TASK_POD["spec"])
    pod = {**TASK_POD, "spec": spec | {"containers": [{**one, "resources": own} for one in spec["containers"]]}}
    made = manifest(pod, JOB, name="eolgul-1")["spec"]["trainer"]["resourcesPerNode"]
    assert made == {part: {"cpu": "8", "memory": "64Gi", kind: "4"} for part in ("limits", "requests")}


def test_log_and_states_are_shown(kubernetes: Cluster, trainer: Trainer, lines: list[str]) -> None:
    kubernetes.logs = {0: "epoch 1: loss 3.2\nepoch 2: loss 2.9\n", 1: "not shown"}
    trainer.run(JOB)
    assert "epoch 1: loss 3.2" in lines and lines.count("epoch 2: loss 2.9") == 1 and "not shown" not in lines
    states = [line.rpartition(": ")[2] for line in lines if line.startswith("TrainJob eolgul-")]
    # The log's thread asks for the state too, and may be the one that sees it between.
    assert states[0] == "2 machines with 4 processes each" and states[-1] == "complete"
    assert states[1:-1] in (["created", "running"], ["created"], ["running"], [])
    assert not kubernetes.deleted  # it goes with the task's pod; until then its logs can be read


def test_a_failure_is_the_sentence_of_the_node_that_failed_and_removes_the_job(
    kubernetes: Cluster, trainer: Trainer
) -> None:
    kubernetes.states = ["Running", "Failed"]
    kubernetes.logs = {
        0: "eolgul: process 0 of 8: another process of this run ended; its own message says why\n",
        1: "epoch 1\neolgul: out of memory on cuda:0 (tried): set accumulation=2\n",
    }
    with pytest.raises(InputError, match=r"training on 2 machines failed: out of memory on cuda:0"):
        trainer.run(JOB)
    assert len(kubernetes.deleted) == 1 and not kubernetes.jobs


@pytest.mark.parametrize(
    ("part", "status", "says"),
    [
        ("clustertrainingruntimes", 404, "runtime torch-distributed: there is none; is Kubeflow Trainer 2.3 or later installed"),
        ("clustertrainingruntimes", 403, "k8s/kubeflow/trainjobs.yaml has the rights"),
        ("trainjobs", 403, "TrainJob eolgul-.*: this pod's service account may not do that"),
        ("pods/train-pod-1", 403, "pod train-pod-1: this pod's service account"),
        ("trainjobs", 422, "is refused"),
    ],
)  # fmt: skip
def test_a_cluster_that_refuses(kubernetes: Cluster, trainer: Trainer, part: str, status: int, says: str) -> None:
    kubernetes.refusals = {part: status}
    with pytest.raises(InputError, match=says) as caught:
        trainer.run(JOB)
    assert "\n" not in str(caught.value) and not kubernetes.jobs


def test_an_older_trainer_is_refused(kubernetes: Cluster, trainer: Trainer) -> None:
    kubernetes.old = True
    with pytest.raises(InputError, match="does not know runtimePatches; it needs Kubeflow Trainer"):
        trainer.run(JOB)
    assert not kubernetes.jobs


def test_a_job_that_somebody_removes(kubernetes: Cluster, trainer: Trainer) -> None:
    kubernetes.states = ["Running", "gone"]
    with pytest.raises(InputError, match="was removed before it ended"):
        trainer.run(JOB)


def test_a_job_that_waits_for_its_nodes_says_why(kubernetes: Cluster, trainer: Trainer, lines: list[str]) -> None:
    kubernetes.states = [""]
    trainer.patience = Patience(every=0.01, away=1, start=3600, told=0)

    def sleep(_: float) -> None:
        if any("waits for its nodes (FailedScheduling: 0/3 nodes are available" in line for line in lines):
            kubernetes.states = ["Complete"]

    trainer.sleep = sleep
    trainer.run(JOB)


def test_a_job_whose_nodes_never_come(kubernetes: Cluster, trainer: Trainer) -> None:
    kubernetes.states = [""]
    trainer.patience = Patience(every=0.01, away=1, start=0, told=3600)
    with pytest.raises(InputError, match=r"do not run after 0 h \(FailedScheduling: 0/3 nodes are available"):
        trainer.run(JOB)
    assert kubernetes.deleted


def test_kubernetes_may_be_away_for_a_while(kubernetes: Cluster, trainer: Trainer) -> None:
    looks = 0

    def sleep(_: float) -> None:
        nonlocal looks
        looks += 1
        kubernetes.refusals = {"trainjobs": 500} if looks == 1 else {}

    trainer.sleep = sleep
    trainer.run(JOB)
    kubernetes.states = ["Running"]

    def go_away(_: float) -> None:
        kubernetes.refusals = {"trainjobs": 500}

    trainer.sleep = go_away
    with pytest.raises(InputError, match=r"TrainJob eolgul-.*: Failed to get TrainJob"):
        trainer.run(JOB)


def test_only_in_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(InputError, match="only from a pod of a Kubernetes cluster with Kubeflow Trainer"):
        Trainer.here(print)


STOPPED = """
import sys
from support.kubernetes_api import wait_for
sys.path.insert(0, {folder!r})
from test_trainjob import JOB, Patience, Trainer, client
print("ready", flush=True)
Trainer(client({address!r}), lambda line: print(line, flush=True), Patience(every=0.05)).run(JOB)
"""


@pytest.mark.process
def test_a_task_that_is_told_to_end_removes_its_job(kubernetes: Cluster) -> None:
    kubernetes.states = ["Running"]
    script = STOPPED.format(folder=str(Path(__file__).parent), address=kubernetes.address)
    environment = {**os.environ, "KFP_POD_NAME": "train-pod-1",
                   "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])}  # fmt: skip
    process = subprocess.Popen([sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: kubernetes.jobs, 250)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 143 and "removed" in out
    assert not kubernetes.jobs and len(kubernetes.deleted) == 1


LOCAL = """
import sys
from kubeflow.trainer import CustomTrainer, LocalProcessBackendConfig, TrainerClient
from kubeflow.trainer.types import types
from eolgul.errors import InputError
from eolgul.kubeflow.trainjob import Patience, Trainer

def train():
    import sys, time
    for number in range(3):
        print("epoch", number, flush=True)
        time.sleep(0.1)
    {ending}

client = TrainerClient(LocalProcessBackendConfig())
runtime = client.get_runtime("torch-distributed")
runtime.trainer.framework = "plain"  # python, not torchrun: the environment that the back end makes has no torch
name = client.train(runtime, trainer=CustomTrainer(train))
try:
    Trainer(client, lambda line: print("said:", line, flush=True), Patience(every=0.2)).follow(name, 1)
except InputError as error:
    print("error:", error)
"""


@pytest.mark.process
@pytest.mark.parametrize(
    ("ending", "last"),
    [("pass", "said: TrainJob {}: complete"), ("sys.exit('eolgul: no space left')", "error: training on 1 machines failed: no space left")],
)  # fmt: skip
def test_the_sdks_local_back_end_is_followed_too(ending: str, last: str, tmp_path: Path) -> None:
    script = tmp_path / "local.py"
    script.write_text(LOCAL.format(ending=ending))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=590, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    said = done.stdout.splitlines()
    shown = [line for line in said if line.startswith("said: epoch")]
    assert shown == [f"said: epoch {number}" for number in range(3)]
    end = [line for line in said if line.startswith("error:")] or [line for line in said if "TrainJob" in line]
    name = said[[("TrainJob" in line) for line in said].index(True)].split()[2].rstrip(":")
    assert end[-1] == last.format(name)


def test_signals_are_as_before_afterwards(kubernetes: Cluster, trainer: Trainer) -> None:
    before = signal.getsignal(signal.SIGTERM)
    trainer.run(JOB)
    assert signal.getsignal(signal.SIGTERM) is before
    assert trainjob.Patience().every >= 5
