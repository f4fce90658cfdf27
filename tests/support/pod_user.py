"""Run a command as a pod does: uid 10001 without capabilities, on a read-only root, in a mount namespace of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from support.places import ROOT

USER = 10001
# /tmp may be written, as in the pods (SeaweedFS has its sockets there). $1: another folder that may be; the small disk in it is for
# the test that fills one. Then pairs of what is shown where, up to "--": the interpreter may lie below a folder that only root may enter.
_POD = f"""
set -e
place=$1
shift
mount --bind /tmp /tmp
mount --bind "$place" "$place"
mount -t tmpfs -o size=8m,mode=0777 none "$place/small"
while [ "$1" != -- ]; do
    mount --rbind "$1" "$2"
    shift 2
done
shift
mount -o remount,ro,bind /
exec setpriv --reuid {USER} --regid {USER} --clear-groups --inh-caps=-all --bounding-set=-all --no-new-privs "$@"
"""


def closed_to_others(path: Path) -> Path | None:
    """The outermost folder above `path` that other users may not enter."""
    return next((one for one in reversed(path.parents) if not one.stat().st_mode & 0o001), None)


def command(folder: Path, argv: Sequence[str]) -> list[str]:
    """The command that runs `argv` as that user, which may write `folder` and /tmp only.

    Folders `tmp` and `home` in it are the user's; `small` is a file system of 8 MiB.
    """
    for name in ("small", "tmp", "home"):
        (folder / name).mkdir(exist_ok=True)
        os.chown(folder / name, USER, USER)
    shown: list[str] = []
    for needed in {Path(sys.base_prefix), Path(sys.prefix).resolve(), ROOT}:
        if (closed := closed_to_others(needed)) is not None:
            view = folder / "views" / "-".join(closed.parts[1:])
            (view / needed.relative_to(closed)).mkdir(parents=True, exist_ok=True)
            shown += [str(needed), str(view / needed.relative_to(closed)), str(view), str(closed)]
    return ["unshare", "--mount", "sh", "-c", _POD, "sh", str(folder), *shown, "--", *argv]


def why_not(folder: Path) -> str:
    """Why no such user can be had here; empty if one can."""
    if os.geteuid() != 0:
        return "only root may become another user"
    for tool in ("unshare", "setpriv"):
        if shutil.which(tool) is None:
            return f"{tool} (util-linux) is missing"
    argv = [sys.executable, "-c", "import sys, eolgul; print(sys.base_prefix)"]
    done = subprocess.run(command(folder, argv), cwd=ROOT, capture_output=True, text=True, check=False)
    if done.stdout.strip() == sys.base_prefix:
        return ""
    return f"no such user can be had here: {(done.stderr.strip() or done.stdout.strip()).splitlines()[-1]}"
