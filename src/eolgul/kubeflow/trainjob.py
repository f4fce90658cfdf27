"""Training on several machines: a TrainJob of Kubeflow Trainer, followed to its end by the task that made it.

The nodes are like the pod of the task: same image, environment, volumes, tolerations and secrets, read from the pod
itself, so that nothing is said twice. The TrainJob belongs to that pod (ownerReferences): however the pod goes, Kubernetes
removes the TrainJob with it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eolgul.errors import InputError, one_line
from eolgul.kubeflow.logs import first_refusal

_POD = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_MAIN = "main"  # the container of a KFP task
_NODE = "node"  # job and container of the runtime torch-distributed
_GPU = "nvidia.com/gpu"
# Kubeflow Pipelines' and Argo's own; PET_ is what the Trainer itself sets, and refuses from anybody else.
_NOT_ENVIRONMENT = ("KFP_", "ARGO_", "METADATA_", "MLMD_", "ML_PIPELINE_", "PET_", "NAMESPACE")
_NOT_VOLUMES = ("kube-api-access-", "var-run-argo", "tmp-dir-argo", "argo-", "kfp-launcher", "gcs-scratch", "s3-scratch",
                "minio-scratch", "dot-", "input-artifacts", "aws-iam-token")  # fmt: skip
_NEEDED = "Kubeflow Trainer 2.3 or later"


@dataclass(frozen=True, slots=True)
class Nodes:
    """What the machines of a TrainJob run.

    Attributes:
        command: The words of `eolgul train`.
        nodes: The number of machines.
        processes: Processes on each, started by torchrun.
        gpus: GPUs of each; 0 for none.
        runtime: The TrainingRuntime or ClusterTrainingRuntime.
    """

    command: Sequence[str]
    nodes: int
    processes: int
    gpus: int
    runtime: str


@dataclass(frozen=True, slots=True)
class Patience:
    """How long is waited, in seconds.

    Attributes:
        every: Between two looks at the TrainJob.
        away: For a Kubernetes API that does not answer.
        start: For the nodes to run, since a queue for GPUs may be long.
        told: Between two lines about a TrainJob that does not run yet.
    """

    every: float = 10.0
    away: float = 600.0
    start: float = 24 * 3600.0
    told: float = 600.0


def manifest(pod: Mapping[str, Any], job: Nodes, *, name: str, kind: str = "ClusterTrainingRuntime") -> dict[str, Any]:
    """The TrainJob, checked with the models of the Trainer's API.

    Args:
        pod: The pod of the task, as Kubernetes describes it.
        job: What the nodes run.
        name: The TrainJob's name.
        kind: The kind of the runtime.
    """
    from kubeflow_trainer_api import models

    main = next((one for one in pod["spec"]["containers"] if one["name"] == _MAIN), pod["spec"]["containers"][0])
    volumes = [one for one in pod["spec"].get("volumes") or () if not one["name"].startswith(_NOT_VOLUMES)]
    names = {one["name"] for one in volumes}
    container = {
        "name": _NODE,
        "volumeMounts": [one for one in main.get("volumeMounts") or () if one["name"] in names],
        "securityContext": main.get("securityContext"),
    }
    like_the_pod = {
        key: pod["spec"].get(key)
        for key in (
            "serviceAccountName",
            "imagePullSecrets",
            "securityContext",
            "nodeSelector",
            "affinity",
            "tolerations",
        )
    }
    # The kubelet adds these two to every pod; as patches they would only be noise.
    like_the_pod["tolerations"] = [
        one
        for one in like_the_pod["tolerations"] or ()
        if not str(one.get("key", "")).startswith("node.kubernetes.io/")
    ]
    patch = like_the_pod | {"volumes": volumes, "containers": [container]}
    job_patch = {"name": _NODE, "template": {"spec": {"template": {"spec": _without_empty(patch)}}}}
    body = {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": {
            "name": name,
            "labels": {"app.kubernetes.io/part-of": "eolgul"},
            "ownerReferences": [
                {"apiVersion": "v1", "kind": "Pod", "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]}
            ],
        },
        "spec": {
            "runtimeRef": {"apiGroup": "trainer.kubeflow.org", "kind": kind, "name": job.runtime},
            "trainer": {
                "image": main["image"],
                # The runtime's PET_ variables say which node this is and where the first one is.
                "command": ["torchrun", "-m", "eolgul", *job.command],
                "env": [one for one in main.get("env") or () if not one["name"].startswith(_NOT_ENVIRONMENT)],
                "numNodes": job.nodes,
                "numProcPerNode": job.processes,
                "resourcesPerNode": _resources(main.get("resources") or {}, job.gpus),
            },
            "runtimePatches": [
                {
                    "manager": "eolgul",
                    "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": [job_patch]}}},
                }
            ],
        },
    }
    checked = models.TrainerV1alpha1TrainJob.from_dict(_without_empty(body))
    assert checked is not None
    made: dict[str, Any] = checked.to_dict()
    return made


def _resources(own: Mapping[str, Any], gpus: int) -> dict[str, Any]:
    """Requests and limits of the task's container, with the nodes' GPUs in place of its own.

    The pod that follows the TrainJob asks for 0 of the GPUs that the run's `k8s_gpu_type` names.
    """
    asked = [item for part in own.values() if part for item in part.items()]
    kinds = {name for name, count in asked if name.endswith("/gpu") or ("/" in name and str(count) == "0")}
    gpu = {next(iter(sorted(kinds)), _GPU): str(gpus)} if gpus else {}
    return {
        part: {name: str(value) for name, value in (own.get(part) or {}).items() if name not in kinds} | gpu
        for part in ("requests", "limits")
    }


def _without_empty(value: Any) -> Any:
    if isinstance(value, Mapping):
        kept = {key: _without_empty(item) for key, item in value.items()}
        # An emptyDir without settings is the empty object, and means something.
        return {key: item for key, item in kept.items() if key == "emptyDir" or item not in (None, {}, [])}
    if isinstance(value, (list, tuple)):
        return [_without_empty(item) for item in value]
    return value


@dataclass(slots=True)
class Trainer:
    """Kubeflow Trainer in the namespace of this pod.

    Attributes:
        client: The SDK's `TrainerClient`.
        say: Called with each line to show.
        patience: How long is waited.
        sleep: Waits; False when the wait was cut short.
    """

    client: Any
    say: Callable[[str], None]
    patience: Patience = field(default_factory=Patience)
    sleep: Callable[[float], None] = time.sleep

    @classmethod
    def here(cls, say: Callable[[str], None]) -> Trainer:
        """The one of the cluster that this pod runs in.

        Raises:
            InputError: This is not a pod, or the SDK is not installed.
        """
        if "KUBERNETES_SERVICE_HOST" not in os.environ or not _POD.is_dir():
            raise InputError(
                "nodes: several machines train only from a pod of a Kubernetes cluster with Kubeflow Trainer"
            )
        try:
            from kubeflow.common.types import KubernetesBackendConfig
            from kubeflow.trainer import TrainerClient
        except ModuleNotFoundError as error:
            raise InputError(f"nodes: this needs the package {error.name!r}: pip install 'eolgul[pipeline]'") from error
        namespace = (_POD / "namespace").read_text().strip()
        return cls(TrainerClient(KubernetesBackendConfig(namespace=namespace)), say)

    def pod(self) -> dict[str, Any]:
        """The pod that this process runs in, as Kubernetes describes it."""
        from kubernetes import client

        name = os.environ.get("KFP_POD_NAME") or os.environ.get("HOSTNAME", "")
        backend = self.client.backend
        with _asked(f"pod {name}"):
            found = backend.core_api.read_namespaced_pod(name, backend.namespace, _request_timeout=60)
        described: dict[str, Any] = client.ApiClient().sanitize_for_serialization(found)
        return described

    def run(self, job: Nodes) -> None:
        """Train, and return when the nodes have ended well.

        Raises:
            InputError: The cluster refuses the TrainJob, or the training failed, with the failed process's sentence.
        """
        name = f"eolgul-{uuid.uuid4().hex[:12]}"
        with _asked(f"runtime {job.runtime}"):
            kind = self.client.get_runtime(job.runtime).kind.value
        body = manifest(self.pod(), job, name=name, kind=kind)
        backend = self.client.backend
        with self._removed_unless_done(name):  # from here on: a signal may come while Kubernetes makes it
            with _asked(f"TrainJob {name}"):
                made = backend.custom_api.create_namespaced_custom_object(
                    "trainer.kubeflow.org", "v1alpha1", backend.namespace, "trainjobs", body, _request_timeout=60
                )
            self.say(f"TrainJob {name}: {job.nodes} machines with {job.processes} processes each")
            # An older Trainer drops what it does not know, and the nodes would lack volumes and tolerations.
            if "runtimePatches" not in made["spec"]:
                raise InputError(f"nodes: the cluster's Trainer does not know runtimePatches; it needs {_NEEDED}")
            self.follow(name, job.nodes)

    def follow(self, name: str, nodes: int) -> None:
        """Wait for a TrainJob's end and show the first node's log meanwhile.

        Args:
            name: The TrainJob.
            nodes: The number of its machines.

        Raises:
            InputError: It failed, was removed, does not start, or Kubernetes is away for too long.
        """
        log = _Log(self.client, name, self.say)
        log.start()
        begun = seen = told = time.monotonic()
        state = ""
        try:
            while True:
                try:
                    job = self.client.get_job(name)
                except (RuntimeError, TimeoutError) as error:
                    if _is_gone(error):
                        raise InputError(f"TrainJob {name} was removed before it ended") from error
                    if time.monotonic() - seen > self.patience.away:
                        raise InputError(f"TrainJob {name}: {one_line(error)}") from error
                else:
                    seen = time.monotonic()
                    if job.status != state:
                        state = job.status
                        self.say(f"TrainJob {name}: {state.lower()}")
                    if state == "Complete":
                        log.end()
                        return
                    if state == "Failed":
                        log.end()
                        raise InputError(f"training on {nodes} machines failed: {self._reason(name, nodes, log)}")
                    if state == "Created" and seen - begun > self.patience.start:
                        raise InputError(
                            f"TrainJob {name}: its nodes do not run after {self.patience.start / 3600:g} h{self._event(name)}"
                        )
                    if state == "Created" and seen - told > self.patience.told:
                        told = seen
                        self.say(f"TrainJob {name}: waits for its nodes{self._event(name)}")
                self.sleep(self.patience.every)
        finally:
            log.stop()

    def _reason(self, name: str, nodes: int, log: _Log) -> str:
        lines = list(log.lines)
        for number in range(1, nodes):
            with contextlib.suppress(RuntimeError, TimeoutError, ValueError):
                lines += self.client.get_job_logs(name, step=f"{_NODE}-{number}", follow=False)
        return first_refusal(lines) or f"TrainJob {name} failed without a word{self._event(name)}"

    def _event(self, name: str) -> str:
        """The last event of the TrainJob and its pods, as a part of a sentence."""
        try:
            events = self.client.get_job_events(name)
        except Exception:  # events are a courtesy: whatever keeps them away must not end the training
            return ""
        return f" ({events[-1].reason}: {one_line(events[-1].message)})" if events else ""

    @contextlib.contextmanager
    def _removed_unless_done(self, name: str) -> Iterator[None]:
        """Remove the TrainJob, and its GPUs with it, when the block fails or the process is told to end."""
        main = threading.current_thread() is threading.main_thread()
        before = signal.signal(signal.SIGTERM, _leave) if main else None
        try:
            yield
        except BaseException:
            with contextlib.suppress(RuntimeError, TimeoutError, ValueError):
                self.client.delete_job(name)
                self.say(f"TrainJob {name}: removed")
            raise
        finally:
            if main:
                signal.signal(signal.SIGTERM, before)


class _Log(threading.Thread):
    """Show the first node's log while it grows.

    Attributes:
        lines: The last lines.
    """

    _KEPT = 2000

    def __init__(self, client: Any, name: str, say: Callable[[str], None]) -> None:
        super().__init__(daemon=True)
        self._client, self._job, self._say = client, name, say
        self._ended, self._stopped = threading.Event(), threading.Event()
        self.lines: list[str] = []
        self._shown = 0

    def run(self) -> None:
        while not self._stopped.is_set():
            ended = self._ended.is_set()
            try:
                for number, line in enumerate(self._client.get_job_logs(self._job, follow=not ended)):
                    if self._stopped.is_set():
                        return
                    if number >= self._shown:  # a stream that broke begins again from the first line
                        self._shown = number + 1
                        self.lines = [*self.lines[-self._KEPT :], line]
                        self._say(line)
            except Exception as error:  # the pod is not there yet, or the connection broke: the status decides
                if ended:
                    self._say(f"the log of TrainJob {self._job} cannot be read ({one_line(error)})")
            if ended:
                return
            self._ended.wait(2)

    def end(self) -> None:
        """The TrainJob has ended: read what is left."""
        self._ended.set()
        self.join(60)

    def stop(self) -> None:
        """Show no more."""
        self._ended.set()
        self._stopped.set()


@contextlib.contextmanager
def _asked(what: str) -> Iterator[None]:
    """Turn an error of Kubernetes about something into a sentence."""
    from kubernetes.client import ApiException
    from urllib3.exceptions import HTTPError

    try:
        yield
    except (ApiException, RuntimeError, TimeoutError, HTTPError) as error:
        cause = error if isinstance(error, ApiException) else error.__cause__
        if isinstance(cause, ApiException):
            why = {
                403: "this pod's service account may not do that; k8s/kubeflow/trainjobs.yaml has the rights",
                404: f"there is none; is {_NEEDED} installed?",
            }.get(cause.status or 0, one_line(cause.body or cause.reason))
        else:
            why = one_line(cause or error)
        raise InputError(f"nodes: {what}: {why}") from error


def _is_gone(error: BaseException) -> bool:
    return getattr(error.__cause__, "status", None) == 404


def _leave(signum: int, frame: object) -> None:
    sys.exit(128 + signum)
