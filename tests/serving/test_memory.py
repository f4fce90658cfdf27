"""What an answered request leaves behind in the service: nothing; and what the collector has to walk meanwhile."""

from __future__ import annotations

import contextlib
import http.client
import subprocess
import sys
import threading
from pathlib import Path

from support.serving import serve

from eolgul.model.package import ModelPackage

ROUND = 10_000


def _resident_mb(home: Path) -> float:
    """Of the service's processes, which carry its home in their environment."""
    pages = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"BENTOML_HOME={home}".encode() in (process / "environ").read_bytes().split(b"\0"):
                pages += int((process / "statm").read_text().split()[1])
        except OSError:
            continue
    return pages * 4096 / 1e6


def _ask(port: int, count: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    for _ in range(count):
        connection.request("GET", "/livez")
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200
    connection.close()


def test_twenty_thousand_requests_leave_nothing(package: ModelPackage, tmp_path: Path) -> None:
    """BentoML's own timeout would leave a timer for each, 24 MB in all."""
    home = tmp_path / "home"
    sizes = []
    with contextlib.contextmanager(serve)(package, "", home) as service:
        port = service.client.base_url.port
        assert port is not None
        for _ in range(3):  # the first round fills pools and buffers
            threads = [threading.Thread(target=_ask, args=(port, ROUND // 4)) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            sizes.append(_resident_mb(home))
        assert service.metric("eolgul_requests_total", route="/livez", status="200") >= 3 * ROUND
    assert sizes[0] > 50
    assert sizes[2] - sizes[0] < 6, sizes


def test_what_a_start_made_is_not_walked_by_the_collector(package: ModelPackage) -> None:
    """In a process of its own, as freezing is for good."""
    code = """
import asyncio, gc, sys, time
from pathlib import Path
from eolgul.serving.inference.loader import Loader
from eolgul.serving.service import _freeze_start
from eolgul.serving.settings import Settings
loader = Loader(Settings(model=Path(sys.argv[1])))
loader.start()
asyncio.run(_freeze_start(loader))
assert loader.ready and gc.get_freeze_count() > 50_000, gc.get_freeze_count()
assert len(gc.get_objects()) < 5_000, len(gc.get_objects())
"""
    done = subprocess.run([sys.executable, "-c", code, str(package.path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
