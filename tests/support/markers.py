"""Which markers a test has: what it uses says what it is. `tests/conftest.py` sets them."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.places import TESTS

# A test without one of these starts no process, which `support.processes` checks.
STARTS = {"process", "service", "s3", "redis", "browser", "deploy"}
FAST = "not process and not slow"  # as in the Makefile
BY_FIXTURE = {
    "s3": "s3",
    "redis_server": "redis",
    "service": "service",
    "other_service": "service",
    "browser": "browser",
}
# A folder or a file below tests/.
BY_PLACE = {
    "cli": "process",
    "client/test_client.py": "process",
    "containers": "service",
    "demo/test_run.py": "slow s3 redis service",
    "deploy": "deploy",
    "deploy/test_smoke.py": "service",
    "examples/test_add_a_backbone.py": "process",
    "examples/test_train_on_a_folder.py": "slow process",
    "examples/test_verify_two_photos.py": "service redis",
    "extract/test_jobs.py": "process",
    "faces/test_equal_to_facenet.py": "slow",
    "faces/test_mtcnn.py": "slow",
    "formats/test_fuzz.py": "process",
    "formats/test_mxnet.py": "process",
    "pipelines": "slow",
    "pipelines/test_alignment_parts.py": "s3",
    "pipelines/test_extraction_parts.py": "s3",
    "serving/endpoints/test_body_memory.py": "service",
    "serving/endpoints/test_client_gone.py": "service",
    "serving/endpoints/test_gallery.py": "service redis",
    "serving/endpoints/test_gallery_edge_cases.py": "service redis",
    "serving/endpoints/test_http_protocol.py": "service redis",
    "serving/endpoints/test_keys.py": "service redis",
    "serving/endpoints/test_known.py": "service redis",
    "serving/endpoints/test_people.py": "service redis",
    "serving/endpoints/test_quality.py": "service redis",
    "serving/endpoints/test_refusals.py": "service",
    "serving/endpoints/test_which.py": "service redis",
    "serving/faults": "service redis",
    "serving/gallery/test_reseal.py": "service redis",
    "serving/inference/test_loader.py": "service",
    "serving/test_as_user.py": "service redis s3",
    "serving/test_client.py": "service redis",
    "serving/test_memory.py": "service",
    "serving/test_waiting.py": "service redis s3",
    "serving/test_workers.py": "service redis",
    "serving/test_working_directory.py": "process",
    "serving/transport/test_drain.py": "service",
    "serving/web": "service browser",
    "synth/test_draw.py": "slow",
    "synth/test_population.py": "slow",
    "test_scale.py": "slow process",
    "test_storage.py": "s3",
    "test_storage_mirror.py": "s3",
    "test_storage_references.py": "s3",
    "test_workers.py": "process",
    "train/test_backbones.py": "slow",
    "train/test_launchers.py": "slow process",
    "train/test_loader.py": "process",
    "train/test_machines.py": "slow process",
    "train/test_loop.py": "process",
    "train/test_runs.py": "slow",
    "train/test_initial_weights.py": "slow",
}
# The longest first under pytest-xdist, so that no worker ends long before the other.
FIRST = (
    "demo/test_run.py",
    "examples/test_train_on_a_folder.py",
    "pipelines/test_alignment_parts.py",
    "train/test_launchers.py",
    "train/test_checkpoint.py",
    "serving/faults/test_store_faults.py",
)


def place_of(path: Path) -> str:
    """The path below tests/, as in `BY_PLACE`."""
    return path.relative_to(TESTS).as_posix()


def markers_of_place(path: Path) -> set[str]:
    """The markers that every test of a file or folder has."""
    place = place_of(path)
    found = [names for name, names in BY_PLACE.items() if place == name or place.startswith(f"{name}/")]
    return set(" ".join(found).split())


def markers_of(item: pytest.Item) -> set[str]:
    """The markers of a test: by its fixtures, by its place, and those written on it."""
    fixtures = set(getattr(item, "fixturenames", ()))
    found = {marker for name, marker in BY_FIXTURE.items() if name in fixtures}
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    if "s3" in [value for value in parameters if isinstance(value, str)]:  # a place in S3 beside one on disk
        found.add("s3")
    found |= markers_of_place(item.path)
    found |= {mark.name for mark in item.iter_markers()} & {*STARTS, "slow"}
    return found | {"process"} if found & STARTS else found
