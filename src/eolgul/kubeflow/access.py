"""How a Kubeflow Pipelines API is reached: the options of every command that speaks to one."""

from __future__ import annotations

from dataclasses import dataclass

from eolgul.config import Config, option
from eolgul.errors import InputError


@dataclass(frozen=True)
class Access(Config):
    """Address, credentials and patience."""

    host: str | None = option(
        None,
        "Address of the Kubeflow Pipelines API, such as https://kubeflow.example/pipeline. Default: "
        "KF_PIPELINES_ENDPOINT, else the API of the cluster that this pod runs in, else the one behind the kubeconfig's "
        "current context.",
        envvar="KFP_HOST",
    )
    namespace: str | None = option(
        None, "Namespace of the profile, where Kubeflow has several users. Default in a pod: the pod's.",
        envvar="KFP_NAMESPACE",
    )  # fmt: skip
    token: str | None = option(
        None, "Bearer token. Other users of the machine see a command line: the variable or the file is safer.",
        envvar="KFP_TOKEN",
    )  # fmt: skip
    token_file: str | None = option(
        None, "File with a bearer token, read again for each request. Default in a pod: the one that Kubeflow mounts."
    )
    cookies: str | None = option(
        None, "Cookies of a browser's session, such as authservice_session=….", envvar="KFP_COOKIES"
    )
    ca: str | None = option(None, "File with the authorities that may have signed the server's certificate.")
    insecure: bool = option(False, "Accept any certificate.")
    context: str | None = option(None, "Context of the kubeconfig, where there is no host.")
    timeout: float = option(30.0, "Seconds that the server may take for an answer.", least=0.1)

    def __post_init__(self) -> None:
        super().__post_init__()
        for one, other in (("token", "token_file"), ("insecure", "ca"), ("host", "context")):
            if getattr(self, one) and getattr(self, other):
                names = f"--{one} and --{other}".replace("_", "-")
                raise InputError(f"{names}: expected only one of them")
