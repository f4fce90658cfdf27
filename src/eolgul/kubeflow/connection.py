"""The connection to a Kubeflow Pipelines API: its address, the credentials, and what a bad answer means.

The requests are those of KFP's own generated client (kfp-server-api). `kfp.Client` is not used: it prints on stdout,
waits without an end, asks a server that refuses it five times, and takes the page of a login for an answer.
"""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import kfp_server_api
import urllib3
from kfp_server_api import rest

from eolgul.errors import InputError, one_line
from eolgul.kubeflow import answers
from eolgul.kubeflow.access import Access
from eolgul.kubeflow.patience import LateError, within

T = TypeVar("T")

OLDEST = (2, 14)
"""The first KFP whose back end has `dsl.Collected` (kubeflow/pipelines #11725), which alignment's loop needs."""
NEEDED = "KFP 2.14, which Kubeflow 1.11 has"

_POD = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_IN_CLUSTER = "http://ml-pipeline.kubeflow.svc.cluster.local:8888"
# As kfp.Client has them: the token that Kubeflow mounts for its Pipelines API, and the variable that names another file.
_KFP_TOKEN = "/var/run/secrets/kubeflow/pipelines/token"
_KFP_TOKEN_VARIABLE = "KF_PIPELINES_SA_TOKEN_PATH"
_THROUGH_KUBERNETES = "/api/v1/namespaces/kubeflow/services/ml-pipeline:http/proxy"


@dataclass(frozen=True, slots=True)
class Health:
    """What the API says about itself.

    Attributes:
        version: KFP's version such as "2.15.0", "" where the server does not say one.
        multi_user: Whether it has several users, each with a namespace.
    """

    version: str
    multi_user: bool

    def check(self, host: str) -> None:
        """Refuse a KFP on which the pipeline cannot end well.

        Raises:
            InputError: The version is older than the first one that works.
        """
        found = re.match(r"v?(\d+)\.(\d+)", self.version)
        if found and (int(found[1]), int(found[2])) < OLDEST:
            raise InputError(
                f"{host}: KFP {self.version}, but the pipeline needs {NEEDED} (--any-version submits it all the same)"
            )


class Connection:
    """Calls KFP's API. Every method raises InputError with one sentence when the server does not do what it is asked."""

    def __init__(self, access: Access) -> None:
        self.access = access
        configuration = _configuration(access)
        self.host: str = configuration.host
        configuration.retries = urllib3.Retry(total=0, redirect=0, raise_on_redirect=False)
        if access.ca:
            configuration.ssl_ca_cert = str(_readable(Path(access.ca)))
        if access.insecure:
            configuration.verify_ssl = False
            warnings.filterwarnings("ignore", category=urllib3.exceptions.InsecureRequestWarning)
        self._client = kfp_server_api.ApiClient(configuration, cookie=access.cookies)
        self._client.rest_client = _Rest(configuration, self.host, access.timeout)
        self.runs = kfp_server_api.RunServiceApi(self._client)
        self.recurring = kfp_server_api.RecurringRunServiceApi(self._client)
        self.experiments = kfp_server_api.ExperimentServiceApi(self._client)
        self.pipelines = kfp_server_api.PipelineServiceApi(self._client)
        self.uploads = kfp_server_api.PipelineUploadServiceApi(self._client)

    def ask(self, function: Callable[..., T], *arguments: Any, **options: Any) -> T:
        """Call a method of one of the generated APIs; its answer, or InputError."""
        try:
            return within(self.access.timeout + 1, lambda: function(*arguments, **options))
        except LateError as error:
            raise InputError(answers.silence(self.host, self.access.timeout), code="unreachable") from error
        except InputError:  # `_Rest` turns into one whatever the generated models can hold
            raise
        except (AttributeError, TypeError, ValueError, KeyError, kfp_server_api.ApiException) as error:
            why = getattr(error, "reason", None) or error
            raise InputError(answers.foreign(self.host, one_line(why))) from error

    def health(self) -> Health:
        """Ask who answers.

        Raises:
            InputError: It is not a KFP API, wants a login, or does not answer.
        """
        said: Any = self.get("/apis/v2beta1/healthz")
        # The API server says tag_name; the UI's server, which a gateway has in front of it, says apiServerTagName.
        if not isinstance(said, dict) or not {"multi_user", "apiServerMultiUser", "tag_name"} & set(said):
            raise InputError(answers.foreign(self.host, "healthz does not say what KFP's says"))
        if said.get("apiServerReady") is False:
            raise InputError(f"{self.host}: Kubeflow's page answers, but the API server behind it does not")
        version = str(said.get("tag_name") or said.get("apiServerTagName") or "")
        return Health(
            version=version if re.match(r"v?\d", version) else "",
            multi_user=bool(said.get("multi_user") or said.get("apiServerMultiUser")),
        )

    def get(self, path: str) -> Any:
        """The JSON at a path of the server."""
        return self.ask(
            self._client.call_api, path, "GET", response_type="object", auth_settings=["Bearer"],
            header_params={"Accept": "application/json"}, _return_http_data_only=True,
        )  # fmt: skip

    def text(self, path: str) -> str:
        """The text at a path of the server, such as a log."""
        answer = self.ask(
            self._client.call_api, path, "GET", auth_settings=["Bearer"], header_params={"Accept": "text/plain"},
            _preload_content=False,
        )  # fmt: skip
        data: Any = answer.data
        return data.decode("utf-8", "replace") if isinstance(data, bytes) else str(data)

    def namespace(self, health: Health) -> str | None:
        """The namespace that experiments, runs and pipelines belong to; None where Kubeflow has one user.

        Raises:
            InputError: Kubeflow has several users, and no namespace is given.
        """
        if self.access.namespace or not health.multi_user:
            return self.access.namespace
        try:
            return (_POD / "namespace").read_text().strip()
        except OSError:
            raise InputError(
                f"{self.host}: this Kubeflow has several users; give the namespace of your profile with --namespace"
            ) from None

    def link(self, path: str) -> str:
        """The address of a page of the UI. KF_PIPELINES_UI_ENDPOINT replaces the API's address, as for KFP's client."""
        base = os.environ.get("KF_PIPELINES_UI_ENDPOINT") or self.host
        return f"{base.rstrip('/')}/#/{path}"


class _Rest(rest.RESTClientObject):  # type: ignore[misc]  # kfp_server_api ships no types
    """KFP's requests with a time limit, without redirects; whatever is not an answer becomes an InputError."""

    def __init__(self, configuration: Any, host: str, timeout: float) -> None:
        super().__init__(configuration)
        self._host, self._timeout = host, timeout

    def request(self, method: str, url: str, **options: Any) -> Any:
        """Send one request; InputError when it fails or the answer is not JSON or a log."""
        options["_request_timeout"] = (self._timeout, self._timeout)
        try:
            answer = super().request(method, url, **options)
        except kfp_server_api.ApiException as error:
            sentence = answers.refusal(self._host, error.status, error.reason, error.headers or {}, error.body)
            raise InputError(sentence, code=answers.code(error.status)) from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise InputError(answers.failure(self._host, error, self._timeout), code="unreachable") from error
        kind = answer.getheader("content-type") or ""
        if "html" in kind:
            raise InputError(answers.page(self._host, answer.data))
        if "json" in kind:
            try:
                json.loads(answer.data)
            except ValueError as error:  # the generated client would take the text for an empty answer
                raise InputError(answers.foreign(self._host, "the JSON cannot be read")) from error
        return answer


def _configuration(access: Access) -> Any:
    """The generated client's configuration: address and credentials."""
    configuration = kfp_server_api.Configuration()
    host = access.host or (None if access.context else os.environ.get("KF_PIPELINES_ENDPOINT"))
    if host:
        if "://" not in host:
            host = f"https://{host}"
        if not re.match(r"https?://[^/\s]", host):
            raise InputError(f"host {host!r}: expected an address such as https://kubeflow.example/pipeline")
        configuration.host = host.rstrip("/")
        if not (access.token or access.token_file or access.cookies) and os.environ.get(
            "KF_PIPELINES_IAP_OAUTH2_CLIENT_ID"
        ):
            raise InputError(
                "KF_PIPELINES_IAP_OAUTH2_CLIENT_ID: this command does not log in to Google's Identity-Aware Proxy; "
                "give the token that `gcloud auth print-identity-token --audiences=CLIENT_ID` prints with --token-file"
            )
    elif not access.context and "KUBERNETES_SERVICE_HOST" in os.environ and _POD.is_dir():
        configuration.host = _IN_CLUSTER
    else:
        _from_kubeconfig(configuration, access)
    token_file = Path(access.token_file) if access.token_file else None
    if token_file is None and not access.token and not access.cookies and not host:
        mounted = Path(os.environ.get(_KFP_TOKEN_VARIABLE) or _KFP_TOKEN)
        token_file = mounted if mounted.is_file() else None
    if access.token:
        _bear(configuration, access.token.strip())
    elif token_file is not None:
        file = token_file
        _bear(configuration, _token(file))
        configuration.refresh_api_key_hook = lambda current: _bear(current, _token(file))
    return configuration


def _bear(configuration: Any, token: str) -> None:
    configuration.api_key["authorization"] = token
    configuration.api_key_prefix["authorization"] = "Bearer"


def _from_kubeconfig(configuration: Any, access: Access) -> None:
    """Reach the API through the Kubernetes API server, as `kubectl` would."""
    from kubernetes import client, config

    theirs = client.Configuration()
    try:
        config.load_kube_config(context=access.context, client_configuration=theirs)
    except Exception as error:  # a missing or broken file, an unknown context, a login helper that fails
        raise InputError(
            "no --host, not in a pod of a cluster, and no kubeconfig to go by "
            f"({one_line(error)}): give the address of Kubeflow Pipelines with --host"
        ) from error
    configuration.host = theirs.host.rstrip("/") + _THROUGH_KUBERNETES
    for name in ("ssl_ca_cert", "cert_file", "key_file", "verify_ssl"):
        setattr(configuration, name, getattr(theirs, name))
    if theirs.api_key.get("authorization"):
        configuration.api_key["authorization"] = theirs.api_key["authorization"]


def _token(file: Path) -> str:
    try:
        token = file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: the token cannot be read ({one_line(error)})") from error
    if not token or len(token.split()) > 1:
        raise InputError(f"{file}: expected a token and nothing else")
    return token


def _readable(file: Path) -> Path:
    try:
        file.open("rb").close()
    except OSError as error:
        raise InputError(f"{file}: the certificates cannot be read ({error.strerror})") from error
    return file
