"""No command, and no process that a command starts, imports code from the working directory, whoever owns that."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.serving import free_port

# Modules that the commands' processes import: the product's own, its dependencies', the standard library's.
NAMES = ("eolgul", "serving", "components", "pipelines", "kfp", "bentoml", "json", "multiprocessing", "numpy", "docker")


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A folder with a module of every such name, as file or package; each leaves a mark when it is run."""
    folder = tmp_path / "hostile"
    for number, name in enumerate(NAMES):
        code = f"open({str(tmp_path / 'ran')!r}, 'a').write({name + chr(10)!r})\n"
        file = folder / f"{name}.py" if number % 2 else folder / name / "__init__.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(code)
    (folder / "serving" / "launch.py").parent.mkdir(exist_ok=True)
    (folder / "serving" / "launch.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'a').write('launch')\n")
    return folder


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run `eolgul` as its console script does: the script's own folder is on the path, the working directory is not."""
    script = folder.parent / "eolgul-script.py"
    script.write_text("import sys\nfrom eolgul.cli import main\nif __name__ == '__main__':\n    sys.exit(main())\n")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    environment["EOLGUL_IMAGE_PREFIX"] = "registry.example/eolgul"
    return subprocess.run([sys.executable, str(script), *words], cwd=folder, env=environment, timeout=300,
                          capture_output=True, text=True, check=False)  # fmt: skip


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (("pipeline", "compile", "{out}/p.yaml"), 0, "p.yaml"),
        (("pipeline", "run", "--root", "{out}/kfp", "--param", "workspace={out}/w", "--param", "benchmarks=[]",
          "--param", 'sources=["{out}/nowhere"]'), 2, "nowhere: nothing there"),
        (("synth", "{out}/faces", "--kind", "rec", "--people", "2", "--images", "2", "--workers", "2"), 0, "images"),
        (("serve", "--no-wait", "--model", "{out}/nowhere", "--port", "{port}"), 2, "nowhere"),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, tuple) else None,
)  # fmt: skip
def test_nothing_is_imported_from_there(
    hostile: Path, tmp_path: Path, words: tuple[str, ...], status: int, says: str
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    port = free_port()
    done = run(hostile, *(word.replace("{out}", str(out)).replace("{port}", str(port)) for word in words))
    assert not (tmp_path / "ran").exists(), (tmp_path / "ran").read_text()
    assert done.returncode == status, done.stdout[-2000:] + done.stderr[-2000:]
    assert says in done.stdout + done.stderr
    if status == 0:
        assert json.loads(done.stdout.splitlines()[-1])["artifact"].startswith(str(out))
