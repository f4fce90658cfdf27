"""The rendered manifests: valid, restricted, pinned, and consistent with the code and with each other."""

from __future__ import annotations

import json
import re
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic_settings import BaseSettings
from support.places import ROOT

from eolgul import __version__
from eolgul.serving import launch
from eolgul.serving.settings import Settings
from eolgul.serving.transport.middleware import route_of
from eolgul.storage import S3Settings

KUBERNETES = ("1.31.0", "1.37.0")  # the oldest that is promised to work (deploy.sh refuses older ones), and the newest
OVERLAYS = tuple(sorted(path.parent.name for path in ROOT.glob("k8s/overlays/*/kustomization.yaml")))
PORT = 3000
VALID: set[str] = set()
_UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "m": 1e-3, "": 1}


def quantity(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(Ki|Mi|Gi|m|)", str(text))
    assert match, text
    return float(match[1]) * _UNITS[match[2]]


def validate(document: dict[str, Any]) -> None:
    """Raises where the cluster's schema refuses a document; a kind without a schema is refused too."""
    kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    if (text := json.dumps(document)) in VALID:  # overlays share most documents
        return
    for version in KUBERNETES:
        kubernetes_validate.validate(document, version, strict=True)
    VALID.add(text)


def env_names(settings: type[BaseSettings]) -> set[str]:
    prefix = settings.model_config["env_prefix"]
    return {f"{prefix}{field}".upper() for field in settings.model_fields}


def _pod(manifests) -> dict[str, Any]:
    pod: dict[str, Any] = manifests.named("Deployment", "serving")["spec"]["template"]["spec"]
    return pod


# ---- valid


def test_every_document_is_valid(manifests):
    assert len(manifests.documents) > 15
    for document in manifests.documents:
        validate(document)


def test_kubeflow_documents_are_valid(rendered):
    for document in rendered("kubeflow").documents:
        validate(document)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda document: document.update(kind="Deploymint"),
        lambda document: document["spec"].update(replica=2),
        lambda document: document["spec"]["template"]["spec"]["containers"][0].update(image=3),
    ],
)
def test_validation_has_teeth(rendered, spoil):
    document = yaml.safe_load(yaml.safe_dump(rendered("local").named("Deployment", "serving")))
    validate(document)
    spoil(document)
    from kubernetes_validate import SchemaNotFoundError, ValidationError

    with pytest.raises((SchemaNotFoundError, ValidationError)):
        validate(document)


def test_everything_is_in_the_namespace(manifests):
    for document in manifests.documents:
        if document["kind"] != "Namespace":
            assert document["metadata"]["namespace"] == "eolgul", document["metadata"]["name"]


# ---- how containers run


def test_every_container_has_requests_and_limits(manifests):
    for name, container, _ in manifests.containers():
        for resource in ("cpu", "memory"):
            requested, limit = (container["resources"][which][resource] for which in ("requests", "limits"))
            assert 0 < quantity(requested) <= quantity(limit), f"{name}: {resource}"


def test_every_pod_is_restricted(manifests):
    for name, container, pod in manifests.containers():
        of_pod, own = pod["securityContext"], container["securityContext"]
        assert of_pod["runAsNonRoot"] is True, name
        if manifests.overlay == "openshift":  # it refuses pods that choose their user or group
            assert not {"runAsUser", "runAsGroup", "fsGroup"} & of_pod.keys(), name
        else:
            assert of_pod["runAsUser"] > 0, name
        assert of_pod["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert own["allowPrivilegeEscalation"] is False and own["readOnlyRootFilesystem"] is True, name
        assert own["capabilities"] == {"drop": ["ALL"]}, name
        assert "privileged" not in own and not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys(), name
        assert pod["automountServiceAccountToken"] is False, name
        kinds = {kind for volume in pod["volumes"] for kind in volume.keys() - {"name"}}
        assert kinds <= {"emptyDir", "configMap", "secret"}, name
    labels = manifests.named("Namespace", "eolgul")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_every_image_is_pinned(manifests):
    for name, container, _ in manifests.containers():
        image = container["image"]
        assert re.fullmatch(r"[\w./-]+(:[\w][\w.-]*|@sha256:[0-9a-f]{64})", image), f"{name}: {image}"
        assert not image.endswith(":latest"), name
        assert "." not in image.split("/")[0] or "/" not in image, f"{name}: {image} names a registry"


def test_our_image_is_of_this_version(manifests):
    ours = {
        container["image"] for _, container, _ in manifests.containers() if container["image"].startswith("eolgul/")
    }
    assert ours == {f"eolgul/serving:{__version__}"}


def test_what_serves_is_probed(manifests):
    for name, container, _ in manifests.containers():
        if name.startswith("Job/"):
            continue
        ports = {port["name"] for port in container["ports"]}
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            action = container[probe].get("httpGet") or container[probe]["tcpSocket"]
            assert action["port"] in ports, f"{name}: {probe}"


def test_service_is_probed_where_it_answers(manifests):
    container = manifests.container("Deployment", "serving")
    paths = {
        probe: container[probe]["httpGet"]["path"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")
    }
    assert paths == {"startupProbe": "/livez", "livenessProbe": "/livez", "readinessProbe": "/readyz"}
    assert all(route_of(path) == path for path in paths.values()), "a route that serving does not have"
    annotations = manifests.named("Service", "serving")["metadata"]["annotations"]
    assert annotations["prometheus.io/scrape"] == "true"
    assert route_of(annotations["prometheus.io/path"]) == annotations["prometheus.io/path"]


def test_every_mount_has_its_volume(manifests):
    for kind in ("Deployment", "StatefulSet", "Job"):
        for workload in manifests.of(kind):
            spec = workload["spec"]["template"]["spec"]
            volumes = {volume["name"] for volume in spec["volumes"]}
            volumes |= {claim["metadata"]["name"] for claim in workload["spec"].get("volumeClaimTemplates", [])}
            mounted = {mount["name"] for container in spec["containers"] for mount in container["volumeMounts"]}
            assert mounted == volumes, workload["metadata"]["name"]


def test_grace_is_longer_than_stopping(manifests, monkeypatch):
    """The service drains itself for as long as endpoints may still name the pod; there is no other wait."""
    container = manifests.container("Deployment", "serving")
    assert "lifecycle" not in container
    probe = container["readinessProbe"]
    for name, value in manifests.environment(container).items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.drain_s >= probe["periodSeconds"] * (probe["failureThreshold"] - 1) + probe["timeoutSeconds"]
    assert _pod(manifests)["terminationGracePeriodSeconds"] > settings.drain_s + settings.deadline_s + 10


# ---- settings


def test_every_setting_is_one_that_is_read(manifests):
    read = env_names(Settings) | env_names(S3Settings)
    for name, container, _ in manifests.containers():
        given = manifests.environment(container)
        unknown = {variable for variable in given if variable.startswith("EOLGUL_")} - read
        assert not unknown, f"{name}: {unknown} is read by nobody"


def test_settings_are_accepted(manifests, monkeypatch):
    given = manifests.environment(manifests.container("Deployment", "serving"))
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    secrets = manifests.data("Secret", "eolgul-secrets")
    settings, s3 = Settings(), S3Settings()
    assert settings.source().startswith("registry s3://")
    for url, service in ((settings.redis_url, "redis"), (settings.gallery_url, "gallery")):
        [port] = manifests.named("Service", service)["spec"]["ports"]
        assert url == f"redis://{service}:{port['port']}/0"
    assert f"user {settings.redis_username} on" in manifests.data("ConfigMap", "redis-start")["redis-start.sh"]
    assert (s3.access_key, s3.secret_key.get_secret_value()) == (
        secrets["SERVING_S3_ACCESS_KEY"],
        secrets["SERVING_S3_SECRET_KEY"],
    )
    if manifests.store is None:
        assert s3.endpoint == "s3.your-store.example" and s3.secure
    else:
        assert s3.endpoint == "{}:{}".format(*manifests.store) and not s3.secure


def test_service_writes_only_where_it_may(manifests, monkeypatch, root):
    """The root file system is read-only: the service writes to volumes only."""
    image = re.search(r"^ENV EOLGUL_WAIT.*?[^\\]$", (root / "docker/serving.Dockerfile").read_text(), re.M | re.S)
    assert image
    container = manifests.container("Deployment", "serving")
    given = dict(word.split("=", 1) for word in image[0].split() if "=" in word) | manifests.environment(container)
    monkeypatch.setenv("EOLGUL_S3_CACHE", given["EOLGUL_S3_CACHE"])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    _, environment = launch.command(port=port, environment=given)
    volumes = {volume["name"] for volume in _pod(manifests)["volumes"] if "emptyDir" in volume}
    writable = [Path(mount["mountPath"]) for mount in container["volumeMounts"] if mount["name"] in volumes]
    for place in (environment["BENTOML_HOME"], S3Settings().cache, "/tmp"):
        assert any(Path(place).is_relative_to(path) for path in writable), f"{place} is on the read-only root"


def test_waiting_requests_fit_the_memory(manifests, monkeypatch):
    container = manifests.container("Deployment", "serving")
    for name, value in manifests.environment(container).items():
        monkeypatch.setenv(name, value)
    settings, limits = Settings(), container["resources"]["limits"]
    held = (settings.concurrency + settings.queue) * 2 * settings.max_image_bytes
    assert held <= quantity(limits["memory"]) / 2
    assert settings.concurrency * settings.threads <= quantity(limits["cpu"])


@pytest.mark.parametrize(
    ("kind", "name", "role", "policy", "append", "share"),
    [
        ("Deployment", "redis", "cache", "allkeys-lru", "no", 0.75),
        ("StatefulSet", "gallery", "gallery", "noeviction", "yes", 0.5),  # a rewrite of the file may copy all of it
    ],
)
def test_a_redis_is_smaller_than_its_container(manifests, kind, name, role, policy, append, share):
    container = manifests.container(kind, name)
    assert container["command"][-1] == role
    script = manifests.data("ConfigMap", "redis-start")["redis-start.sh"]
    [part] = re.findall(rf"^    {role}\)$(.*?);;", script, re.M | re.S)
    [maxmemory] = re.findall(r"--maxmemory (\d+)mb", part)
    assert f"--maxmemory-policy {policy}" in part and f"--appendonly {append}" in part
    assert int(maxmemory) * 2**20 <= share * quantity(container["resources"]["limits"]["memory"])


def test_the_gallery_lies_on_a_volume_that_holds_it(manifests):
    script = manifests.data("ConfigMap", "redis-start")["redis-start.sh"]
    [maxmemory] = re.findall(r"gallery\)$.*?--maxmemory (\d+)mb", script, re.M | re.S)
    [claim] = manifests.named("StatefulSet", "gallery")["spec"]["volumeClaimTemplates"]
    [mount] = [m for m in manifests.container("StatefulSet", "gallery")["volumeMounts"] if m["name"] == "data"]
    assert claim["metadata"]["name"] == "data" and f"${{DATA_DIR:-{mount['mountPath']}}}" in script
    assert quantity(claim["spec"]["resources"]["requests"]["storage"]) >= 3 * int(maxmemory) * 2**20


def test_environment_needs_no_luck(manifests):
    """`$(NAME)` is expanded only from a variable defined before it; otherwise the text itself would be the password."""
    for name, container, _ in manifests.containers():
        left = {key for key, value in manifests.environment(container).items() if "$(" in value}
        assert not left, f"{name}: {left}"


# ---- secrets


def example_keys(path: Path) -> set[str]:
    return {line.partition("=")[0] for line in path.read_text().splitlines() if line and not line.startswith("#")}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_secret_keys_are_those_of_the_example(rendered, root, overlay):
    manifests, used = rendered(overlay), set()
    folder = root / "k8s" / "overlays" / overlay
    folder = folder if (folder / "secrets.env.example").exists() else folder.with_name("production")
    for _, container, pod in manifests.containers():
        for entry in container.get("env", []):
            reference = entry.get("valueFrom", {}).get("secretKeyRef")
            if reference:
                assert reference["name"] == manifests.named("Secret", "eolgul-secrets")["metadata"]["name"]
                used.add(reference["key"])
        used |= {item["key"] for volume in pod["volumes"] for item in volume.get("secret", {}).get("items", [])}
    assert used == example_keys(folder / "secrets.env.example")


def test_only_who_needs_a_secret_gets_it(manifests):
    names = {name: set(manifests.environment(container)) for name, container, _ in manifests.containers()}
    assert not names["Deployment/serving/serving"] & {
        "MINIO_ROOT_USER",
        "MINIO_ROOT_PASSWORD",
        "PIPELINE_S3_SECRET_KEY",
    }
    for one in ("Deployment/redis/redis", "StatefulSet/gallery/redis", "Deployment/serving/serving"):
        assert not [name for name in names[one] if "PASSWORD" in name and not name.endswith("_FILE")], one


def test_no_secret_is_in_the_repository(root):
    """Examples say change-me, base has no Secret, and no manifest gives a password as a plain value."""
    for path in root.glob("k8s/**/secrets.env.example"):
        for line in path.read_text().splitlines():
            assert not line or line.startswith("#") or line.endswith(("=change-me", "=from-your-store")), (
                f"{path}: {line}"
            )
    for path in root.glob("k8s/**/*.yaml"):
        for document in yaml.safe_load_all(path.read_text()):
            assert document.get("kind") != "Secret", path  # a tool's configuration has none
            _no_plain_secret(document, str(path))


def _no_plain_secret(node: Any, path: str) -> None:
    if isinstance(node, dict):
        if re.search(r"PASSWORD|SECRET|ACCESS_KEY|TOKEN", str(node.get("name", ""))):
            assert "value" not in node, f"{path}: {node['name']}"
        for value in node.values():
            _no_plain_secret(value, path)
    elif isinstance(node, list):
        for value in node:
            _no_plain_secret(value, path)
    elif isinstance(node, str):
        assert not re.match(r"\w*(PASSWORD|SECRET|ACCESS_KEY)\w*=(?<!_FILE=)", node), f"{path}: {node}"
        assert not re.search(r"://[^/\s:]+:(?!\$\()[^/\s@]+@", node), f"{path}: {node}"


def test_git_ignores_the_real_secrets(root):
    for folder in (*(f"overlays/{overlay}" for overlay in OVERLAYS), "kubeflow"):
        path = f"k8s/{folder}/secrets.env"
        done = subprocess.run(["git", "check-ignore", "-q", path], cwd=root, check=False)
        if done.returncode == 128:
            pytest.skip("not a git checkout")
        assert done.returncode == 0, f"{path} is not in .gitignore"


# ---- ports and networks


def test_ports_agree(manifests, root):
    dockerfile = (root / "docker" / "serving.Dockerfile").read_text()
    assert re.search(rf"^EXPOSE {PORT}$", dockerfile, re.M) and f'"--port", "{PORT}"' in dockerfile
    assert f"127.0.0.1:{PORT}/readyz" in dockerfile
    service = manifests.named("Service", "serving")
    assert service["metadata"]["annotations"]["prometheus.io/port"] == str(PORT)
    for name, port in filter(None, (("serving", PORT), ("redis", 6379), ("gallery", 6379), manifests.store)):
        kind = "Deployment" if name in ("serving", "redis") else "StatefulSet"
        [container_port] = manifests.container(kind, name)["ports"]
        [service_port] = manifests.named("Service", name)["spec"]["ports"]
        assert container_port["containerPort"] == port and service_port["port"] == port
        assert service_port["targetPort"] == container_port["name"]
        policies = manifests.named("NetworkPolicy", name)["spec"]["ingress"]
        assert {entry["port"] for rule in policies for entry in rule["ports"]} == {port}


def test_services_find_their_pods(manifests):
    pods = [template["metadata"]["labels"] for _, template in manifests.pods()]
    selectors = [service["spec"]["selector"] for service in manifests.of("Service")]
    selectors += [budget["spec"]["selector"]["matchLabels"] for budget in manifests.of("PodDisruptionBudget")]
    for selector in selectors:
        assert sum(selector.items() <= labels.items() for labels in pods) == 1, selector


class Place:
    """One end of a connection: a pod of this namespace by name, or any pod of a namespace with these labels."""

    def __init__(self, pod: str = "", namespace: dict[str, str] | None = None) -> None:
        self.labels = {"app.kubernetes.io/name": pod}
        self.namespace = namespace

    def matched_by(self, peer: dict[str, Any]) -> bool:
        assert peer.keys() in ({"podSelector"}, {"namespaceSelector"}), f"the test does not know {peer.keys()}"
        if "namespaceSelector" in peer:
            return self.namespace is not None and _selects(peer["namespaceSelector"], self.namespace)
        return self.namespace is None and _selects(peer["podSelector"], self.labels)


def _selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    for expression in selector.get("matchExpressions", []):
        assert expression["operator"] == "In"
        if labels.get(expression["key"]) not in expression["values"]:
            return False
    return selector.get("matchLabels", {}).items() <= labels.items()


def _passes(manifests, direction: str, pod: Place, other: Place, port: int) -> bool:
    policies = [policy["spec"] for policy in manifests.of("NetworkPolicy")]
    selecting = [p for p in policies if direction in p["policyTypes"] and _selects(p["podSelector"], pod.labels)]
    if not selecting:
        return True
    side = {"Ingress": "from", "Egress": "to"}[direction]
    return any(
        any(entry["port"] == port for entry in rule["ports"])
        and (side not in rule or any(other.matched_by(peer) for peer in rule[side]))
        for policy in selecting
        for rule in policy.get(direction.lower(), [])
    )


def reaches(manifests, source: Place, target: Place, port: int) -> bool:
    """Whether the policies allow a connection at its source and at its target."""
    out = source.namespace is not None or _passes(manifests, "Egress", source, target, port)
    return out and (target.namespace is not None or _passes(manifests, "Ingress", target, source, port))


SERVING, REDIS, GALLERY, SETUP = map(Place, ("serving", "redis", "gallery", "minio-setup"))
KUBEFLOW = Place(namespace={"kubernetes.io/metadata.name": "kubeflow"})
PROFILE = Place(namespace={"kubernetes.io/metadata.name": "anna", "pipelines.kubeflow.org/enabled": "true"})
STRANGER = Place(namespace={"kubernetes.io/metadata.name": "shop"})


@pytest.mark.parametrize(
    ("source", "target", "port", "expected"),
    [
        (STRANGER, SERVING, PORT, True),
        (STRANGER, SERVING, 6379, False),
        (SERVING, REDIS, 6379, True),
        (STRANGER, REDIS, 6379, False),
        (KUBEFLOW, REDIS, 6379, False),
        (SETUP, REDIS, 6379, False),
        (SERVING, GALLERY, 6379, True),
        (STRANGER, GALLERY, 6379, False),
        (KUBEFLOW, GALLERY, 6379, False),
        (REDIS, GALLERY, 6379, False),
        (GALLERY, STRANGER, 443, False),
        (SERVING, STRANGER, 53, True),
    ],
)
def test_who_reaches_whom(manifests, source, target, port, expected):
    _check_reach(manifests, source, target, port, expected)


def test_who_reaches_the_store(manifests):
    if manifests.store is None:
        outside = {
            "ipBlock": {
                "cidr": "0.0.0.0/0",
                "except": ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"],
            }
        }
        rules = manifests.named("NetworkPolicy", "serving-egress")["spec"]["egress"]
        assert rules[1:] == [{"to": [outside], "ports": [{"protocol": "TCP", "port": 443}]}]
        return
    name, port = manifests.store
    store = Place(name)
    for source, expected in (
        (SERVING, True),
        (SETUP, True),
        (KUBEFLOW, True),
        (PROFILE, True),
        (STRANGER, False),
        (REDIS, False),
    ):
        _check_reach(manifests, source, store, port, expected)
    _check_reach(manifests, store, REDIS, 6379, False)
    _check_reach(manifests, store, STRANGER, 443, False)
    _check_reach(manifests, SERVING, STRANGER, 443, False)


def _check_reach(manifests, source, target, port, expected):
    assert reaches(manifests, source, target, port) is expected
    if target.namespace is None:  # the target's own door, too: it must not lean on what its callers are forbidden
        assert _passes(manifests, "Ingress", target, source, port) is expected


# ---- scaling


def test_autoscaler_owns_the_number_of_replicas(manifests):
    scaler = manifests.named("HorizontalPodAutoscaler", "serving")["spec"]
    deployment = manifests.named("Deployment", scaler["scaleTargetRef"]["name"])
    assert "replicas" not in deployment["spec"]
    assert 1 <= scaler["minReplicas"] < scaler["maxReplicas"]


@pytest.mark.parametrize("overlay", [one for one in OVERLAYS if one != "local"])
def test_the_rest_survives_a_node(rendered, overlay):
    assert rendered(overlay).named("HorizontalPodAutoscaler", "serving")["spec"]["minReplicas"] >= 2


# ---- Kubeflow


def test_pipeline_finds_what_it_mounts(rendered):
    """The compiled pipeline names these, so no digest may be in the names."""
    manifests = rendered("kubeflow")
    assert {document["metadata"]["name"] for document in manifests.documents} == {"eolgul-s3"}
    config, secret = manifests.data("ConfigMap", "eolgul-s3"), manifests.data("Secret", "eolgul-s3")
    assert set(config) == {"EOLGUL_S3_ENDPOINT", "EOLGUL_S3_SECURE", "EOLGUL_S3_REGION"}
    assert set(secret) == {"EOLGUL_S3_ACCESS_KEY", "EOLGUL_S3_SECRET_KEY"}
    assert config.keys() | secret.keys() <= env_names(S3Settings)


def test_pipeline_and_service_use_one_registry(rendered, root):
    serving = rendered("local").data("ConfigMap", "eolgul-serving")["EOLGUL_REGISTRY"]
    assert f'registry: str = "{serving}"' in (root / "pipelines" / "face_recognition.py").read_text()


def test_pipeline_and_service_use_one_store(rendered):
    there = rendered("kubeflow").data("ConfigMap", "eolgul-s3")["EOLGUL_S3_ENDPOINT"]
    service = rendered("local").named("Service", "minio")
    name, port = service["metadata"]["name"], service["spec"]["ports"][0]["port"]
    assert there == f"{name}.{service['metadata']['namespace']}.svc:{port}"


# ---- what differs between overlays


def test_the_oldest_kubernetes_is_what_deploy_refuses_below(root):
    oldest = KUBERNETES[0].split(".")[1]
    assert f"\noldest={oldest} " in (root / "k8s" / "deploy.sh").read_text()
    assert f"Kubernetes 1.{oldest}\nor later" in (root / "docs" / "operate.md").read_text()


def test_a_store_of_one_s_own_leaves_nothing_of_minio(rendered):
    for overlay in ("external-s3", "seaweedfs"):
        images = {container["image"] for _, container, _ in rendered(overlay).containers()}
        assert not [image for image in images if "minio" in image]
    names = {document["metadata"]["name"] for document in rendered("external-s3").documents}
    assert not [name for name in names if "minio" in name]


def test_the_gpu_overlay_asks_for_one(rendered):
    manifests = rendered("gpu")
    container = manifests.container("Deployment", "serving")
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert manifests.environment(container)["EOLGUL_PROVIDER"] == "cuda"
    [toleration] = _pod(manifests)["tolerations"]
    assert toleration["key"] == "nvidia.com/gpu"


def test_examples_are_valid_and_lead_to_the_service(rendered, root):
    """Kubernetes has no schema for the kinds of others, so only their service, port and times are looked at."""
    service = rendered("production").named("Service", "serving")
    [port] = service["spec"]["ports"]
    seen = {}
    for path in sorted((root / "k8s" / "examples").glob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            seen[document["kind"]] = document
            assert document["metadata"]["namespace"] == "eolgul"
    validate(seen["Ingress"])
    for path in seen["Ingress"]["spec"]["rules"][0]["http"]["paths"]:
        assert path["backend"]["service"] == {"name": "serving", "port": {"name": port["name"]}}
    [backend] = seen["HTTPRoute"]["spec"]["rules"][1]["backendRefs"]
    assert backend == {"name": "serving", "port": port["port"]}
    assert (
        seen["Route"]["spec"]["to"]["name"] == "serving" and seen["Route"]["spec"]["port"]["targetPort"] == port["name"]
    )
    nginx = {key.partition("/")[2]: value for key, value in seen["Ingress"]["metadata"]["annotations"].items()}
    times = {nginx["proxy-read-timeout"], seen["HTTPRoute"]["spec"]["rules"][1]["timeouts"]["request"][:-1]}
    times |= {seen["Route"]["metadata"]["annotations"]["haproxy.router.openshift.io/timeout"][:-1]}
    assert {int(seconds) for seconds in times} == {30} and Settings().deadline_s < 30
    assert int(nginx["proxy-body-size"][:-1]) * 2**20 > 3 * Settings().max_image_bytes
