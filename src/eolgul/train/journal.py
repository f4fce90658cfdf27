"""Reports of a running training: metrics.jsonl, TensorBoard events, and the progress line."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO


class Journal:
    """`metrics.jsonl` (one JSON object per line, with its `update` and `kind`) and TensorBoard events in one folder.

    A run that continues from update `update` removes what an earlier one wrote after it.
    """

    def __init__(self, folder: Path, *, update: int, tensorboard: bool) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "metrics.jsonl"
        kept = [line for line in file.read_text().splitlines() if _update(line) <= update] if file.is_file() else []
        file.write_text("".join(f"{line}\n" for line in kept))
        self._file: TextIO = file.open("a", encoding="utf-8")
        self._board: Any = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(folder), purge_step=update + 1)

    def write(self, kind: str, update: int, values: Mapping[str, Any]) -> None:
        """Write one line; `kind` is "step" or "epoch". Nested figures become `kind/outer/inner` in TensorBoard."""
        print(json.dumps({"kind": kind, "update": update, **values}), file=self._file, flush=True)
        if self._board is not None:
            for name, value in _flat(kind, values):
                self._board.add_scalar(name, value, update)
            self._board.flush()

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        if self._board is not None:
            self._board.close()


def _update(line: str) -> float:
    """The update of a line; infinity for a line that is cut off."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return float(json.loads(line)["update"])
    return float("inf")


def _flat(prefix: str, values: Mapping[str, Any]) -> list[tuple[str, float]]:
    figures: list[tuple[str, float]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            figures += _flat(f"{prefix}/{name}", value)
        elif isinstance(value, int | float):
            figures.append((f"{prefix}/{name}", float(value)))
    return figures


class Clock:
    """Measure images per second, the share of time spent waiting for data, and the time left."""

    def __init__(self, images: int, left: int) -> None:
        self._images, self._left = images, left  # images per update; updates until the end of the run
        self._begun = self._lap = time.monotonic()
        self._updates = self._lap_updates = 0
        self._waited = self._lap_waited = 0.0

    def tick(self, waited: float) -> None:
        """Count an update that waited `waited` seconds for its batch."""
        self._updates += 1
        self._lap_updates += 1
        self._waited += waited
        self._lap_waited += waited

    def pause(self, seconds: float) -> None:
        """Leave out time that is not training (validation)."""
        self._begun += seconds
        self._lap += seconds

    def lap(self) -> dict[str, float]:
        """Return images_per_second and data_wait (a share) since the last lap, and seconds_left by the mean of the whole run."""
        now = time.monotonic()
        took = max(now - self._lap, 1e-9)
        each = (now - self._begun) / max(self._updates, 1)
        row = {
            "images_per_second": self._images * self._lap_updates / took,
            "data_wait": min(1.0, self._lap_waited / took),
            "seconds_left": each * (self._left - self._updates),
        }
        self._lap, self._lap_updates, self._lap_waited = now, 0, 0.0
        return row

    @property
    def waited(self) -> float:
        """The share of time spent waiting for data since the start."""
        return min(1.0, self._waited / max(time.monotonic() - self._begun, 1e-9))


def training_line(row: dict[str, Any]) -> None:
    """Print a training report on stderr: every epoch and warning, and on a terminal the running step too."""
    if "warning" in row or "note" in row:
        print(f"warning: {row['warning']}" if "warning" in row else row["note"], file=sys.stderr, flush=True)
    elif "validation" in row:
        held = row["validation"]
        known = row.get("training_people")
        beside = "unknown" if known is None else f"{known['loss']:.3f}"
        print(
            f"epoch {row['epoch']}: loss {row['train_loss']:.3f}; people it does not train on: "
            f"AUC {held['auc']:.4f}, TAR@FMR 1% {held['tar_at_fmr_1e-2']:.3f}, loss without margin {held['loss']:.3f} "
            f"(as many people it trains on: {beside})",
            file=sys.stderr,
            flush=True,
        )
    elif sys.stderr.isatty():
        print(f"\r{_step(row)} ", end="", file=sys.stderr, flush=True)


class TrainingLines:
    """As `training_line`; without a terminal, which a pod has not, it prints the running step once in `seconds`."""

    def __init__(self, seconds: float = 60.0, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` is for tests."""
        self._seconds, self._clock, self._said = seconds, clock, clock()

    def __call__(self, row: dict[str, Any]) -> None:
        """Take a training report."""
        training_line(row)
        if "step" not in row or sys.stderr.isatty() or self._clock() - self._said < self._seconds:
            return
        self._said = self._clock()
        print(_step(row), file=sys.stderr, flush=True)


def _step(row: dict[str, Any]) -> str:
    return (
        f"epoch {row['epoch']}/{row['epochs']} step {row['step']}/{row['steps']} loss {row['loss']:.3f} "
        f"lr {row['lr']:.4f} {row['images_per_second']:.0f} img/s, waiting for data {100 * row['data_wait']:.0f} %, "
        f"{row['seconds_left'] / 60:.0f} min left"
    )
