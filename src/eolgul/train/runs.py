"""What makes a training run this run and no other, and which earlier run another one can go on from.

A run's checkpoints lie below its digest. A run that has none looks at its neighbours there: one of the same recipe for
fewer epochs is gone on with where every step so far had the learning rate that the new recipe gives it, and so ends as a run of
that many epochs from the start would, to the bit. Otherwise the run starts afresh and says which key is another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from eolgul import storage
from eolgul.artifact import recipe_digest
from eolgul.errors import InputError
from eolgul.train.checkpoint import Checkpoints, read_index
from eolgul.train.optim import learning_rate
from eolgul.train.recipe import Recipe

# Keys that decide what comes later, or only what is packaged: they may be others when a run is gone on with.
_LATER = {"epochs", "milestones", "variants"}
_NAMED = 3  # differing keys that the sentence names


@dataclass(frozen=True, slots=True)
class Run:
    """Everything that decides what a run learns.

    Attributes:
        recipe: The recipe.
        dataset: Digest of the assembled FaceDataset.
        precision: The type of autocast that the recipe's precision means on this machine.
        init: What the run begins with (`eolgul.train.initial_weights.Initial.identity`); None for random weights.
    """

    recipe: Recipe
    dataset: str
    precision: str
    init: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """The run as JSON values, as the list of its checkpoints holds it."""
        facts = {"recipe": self.recipe.to_json(), "dataset": self.dataset, "precision": self.precision}
        return facts | ({"init": dict(self.init)} if self.init is not None else {})

    @property
    def digest(self) -> str:
        """The name of the run's folder among the checkpoints."""
        return recipe_digest(self.to_json())


@dataclass(frozen=True, slots=True)
class Beginning:
    """Where a run without checkpoints begins.

    Attributes:
        place: The checkpoints of the run that is gone on with; None to start afresh.
        digest: That run's digest.
        sentence: What to tell the user; None if there is no other run.
    """

    place: str | None = None
    digest: str = ""
    sentence: str | None = None


def find_beginning(root: str, run: Run, steps: int) -> Beginning:
    """Find the run to go on from among those below `root`, or the reason why there is none.

    Args:
        root: The place of the checkpoints of all runs.
        run: The new run.
        steps: Its steps per epoch.
    """
    reasons: list[tuple[int, str, str]] = []
    usable: list[tuple[int, int, str, int]] = []
    for name in storage.list_names(root):
        if name == run.digest or (found := _read(storage.join(root, name))) is None:
            continue
        other, progress = found
        epoch, step = int(progress["epoch"]), int(progress["step"])
        differing = _differing(run.to_json(), other)
        why = _hindrance(run.recipe, other, differing, epoch, step, steps)
        if why is None:
            usable.append((epoch, step, name, int(other["recipe"]["epochs"])))
        else:
            reasons.append((len(differing), name, why))
    if usable:
        epoch, step, name, epochs = max(usable)
        where = f"epoch {epoch + 1}, step {step}" if step else f"the end of epoch {epoch}"
        sentence = f"going on from {where} of the same recipe for {epochs} epochs ({storage.join(root, name)})"
        return Beginning(storage.join(root, name), name, sentence)
    if reasons:
        _, name, why = min(reasons)
        return Beginning(
            sentence=f"starting afresh, because {why}; the checkpoints in {storage.join(root, name)} stay there"
        )
    return Beginning()


def go_on(
    saved: Checkpoints,
    root: str,
    run: Run,
    state: dict[str, Tensor],
    steps: int,
    report: Callable[[dict[str, Any]], None],
) -> dict[str, Any] | None:
    """Take over the newest checkpoint of a run that this one continues; None to start afresh. Says which it is, and why."""
    world = saved.world
    found = world.share(find_beginning(root, run, steps) if world.first else None)
    assert found is not None
    progress, sentence = None, found.sentence
    if found.place is not None:
        earlier = Checkpoints(found.place, recipe=found.digest, world=world)
        fresh = {name: value.clone() for name, value in state.items()}
        try:
            progress = earlier.load(state)
        except InputError as error:
            for name, value in fresh.items():
                state[name].copy_(value)
            sentence = f"starting afresh, because {error}"
        else:
            saved.take_over(earlier, state, progress)
    if sentence and world.first:
        report({"note": sentence})
    return progress


def _read(place: str) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """The run whose checkpoints lie there, and the progress of its newest one; None if there is none."""
    try:
        index = read_index(place)
    except InputError:
        return None  # another program's folder, or a list that is broken: not this run's business
    if index is None or not index["checkpoints"]:
        return None
    return index.get("run") or {}, index["checkpoints"][0]["progress"]


def _differing(run: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The keys that differ, with the values (here, there): first the dataset, then what is begun with, then recipe keys."""
    defaults = Recipe().to_json()
    there = {**defaults, **other.get("recipe", {})}
    pairs = {key: (run.get(key), other.get(key)) for key in ("dataset", "init", "precision")}
    here = {**defaults, **run["recipe"]}
    pairs |= {key: (here.get(key), there.get(key)) for key in (*here, *there)}
    return {key: values for key, values in pairs.items() if values[0] != values[1]}


def _hindrance(
    recipe: Recipe,
    other: Mapping[str, Any],
    differing: Mapping[str, tuple[Any, Any]],
    epoch: int,
    step: int,
    steps: int,
) -> str | None:
    """Why a run cannot go on from the checkpoint at (epoch, step) of another; None if it can."""
    if not other:
        return "the checkpoints there do not say which recipe they belong to (an earlier version wrote them)"
    if not differing.keys() <= _LATER:
        named = [_say(key, *values) for key, values in differing.items() if key not in _LATER]
        rest = len(named) - _NAMED
        return ", ".join(named[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")
    if epoch + (step > 0) > recipe.epochs:
        return f"the run there has done {epoch} epochs, and epochs is {recipe.epochs} now"
    try:
        before = Recipe.from_json(other["recipe"])
    except InputError:
        return "the recipe there is not one of this version"
    passed = epoch * steps + step
    changed = next((n for n in range(passed) if _rate(recipe, n, steps) != _rate(before, n, steps)), None)
    if changed is None:
        return None
    keys = " and ".join(_say(key, *values) for key, values in differing.items() if key in ("epochs", "milestones"))
    return f"{keys}, which changes the learning rate from epoch {changed // steps + 1} on (schedule {recipe.schedule})"


def _rate(recipe: Recipe, update: int, steps: int) -> float:
    return learning_rate(recipe, update // steps + update % steps / steps)


def _say(key: str, here: Any, there: Any) -> str:
    if key == "dataset":
        return f"the dataset is another ({str(here)[:12]}, there {str(there)[:12]})"
    if key == "init":
        one, two = (f"{value['kind']} {value['digest'][:12]}" if value else "nothing" for value in (here, there))
        return f"the run begins with {one} (there {two})"
    return f"{key} is {_text(here)} ({_text(there)} there)"


def _text(value: Any) -> str:
    return "empty" if value in ("", [], {}) else str(value)
