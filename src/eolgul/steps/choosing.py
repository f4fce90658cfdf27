"""Choose the best of several trained candidates: by the same paired comparison by which a model goes into production."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from eolgul.errors import InputError
from eolgul.evaluation.compare import acceptable, better
from eolgul.evaluation.reader import read_metrics
from eolgul.evaluation.schema import Metrics
from eolgul.steps.figures import cell, evaluation_figures
from eolgul.steps.places import bring, place_of


@dataclass(frozen=True, slots=True)
class Choice:
    """The candidate that was chosen, by its place in the list, and how it came to that: one sentence per comparison."""

    winner: int
    reasons: tuple[str, ...]
    metrics: tuple[Metrics, ...]


def choose(evaluations: Sequence[str], names: Sequence[str]) -> Choice:
    """Compare candidates in order; one takes the lead when it is better beyond doubt, and a tie keeps the earlier one.

    Args:
        evaluations: Their Evaluations, on the same sets.
        names: What they are called.

    Raises:
        InputError: There is no candidate, or two were not measured on the same people.
    """
    if not evaluations:
        raise InputError("candidates: there is none to choose from")
    paths = [bring(evaluation) for evaluation in evaluations]
    metrics = [read_metrics(path) for path in paths]
    leader, reasons = 0, []
    for number in range(1, len(paths)):
        decision = better(paths[number], paths[leader])
        wins = decision.promote
        said = "; ".join(decision.reasons)
        if not wins and not acceptable(metrics[leader]).promote and acceptable(metrics[number]).promote:
            wins, said = True, f"{names[leader]} is not surely better than chance"
        reasons.append(f"{names[number]} {'beats' if wins else 'does not beat'} {names[leader]}: {said}")
        leader = number if wins else leader
    return Choice(leader, tuple(reasons), tuple(metrics))


def choice_table(choice: Choice, names: Sequence[str], models: Sequence[str]) -> str:
    """The figures of all candidates side by side, as Markdown; the one that was chosen is marked."""
    figures = [evaluation_figures(item) for item in choice.metrics]
    rows = list(dict.fromkeys(key for one in figures for key in one))
    head = [f"**{cell(name)}** (chosen)" if at == choice.winner else cell(name) for at, name in enumerate(names)]
    lines = [f"| figure | {' | '.join(head)} |", "|---" * (len(names) + 1) + "|"]
    for row in rows:
        values = (one.get(row) for one in figures)
        lines.append(f"| {row} | {' | '.join('' if value is None else f'{value:.4g}' for value in values)} |")
    lines += ["", *(f"- {cell(reason)}" for reason in choice.reasons), ""]
    lines += [f"- {cell(name)}: `{place_of(model)}`" for name, model in zip(names, models, strict=True)]
    return "\n".join(lines) + "\n"
