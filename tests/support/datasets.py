"""Make small FaceDatasets for tests, image by image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from eolgul.dataset import SHARD_BYTES, DatasetBuild, ShardWriter, build_dataset, member_size
from eolgul.errors import Reason, Rejection


class DatasetMaker:
    """Add images one by one; a shard ends when the next image would make it larger than `shard_bytes`."""

    def __init__(self, build: DatasetBuild, shard_bytes: int) -> None:
        """Made by `make_dataset`."""
        self._build, self._shard_bytes = build, shard_bytes
        self._stack, self._size, self._shards = ExitStack(), 0, 0
        self._writer: ShardWriter | None = None
        self.facts: dict[str, Any] = {}
        self.pair_columns: tuple[Sequence[Any], ...] | None = None

    def _shard(self, added: int) -> ShardWriter:
        if self._writer is None or self._size + added > self._shard_bytes:
            self._stack.close()
            self._writer = self._stack.enter_context(self._build.shard(self._shards, ""))
            self._shards, self._size = self._shards + 1, 0
        self._size += member_size(added) if added else 0
        return self._writer

    def add(self, image_id: str, identity: str, data: bytes, **columns: Any) -> None:
        """As `ShardWriter.add`."""
        self._shard(len(data)).add(image_id, identity, data, **columns)

    def reject(self, where: str, *, source: str, reason: str, detail: str, identity: str | None = None) -> None:
        """Record an input that does not become an image."""
        self._shard(0).reject(where, Rejection(Reason(reason), detail), identity=identity, source=source)

    def pairs(self, left: Sequence[int], right: Sequence[int], same: Sequence[bool], fold: Sequence[int]) -> None:
        """Make the dataset a Benchmark; rows count from 0 in the order of `add`."""
        self.pair_columns = (left, right, same, fold)

    def describe(self, **facts: Any) -> None:
        """Put facts into the card's contents."""
        self.facts.update(facts)

    def finish(self, **card: Any) -> None:
        """Join the shards and write the card."""
        self._shard(0)
        self._stack.close()
        self._build.finish(range(self._shards))
        if self.pair_columns is not None:
            self._build.write_pairs(*self.pair_columns)
        self._build.seal(version=1, facts=self.facts, **card)

    def give_up(self, error: BaseException) -> None:
        """Let go of the shard that is being written."""
        self._stack.__exit__(type(error), error, error.__traceback__)


@contextmanager
def make_dataset(
    out: Path,
    *,
    step: str,
    recipe: Mapping[str, Any],
    inputs: Sequence[Mapping[str, str]],
    synthetic: bool,
    shard_bytes: int = SHARD_BYTES,
) -> Iterator[DatasetMaker]:
    """Yield a maker of the FaceDataset `out`, which appears when the block ends well."""
    with build_dataset(out, {"test": str(out)}) as build:
        maker = DatasetMaker(build, shard_bytes)
        try:
            yield maker
        except BaseException as error:
            maker.give_up(error)
            raise
        maker.finish(step=step, recipe=recipe, inputs=inputs, synthetic=synthetic)
