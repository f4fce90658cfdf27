"""Run an image as a cluster does: any user, a read-only root without capabilities, memory where it may write, the host's network.

docker and podman run it themselves. buildah has no read-only root, so crun or runc runs what it mounts.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_TMP = ["nosuid", "nodev", "mode=1777", "size=8g"]


@dataclass(frozen=True, slots=True)
class Image:
    """What an image says of itself.

    Attributes:
        name: With its tag.
        bytes: Of all its layers.
        config: The OCI configuration: Env, Entrypoint, Cmd, User, Labels.
    """

    name: str
    bytes: int
    config: dict[str, Any]

    @property
    def environment(self) -> dict[str, str]:
        """Its variables."""
        return dict(pair.split("=", 1) for pair in self.config.get("Env") or [])


@dataclass(frozen=True, slots=True)
class Engine:
    """docker, podman or buildah."""

    name: str

    @classmethod
    def find(cls) -> Engine | None:
        """The one that ENGINE names, else the first that is installed and answers."""
        named = os.environ.get("ENGINE")
        for name in [named] if named else ["docker", "podman", "buildah"]:
            runs = shutil.which(name) and (name != "buildah" or (_runtime() and os.geteuid() == 0))
            if runs and subprocess.run([name, "images"], capture_output=True, check=False).returncode == 0:
                return cls(name)
        return None

    def image(self, name: str) -> Image | None:
        """An image that is here; None where it is not."""
        kind = ["inspect", "--type", "image"] if self.name == "buildah" else ["image", "inspect"]
        done = subprocess.run([self.name, *kind, name], capture_output=True, text=True, check=False)
        if done.returncode:
            return None
        found = json.loads(done.stdout)
        if self.name != "buildah":
            return Image(name, found[0]["Size"], found[0]["Config"])
        listed = subprocess.run(
            ["buildah", "images", "--json", name], capture_output=True, text=True, check=True
        ).stdout
        return Image(name, _bytes(json.loads(listed)[0]["size"]), found["Docker"]["config"])

    @contextmanager
    def run(
        self,
        image: Image,
        command: Sequence[str],
        *,
        user: int,
        environment: Mapping[str, str],
        writable: Sequence[str] = (),
        mounts: Mapping[Path, str] | None = None,
        entrypoint: bool = False,
        **options: Any,
    ) -> Iterator[subprocess.Popen[Any]]:
        """Start a container, which ends with the block.

        Args:
            image: The image.
            command: Its command.
            user: The user's number; its group is 0, as OpenShift does it.
            environment: Beside the image's own.
            writable: Folders of memory beside /tmp.
            mounts: Folders of this machine, and where they are.
            entrypoint: Whether the image's entry point goes before the command.
            options: Of Popen.
        """
        words = [*((image.config.get("Entrypoint") or []) if entrypoint else []), *command]
        name = f"eolgul-test-{uuid.uuid4().hex[:8]}"
        if self.name != "buildah":
            argv = [
                *(self.name, "run", "--rm", "--name", name, "--read-only", "--cap-drop", "ALL", "--network", "host"),
                *("--security-opt", "no-new-privileges", "--user", f"{user}:0", "--entrypoint", words[0]),
                *(word for place in ("/tmp", *writable) for word in ("--tmpfs", f"{place}:mode=1777,size=8g")),
                *(word for here, there in (mounts or {}).items() for word in ("--volume", f"{here}:{there}")),
                *(word for key, value in environment.items() for word in ("--env", f"{key}={value}")),
                *(image.name, *words[1:]),
            ]
            with subprocess.Popen(argv, **options) as process:
                try:
                    yield process
                finally:
                    subprocess.run([self.name, "rm", "-f", name], capture_output=True, check=False)
            return
        subprocess.run(["buildah", "from", "--pull-never", "--name", name, image.name], capture_output=True, check=True)
        runtime, bundle = _runtime(), Path("/run") / name
        try:
            root = subprocess.run(["buildah", "mount", name], capture_output=True, text=True, check=True).stdout.strip()
            for place in writable:  # runc gives memory the mode of the folder below it
                (Path(root) / place.lstrip("/")).mkdir(parents=True, exist_ok=True)
                (Path(root) / place.lstrip("/")).chmod(0o1777)
            bundle.mkdir(mode=0o700)
            spec = _specification(Path(root), image, words, user, environment, writable, mounts or {})
            (bundle / "config.json").write_text(json.dumps(spec))
            managed = ["--cgroup-manager=disabled"] if Path(runtime).name == "crun" else []
            with subprocess.Popen([runtime, *managed, "run", "--bundle", str(bundle), name], **options) as process:
                try:
                    yield process
                finally:
                    subprocess.run([runtime, "delete", "--force", name], capture_output=True, check=False)
        finally:
            shutil.rmtree(bundle, ignore_errors=True)
            subprocess.run(["buildah", "umount", name], capture_output=True, check=False)
            subprocess.run(["buildah", "rm", name], capture_output=True, check=False)


def _runtime() -> str:
    return shutil.which("runc") or shutil.which("crun") or ""


def _bytes(size: str) -> int:
    number, unit = size.split()
    return int(float(number) * {"B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9}[unit])


def _specification(
    root: Path,
    image: Image,
    words: Sequence[str],
    user: int,
    environment: Mapping[str, str],
    writable: Sequence[str],
    mounts: Mapping[Path, str],
) -> dict[str, Any]:
    """An OCI runtime's config.json: no capability in any set, nothing gained by setuid, the root read-only."""
    memory = [
        {"destination": place, "type": "tmpfs", "source": "tmpfs", "options": _TMP} for place in ("/tmp", *writable)
    ]
    shared = [
        {"destination": there, "type": "bind", "source": str(here), "options": ["rbind", "rw"]}
        for here, there in mounts.items()
    ]
    system = [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=65536k"]},
        {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "nodev", "mode=1777"]},
        {"destination": "/sys", "type": "bind", "source": "/sys", "options": ["rbind", "nosuid", "nodev", "ro"]},
    ]
    network = [
        {"destination": file, "type": "bind", "source": file, "options": ["rbind", "ro"]}
        for file in ("/etc/hosts", "/etc/resolv.conf")
    ]
    return {
        "ociVersion": "1.0.0",
        "process": {
            "user": {"uid": user, "gid": 0},
            "args": list(words),
            "env": [f"{key}={value}" for key, value in {**image.environment, **environment}.items()],
            "cwd": image.config.get("WorkingDir") or "/",
            "capabilities": {},
            "noNewPrivileges": True,
        },
        "root": {"path": str(root), "readonly": True},
        "mounts": [*system, *network, *memory, *shared],
        "linux": {"namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount")]},
    }
