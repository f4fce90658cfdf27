"""k8s/deploy.sh: refusals, the question, what it applies, what it waits for and what it says, with the real kubectl.

The cluster is a stand-in (`support.cluster`); the service behind it is a real one (`test_smoke.py`).
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import cluster as stand_in
from support.cluster import KINDS, Cluster, event, pod

DIGEST = "sha256:" + "0" * 64


def validate(document):
    """Raises where Kubernetes' schema refuses a document."""
    kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    kubernetes_validate.validate(document, "1.31.0", strict=True)


@pytest.fixture
def cluster():
    with stand_in.running() as one:
        yield one


@pytest.fixture
def deploy(checkout, run_deploy, cluster):
    """Run deploy.sh against the stand-in; `checkout` is its copy of k8s/."""

    def run(*arguments: str, **more: str):
        return run_deploy(checkout, cluster, *arguments, **more)

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


@pytest.fixture
def pushed(tmp_path) -> dict[str, str]:
    """The environment that names an image of one's own, as `make push` leaves it."""
    file = tmp_path / "digests.json"
    file.write_text(json.dumps({"serving": f"registry.example:5000/team/serving@{DIGEST}", "train": "x"}, indent=2))
    return {"EOLGUL_IMAGES": str(file)}


@pytest.fixture
def deployed(deploy, secrets, cluster):
    """The cluster holds what a deploy of `local` leaves behind."""
    secrets()
    for document in yaml.safe_load_all(deploy("--render").stdout):
        plural = next(kinds[document["kind"]] for kinds in KINDS.values() if document["kind"] in kinds)
        meta = document["metadata"]
        cluster.objects[plural, meta.get("namespace", ""), meta["name"]] = document


# ---- refused before anything is changed


@pytest.mark.parametrize("overlay", ["local", "production", "kubeflow"])
def test_without_secrets_it_says_so(deploy, cluster, overlay):
    done = deploy(overlay)
    assert done.returncode == 2 and not cluster.changes
    assert len(done.stderr.splitlines()) == 1
    assert f"{overlay}/secrets.env is missing: make secrets OVERLAY={overlay}" in done.stderr


def own_overlay(checkout: Path, name: str, base: str) -> None:
    """An overlay as an operator writes it: built on another one."""
    folder = checkout / "k8s" / "overlays" / name
    folder.mkdir()
    (folder / "kustomization.yaml").write_text(f"namespace: eolgul\nresources:\n  - {base}  # ours\n")


def test_an_overlay_of_ones_own_has_the_secrets_of_the_one_it_is_built_on(deploy, secrets, checkout):
    own_overlay(checkout, "ours", "../seaweedfs/")
    own_overlay(checkout, "ours-big", '"../ours"')
    done = deploy("ours-big")
    assert done.returncode == 2 and "production/secrets.env is missing: make secrets OVERLAY=production" in done.stderr
    secrets("overlays/production", REDIS_PASSWORD="of-production")
    assert "b2YtcHJvZHVjdGlvbg==" in deploy("--render", "ours-big").stdout


@pytest.mark.parametrize("base", ["../../base", "../odd"])
def test_an_overlay_without_secrets_is_refused(deploy, checkout, base):
    own_overlay(checkout, "odd", base)
    done = deploy("--render", "odd")
    assert done.returncode == 2, done.stdout
    assert done.stderr.count("\n") == 1 and "built on no overlay (- ../production) that has one" in done.stderr


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
def test_bad_secrets_are_refused(deploy, secrets, cluster, value, sentence):
    secrets(REDIS_PASSWORD=value)
    done = deploy()
    assert done.returncode == 2 and not cluster.changes
    assert len(done.stderr.splitlines()) == 1 and "REDIS_PASSWORD" in done.stderr and sentence in done.stderr
    if value.startswith(('"', "a@")):
        assert value not in done.stderr, "a secret was printed"


@pytest.mark.parametrize("name", ["api-keys.json", "encryption-keys"])
def test_without_keys_for_the_service_it_says_so(deploy, secrets, checkout, cluster, name):
    secrets()
    (checkout / "k8s" / "overlays" / "local" / name).unlink()
    done = deploy()
    assert done.returncode == 2 and not cluster.changes
    assert len(done.stderr.splitlines()) == 1 and f"{name} is missing" in done.stderr


@pytest.mark.parametrize(
    ("more", "image"),
    [
        ({}, "eolgul/serving:"),
        ({"IMAGE_PREFIX": "docker.io/somebody"}, "docker.io/somebody/serving:"),  # a tag can move
        ({"ENGINE": "podman"}, "localhost/eolgul/serving:"),
        ({"IMAGE_PREFIX": f"somebody/serving@{DIGEST}#", "IMAGE_TAG": "1"}, "somebody/serving"),
    ],
)
def test_production_takes_no_image_that_is_not_one_s_own(deploy, secrets, cluster, more, image):
    secrets("overlays/production")
    done = deploy("production", **more)
    assert done.returncode == 2 and not cluster.changes and len(done.stderr.splitlines()) == 1
    assert image in done.stderr and ("digest" in done.stderr or "not the name" in done.stderr)


@pytest.mark.parametrize("content", [None, "{}"])
def test_a_file_of_digests_without_the_service_is_refused(deploy, secrets, cluster, tmp_path, content):
    secrets("overlays/production")
    if content:
        (tmp_path / "d.json").write_text(content)
    done = deploy("production", EOLGUL_IMAGES=str(tmp_path / "d.json"))
    assert done.returncode == 2 and "EOLGUL_IMAGES: " in done.stderr and not cluster.changes


def test_nobody_to_ask_changes_nothing(deploy, secrets, cluster):
    secrets()
    done = deploy(YES="")
    assert done.returncode == 2 and not cluster.changes and "YES=1" in done.stderr
    assert "my-cluster" in done.stdout


def test_an_old_cluster_is_refused(deploy, secrets, cluster):
    secrets()
    cluster.version = "1.30.9"
    done = deploy()
    assert done.returncode == 1 and not cluster.changes
    assert done.stderr == "deploy: the cluster runs Kubernetes 1.30; the manifests are for 1.31 and later\n"


def test_no_cluster_is_said(deploy, secrets, cluster):
    secrets()
    cluster.address = "http://127.0.0.1:9"
    done = deploy()
    assert done.returncode == 1 and "the cluster does not answer: " in done.stderr and "127.0.0.1:9" in done.stderr


@pytest.mark.parametrize("arguments", [["nowhere"], ["../base"], ["local", "production"], ["--what"]])
def test_bad_arguments_are_refused(deploy, cluster, arguments):
    done = deploy(*arguments)
    assert done.returncode == 2 and not cluster.asked and len(done.stderr.splitlines()) == 1


def test_without_kubectl_it_says_so(checkout, environment, tmp_path):
    tools = tmp_path / "tools"  # a PATH with all that the script calls before it, and no kubectl
    tools.mkdir()
    for tool in ("bash", "dirname", "mktemp", "rm"):
        (tools / tool).symlink_to(str(shutil.which(tool)))
    done = subprocess.run(
        [checkout / "k8s" / "deploy.sh"], env=environment(PATH=str(tools)), capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and "kubectl is missing" in done.stderr and len(done.stderr.splitlines()) == 1


# ---- what a deploy does


def test_deploys_in_order(deploy, secrets, cluster, pushed):
    secrets("overlays/production")
    done = deploy("production", **pushed)
    assert done.returncode == 0, done.stderr
    assert "my-cluster" in done.stdout and "port-forward service/serving 3000:3000" in done.stdout
    assert 'Authorization: Bearer $EOLGUL_API_KEY" -F image1' in done.stdout
    assert cluster.changes[1] == "PATCH /api/v1/namespaces/eolgul"
    waited = [line.partition("(")[2][:-1] for line in done.stdout.splitlines() if line.startswith("waiting for ")]
    assert waited == [
        "statefulset/minio",
        "deployment/redis",
        "statefulset/gallery",
        "job/minio-setup",
        "deployment/serving",
    ]
    last_change = max(number for number, (method, _, _) in enumerate(cluster.asked) if method == "PATCH")
    first_look = [path for _, path, _ in cluster.asked].index(
        "/apis/apps/v1/namespaces/eolgul/deployments/redis", last_change
    )
    assert last_change < first_look
    serving = cluster.objects["deployments", "eolgul", "serving"]
    [container] = serving["spec"]["template"]["spec"]["containers"]
    assert container["image"] == f"registry.example:5000/team/serving@{DIGEST}"
    assert "no metrics server" not in done.stdout and "was not asked: no key" in done.stdout


def test_again_it_replaces_only_the_job(deploy, deployed, secrets, cluster):
    cluster.conflict = "kubectl-edit"
    done = deploy(FORCE="1")
    assert done.returncode == 0, done.stderr
    cluster.conflict = ""
    again = cluster.changes
    assert [line for line in again if not line.startswith("PATCH")] == [
        "DELETE /apis/batch/v1/namespaces/eolgul/jobs/minio-setup"
    ]
    assert deploy("--diff").stdout == "The cluster has what the manifests say.\n"
    secrets(REDIS_PASSWORD="another-one")
    changed = deploy("--diff")
    assert changed.returncode == 0 and "eolgul-secrets" in changed.stdout and "another-one" not in changed.stdout
    assert len(cluster.changes) == len(again)


def test_a_field_that_another_manages_is_named(deploy, secrets, cluster):
    secrets()
    cluster.conflict, cluster.metrics = "kubectl-edit", False
    done = deploy()
    assert done.returncode == 1 and "kubectl-edit" in done.stderr and "FORCE=1" in done.stderr
    assert "no metrics server, so the number of replicas stays" in done.stdout


def test_a_volume_of_another_size_says_how_to_go_on(deploy, deployed, secrets, cluster, pushed):
    secrets("overlays/production")
    done = deploy("production", **pushed)
    assert done.returncode == 1 and not cluster.changes
    [line] = done.stderr.splitlines()
    assert "the volume of gallery was made with 2Gi and this overlay asks for 4Gi" in line
    for words in ("patch pvc data-gallery-0", "delete statefulset gallery --cascade=orphan", "then deploy again"):
        assert words in line


def test_a_rotation_removes_the_secret_that_it_replaces(deploy, deployed, secrets, cluster):
    [old] = [name for name in cluster.names("secrets") if name.startswith("eolgul-secrets-")]
    theirs: dict[str, Any] = {"apiVersion": "v1", "kind": "Secret"}
    for name in ("eolgul-secrets-somebody12", "another"):
        labels = {"eolgul.dev/generated": "secrets"} if name == "another" else {}
        cluster.objects["secrets", "eolgul", name] = theirs | {"metadata": {"name": name, "labels": labels}}
    secrets(SERVING_S3_SECRET_KEY="rotated-value")
    cluster.down["serving"] = [pod("serving", "serving-1", state={"running": {"startedAt": "2026-01-01T00:00:00Z"}})]
    cluster.logs["serving-1"] = (
        "not ready: s3://eolgul/registry: no model has been promoted yet; run `eolgul promote`\n"
    )
    done = deploy()  # no model yet is no failure
    assert done.returncode == 0 and "without a model yet" in done.stdout, done.stderr
    assert old in cluster.names("secrets"), "a pod that is not replaced yet needs it to start again"
    del cluster.down["serving"]
    assert deploy().returncode == 0
    left = cluster.names("secrets")
    assert old not in left and {"eolgul-secrets-somebody12", "another", "eolgul-serving-keys"} <= left
    assert len([name for name in left if name.startswith("eolgul-secrets-")]) == 2


def test_undeploy_keeps_the_volumes(deploy, deployed, cluster):
    cluster.objects["persistentvolumeclaims", "eolgul", "data-gallery-0"] = {"kind": "X", "metadata": {"name": "d"}}
    done = deploy("--undeploy")
    assert done.returncode == 0, done.stderr
    assert {key[0] for key in cluster.objects} == {"namespaces", "persistentvolumeclaims"}
    assert "volumes are kept" in done.stdout and "encryption-keys" in done.stdout
    asked = deploy("--undeploy", DATA="1", YES="")
    assert "DELETES the namespace" in asked.stdout and asked.returncode == 2 and cluster.objects
    assert deploy("--undeploy", DATA="1").returncode == 0
    assert not cluster.objects


# ---- what does not come up is named, with its reason


def gone(name: str, state: dict[str, Any], app: str = "serving") -> dict[str, Any]:
    """A pod that was deleted and has not ended yet."""
    one = pod(app, name, state=state)
    one["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    return one


NEVER = 'Container image "eolgul/serving:1" is not present with pull policy of Never'
QUOTA = 'Error creating: pods "gallery-0" is forbidden: exceeded quota: team, requested: limits.memory=1152Mi, used: 0, limited: 1Gi'
POLICY = (
    'Error creating: pods "serving-5d4-x" is forbidden: violates PodSecurity "restricted:latest": runAsNonRoot != true'
)
UNBOUND = "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims."
CASES: dict[str, tuple[str, list[dict[str, Any]], list[dict[str, Any]], dict[str, str], list[str]]] = {
    "image": (
        "serving", [pod("serving", "serving-1", state={"waiting": {"reason": "ErrImageNeverPull", "message": NEVER}})], [], {},
        ["serving-1", "the node does not have the image", "eolgul/serving:1", "kind load docker-image"],
    ),
    "pull": (
        "minio", [pod("minio", "minio-0", state={"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}})],
        [], {}, ["minio-0", "cannot be had", "Back-off pulling image"],
    ),
    "quota": ("gallery", [], [event("gallery", "FailedCreate", QUOTA)], {}, ["no pod is allowed", "exceeded quota: team"]),
    "policy": ("serving", [], [event("serving-5d4", "FailedCreate", POLICY)], {}, ["no pod is allowed", "violates PodSecurity"]),
    "volume": (
        "gallery", [pod("gallery", "gallery-0", unscheduled=UNBOUND)],
        [event("data-gallery-0", "FailedBinding", "no persistent volumes available and no storage class is set", "Normal")], {},
        ["gallery-0 waits for its volume", "no storage class is set"],
    ),
    "no node": ("redis", [pod("redis", "redis-1", unscheduled="0/1 nodes are available: 1 Insufficient memory.")], [], {},
                ["redis-1 has no node", "Insufficient memory"]),
    "secret": (
        "redis", [pod("redis", "redis-1", state={"waiting": {"reason": "ContainerCreating"}})],
        [event("redis-1", "FailedMount", 'MountVolume.SetUp failed: secret "eolgul-secrets-x" not found')], {},
        ["redis-1 is being made", 'secret "eolgul-secrets-x" not found'],
    ),
    "secret, after other words": (
        "redis", [pod("redis", "redis-1", state={"waiting": {"reason": "ContainerCreating"}})],
        [event("redis-1", "FailedMount", 'MountVolume.SetUp failed: secret "eolgul-secrets-x" not found'),
         event("redis-1", "FailedScheduling", UNBOUND), event("redis-1", "Unhealthy", "Readiness probe failed", uid="earlier")],
        {}, ["redis-1 is being made: MountVolume.SetUp failed"],
    ),
    "crash": (
        "minio-setup",
        [pod("minio-setup", "minio-setup-1", state={"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}})], [],
        {"minio-setup-1 previous": "one\ntwo\nthree\nthe pipeline need three different account names\n"},
        ["minio-setup-1 ends again and again", "three different account names"],
    ),
    "not ready": (
        "serving", [pod("serving", "serving-1", state={"running": {"startedAt": "2026-01-01T00:00:00Z"}})], [],
        {"serving-1": "not ready: /etc/eolgul/api-keys.json: broken\nother\nnot ready: s3://eolgul/registry: Access Denied\n"},
        ["serving-1 runs and is not ready: s3://eolgul/registry: Access Denied"],
    ),
    "an old pod ends": (
        "serving", [gone("serving-0", {"terminated": {"reason": "Error", "exitCode": 143}}),
                    pod("serving", "serving-1", state={"running": {"startedAt": "2026-01-01T00:00:00Z"}})], [],
        {"serving-1": "not ready: the model is loading\n"}, ["serving-1 runs and is not ready: the model is loading"],
    ),
    "only an old pod": ("serving", [gone("serving-0", {"waiting": {"reason": "CrashLoopBackOff"}})], [], {},
                        ["serving-0 is ending"]),
    "none may follow": ("gallery", [gone("gallery-0", {}, "gallery")], [event("gallery", "FailedCreate", QUOTA)], {},
                        ["no pod is allowed", "exceeded quota: team"]),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_does_not_come_up_is_named(run_shell, cluster: Cluster, case):
    name, pods, events, logs, words = CASES[case]
    cluster.down, cluster.events, cluster.logs = {name: pods}, events, logs
    said = run_shell(cluster, f". k8s/lib/wait.sh; reason_of {name}")
    assert len(said.splitlines()) == 1 and "<no value>" not in said
    for word in words:
        assert word in said


def test_a_deploy_ends_with_the_reason(deploy, secrets, cluster):
    secrets()
    cluster.down = {
        "minio": [pod("minio", "minio-0", state={"waiting": {"reason": "ImagePullBackOff", "message": "Back-off"}})]
    }
    done = deploy(TIMEOUT="0")
    assert done.returncode == 1
    assert (
        "waiting for the object store (statefulset/minio)" in done.stdout and "waiting for the cache" not in done.stdout
    )
    assert (
        "the object store (statefulset/minio) is not ready after 0 s: minio-0: the image cannot be had" in done.stderr
    )


def test_a_job_that_failed_is_not_waited_for(deploy, secrets, cluster):
    secrets()
    cluster.failed["minio-setup"] = "Job was active longer than specified deadline"
    done = deploy(TIMEOUT="300")
    assert (
        done.returncode == 1 and "job/minio-setup failed: Job was active longer than specified deadline" in done.stderr
    )


# ---- secrets


def test_secrets_are_made_once_and_are_what_the_service_reads(deploy, checkout, cluster):
    from eolgul.serving.access.keys import ApiKeys
    from eolgul.serving.keyring import Keyring

    assert deploy("--secrets").returncode == 0
    folder = checkout / "k8s" / "overlays" / "local"
    made = {
        name: (folder / name).read_bytes() for name in ("secrets.env", "api-keys.json", "encryption-keys", "api-key")
    }
    assert all((folder / name).stat().st_mode & 0o077 == 0 for name in made)
    key = made["api-key"].decode().strip()
    caller = ApiKeys.read(folder / "api-keys.json").authenticate(f"Bearer {key}")
    assert caller.tenant == "default" and {"verify", "enroll"} <= caller.scopes
    assert Keyring.read(folder / "encryption-keys")
    values = [line.partition("=")[2] for line in made["secrets.env"].decode().splitlines()]
    assert len(set(values)) == len(values) == 7
    done = deploy("--secrets")
    assert done.returncode == 0 and done.stdout.count("is kept") == 3 and key not in done.stdout
    assert {name: (folder / name).read_bytes() for name in made} == made
    done = deploy()  # takes them; there is no service behind the stand-in to be asked
    assert done.returncode == 1 and "cannot be reached through kubectl port-forward" in done.stderr, done.stderr
    assert deploy("--secrets", "kubeflow").returncode == 0
    values_of = {line.partition("=")[0]: line.partition("=")[2] for line in made["secrets.env"].decode().splitlines()}
    assert (checkout / "k8s/kubeflow/secrets.env").read_text() == (
        f"EOLGUL_S3_ACCESS_KEY={values_of['PIPELINE_S3_ACCESS_KEY']}\nEOLGUL_S3_SECRET_KEY={values_of['PIPELINE_S3_SECRET_KEY']}\n"
    )


def test_git_ignores_what_is_made(deploy, checkout, root):
    before = set(checkout.rglob("*"))
    deploy("--secrets")
    made = [
        str(path.relative_to(checkout))
        for path in set(checkout.rglob("*")) - before
        if path.is_relative_to(checkout / "k8s")
    ]
    assert len(made) == 4
    done = subprocess.run(["git", "check-ignore", *made], cwd=root, capture_output=True, text=True, check=False)
    if done.returncode == 128:
        pytest.skip("not a git checkout")
    assert sorted(done.stdout.split()) == sorted(made)


def test_make_needs_no_environment(root):
    """Without .venv, `make deploy` and the like neither make it nor call anything but the script."""
    for target in ("secrets", "deploy", "diff", "undeploy", "render"):
        done = subprocess.run(
            ["make", "-n", target, "OVERLAY=local", "VENV=/nonexistent"],
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
        )
        [line] = done.stdout.splitlines()
        assert line.startswith("k8s/deploy.sh ") and line.endswith("local")


# ---- Kubeflow


@pytest.mark.parametrize(
    ("arguments", "words"), [(["--diff"], "kubectl diff -n"), (["--rotate", "s3"], "make rotate WHAT=s3 OVERLAY=")]
)
def test_what_kubeflow_has_not_says_what_to_do_instead(deploy, secrets, cluster, arguments, words):
    secrets("kubeflow")
    done = deploy(*arguments, "kubeflow")
    assert done.returncode == 2 and not cluster.changes and words in done.stderr


def test_kubeflow_goes_where_runs_happen(deploy, secrets, cluster):
    secrets("kubeflow")
    done = deploy("kubeflow", KUBEFLOW_NAMESPACE="anna")
    assert done.returncode == 0, done.stderr
    assert cluster.changes == [f"PATCH /api/v1/namespaces/anna/{kind}/eolgul-s3" for kind in ("configmaps", "secrets")]


@pytest.mark.parametrize(
    ("namespace", "given", "account"),
    [
        ("anna", {}, "default-editor"),
        ("kubeflow", {}, "pipeline-runner"),
        ("anna", {"KUBEFLOW_SERVICE_ACCOUNT": "me"}, "me"),
    ],
)
def test_the_rights_to_train_on_several_machines(deploy, secrets, cluster, namespace, given, account):
    secrets("kubeflow")
    done = deploy("kubeflow", KUBEFLOW_NAMESPACE=namespace, KUBEFLOW_TRAINJOBS="1", **given)
    assert done.returncode == 0, done.stderr
    documents = [cluster.objects[key] for key in cluster.objects if key[0] not in ("configmaps", "secrets")]
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


def test_a_name_that_would_break_the_rights(deploy, secrets, cluster):
    secrets("kubeflow")
    done = deploy("kubeflow", KUBEFLOW_TRAINJOBS="1", KUBEFLOW_SERVICE_ACCOUNT="a/b")
    assert done.returncode == 2 and "may contain only" in done.stderr and not cluster.changes


# ---- rendering


def test_render_applies_nothing_and_leaves_nothing(deploy, checkout, cluster, tmp_path):
    before = set(checkout.glob("k8s/**/*"))
    (tmp_path / "scratch").mkdir()
    done = deploy("--render", "local", TMPDIR=str(tmp_path / "scratch"))
    assert done.returncode == 0, done.stderr
    assert len(list(yaml.safe_load_all(done.stdout))) > 15 and not cluster.asked
    assert set(checkout.glob("k8s/**/*")) == before
    assert list(Path(tmp_path / "scratch").iterdir()) == []


@pytest.mark.parametrize(
    ("more", "image"),
    [
        ({}, "eolgul/serving:"),
        ({"ENGINE": "podman"}, "localhost/eolgul/serving:"),
        ({"CONTAINER_TOOL": "/usr/bin/buildah"}, "localhost/eolgul/serving:"),
        ({"IMAGE_PREFIX": "registry.example/x", "IMAGE_TAG": "7"}, "registry.example/x/serving:7"),
    ],
)
def test_the_image_has_the_name_that_make_images_gives_it(deploy, more, image):
    done = deploy("--render", "local", **more)
    documents = [one for one in yaml.safe_load_all(done.stdout) if one["kind"] in ("Deployment", "Job")]
    ours = {
        (container["image"], container["imagePullPolicy"])
        for one in documents
        for container in one["spec"]["template"]["spec"]["containers"]
        if one["metadata"]["name"] != "redis"
    }
    [(found, policy)] = ours
    assert found.startswith(image) and policy == "Never"
