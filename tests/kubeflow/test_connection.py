"""Every bad answer of an address is one sentence, within the time-out; credentials come from where they should."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import yaml
from support.kubeflow import Kubeflow, kubeflow

from eolgul.errors import InputError
from eolgul.kubeflow.access import Access
from eolgul.kubeflow.connection import Connection, Health
from eolgul.kubeflow.runs import Request, submit


def trouble(server: Kubeflow, mode: str, request_: Request, timeout: float = 0.4) -> str:
    """The sentence when a run is submitted to a server that misbehaves from the start, and from the run on."""
    server.mode = mode
    access = Connection(Access(host=server.address, timeout=timeout))
    with pytest.raises(InputError) as caught:
        access.namespace(access.health())
        submit(access, request_, None)
    text = str(caught.value)
    assert "\n" not in text and text.startswith(server.address)
    assert not server.runs
    return text


@pytest.mark.parametrize(
    ("mode", "says"),
    [
        ("dex", "wants a login (it redirects to /dex/auth): give a token with --token-file"),
        ("login-page", "wants a login"),
        ("some-page", "a web page answers"),
        ("to-https", "has moved to https"),
        ("401", "(401: Jwt is missing): give a token"),
        ("401-json", "no user identity header"),
        ("403", "forbids it (403: User 'somebody' is not authorized"),
        ("403-istio", "RBAC: access denied"),
        ("404", "refuses it (404): 404 page not found"),
        ("404-html", "no Kubeflow Pipelines API"),
        ("502", "the gateway answers 502 Bad Gateway: the API server behind it does not run"),
        ("503", "upstream connect error"),
        ("400", "refuses it (400): Failed to create a new run: InvalidInputError: unknown template"),
        ("list", "not one of Kubeflow Pipelines' API"),
        ("not-json", "not one of Kubeflow Pipelines' API"),
        ("empty", "not one of Kubeflow Pipelines' API"),
        ("hang", "no answer within 0.4 s"),
        ("drip", "no answer within 0.4 s"),
        ("reset", "cannot be reached"),
    ],
)
def test_a_bad_answer_is_one_sentence(server: Kubeflow, request_: Request, mode: str, says: str) -> None:
    assert says in trouble(server, mode, request_)
    assert len(server.seen) <= 2  # nothing is asked again


@pytest.mark.parametrize(
    ("mode", "says"),
    [
        ("run:dex", "wants a login"),
        ("run:401", "401"),
        ("run:403", "may this user do it in this namespace?"),
        ("run:400", "unknown template"),
        ("run:empty", "without a run_id, so that nothing was submitted"),
        ("run:not-json", "API v2beta1"),
        ("run:odd-model", "API v2beta1"),
        ("run:hang", "no answer within"),
    ],
)
def test_success_is_said_only_for_a_run_with_an_id(server: Kubeflow, request_: Request, mode: str, says: str) -> None:
    assert says in trouble(server, mode, request_)
    assert len(server.of("POST", "/runs")) == 1


def test_an_address_where_nobody_listens(request_: Request) -> None:
    with kubeflow() as gone:
        pass
    with pytest.raises(InputError, match="cannot be reached \\(Connection refused\\)"):
        Connection(Access(host=gone.address, timeout=3)).health()


def test_a_name_that_nobody_has(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def unknown(*arguments: object, **options: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(InputError, match="no computer of this name"):
        Connection(Access(host="https://kubeflow.invalid", timeout=3)).health()


def test_a_name_server_that_is_silent_does_not_hold_up_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **options: time.sleep(5))
    with pytest.raises(InputError, match="no answer within"):
        Connection(Access(host="https://kubeflow.invalid", timeout=0.1)).health()


def test_self_signed_tls_is_refused_with_the_way_out(certificate: Path) -> None:
    with kubeflow(certificate) as server:
        with pytest.raises(InputError, match=r"not signed by an authority .* --ca .*--insecure"):
            Connection(Access(host=server.address, timeout=5)).health()
        assert Connection(Access(host=server.address, ca=str(certificate), timeout=5)).health().version == "2.15.0"
        assert Connection(Access(host=server.address, insecure=True, timeout=5)).health().version == "2.15.0"
        with pytest.raises(InputError, match="certificate is for another name"):
            Connection(
                Access(host=server.address.replace("127.0.0.1", "localhost"), ca=str(certificate), timeout=5)
            ).health()


def test_tls_to_a_server_without_it(server: Kubeflow) -> None:
    with pytest.raises(InputError, match="does not speak TLS; give http://"):
        Connection(Access(host=server.address.replace("http://", "https://"), timeout=5)).health()


def test_token_cookies_and_file_are_sent(server: Kubeflow, tmp_path: Path) -> None:
    server.token = "t-1"
    file = tmp_path / "token"
    file.write_text("t-1\n")
    Connection(Access(host=server.address, token="t-1", timeout=5)).get("/apis/v2beta1/healthz")
    by_file = Connection(Access(host=server.address, token_file=str(file), timeout=5))
    by_file.get("/apis/v2beta1/healthz")
    server.token = "t-2"
    file.write_text("t-2")  # what the kubelet does with a projected token
    by_file.get("/apis/v2beta1/healthz")
    Connection(Access(host=server.address, cookies="authservice_session=abc", timeout=5)).get("/apis/v2beta1/healthz")
    got = [(one.headers.get("authorization"), one.headers.get("cookie")) for one in server.seen]
    assert got == [("Bearer t-1", None), ("Bearer t-1", None), ("Bearer t-2", None), (None, "authservice_session=abc")]


@pytest.mark.parametrize(
    ("text", "says"), [(None, "cannot be read"), ("", "expected a token"), ("two words", "expected a token")]
)
def test_a_token_file_that_holds_none(tmp_path: Path, text: str | None, says: str) -> None:
    file = tmp_path / "token"
    if text is not None:
        file.write_text(text)
    with pytest.raises(InputError, match=says):
        Connection(Access(host="https://x.example", token_file=str(file)))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"timeout": 0.0}, "0.1 or more"),
        ({"token": "a", "token_file": "b"}, "only one"),
        ({"insecure": True, "ca": "b"}, "only one"),
        ({"context": "c"}, "--host and --context"),
    ],
)
def test_options_that_exclude_each_other(options: dict[str, object], says: str) -> None:
    with pytest.raises(InputError, match=says):
        Access(host="https://x.example", **options)  # type: ignore[arg-type]


def test_files_and_addresses_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="certificates cannot be read"):
        Connection(Access(host="https://x.example", ca=str(tmp_path / "none")))
    with pytest.raises(InputError, match="expected an address such as"):
        Connection(Access(host="ftp://x.example"))
    assert Connection(Access(host="kubeflow.example/pipeline/")).host == "https://kubeflow.example/pipeline"


def test_kfps_own_variables(monkeypatch: pytest.MonkeyPatch, server: Kubeflow) -> None:
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", server.address)
    assert Connection(Access(timeout=5)).health().version == "2.15.0"
    monkeypatch.setenv("KF_PIPELINES_UI_ENDPOINT", "https://ui.example/pipeline/")
    assert Connection(Access()).link("runs/details/r") == "https://ui.example/pipeline/#/runs/details/r"
    monkeypatch.setenv("KF_PIPELINES_IAP_OAUTH2_CLIENT_ID", "x")
    with pytest.raises(InputError, match="gcloud auth print-identity-token"):
        Connection(Access())


def test_in_a_pod_the_api_of_the_cluster_with_the_mounted_token(
    monkeypatch: pytest.MonkeyPatch, server: Kubeflow, tmp_path: Path
) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    (tmp_path / "pod").mkdir()
    (tmp_path / "pod" / "namespace").write_text("kubeflow-user\n")
    (tmp_path / "token").write_text("mounted")
    monkeypatch.setattr("eolgul.kubeflow.connection._POD", tmp_path / "pod")
    monkeypatch.setattr("eolgul.kubeflow.connection._IN_CLUSTER", server.address)
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(tmp_path / "token"))
    server.token, server.multi_user = "mounted", True
    connection = Connection(Access(timeout=5))
    assert connection.namespace(connection.health()) == "kubeflow-user"
    assert server.seen[0].headers["authorization"] == "Bearer mounted"


def test_a_kubeconfig_leads_through_the_kubernetes_api(
    monkeypatch: pytest.MonkeyPatch, server: Kubeflow, tmp_path: Path
) -> None:
    file = tmp_path / "config"
    context = {"cluster": "c", "user": "u"}
    said = {
        "apiVersion": "v1", "kind": "Config", "current-context": "here",
        "clusters": [{"name": "c", "cluster": {"server": server.address}}],
        "users": [{"name": "u", "user": {"token": "from-kubeconfig"}}],
        "contexts": [{"name": "here", "context": context}],
    }  # fmt: skip
    file.write_text(yaml.safe_dump(said))
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(file))
    Connection(Access(timeout=5)).health()
    assert server.seen[0].path == "/api/v1/namespaces/kubeflow/services/ml-pipeline:http/proxy/apis/v2beta1/healthz"
    assert server.seen[0].headers["authorization"] == "Bearer from-kubeconfig"
    with pytest.raises(InputError, match="--host"):
        Connection(Access(context="elsewhere"))
    # A context that is asked for goes before the environment's address and before the cluster of this pod.
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setattr("eolgul.kubeflow.connection._POD", tmp_path)
    assert Connection(Access(context="here", timeout=5)).health().version == "2.15.0"


def test_nothing_to_go_by() -> None:
    with pytest.raises(InputError, match="no --host, not in a pod of a cluster, and no kubeconfig"):
        Connection(Access())


@pytest.mark.parametrize("ui", [False, True])
@pytest.mark.parametrize(
    ("version", "works"),
    [("2.5.0", False), ("v2.13.1", False), ("2.14.0", True), ("2.15.2", True), ("3.0.0", True), ("unknown", True)],
)
def test_the_version_decides(server: Kubeflow, connection: Connection, version: str, works: bool, ui: bool) -> None:
    server.version, server.ui = version, ui
    health = connection.health()
    assert health.version == ("" if version == "unknown" else version)
    if works:
        health.check(connection.host)
    else:
        with pytest.raises(InputError, match=rf"KFP {version}, but the pipeline needs KFP 2.14.*--any-version"):
            health.check(connection.host)


def test_several_users_need_a_namespace(server: Kubeflow, connection: Connection) -> None:
    server.multi_user = True
    with pytest.raises(InputError, match="several users; give the namespace of your profile with --namespace"):
        connection.namespace(connection.health())
    named = Connection(Access(host=server.address, namespace="mine", timeout=5))
    assert named.namespace(named.health()) == "mine"
    assert connection.namespace(Health("2.15.0", multi_user=False)) is None
