"""Checkpoints: everything a run needs to continue as if it had never stopped; a kill at any moment destroys none.

Below one place (a folder or an `s3://` prefix) lie `slot-<n>/` (torch.distributed.checkpoint's files; those of further
machines in `slot-<n>.<machine>/` where the place is in S3), `best-<n>/` (the best epoch's network) and `checkpoints.json`,
which lists the complete checkpoints: newest first, with the sha256 of every file and the run's progress. Only a slot that
the list does not name is written to, and the list is replaced atomically afterwards: a checkpoint exists from that moment
on.

Only tensors are read: torch's index file, a pickle, goes through an unpickler that admits the few classes it needs.
"""

from __future__ import annotations

import contextlib
import copy
import json
import pickle
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor

from eolgul import storage
from eolgul.artifact import list_files
from eolgul.errors import InputError
from eolgul.files import sha256_bytes
from eolgul.train.distributed import World

INDEX = "checkpoints.json"
_FORMAT = 1
_LEAST_WORK = 100  # seconds of training for one that a checkpoint stops it
State = dict[str, Tensor]
Files = dict[str, dict[str, Any]]
"""Files of a folder with size and sha256, as `list_files` gives them."""


class Checkpoints:
    """The checkpoints of one run: `recipe` is the run's digest (`eolgul.train.runs`), which must not change during it.

    Writing runs in the background: `save` waits for the previous checkpoint, copies the tensors and returns, and a thread
    writes the copy, hashes and lists it, and uploads it to S3. With several processes the threads agree over a connection of
    their own, beside the training's. The error of a thread is raised by the next `save` or `wait`; where one process fails,
    all do.

    Memory: one copy of this process's tensors.
    """

    def __init__(
        self,
        uri: str,
        *,
        recipe: str,
        run: Mapping[str, Any] | None = None,
        keep: int = 2,
        world: World = World(),  # noqa: B008
    ) -> None:
        """Read the list of checkpoints at `uri`; `run` is what `recipe` is the digest of, kept in the list for other runs."""
        self.uri, self.recipe, self.keep, self.world = uri, recipe, keep, world
        self._run = dict(run or {})
        self.warnings: list[str] = []
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._behind: Future[None] | None = None
        self._staged: State = {}
        self._apart: World | None = None  # made by the first `save`
        self._mesh: DeviceMesh | None = None
        self._index: list[dict[str, Any]] = world.share(self._read_index() if world.first else [])

    @property
    def empty(self) -> bool:
        """Whether there is no checkpoint yet."""
        return not self._index

    def save(self, state: Mapping[str, Tensor], progress: dict[str, Any], best: Mapping[str, Tensor] | None) -> None:
        """Write a checkpoint; all ranks call this together.

        Args:
            state: This rank's tensors; a DTensor is this rank's share of a tensor of all ranks.
            progress: The run's progress as JSON values.
            best: The best epoch's network, on rank 0, if it has changed since the last call.
        """
        self.wait()
        if self._apart is None:
            self._apart = self.world.apart()
            if self.world.size > 1:
                self._mesh = init_device_mesh("cpu", (self.world.size,))
        slot = self.world.share(self._free("slot", "name"))  # rank 0 has listed the previous one
        staged = self._stage(state)
        chosen = None if best is None else {name: value.detach().to("cpu", copy=True) for name, value in best.items()}
        place, told = self._local(slot), copy.deepcopy(progress)
        self._behind = self._thread.submit(self._write, self._apart, place, staged, told, chosen)

    def _stage(self, state: Mapping[str, Tensor]) -> State:
        """Copy the tensors to memory that the training does not change; it is used again for the next checkpoint."""
        with torch.no_grad():
            for name, value in state.items():
                own = value.to_local() if isinstance(value, DTensor) else value.detach()
                kept = self._staged.get(name)
                if kept is None or kept.shape != own.shape or kept.dtype != own.dtype:
                    kept = torch.empty_like(own, device="cpu", pin_memory=own.is_cuda)
                    self._staged[name] = kept
                kept.copy_(own, non_blocking=True)
        if any(value.is_cuda for value in state.values()):
            torch.cuda.synchronize()
        return {name: self._as_share(self._staged[name], value) for name, value in state.items()}

    def _as_share(self, kept: Tensor, value: Tensor) -> Tensor:
        """A copy of this rank's share of a tensor as such a share."""
        if not isinstance(value, DTensor):
            return kept
        assert self._mesh is not None
        return DTensor.from_local(
            kept, self._mesh, value.placements, run_check=False, shape=value.shape, stride=value.stride()
        )

    def _write(
        self, apart: World, place: Path, staged: State, progress: dict[str, Any], best: Mapping[str, Tensor] | None
    ) -> None:
        """Write the tensors of all processes, then hash, list and upload on rank 0; in the thread."""
        complaint = None
        try:
            if self._writes_here:
                shutil.rmtree(place, ignore_errors=True)
                place.mkdir(parents=True)
        except OSError as error:
            if apart.size == 1:
                raise
            complaint = f"{place}: {error.strerror}"
        for one in apart.collect(complaint):  # nobody writes before the folder is there, or waits for one that is not
            if one is not None:
                raise InputError(one)
        _write_tensors(staged, place, apart)
        parts = self._publish_part(apart, place)
        if apart.first:
            self._finish(place, parts, progress, best)

    def _finish(
        self,
        place: Path,
        parts: dict[str, Files],
        progress: dict[str, Any],
        best: Mapping[str, Tensor] | None,
    ) -> None:
        """Hash, list and upload what is written; on rank 0."""
        entry: dict[str, Any] = {"name": place.name, "files": list_files(place), "progress": progress}
        if parts:
            entry["parts"] = parts
        entry["best"] = self._index[0]["best"] if self._index else None
        folders = [place]
        if best is not None:
            folder = place.with_name(self._free("best", "best"))
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            save_file({name: value.contiguous() for name, value in best.items()}, folder / "best.safetensors")
            entry["best"] = {"name": folder.name, "files": list_files(folder)}
            folders.append(folder)
        self._index = [entry, *self._index][: self.keep]
        listed = json.dumps(
            {"format": _FORMAT, "recipe": self.recipe, "run": self._run, "checkpoints": self._index}
        ).encode()
        if storage.is_s3(self.uri):
            self._publish(folders, listed)
        else:
            storage.write_bytes(storage.join(self.uri, INDEX), listed)

    def take_over(self, other: Checkpoints, state: Mapping[str, Tensor], progress: dict[str, Any] | None) -> None:
        """Begin this list with a checkpoint that was read from another run's: its tensors, progress, best epoch and logs.

        All ranks call this together.
        """
        if progress is None:
            return
        self.save(state, progress, other.best() if self.world.first and progress["best"] is not None else None)
        theirs, own = storage.join(other.uri, "logs"), storage.join(self.uri, "logs")
        if self.world.first and storage.exists(theirs):
            if storage.is_s3(own):
                storage.publish(storage.fetch(theirs), own, replace=True)
            else:
                shutil.copytree(storage.fetch(theirs), own, dirs_exist_ok=True)
        self.world.wait()

    def wait(self) -> None:
        """Wait until the last checkpoint is written and uploaded; raises the error if that failed."""
        if self._behind is not None:
            behind, self._behind = self._behind, None
            behind.result()

    def close(self) -> None:
        """Let a checkpoint that is being written end, whatever else has failed; nobody else may write here before."""
        self._thread.shutdown()

    def load(self, state: State) -> dict[str, Any] | None:
        """Read the newest complete checkpoint into the tensors of `state`.

        A damaged one is skipped, with a line in `warnings`.

        Returns:
            The progress of that checkpoint, None if there is no checkpoint.

        Raises:
            InputError: All checkpoints are damaged.
        """
        damaged = []
        for number, entry in enumerate(self._index):
            found = self.world.collect(self._fetch(entry) if self._writes_here else None)
            complaint = next((one for one in found if one is not None), None)
            if complaint is None:
                complaint = self._read(entry["name"], state)
            if complaint is None:
                self._index = self._index[number:]
                progress: dict[str, Any] = copy.deepcopy(entry["progress"])
                return progress
            damaged.append(complaint)
            self.warnings.append(f"{complaint}: the checkpoint before it is used")
        if damaged:
            raise InputError(f"{damaged[0]}, and no other checkpoint is whole; delete {self.uri} to start afresh")
        return None

    def best(self) -> State:
        """Read the best epoch's network that the newest checkpoint names; on rank 0."""
        self.wait()
        name = self._index[0]["best"]["name"]
        return dict(load_file(self._local(name) / "best.safetensors"))

    def _read_index(self) -> list[dict[str, Any]]:
        index = read_index(self.uri)
        if index is None:
            return []
        if index["recipe"] != self.recipe:
            raise InputError(f"{self.uri}: belongs to another recipe or dataset; delete it or name another place")
        entries: list[dict[str, Any]] = index["checkpoints"]
        return entries

    def _free(self, kind: str, key: str) -> str:
        """The name of a folder that no listed checkpoint uses; an entry names its folder under `key`."""
        used = {entry[key]["name"] if isinstance(entry[key], dict) else entry[key] for entry in self._index}
        return next(f"{kind}-{n}" for n in range(self.keep + 1) if f"{kind}-{n}" not in used)

    def _local(self, name: str) -> Path:
        return Path(self.uri) / name if not storage.is_s3(self.uri) else self.staging(self.uri) / name

    @staticmethod
    def staging(uri: str) -> Path:
        """The local folder for checkpoints kept in S3. All ranks of a machine must see it."""
        return Path(tempfile.gettempdir()) / f"eolgul-checkpoints-{sha256_bytes(uri.encode())[:24]}"

    @property
    def _writes_here(self) -> bool:
        """Whether this process looks after the folder: one on each machine for S3, one in all for a shared disk."""
        return self.world.first_here if storage.is_s3(self.uri) else self.world.first

    def _publish_part(self, apart: World, place: Path) -> dict[str, Files]:
        """Upload what this machine's processes wrote, where rank 0 does not; returns all machines' parts: name → files."""
        if apart.size == 1 or not storage.is_s3(self.uri):
            return {}
        apart.wait()  # every process of this machine has written
        part: tuple[str, Files] | str | None = None
        if self._writes_here and apart.machine > 0:
            name = f"{place.name}.{apart.machine}"
            try:
                storage.publish(place, storage.join(self.uri, name), replace=True)
                part = name, list_files(place)
            except (InputError, OSError) as error:
                part = str(error)
        found = apart.collect(part)
        failed = next((one for one in found if isinstance(one, str)), None)
        if failed is not None:
            raise InputError(failed)
        return dict(one for one in found if one is not None and not isinstance(one, str))

    def _publish(self, folders: list[Path], listed: bytes) -> None:
        for folder in folders:
            storage.publish(folder, storage.join(self.uri, folder.name), replace=True)
        storage.write_bytes(storage.join(self.uri, INDEX), listed)

    def _fetch(self, entry: dict[str, Any]) -> str | None:
        """Download the folders of a checkpoint; returns a sentence if their bytes are not those that were saved."""
        parts: dict[str, Files] = entry.get("parts", {})
        whole = dict(entry["files"])
        for part in parts.values():
            whole |= part
        wanted = [(entry["name"], [entry["name"], *parts], whole)]
        if entry["best"] is not None and self.world.machine == 0:  # rank 0 alone reads it
            wanted.append((entry["best"]["name"], [entry["best"]["name"]], entry["best"]["files"]))
        for name, sources, files in wanted:
            folder = self._local(name)
            if storage.is_s3(self.uri) and not (folder.is_dir() and list_files(folder) == files):
                with contextlib.suppress(InputError):  # a missing folder is reported below
                    copies = [storage.fetch(storage.join(self.uri, source)) for source in sources]
                    shutil.rmtree(folder, ignore_errors=True)
                    for copy_ in copies:
                        shutil.copytree(copy_, folder, dirs_exist_ok=True)
            if not folder.is_dir() or list_files(folder) != files:
                return f"{storage.join(self.uri, name)}: damaged (its bytes are not those that were saved)"
        return None

    def _read(self, name: str, state: State) -> str | None:
        try:
            with _quiet():
                load(state, storage_reader=_Reader(self._local(name)), no_dist=self.world.size == 1)
        except (CheckpointException, InputError, OSError, RuntimeError, ValueError, KeyError) as error:
            return f"{storage.join(self.uri, name)}: not readable ({type(error).__name__})"
        return None


def pause(least: float, stopped: float) -> float:
    """Seconds until the next checkpoint, after one that stopped the training for `stopped` seconds.

    `least` of them, or more, so that saving takes at most 1 % of the time; 0 asks for one after every step.
    """
    return max(least, _LEAST_WORK * stopped) if least else 0.0


def read_index(uri: str) -> dict[str, Any] | None:
    """Read the list of the checkpoints at a place: format, recipe, run and checkpoints. None if there is none.

    Raises:
        InputError: It is not such a list.
    """
    data = storage.read_bytes(storage.join(uri, INDEX))
    if data is None:
        return None
    try:
        index: dict[str, Any] = json.loads(data)
        names = [name for entry in index["checkpoints"] for name in (entry["name"], (entry["best"] or entry)["name"])]
        if index["format"] != _FORMAT or any("/" in name or ".." in name for name in names) or not index["recipe"]:
            raise ValueError("another format")
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{uri}/{INDEX}: not a list of checkpoints; delete {uri} to start afresh") from error
    return index


def _write_tensors(state: State, place: Path, world: World) -> None:
    # Never sync_files=False: the list must not name bytes that a power cut takes away.
    with _quiet():
        save(state, storage_writer=FileSystemWriter(place), process_group=world.group, no_dist=world.size == 1)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the warning that torch gives at each call without a process group."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)
        yield


class _Unpickler(pickle.Unpickler):
    """Unpickle the index of torch.distributed.checkpoint, and no other class."""

    _ADMITTED: ClassVar[dict[str, set[str]]] = {
        "torch.distributed.checkpoint.metadata": {
            "BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta",
            "TensorProperties", "TensorStorageMetadata", "_MEM_FORMAT_ENCODING",
        },
        "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
        "torch": {"Size", "device", *(name for name in dir(torch) if isinstance(getattr(torch, name), torch.dtype))},
        "torch.serialization": {"_get_layout"},
        "collections": {"OrderedDict"},
        "pathlib": {"PosixPath", "PurePosixPath"},
    }  # fmt: skip

    def find_class(self, module: str, name: str) -> Any:
        if name not in self._ADMITTED.get(module, ()):
            raise InputError(f"a checkpoint's index names {module}.{name}, which is not admitted")
        return super().find_class(module, name)


class _Reader(FileSystemReader):
    """The reader of torch with that unpickler; it refuses anything but tensors."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        with (Path(self.path) / ".metadata").open("rb") as file:
            try:
                metadata = _Unpickler(file).load()
            except (pickle.UnpicklingError, EOFError, AttributeError, IndexError, TypeError) as error:
                raise InputError(f"{self.path}: the index of the checkpoint is broken") from error
        if not isinstance(metadata, Metadata) or not all(
            isinstance(value, TensorStorageMetadata) for value in metadata.state_dict_metadata.values()
        ):
            raise InputError(f"{self.path}: the checkpoint holds something other than tensors")
        if metadata.storage_meta is not None:
            metadata.storage_meta.load_id = self.load_id
        return metadata
