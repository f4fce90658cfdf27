"""Count the requests that are lost while two replicas are replaced: rolling updates and deleted pods, as the user of the image.

Each replica is `eolgul serve` as uid 10001 without capabilities, where this runs as root. In front of them a TCP balancer stands for
a Service of Kubernetes: it chooses a ready replica at random for every connection, never tries another one, and takes a replica out
after its /readyz has failed twice. An update starts a new replica, waits until it is ready and ends an old one, twice (maxSurge 1,
maxUnavailable 0); a deletion ends a replica and starts another one at once. Half of the clients keep their connection as long as
they are let, the others open one per request; none repeats a request.

    python benchmarks/rolling.py [--updates 20] [--deletions 20] [--clients 16] [--drain 5] [--least 5000]
    python benchmarks/rolling.py --address URL --key-file FILE --photos A B …      a deployed service, with kubectl's current context

Deployed, an update is `kubectl rollout restart`, a deletion that of a random pod; Kubernetes itself does the rest. FILE has an API key
whose limit of requests does not get in the way.

Prints one JSON line; exit status 1 if a request was lost.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))  # support
POLL_S, FAILURES, BETWEEN_S = 0.25, 2, 1.0
SPARE = 3  # replicas that start ahead, so that the run does not wait for imports; the balancer does not know them yet


class Replica:
    """One service: its process, its port, and whether the balancer may send it connections."""

    def __init__(self, folder: Path, package: Path, redis_url: str, drain: float) -> None:
        from support import pod_user
        from support.serving import free_port

        from eolgul.serving import launch

        self.port = free_port()
        place = folder / f"replica-{self.port}"
        place.mkdir()
        home = place / "home"
        environment = dict(os.environ) | {
            "EOLGUL_AUTH": "off",
            "EOLGUL_REQUESTS_PER_MINUTE": "0",
            "EOLGUL_DRAIN_S": str(drain),
            "EOLGUL_CONCURRENCY": "2",
            "EOLGUL_QUEUE": "64",
            "EOLGUL_REDIS_TIMEOUT_S": "1",
            "HOME": str(home),
            "TMPDIR": str(place / "tmp"),
        }
        argv, env = launch.command(
            port=self.port, model=package, redis_url=redis_url, home=home, environment=environment
        )
        if os.geteuid() == 0:
            argv = pod_user.command(place, argv)
        self.log = place / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(argv, env=env, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        self.ready, self._failed = False, FAILURES

    def saw(self, ready: bool) -> None:
        self._failed = 0 if ready else self._failed + 1
        self.ready = self._failed < FAILURES


class Local:
    """The balancer and its replicas."""

    def __init__(self, folder: Path, package: Path, redis_url: str, drain: float) -> None:
        self.replicas: list[Replica] = []
        self.refused = 0
        self.address, self.key = "", ""
        self._make = (folder, package, redis_url, drain)
        self._spare = [Replica(*self._make) for _ in range(2 + SPARE)]
        self._connections: set[asyncio.Task[None] | None] = set()  # the event loop itself holds tasks weakly

    async def start(self) -> None:
        server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._server = server
        self._poll = asyncio.create_task(self._follow())
        await asyncio.gather(*(until_ready(self._new()) for _ in range(2)))

    def _new(self) -> Replica:
        self._spare.append(Replica(*self._make))
        self.replicas.append(self._spare.pop(0))
        return self.replicas[-1]

    async def update(self) -> None:
        for old in list(self.replicas):
            await until_ready(self._new())
            await self._end(old)

    async def delete(self) -> None:
        old = random.choice(self.replicas)
        replacement = self._new()
        await self._end(old)
        await until_ready(replacement)

    async def _end(self, replica: Replica) -> None:
        """SIGTERM, and out of the list when its process has ended; the balancer learns of it from /readyz alone."""
        replica.process.send_signal(signal.SIGTERM)
        while replica.process.poll() is None:
            await asyncio.sleep(0.1)
        self.replicas.remove(replica)

    def close(self) -> None:
        for replica in self.replicas + self._spare:
            replica.process.kill()

    async def _follow(self) -> None:
        async with httpx.AsyncClient(timeout=3) as client:

            async def ask(replica: Replica) -> None:
                try:
                    replica.saw((await client.get(f"http://127.0.0.1:{replica.port}/readyz")).status_code == 200)
                except httpx.HTTPError:
                    replica.saw(False)

            async def follow(
                replica: Replica,
            ) -> None:  # each for itself: one that is slow delays no other, as with kubelet's probes
                while replica in self.replicas:
                    await asyncio.gather(ask(replica), asyncio.sleep(POLL_S))

            followed: dict[Replica, asyncio.Task[None]] = {}
            while True:
                for one in self.replicas:
                    if one not in followed:
                        followed[one] = asyncio.create_task(follow(one))
                await asyncio.sleep(POLL_S / 2)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(task := asyncio.current_task())
        self.refused += 1
        # No replica, or one that refuses: the client sees its connection end.
        with contextlib.suppress(OSError, IndexError):
            replica = random.choice([one for one in self.replicas if one.ready])
            back_reader, back_writer = await asyncio.open_connection("127.0.0.1", replica.port)
            self.refused -= 1
            sending = asyncio.create_task(_copy(reader, back_writer))
            await _copy(back_reader, writer)  # until the replica ends the connection, or the client did
            sending.cancel()
            back_writer.close()
        writer.close()
        self._connections.discard(task)


class Deployed:
    """A service in a cluster: what its address leads to, and kubectl."""

    refused = 0

    def __init__(self, address: str, key: str, namespace: str) -> None:
        self.address, self.key, self._namespace = address.rstrip("/"), key, namespace

    async def start(self) -> None:
        await self._until_whole()

    async def _kubectl(self, *words: str) -> str:
        command = ("kubectl", "-n", self._namespace, *words)
        process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        out, error = await process.communicate()
        if process.returncode:
            raise SystemExit(f"{' '.join(command)}: {error.decode()[-500:]}")
        return out.decode()

    async def _until_whole(self) -> None:
        await self._kubectl("rollout", "status", "deployment/serving", "--timeout=300s")

    async def update(self) -> None:
        await self._kubectl("rollout", "restart", "deployment/serving")
        await self._until_whole()

    async def delete(self) -> None:
        chosen = ("-l", "app.kubernetes.io/name=serving", "--field-selector=status.phase=Running", "-o", "name")
        pods = (await self._kubectl("get", "pods", *chosen)).split()
        await self._kubectl("delete", random.choice(pods))
        await self._until_whole()

    def close(self) -> None:
        """Nothing of it is ours."""


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(OSError):
        writer.write_eof()


async def client(
    number: int, service: Local | Deployed, pictures: list[bytes], seen: Counter[str], ended: asyncio.Event
) -> None:
    """Verify until `ended`; count every answer by its status, and everything else by its name."""
    keeps = number % 2 == 0
    limits = httpx.Limits(max_keepalive_connections=1 if keeps else 0)
    headers = {"authorization": f"Bearer {service.key}"} if service.key else {}
    async with httpx.AsyncClient(base_url=service.address, timeout=60, limits=limits, headers=headers) as asking:
        while not ended.is_set():
            files = {"image1": ("x", random.choice(pictures)), "image2": ("y", random.choice(pictures))}
            try:
                answer = await asking.post("/v1/verify", files=files)
                seen["closed" if answer.headers.get("connection") == "close" else "kept"] += keeps
                seen[str(answer.status_code)] += 1
            except httpx.HTTPError as error:
                seen[f"{type(error).__name__}: {error}"] += 1
            await asyncio.sleep(random.uniform(0, 2 * BETWEEN_S))


async def until_ready(replica: Replica) -> None:
    deadline = time.monotonic() + 300
    while not replica.ready:
        if replica.process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"a replica does not start: {replica.log.read_text()[-2000:]}")
        await asyncio.sleep(0.1)


async def run(options: argparse.Namespace, service: Local | Deployed, pictures: list[bytes]) -> Counter[str]:
    seen, ended = Counter[str](), asyncio.Event()
    try:
        await service.start()
        clients = [asyncio.create_task(client(n, service, pictures, seen, ended)) for n in range(options.clients)]
        for number in range(max(options.updates, options.deletions)):
            if number < options.updates:
                await service.update()
            if number < options.deletions:
                await service.delete()
            print(f"{number + 1}: {dict(seen)}, {service.refused} not connected", file=sys.stderr, flush=True)
        while sum(count for name, count in seen.items() if name.isdigit()) < options.least:
            await asyncio.sleep(1)
        ended.set()
        await asyncio.gather(*clients)
    finally:
        service.close()
    return seen


def local(options: argparse.Namespace) -> Counter[str]:
    """Two replicas of this machine, with a tiny model."""
    from support import tiny_package

    from eolgul.demo import embedded
    from eolgul.faces.networks import export_onnx
    from eolgul.synth import draw_kface

    with tempfile.TemporaryDirectory(prefix="rolling-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        (folder / "detector").mkdir()
        export_onnx(folder / "detector")
        package = tiny_package.write(folder / "package", folder / "detector", region=tiny_package.REGION)
        selection = "resolutions=Middle accessories=S001 lights=L1,L3 expressions=E01 cameras=C7"
        draw_kface(folder / "kface", people=2, selection=selection, images_per_person=None, workers=1)
        pictures = [path.read_bytes() for path in sorted((folder / "kface").rglob("*.jpg"))]
        with embedded.redis(folder / "redis") as redis_url:
            return asyncio.run(run(options, Local(folder, package.path, redis_url, options.drain), pictures))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("updates", 20), ("deletions", 20), ("clients", 16), ("least", 5000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--drain", type=float, help="EOLGUL_DRAIN_S of the replicas here (5); the manifests have 10")
    parser.add_argument("--address", help="of a deployed service, such as http://10.96.3.4:3000")
    parser.add_argument("--key-file", type=Path)
    parser.add_argument("--photos", type=Path, nargs="+")
    parser.add_argument("--namespace", default="eolgul")
    options = parser.parse_args()

    if bool(options.address) != bool(options.key_file and options.photos):
        parser.error("a deployed service needs --address, --key-file and --photos")
    if options.address and options.drain is not None:
        parser.error("--drain is of replicas here; a deployed service has its own EOLGUL_DRAIN_S")
    options.drain = 5.0 if options.drain is None else options.drain

    began = time.monotonic()
    if options.address:
        service = Deployed(options.address, options.key_file.read_text().strip(), options.namespace)
        seen = asyncio.run(run(options, service, [photo.read_bytes() for photo in options.photos]))
    else:
        seen = local(options)
    statuses = {name: count for name, count in seen.items() if name.isdigit()}
    lost = {name: count for name, count in seen.items() if name not in ("200", "kept", "closed")}
    facts = {"requests": sum(statuses.values()) + sum(seen[name] for name in lost if not name.isdigit()), "lost": lost}
    facts |= {
        "updates": options.updates,
        "deletions": options.deletions,
        "clients": options.clients,
        "connections_closed_by_a_drain": seen["closed"],
    }
    if not options.address:
        from support import pod_user

        facts |= {"drain_s": options.drain, "uid": os.geteuid() or pod_user.USER}
    facts |= {"seconds": round(time.monotonic() - began)}
    print(json.dumps(facts))
    return bool(lost)


if __name__ == "__main__":
    sys.exit(main())
