"""The gate of a refactoring: the digests of every kind of artifact, made from a small drawn set by the commands alone.

    python tests/digests.py                 make the artifacts with this checkout and print their digests (JSON)
    python tests/digests.py --against FILE  the same, compared with what an earlier call printed: exit 1 names the differences
    python tests/digests.py --base COMMIT   the same, compared with that commit, which is checked out beside and run too

Digests depend on the machine (BLAS and oneDNN choose their kernels by the processor), so both sides are made on one.
`card` is the artifact's digest; `content` leaves out what names the version of the code, so that a release that changes
nothing else keeps it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CARDS = ("dataset.json", "manifest.json", "evaluation.json")
# Keys of a card that name the code's version, and those that name other cards.
VERSIONS = ("eolgul", "version", "inputs")
PEOPLE = ["--people", "14"]
TRAINING = ["epochs=5", "batch_size=8", "learning_rate=0.01", "scale=16.0", "margin=0.1", "precision=fp32"]
STEPS: list[list[str]] = [
    ["synth", "kface", "--kind", "kface", *PEOPLE, "--images", "6"],
    ["synth", "rec", "--kind", "rec", "--people", "18", "--images", "3"],
    ["synth", "pairs.bin", "--kind", "bin", "--people", "8", "--pairs", "20"],
    ["extract", "kface", "extracted-kface"],
    ["extract", "rec", "extracted-rec", "--verify", "--workers", "1"],
    ["extract", "pairs.bin", "extracted-bin"],
    ["align", "extracted-kface", "aligned-kface", "--anchor", "rig"],
    ["assemble", "aligned-kface", "extracted-rec", "--out", "assembled", "--test", "0.2", "--seed", "3"],
    ["train", "assembled", "model", "--recipe", "demo", "--threads", "1", "--workers", "1"]
    + [word for one in TRAINING for word in ("--set", one)],
    ["evaluate", "model", "assembled", "--out", "evaluation", "--benchmark", "extracted-bin", "--fmr", "0.1"],
    ["promote", "model", "evaluation", "--registry", "registry", "--force"],
    ["export", "aligned-kface", "exported", "--to", "rec"],
]  # fmt: skip


def make(checkout: Path, folder: Path) -> dict[str, dict[str, str]]:
    """Run the commands of `checkout` in `folder`; {artifact: {"card": digest, "content": digest}}."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(checkout / "src"), str(checkout)]),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "XDG_CACHE_HOME": str(folder / "cache"),
    }
    for step in STEPS:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "eolgul", *step],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"eolgul {' '.join(step)}: exit status {done.returncode}: {done.stderr[-2000:]}")
        if step[0] == "synth":
            _drop_renderer_digest(folder)
    found = {}
    for card in sorted(path for name in CARDS for path in folder.rglob(name) if "cache" not in path.parts):
        place = card.parent.relative_to(folder)
        name = "registry" if place.parts[0] == "registry" else str(place)
        if not (name == "registry" and card.name == "evaluation.json"):
            found[name] = {"card": hashlib.sha256(card.read_bytes()).hexdigest(), "content": _content(card)}
    exported = sorted((folder / "exported").rglob("*.rec"))
    found["exported"] = {"content": hashlib.sha256(b"".join(file.read_bytes() for file in exported)).hexdigest()}
    return found


def _drop_renderer_digest(folder: Path) -> None:
    """Take the digest of the renderer's source out of the marks of drawn data, which count as input of an extraction."""
    for mark in folder.rglob("*synthetic.json"):
        mark.write_text(json.dumps(json.loads(mark.read_text()) | {"source": "", "digest": ""}))


def _content(card: Path) -> str:
    """The digest of a card without what names versions; listed cards and figures of such digests are left out too."""
    value: dict[str, Any] = json.loads(card.read_bytes())
    for key in VERSIONS:
        value.pop(key, None)
    value["contents"].pop("model", None)  # the digest of the measured model's card
    value["recipe"] = {key: item for key, item in value["recipe"].items() if "digest" not in key}
    value["files"] = {
        name: facts
        for name, facts in value["files"].items()
        if name.rpartition("/")[2] not in (*CARDS, "metrics.json", "report.html", "training.json", "CARD.md")
    }
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, help="a file that an earlier call printed")
    parser.add_argument("--base", help="a commit to compare with")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="eolgul-digests-") as scratch:
        here = Path(scratch, "here")
        here.mkdir()
        mine = make(ROOT, here)
        print(json.dumps(mine, indent=1, sort_keys=True))
        theirs = json.loads(options.against.read_text()) if options.against else None
        if options.base:
            base, there = Path(scratch, "base"), Path(scratch, "there")
            there.mkdir()
            subprocess.run(["git", "worktree", "add", "--detach", "-q", base, options.base], cwd=ROOT, check=True)
            try:
                theirs = make(base, there)
            finally:
                subprocess.run(["git", "worktree", "remove", "--force", base], cwd=ROOT, check=True)
    if theirs is None:
        return
    different = [
        f"{name}: {kind}"
        for name in sorted(mine.keys() | theirs.keys())
        for kind in ("card", "content")
        if mine.get(name, {}).get(kind) != theirs.get(name, {}).get(kind)
    ]
    print("equal" if not different else f"different: {', '.join(different)}", file=sys.stderr)
    sys.exit(1 if different else 0)


if __name__ == "__main__":
    main()
