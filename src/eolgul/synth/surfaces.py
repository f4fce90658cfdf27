"""Colour, gloss and opacity of each material where a ray hits it: skin, eyes, teeth, lashes, cap, glasses and hair."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from eolgul.synth import paint
from eolgul.synth.hair import STYLES
from eolgul.synth.mesh import CAP, EYE, FRAME, HAIR, LASH, LENS, SKIN, TEETH, Reals
from eolgul.synth.scene import MASKS, REST, Scene

_EYE_CENTRE = np.array([0.3078, 7.2842, 1.237], np.float32)


class Surfaces:
    """The materials of one scene at one resolution.

    Args:
        scene: whose materials.
        level: which size of the skin's texture to sample: 0 full, 1 half, 2 a quarter.
        coarse: single lashes and the rim of the iris are smaller than a pixel.
    """

    def __init__(self, scene: Scene, level: int, *, coarse: bool) -> None:
        self._sitter, self._accessory = scene.sitter, scene.accessory
        self._level, self._coarse = level, coarse

    def paint(self, material: NDArray[np.integer], facts: Reals) -> tuple[Reals, Reals, Reals]:
        """Compute the surface of points.

        Args:
            material: (N,) materials.
            facts: (N, 10) attributes, see `scene`.

        Returns:
            Linear reflectance (N, 3), gloss (N,) and opacity (N,), float32.
        """
        albedo = np.zeros((len(material), 3), np.float32)
        gloss = np.zeros(len(material), np.float32)
        alpha = np.ones(len(material), np.float32)
        for kind, surface in (
            (SKIN, self._skin), (EYE, self._eye), (TEETH, self._teeth), (LASH, self._lash), (CAP, self._cap),
            (FRAME, self._frame), (LENS, self._lens), (HAIR, self._hair),
        ):  # fmt: skip
            hits = np.flatnonzero(material == kind)
            if len(hits):
                surface(hits, facts, albedo, gloss, alpha)
        return albedo, gloss, alpha

    def _skin(self, hits: NDArray[np.integer], facts: Reals, albedo: Reals, gloss: Reals, alpha: Reals) -> None:
        sitter = self._sitter
        row, column = paint.cylinder(facts[hits][:, REST])
        painted = paint.sample(sitter.skin[self._level], row, column)
        lips, mouth, cloth = (facts[hits, MASKS.start + k, None].clip(0, 1) for k in range(3))
        lips = lips * lips * (3 - 2 * lips)
        colour = painted[:, :3] * (1 - 0.85 * lips) + sitter.lip_colour * (0.85 * lips)
        colour = colour + mouth * (np.array([0.06, 0.018, 0.016], np.float32) - colour)
        colour = colour + cloth * (sitter.cloth_colour - colour)
        albedo[hits] = colour
        gloss[hits] = (painted[:, 3] + 0.9 * lips[:, 0]) * (1 - cloth[:, 0]) * (1 - mouth[:, 0])

    def _eye(self, hits: NDArray[np.integer], facts: Reals, albedo: Reals, gloss: Reals, alpha: Reals) -> None:
        sitter = self._sitter
        rest = facts[hits][:, REST] - _EYE_CENTRE * np.stack(
            [np.sign(facts[hits, REST.start]), *[np.ones(len(hits))] * 2], 1
        )
        radius, turn = np.hypot(rest[:, 0], rest[:, 1]), np.arctan2(rest[:, 1], rest[:, 0])
        iris = sitter.person.look["iris_size"]
        soft = 0.008 if self._coarse else 0.003
        corner = np.clip((radius - 0.085) / 0.08, 0, 1)[:, None] * np.array([0.15, 0.36, 0.36], np.float32)
        white = np.array([0.62, 0.585, 0.565], np.float32) * (1 - corner)
        fibres = 1 + 0.25 * np.sin(turn * 23 + 3 * np.sin(turn * 7)) + 0.5 * np.clip(-rest[:, 1] / iris, -0.6, 1)
        ring = np.clip((radius / iris - 0.72) / 0.28, 0, 1) ** 2
        coloured = sitter.iris_colour * (fibres * (1 - 0.75 * ring))[:, None]
        pupil = np.clip((0.022 - radius) / soft + 0.5, 0, 1)[:, None]
        coloured = coloured * (1 - pupil) + 0.003 * pupil
        inside = (np.clip((iris - radius) / soft + 0.5, 0, 1) * (rest[:, 2] > 0))[:, None]
        albedo[hits] = white * (1 - inside) + coloured * inside
        # The upper lid and its lashes shade the eyeball.
        albedo[hits] *= (1 - 0.5 * np.clip((rest[:, 1] - 0.01) / 0.07, 0, 1))[:, None]

    def _teeth(self, hits: NDArray[np.integer], facts: Reals, albedo: Reals, gloss: Reals, alpha: Reals) -> None:
        deep = np.clip((np.abs(facts[hits, REST.start]) - 0.06) / 0.2, 0, 1)[:, None]
        albedo[hits] = np.array([0.52, 0.48, 0.42], np.float32) * (1 - 0.55 * deep)
        gloss[hits] = 1.5

    def _lash(self, hits: NDArray[np.integer], facts: Reals, albedo: Reals, gloss: Reals, alpha: Reals) -> None:
        albedo[hits] = 0.008
        hairs = 0.6 + 0.4 * np.sin(facts[hits, REST.start] * 420)
        upper = facts[hits, REST.start + 1] > 7.277
        look = self._sitter.person.look
        alpha[hits] = np.clip(look["lash"] * np.where(upper, 0.8, 0.22) * (0.75 if self._coarse else 1.2 * hairs), 0, 1)

    def _cap(self, hits: NDArray[np.integer], facts: Reals, albedo: Reals, gloss: Reals, alpha: Reals) -> None:
        angle, down, brim = (facts[hits, REST.start + k] for k in range(3))
        seams = 1 - 0.35 * (np.abs((angle + 180 + 30) % 60 - 30) < 0.6) * (brim < 0.5)
        albedo[hits] = self._sitter.cap_colour * (seams * np.where((down > 0.985) & (brim < 0.5), 0.6, 1.0))[:, None]
        gloss[hits] = 0.2

    def _frame(self, hits: NDArray[np.integer], facts: Reals, albedo: Reals, gloss: Reals, alpha: Reals) -> None:
        albedo[hits] = self._sitter.glasses[self._accessory].colour
        gloss[hits] = 2.0

    def _lens(self, hits: NDArray[np.integer], facts: Reals, albedo: Reals, gloss: Reals, alpha: Reals) -> None:
        albedo[hits] = 0.006
        alpha[hits] = 0.985

    def _hair(self, hits: NDArray[np.integer], facts: Reals, albedo: Reals, gloss: Reals, alpha: Reals) -> None:
        sitter = self._sitter
        strand, down, layer = (facts[hits, REST.start + k] for k in range(3))
        rows, columns = sitter.strands.shape
        row = np.clip((down * rows).astype(np.int32), 0, rows - 1)
        column = strand.astype(np.int32) % columns
        bright = sitter.strands[row, column]
        share = sitter.person.look["hair_grey"]
        grey = np.clip((bright - 1.25 + share) * 2, 0, 1) * 0.55 * share
        # Deep hair is darker: little light gets in and out.
        colour = sitter.hair_colour * (bright * np.where(layer > 1.5, 1.12, 0.8))[:, None]
        albedo[hits] = colour + grey[:, None] * (0.28 - colour)
        gloss[hits] = (0.012 + 0.9 * sitter.hair_colour.mean()) * bright
        # Strands end at different lengths: the last part of the shell fades out.
        fade = STYLES[sitter.person.hair_style].fade
        own = sitter.strands[0, (column * 7 + column // 9) % columns].clip(0.2, 1.4) / 1.4
        cover = np.clip((1 - fade * (1 - own) - down) / (0.5 * fade), 0, 1)
        # The outer layer is clumps of strands with gaps between them.
        clump = sitter.strands[rows // 2 + row // 2, (column + 60) % columns]
        alpha[hits] = cover * np.where(layer > 1.5, np.clip((clump - 0.72) / 0.25, 0, 1), 1)
