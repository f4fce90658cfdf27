"""Few files are open, however many shards there are; and nothing is read from a file that another thread has closed."""

from __future__ import annotations

import gc
import os
import pickle
import resource
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from support.datasets import make_dataset

from eolgul.dataset import FaceDataset, handles
from eolgul.errors import InputError

SHARDS = 90


def open_shards() -> int:
    """The files of this process that are shards."""
    found = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            found += "/shards/" in str(descriptor.readlink())
        except OSError:  # the descriptor of the listing itself
            continue
    return found


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> FaceDataset:
    """A dataset of `SHARDS` shards with one image each."""
    out = tmp_path_factory.mktemp("handles") / "out"
    with make_dataset(out, step="test", recipe={}, inputs=[], synthetic=False, shard_bytes=1) as made:
        for number in range(SHARDS):
            made.add(f"a/{number}", "a", b"%05d" % number, extension="png", size=(1, 1), source="s")
        made.describe(name="out")
    return FaceDataset(out)


@pytest.fixture
def few_files() -> Iterator[int]:
    """`ulimit -n` so low that not every shard can be open; yields how many may be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = len(list(Path("/proc/self/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (before + 40, hard))
    try:
        yield handles.limit()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_more_shards_than_files_may_be_open(many: FaceDataset, few_files: int) -> None:
    other = pickle.loads(pickle.dumps(many))
    for row in np.random.default_rng(0).integers(0, SHARDS, 2000).tolist():
        assert many.read(row) == other.read(row) == b"%05d" % row
        assert open_shards() <= few_files
    assert open_shards() == few_files


def test_threads_read_while_files_are_closed(many: FaceDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handles, "MOST", 2)
    rows = np.random.default_rng(1).integers(0, SHARDS, 6000).tolist()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(many.read, rows)) == [b"%05d" % row for row in rows]
    assert open_shards() <= 2


def test_a_dataset_that_is_gone_has_no_open_files(many: FaceDataset) -> None:
    before = open_shards()
    other = pickle.loads(pickle.dumps(many))
    other.read(0)
    assert open_shards() == before + 1
    del other
    gc.collect()
    assert open_shards() == before


def test_the_limit_follows_ulimit(few_files: int) -> None:
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert few_files == allowed // 4 < handles.MOST


@pytest.mark.process
def test_a_child_of_fork_reads_what_the_parent_does(many: FaceDataset) -> None:
    many.read(0)
    child = os.fork()
    if not child:
        os._exit(0 if [many.read(row) for row in (0, 1)] == [b"00000", b"00001"] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert many.read(0) == b"00000"


def test_a_shard_that_is_missing_is_an_error_each_time(many: FaceDataset, tmp_path: Path) -> None:
    files = handles.ShardFiles(tmp_path)
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            files.read("00000.tar", 1, 0)
    with pytest.raises(InputError, match="expected one of"):
        many.rows("exam")
