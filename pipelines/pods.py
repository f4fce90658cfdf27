"""What the pods of a run ask of the cluster: processors, memory, GPUs, volumes, retries, an end to every task.

What KFP takes as a parameter of a run is one (`k8s_…`). The rest is fixed when the pipeline is compiled, from EOLGUL_POD_…:
sizes of volumes, retries and time limits, which KFP's IR holds as constants.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kfp import dsl, kubernetes
from kfp.dsl.pipeline_channel import PipelineChannel
from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from eolgul import TELEMETRY_OFF
from eolgul.errors import InputError

# Names that `k8s/kubeflow` creates in the namespace where pipelines run.
S3_CONFIG, S3_SECRET = "eolgul-s3", "eolgul-s3"
SIGNING_SECRET = "eolgul-signing"  # with the file `key`; a run without it promotes without a signature
_SIGNING_FOLDER = "/var/run/eolgul/signing"
_CONFIG_KEYS = ("EOLGUL_S3_ENDPOINT", "EOLGUL_S3_SECURE", "EOLGUL_S3_REGION")
_SECRET_KEYS = ("EOLGUL_S3_ACCESS_KEY", "EOLGUL_S3_SECRET_KEY")
_WEBHOOK_KEYS = ("EOLGUL_WEBHOOK_URL", "EOLGUL_WEBHOOK_TOKEN", "EOLGUL_WEBHOOK_KEY")
_SCRATCH = "/scratch"
_SIZE = r"[1-9]\d*(Mi|Gi|Ti)"


class PodSettings(BaseSettings):
    """What is fixed when a pipeline is compiled, from EOLGUL_POD_SHM, …_SCRATCH, …_RETRIES, …; see docs/kubeflow.md."""

    model_config = SettingsConfigDict(env_prefix="EOLGUL_POD_")

    shm: str = Field(
        default="8Gi", pattern=f"^{_SIZE}$", description="Shared memory of a training pod, for its workers' batches."
    )
    scratch: str = Field(
        default="200Gi",
        pattern=f"^{_SIZE}$",
        description="Most that a pod has on its volume for copies and unfinished work.",
    )
    retries: int = Field(
        default=3, ge=0, le=100, description="Further attempts of a task that failed, after 1, 2, 4 … minutes."
    )
    timeout_hours: int = Field(default=24, ge=1, le=24 * 60, description="Hours after which a task is ended.")
    train_timeout_hours: int = Field(default=240, ge=1, le=24 * 365, description="The same of a training task.")
    webhook_secret: str = Field(
        default="",
        pattern=r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?)?$",
        description="Name of the Secret with the address that the end of every run is reported to; empty: none is.",
    )
    pull_secret: str = Field(default="", description="Name of the Secret with which images are pulled.")

    @classmethod
    def read(cls) -> PodSettings:
        """Read the environment. Raises InputError for a value that is not what is expected."""
        try:
            return cls()
        except ValidationError as error:
            first = error.errors()[0]
            name = f"EOLGUL_POD_{str(first['loc'][0]).upper()}"
            wanted = first["msg"]
            if first["type"] == "string_pattern_mismatch":
                wanted = "the name of a Secret" if first["loc"][0] == "webhook_secret" else "a size such as 16Gi"
            raise InputError(f"{name} {first['input']!r}: expected {wanted}") from error


def size_bytes(size: str) -> int:
    """The bytes of a size such as 16Gi."""
    found = re.fullmatch(r"(\d+)(Mi|Gi|Ti)", size)
    if found is None:
        raise InputError(f"size {size!r}: expected a number and Mi, Gi or Ti, such as 16Gi")
    return int(found[1]) << {"Mi": 20, "Gi": 30, "Ti": 40}[found[2]]


@dataclass(frozen=True, slots=True)
class Pods:
    """How the tasks of one pipeline are equipped.

    Attributes:
        settings: What is fixed when the pipeline is compiled.
        parameters: The run's parameters by name; those that begin with `k8s_` are asked for here.
    """

    settings: PodSettings
    parameters: Mapping[str, Any]

    def equip(self, task: dsl.PipelineTask, kind: str = "data", *, retry: bool = True) -> None:
        """Give a task what it needs of the cluster.

        Args:
            task: The task.
            kind: Whose `k8s_<kind>_cpu` and `…_memory` it asks for: data, train or evaluate.
            retry: Whether it is worth trying again.
        """
        cpu, memory = self.parameters[f"k8s_{kind}_cpu"], self.parameters[f"k8s_{kind}_memory"]
        # Requests equal limits, so that the pod is the last to be evicted (QoS Guaranteed).
        task.set_cpu_request(cpu).set_cpu_limit(cpu).set_memory_request(memory).set_memory_limit(memory)
        _pass_down(task, cpu, memory)
        settings = self.settings
        if retry and settings.retries:
            task.set_retry(settings.retries, backoff_duration="60s", backoff_factor=2, backoff_max_duration="1800s")
        hours = settings.train_timeout_hours if kind == "train" else settings.timeout_hours
        kubernetes.set_timeout(task, hours * 3600)
        kubernetes.use_config_map_as_env(task, S3_CONFIG, {key: key for key in _CONFIG_KEYS})
        kubernetes.use_secret_as_env(task, S3_SECRET, {key: key for key in _SECRET_KEYS})
        # Copies of S3, work that is not finished and temporary files lie on a volume with a limit, not in the container.
        kubernetes.empty_dir_mount(task, "scratch", _SCRATCH, size_limit=settings.scratch)
        task.set_env_variable("EOLGUL_S3_CACHE", f"{_SCRATCH}/s3").set_env_variable("TMPDIR", _SCRATCH)
        for name, value in TELEMETRY_OFF.items():
            task.set_env_variable(name, value)
        # No user id: the images name theirs, and OpenShift chooses another.
        kubernetes.set_security_context(task, run_as_non_root=True)
        kubernetes.add_node_selector_json(task, self.parameters["k8s_node_selector"])
        kubernetes.add_toleration_json(task, self.parameters["k8s_tolerations"])
        if settings.pull_secret:
            kubernetes.set_image_pull_secrets(task, [settings.pull_secret])

    def add_gpus(self, task: dsl.PipelineTask, count: Any) -> None:
        """Give a task GPUs, and the tolerations of their nodes. KFP's driver reads the count as text, not as a number."""
        kind = self.parameters["k8s_gpu_type"]
        task.set_accelerator_type(kind).set_accelerator_limit(count)
        _pass_down(task, kind, count)
        kubernetes.add_toleration_json(task, self.parameters["k8s_gpu_tolerations"])

    def add_shared_memory(self, task: dsl.PipelineTask) -> None:
        """Give a task more than the 64 MB of /dev/shm that a container has: training's workers hand batches over there."""
        kubernetes.empty_dir_mount(task, "dshm", "/dev/shm", medium="Memory", size_limit=self.settings.shm)

    def add_signing_key(self, task: dsl.PipelineTask) -> None:
        """Mount the key that signs a promoted model, where the namespace has one."""
        kubernetes.use_secret_as_volume(task, SIGNING_SECRET, _SIGNING_FOLDER, optional=True)
        task.set_env_variable("EOLGUL_SIGNING_FOLDER", _SIGNING_FOLDER)

    def add_webhook(self, task: dsl.PipelineTask) -> None:
        """Give a task the webhook's address and credentials; without the Secret it says that there is none."""
        names = {key: key for key in _WEBHOOK_KEYS}
        kubernetes.use_secret_as_env(task, self.settings.webhook_secret, names, optional=True)

    def tell_limits(self, task: dsl.PipelineTask) -> None:
        """Tell the first task how large the volumes of the others are."""
        limits = {"shm": size_bytes(self.settings.shm), "scratch": size_bytes(self.settings.scratch)}
        task.set_env_variable("EOLGUL_POD_LIMITS", json.dumps(limits))


def _pass_down(task: dsl.PipelineTask, *values: Any) -> None:
    """Let the loops and groups around a task get the parameters that it takes for its resources.

    KFP's compiler (2.17) does that for inputs and platform settings only, and the driver of a cluster would not find them.
    """
    task.register_pipeline_channels([value for value in values if isinstance(value, PipelineChannel)])
