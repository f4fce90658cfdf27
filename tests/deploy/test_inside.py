"""The scripts of the pods: the Redis start script with a real Redis, the MinIO set-up with the real SDK."""

from __future__ import annotations

import asyncio
import contextlib
import fnmatch
import importlib.util
import io
import json
import os
import subprocess
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import ModuleType, SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
import urllib3
from support.deployed import PASSWORD, StartedRedis, redis_servers
from support.late import Late
from support.places import ROOT

# ---- Redis


@contextlib.contextmanager
def _started(role: str, tmp_path_factory, program: str | None = None):
    if not redis_servers():
        pytest.skip("no redis-server here (extra `embedded`)")
    server = StartedRedis(role, tmp_path_factory.mktemp(role), server=program)
    server.start()
    try:
        yield server
        assert PASSWORD not in server.acl.read_text()
        assert server.acl.stat().st_mode & 0o077 == 0
    finally:
        server.end()


@pytest.fixture(scope="module")
def cache_redis(tmp_path_factory):
    with _started("cache", tmp_path_factory) as server:
        yield server


@pytest.fixture(scope="module")
def gallery_redis(tmp_path_factory):
    with _started("gallery", tmp_path_factory) as server:
        yield server


@pytest.fixture(params=redis_servers() or ["none"])
def each_gallery_redis(request, tmp_path_factory):
    """The gallery's Redis by every program here: versions differ in what they do with what they wrote."""
    with _started("gallery", tmp_path_factory, request.param) as server:
        yield server


@pytest.fixture(params=["cache", "gallery"])
def redis_port(request):
    return request.getfixturevalue(f"{request.param}_redis").port


def _client(port: int, **options: Any):
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    once = Retry(NoBackoff(), 0)  # the client's own retries of a refused login take seconds
    settings: dict[str, Any] = {"username": "eolgul", "password": PASSWORD, "retry": once} | options
    return redis.Redis(port=port, **settings)


def test_cache_works_as_its_user(cache_redis):
    """The service's own cache and rate limit run with the rights of the ACL."""
    from eolgul.serving.access.keys import Caller
    from eolgul.serving.access.limits import RateLimit, RateLimitedError
    from eolgul.serving.inference.cache import CacheKey, EmbeddingCache
    from eolgul.serving.inference.model import Analysis, Face
    from eolgul.serving.keyring import Keyring
    from eolgul.serving.redis_link import RedisLink

    face = Face((1.0, 2.0, 30.0, 40.0), 0.99, tuple((float(i), float(i)) for i in range(5)))
    key = CacheKey.from_image("tenant", "a" * 64, "b" * 64, b"image")
    analysis = Analysis(np.full(4, 0.5, np.float32), face, 1, 64, 64)
    caller = Caller("tenant", "key", frozenset(), 2)

    async def round_trip():
        url = f"redis://eolgul:{PASSWORD}@127.0.0.1:{cache_redis.port}/0"
        link = RedisLink(url, name="cache", timeout_s=2.0, pause_s=0.0)
        cache, alone = EmbeddingCache(link, Keyring.ephemeral(), ttl_s=60), []
        limits = [RateLimit(link, 0, fallback=lambda: alone.append(1)) for _ in range(3)]  # as many workers
        try:
            await cache.put(key, analysis)
            found = await cache.get([key])
            assert await cache.forget("tenant", [key.image])
            for limit in limits[:2]:
                await limit.check(caller)
            with pytest.raises(RateLimitedError):
                await limits[2].check(caller)
            return found, await cache.get([key]), alone
        finally:
            await cache.close()

    [found], [gone], alone = asyncio.run(round_trip())
    assert found is not None and np.array_equal(found.embedding, analysis.embedding)
    assert gone is None and not alone


def test_the_default_user_may_replay_and_nobody_can_be_it(gallery_redis):
    """The part that needs no Redis of the versions with the fault, which not every machine has."""
    [default] = [line for line in gallery_redis.acl.read_text().splitlines() if line.startswith("user default ")]
    assert default.split()[2:] == ["off", "resetpass", "~*", "resetchannels", "+@all"]


def test_gallery_works_as_its_user_and_outlives_a_kill(each_gallery_redis):
    """The service's own gallery runs with the rights of the ACL; after SIGKILL, answered changes are kept and erased people are gone."""
    from eolgul.serving.access.keys import make_key
    from eolgul.serving.access.stored_keys import StoredKeys
    from eolgul.serving.gallery.store import Gallery
    from eolgul.serving.gallery.templates import NewTemplate
    from eolgul.serving.keyring import Keyring
    from eolgul.serving.problems import RejectionError
    from eolgul.serving.redis_link import RedisLink

    old, new = Keyring({"old": bytes(32)}), Keyring({"new": b"n" * 32, "old": bytes(32)})
    templates = [
        NewTemplate("m" * 64, "c" * 64, np.eye(4, dtype=np.float32)[row], f"{row}" * 64, {"sharpness": 1.0})
        for row in range(3)
    ]

    def with_gallery(keyring, use):
        async def run():
            url = f"redis://eolgul:{PASSWORD}@127.0.0.1:{each_gallery_redis.port}/0"
            link = RedisLink(url, name="gallery", timeout_s=5.0, pause_s=0.0)
            gallery = Gallery(link, keyring)
            try:
                return await use(gallery, StoredKeys(link, keyring))
            finally:
                await gallery.close()

        return asyncio.run(run())

    made = [
        make_key(tenant="t", scopes=["embed"], expires=None, requests_per_minute=None, note="")[1] for _ in range(2)
    ]

    async def fill(gallery, keys):
        await gallery.enroll("t", "was", templates[:2])
        await gallery.update("t", "was", "stays", {"badge": "7"})
        for key in made:
            await keys.add(key)
        await keys.remove("t", made[1].id)
        await gallery.enroll("t", "goes", templates[2:])
        await gallery.enroll("t", "goes again", templates[2:])
        first = (await gallery.identify("t", "m" * 64, templates[0].embedding, 1)).matches[0]
        await gallery.delete_template("t", "stays", first.template)
        await gallery.delete_person("t", "goes")
        await gallery.delete_person("t", "goes again")
        with pytest.raises(RejectionError, match="no such person"):
            await gallery.delete_person("t", "goes")

    async def read(gallery, keys):
        resealed = await gallery.reseal("t") + await keys.reseal()
        assert await keys.read() == {made[0].id: made[0]}
        [listed] = (await gallery.people("t", matches=lambda name: name.startswith("st"))).people
        assert (listed.person, listed.metadata) == ("stays", {"badge": "7"})
        found = await gallery.identify("t", "m" * 64, templates[1].embedding, 5)
        return resealed, [one.person for one in found.matches], [one.person async for one in gallery.export("t")]

    with_gallery(old, fill)
    each_gallery_redis.end()
    each_gallery_redis.start()
    assert with_gallery(new, read) == (3, ["stays"], ["stays"])


@pytest.mark.parametrize(
    "command",
    [
        ["FLUSHALL"],
        ["FLUSHDB"],
        ["KEYS", "*"],
        ["SCAN", "0"],
        ["CONFIG", "GET", "*"],
        ["ACL", "LIST"],
        ["DEBUG", "SLEEP", "0"],
        ["EVAL", "return 1", "0"],
        ["DEL", "another:key"],
        ["SHUTDOWN", "NOSAVE"],
        ["REPLICAOF", "127.0.0.1", "1"],
        ["MIGRATE", "127.0.0.1", "1", "eolgul:embedding:x", "0", "1"],
        ["GET", "another:key"],
        ["SET", "another:key", "1"],
        ["SUBSCRIBE", "channel"],
    ],
    ids=" ".join,
)
def test_its_user_may_nothing_else(redis_port, command):
    from redis.exceptions import NoPermissionError

    with _client(redis_port) as client, pytest.raises(NoPermissionError):
        client.execute_command(*command)


@pytest.mark.parametrize(
    "options", [{"username": None, "password": None}, {"password": "wrong"}, {"username": "default"}]
)
def test_nobody_else_gets_in(redis_port, options):
    from redis.exceptions import AuthenticationError, NoPermissionError

    with _client(redis_port, **options) as client, pytest.raises((AuthenticationError, NoPermissionError)):
        client.ping()


@pytest.mark.parametrize(
    ("arguments", "words"), [(["cache"], "empty"), (["gallery"], "empty"), ([], "expected"), (["--port"], "expected")]
)
def test_a_bad_start_is_said(root, tmp_path, arguments, words):
    (tmp_path / "password").write_text("")
    done = subprocess.run(
        ["sh", root / "k8s" / "base" / "redis-start.sh", *arguments],
        env={"PATH": "/usr/bin:/bin", "PASSWORD_FILE": f"{tmp_path}/password", "ACL_FILE": f"{tmp_path}/acl"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and words in done.stderr and not (tmp_path / "acl").exists()


# ---- MinIO


@pytest.fixture(scope="module")
def setup() -> ModuleType:
    spec = importlib.util.spec_from_file_location("minio_setup", ROOT / "k8s" / "base" / "minio_setup.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class FakeMinio(BaseHTTPRequestHandler):
    """A server that records what the SDK sends: buckets, and the admin calls with their queries and bodies.

    It keeps the accounts as MinIO does: adding one leaves the others, and a list of them is encrypted for root.
    """

    buckets: set[str]
    calls: list[tuple[str, dict[str, str], bytes]]
    users: dict[str, dict[str, str]]

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urlsplit(self.path)
        name, status, sent = url.path.strip("/"), 200, b""
        if name.startswith("minio/admin/v3/"):
            query = {key: values[0] for key, values in parse_qs(url.query).items()}
            self.calls.append((name.removeprefix("minio/admin/v3/"), query, body))
            sent = self._administer(name.removeprefix("minio/admin/v3/"), query)
        elif self.command == "PUT":
            status = 200 if name not in self.buckets else 409
            self.buckets.add(name)
        else:
            status = 200 if name in self.buckets else 404
        self.send_response(status)
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    def _administer(self, call: str, query: dict[str, str]) -> bytes:
        from minio.crypto import encrypt

        if call == "add-user":
            self.users.setdefault(query["accessKey"], {"status": "enabled"})
        elif call == "set-user-or-group-policy":
            self.users[query["userOrGroup"]]["policyName"] = query["policyName"]
        elif call == "remove-user":
            del self.users[query["accessKey"]]
        elif call == "list-users":
            return encrypt(json.dumps(self.users).encode(), "minio_root_password-value")
        return b""

    do_GET = do_HEAD = do_PUT = do_DELETE = _answer  # noqa: N815 - http.server's names

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def minio():
    FakeMinio.buckets, FakeMinio.calls, FakeMinio.users = set(), [], {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), FakeMinio)
    Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def job(rendered, minio, monkeypatch):
    """The environment of the rendered Job, with another MinIO address and with passwords that differ."""
    manifests = rendered("local")
    environment = manifests.environment(manifests.container("Job", "minio-setup"))
    for name, value in environment.items():
        monkeypatch.setenv(name, f"{name.lower()}-value" if value == "change-me" else value)
    monkeypatch.setenv("EOLGUL_S3_ENDPOINT", f"127.0.0.1:{minio.server_port}")


def test_bucket_and_accounts_are_made(setup, job, minio, capsys):
    from minio.crypto import decrypt
    from urllib3.response import HTTPResponse

    setup.main()
    registry = os.environ["EOLGUL_REGISTRY"]
    assert FakeMinio.buckets == {"eolgul"}
    policies = {query["name"]: json.loads(body) for call, query, body in FakeMinio.calls if call == "add-canned-policy"}
    assert policies == {
        "eolgul-serving": setup.policy(registry, write=False),
        "eolgul-pipeline": setup.policy(registry, write=True),
    }
    given = {
        query["userOrGroup"]: query["policyName"] for call, query, _ in FakeMinio.calls if call.startswith("set-user")
    }
    assert given == {"serving_s3_access_key-value": "eolgul-serving", "pipeline_s3_access_key-value": "eolgul-pipeline"}
    for call, query, body in FakeMinio.calls:
        if call == "add-user":
            plain = decrypt(HTTPResponse(io.BytesIO(body), preload_content=False), "minio_root_password-value")
            assert json.loads(plain)["secretKey"] == query["accessKey"].replace("access", "secret")
    said = capsys.readouterr()
    assert "-value" not in said.out + said.err, "a secret was printed"


def test_it_may_run_again(setup, job, minio):
    setup.main()
    setup.main()
    assert FakeMinio.buckets == {"eolgul"}


def test_after_a_rotation_the_old_accounts_are_gone(setup, job, minio, monkeypatch, capsys):
    setup.main()
    FakeMinio.users |= {
        "somebody": {"policyName": "readwrite", "status": "enabled"},
        "with-more": {"policyName": "eolgul-pipeline,readwrite", "status": "enabled"},
        "without": {"status": "enabled"},
    }
    for who in ("SERVING", "PIPELINE"):
        monkeypatch.setenv(f"{who}_S3_ACCESS_KEY", f"{who.lower()}-second")
    setup.main()
    assert set(FakeMinio.users) == {"serving-second", "pipeline-second", "somebody", "with-more", "without"}
    said = capsys.readouterr().out
    assert said.count("is removed") == 2 and "serving_s3_access_key-value" not in said
    calls = len(FakeMinio.calls)
    setup.main()
    assert "remove-user" not in [call for call, _, _ in FakeMinio.calls[calls:]]


def test_it_waits_for_a_store_that_starts_after_it(setup, job, minio, monkeypatch, capsys):
    late = Late(f"127.0.0.1:{minio.server_port}")
    monkeypatch.setenv("EOLGUL_S3_ENDPOINT", late.address)
    monkeypatch.setattr(setup, "time", SimpleNamespace(monotonic=time.monotonic, sleep=lambda seconds: late.open()))
    setup.main()
    late.close()
    assert "does not answer yet" in capsys.readouterr().out and FakeMinio.buckets == {"eolgul"}
    monkeypatch.setattr(setup, "WAIT_S", -1.0)
    with pytest.raises(urllib3.exceptions.HTTPError):
        setup.main()


def test_accounts_that_are_one_are_refused(setup, job, minio, monkeypatch):
    monkeypatch.setenv("PIPELINE_S3_ACCESS_KEY", "serving_s3_access_key-value")
    with pytest.raises(SystemExit, match="differ"):
        setup.main()
    assert not FakeMinio.calls


def _may(policy: dict[str, Any], action: str, resource: str) -> bool:
    return any(
        statement["Effect"] == "Allow"
        and action in statement["Action"]
        and any(fnmatch.fnmatchcase(f"arn:aws:s3:::{resource}", pattern) for pattern in statement["Resource"])
        for statement in policy["Statement"]
    )


@pytest.mark.parametrize(
    ("registry", "below"), [("s3://eolgul", "eolgul"), ("s3://eolgul/registry/", "eolgul/registry")]
)
def test_service_may_only_read_models(setup, registry, below):
    from eolgul.registry.store import model_uri, signature_uri

    policy = setup.policy(registry, write=False)
    assert _may(policy, "s3:GetObject", f"{below}/production.json")
    for uri in (f"{model_uri(registry, 'ab' * 32)}/model.onnx", signature_uri(registry, "ab" * 32)):
        assert _may(policy, "s3:GetObject", uri.removeprefix("s3://")), uri
    assert _may(policy, "s3:ListBucket", "eolgul")
    for key in ("datasets/kface/shards/00000.tar", "runs/1/x", "history.jsonl"):
        assert not _may(policy, "s3:GetObject", f"{below}/{key}"), key
    for action in ("s3:PutObject", "s3:DeleteObject"):
        assert not _may(policy, action, f"{below}/production.json")
    assert not _may(policy, "s3:GetObject", "other/models/abc")


def test_pipeline_may_write_the_bucket_and_no_other(setup):
    policy = setup.policy("s3://eolgul", write=True)
    for action in ("s3:GetObject", "s3:PutObject", "s3:DeleteObject"):
        assert _may(policy, action, "eolgul/datasets/x") and not _may(policy, action, "other/x")
    assert not any("*" in action for statement in policy["Statement"] for action in statement["Action"])


def test_the_keys_are_the_registrys(setup):
    from eolgul.registry.store import POINTER, model_uri

    objects = setup.policy("s3://eolgul", write=False)["Statement"][1]["Resource"]
    assert f"arn:aws:s3:::eolgul/{POINTER}" in objects
    assert model_uri("s3://eolgul", "*").replace("s3://", "arn:aws:s3:::") in objects
