"""How long a drawn picture takes on one core: medians by size, and the limit that the middle one is held to.

Every person is new to the clock's first picture: what a person, an expression and an accessory cost is shown apart.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")
import numpy as np

from eolgul.synth import Sitter, camera, draw_person, light
from eolgul.synth.render import jpeg, render

PEOPLE, LIMIT = 12, 0.15  # seconds for an anti-aliased picture of 346×230
CAMERAS, LIGHTS = ("C7", "C4", "C12", "C15"), ("L1", "L6", "L19")


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    Sitter(draw_person(0, 99)).scene()  # reads the mesh and its targets, once a process
    people = [draw_person(0, k) for k in range(PEOPLE)]
    sitters: list[Sitter] = []
    once = [seconds(lambda: sitters.append(Sitter(person))) for person in people]  # noqa: B023
    scenes = []
    posed = [seconds(lambda: scenes.append(sitter.scene("E02", "S002"))) for sitter in sitters]  # noqa: B023
    row = {
        "s a person": round(statistics.median(once), 3),
        "s an expression and accessory": round(statistics.median(posed), 3),
    }
    print(json.dumps(row), flush=True)
    for size, limit in (("Low", None), ("Middle", LIMIT), ("High", None)):
        taken = []
        for scene in scenes:
            for view in CAMERAS:
                for lamp in LIGHTS:
                    eye, bulb = camera(view, size), light(lamp)
                    taken.append(seconds(lambda: jpeg(render(scene, eye, bulb, np.random.default_rng(0)))))  # noqa: B023
        middle = statistics.median(taken)
        facts = {"size": f"{eye.width}x{eye.height}", "pictures": len(taken), "s a picture (median)": round(middle, 4)}
        if limit:
            facts |= {"limit": limit, "share of the limit": round(middle / limit, 2)}
        print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    main()
