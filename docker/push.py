#!/usr/bin/env python3
"""Push the images that `make images` built, and write down each one with its digest.

    python3 docker/push.py registry.example/eolgul/train:TAG … --out docker/digests.json

A tag can be pushed again with other content, and nodes that have it do not ask. `eolgul pipeline compile`, `submit`,
`upload` and `schedule` take the images of the file that EOLGUL_IMAGES names, so that what runs is what was pushed.

docker and nerdctl print the digest; podman and buildah write it to `--digestfile` (their local digest is not the pushed
one, since they compress again). Only Python's standard library is used: this runs outside the environment.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

DIGEST = re.compile(r"\bsha256:[0-9a-f]{64}\b")
# docker's line after a push: "TAG: digest: sha256:… size: 1234"
PRINTED = re.compile(r"\bdigest: (sha256:[0-9a-f]{64})\b")


def fail(sentence: str, status: int = 2) -> NoReturn:
    """End with one sentence."""
    print(f"push: {sentence}", file=sys.stderr)
    sys.exit(status)


def push(tool: str, image: str, *, digest_file: bool) -> str:
    """Push one image; its digest in the registry, "" when the tool does not say it."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "digest"
        words = [tool, "push", *(["--digestfile", str(file)] if digest_file else []), image]
        printed: list[str] = []
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, errors="replace") as process:
            assert process.stdout is not None
            for line in process.stdout:
                print(line, end="", file=sys.stderr)
                printed.append(line)
        if process.returncode:
            fail(f"{image}: `{tool} push` ended with {process.returncode}; what it says is above", status=1)
        if digest_file and file.is_file():
            return match[0] if (match := DIGEST.search(file.read_text())) else ""
        found = [match[1] for line in printed if (match := PRINTED.search(line))]
        if found:
            return found[-1]
    said = subprocess.run(
        [tool, "image", "inspect", "--format", "{{range .RepoDigests}}{{println .}}{{end}}", image],
        capture_output=True, text=True, check=False,
    ).stdout  # fmt: skip
    name = image.rpartition(":")[0]
    of_registry = [line for line in said.split() if line.startswith(f"{name}@")]
    return match[0] if of_registry and (match := DIGEST.search(of_registry[-1])) else ""


def main() -> None:
    """Push every image named on the command line; the file is written when all are there."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("images", nargs="+", help="registry/folder/name:tag")
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    options = parser.parse_args()
    tool = os.environ.get("CONTAINER_TOOL") or "docker"
    for image in options.images:
        host, slash, _ = image.partition("/")
        if not slash or not (host == "localhost" or "." in host or ":" in host):
            fail(
                f"{image}: names no registry; set IMAGE_PREFIX=registry.example/eolgul (docker.io/NAME for Docker Hub)"
            )
        if ":" not in image.rpartition("/")[2]:
            fail(f"{image}: expected a tag after the name")
    if shutil.which(tool) is None:
        fail(f"{tool} is not installed; CONTAINER_TOOL names another one")
    help_text = subprocess.run([tool, "push", "--help"], capture_output=True, text=True, check=False)
    digest_file = "--digestfile" in help_text.stdout + help_text.stderr
    pushed = {}
    for image in options.images:
        digest = push(tool, image, digest_file=digest_file)
        if not digest:
            fail(f"{image}: pushed, but {tool} does not say under which digest", status=1)
        name = image.rpartition(":")[0]
        pushed[name.rpartition("/")[2]] = f"{name}@{digest}"
    scratch = options.out.with_name(f".{options.out.name}.{os.getpid()}")
    scratch.write_text(json.dumps(pushed, indent=2) + "\n")
    scratch.replace(options.out)
    print(f"{options.out}: {len(pushed)} images by digest. For the pipeline: export EOLGUL_IMAGES={options.out}")


if __name__ == "__main__":
    main()
