"""Turn a person, an expression and an accessory into triangles in the studio, ready for ray casting.

Shared parts are made once: a `Sitter` holds what a person keeps (shape, skin, occlusion), a `Scene` what an expression and
an accessory change. Cameras and lights need no work here.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass
from functools import cache

import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene
from numpy.typing import NDArray

from eolgul.formats.kface import BOXES, visible_boxes
from eolgul.synth import hair, mesh, paint, wear
from eolgul.synth.mesh import CAP, FRAME, HAIR, I32, LASH, SKIN, Reals
from eolgul.synth.person import Person, add_target, generator, head
from eolgul.synth.rig import Camera, expression_actions

# Columns of a vertex's attributes. Skin, eyes and teeth: REST is the position in the rest pose, MASKS are lips, inside of
# the mouth and clothes. Hair and cap: REST are strand coordinates, MASKS is the tangent.
NORMAL, REST, MASKS, OCCLUSION = slice(0, 3), slice(3, 6), slice(6, 9), 9
_COLUMNS = 10
# The middle of the head, at which cameras look, is this far below and behind the eyes, decimetres.
_BELOW_EYES, _BEHIND_EYES = 0.27, 0.62


@dataclass(frozen=True)
class _Regions:
    """Coarse vertices of the annotated boxes, in K-FACE's order, and fixed tables of the fine mesh."""

    boxes: tuple[I32, ...]
    ears: tuple[int, int]
    ear_tops: tuple[I32, I32]
    bridge: int
    rest: Reals
    masks: Reals
    cloth: Reals
    open_sky: Reals
    triangles: I32
    material: I32


@cache
def _regions() -> _Regions:
    base, fine = mesh.load_base(), mesh.subdivision()
    v = base.vertices
    of_material = {m: np.zeros(len(v), bool) for m in (SKIN, LASH)}
    for m, flags in of_material.items():
        flags[base.quads[base.material == m].ravel()] = True
    skin, x, y, z = of_material[SKIN], v[:, 0], v[:, 1], v[:, 2]
    ear, lips = base.masks[:, 2] > 0.5, base.masks[:, 0] > 0.5
    parts = (
        skin & (z > 0.75) & (y > 6.1) & (y < 8.0) & (np.abs(x) < 0.72),
        of_material[LASH] & (x < 0),
        of_material[LASH] & (x > 0),
        skin & (np.abs(x) < 0.2) & (y > 6.82) & (y < 7.25) & (z > 1.42),
        lips & (z > 1.35),
        ear & (x < 0),
        ear & (x > 0),
    )
    front = [int(np.flatnonzero(ear & (np.sign(x) == s))[z[ear & (np.sign(x) == s)].argmax()]) for s in (-1, 1)]
    tops = [np.flatnonzero(ear & (np.sign(x) == s) & (y > 7.2) & (z < 0.6)).astype(np.int32) for s in (-1, 1)]
    bridge = int(np.flatnonzero(skin)[(x[skin] ** 2 + (y[skin] - 7.22) ** 2 - 0.1 * z[skin]).argmin()])
    teeth, balls = np.zeros(len(v)), np.zeros(len(v))
    teeth[base.quads[base.material == mesh.TEETH].ravel()] = 1
    balls[base.quads[base.material == mesh.EYE].ravel()] = 1
    rest = fine.apply(v)
    collar = 5.98 - 0.25 * (rest[:, 2] - 0.2) - rest[:, 1]
    cloth = np.clip(collar / 0.03 + 0.5, 0, 1).astype(np.float32)
    return _Regions(
        boxes=tuple(np.flatnonzero(p).astype(np.int32) for p in parts),
        ears=(front[0], front[1]),
        ear_tops=(tops[0], tops[1]),
        bridge=bridge,
        rest=rest,
        masks=fine.apply(base.masks),
        cloth=cloth,
        open_sky=fine.apply((0.6 * teeth + 0.45 * balls).astype(np.float32)[:, None])[:, 0],
        triangles=mesh.quad_triangles(fine.fine),
        material=np.repeat(base.material, 8).astype(np.int32),
    )


class Scene:
    """A person with one expression and one accessory, seated in the studio.

    Attributes:
        sitter: the person.
        triangles: (T, 3) vertex indices.
        material: (T,) one of the materials of `mesh`.
        attributes: (V, 10), columns as the slices of this module.
        embree: the geometry for ray casting.
        landmarks: (7, 3) in K-FACE's order: nose, right and left eye, right and left mouth corner, right and left ear.
        parts: the points (N, 3) of each annotated box.
        accessory: S001…S006.
    """

    def __init__(self, sitter: Sitter, vertices: Reals, triangles: I32, material: I32, attributes: Reals) -> None:
        self.sitter = sitter
        self.triangles, self.material, self.attributes = triangles, material, attributes
        self.embree = EmbreeScene()
        TriangleMesh(self.embree, vertices, triangles)
        self.landmarks: Reals = np.zeros((7, 3), np.float32)
        self.parts: list[Reals] = []
        self.accessory = "S001"

    def cast(self, origins: Reals, directions: Reals) -> dict[str, NDArray[np.generic]]:
        """First hits of rays with origins and directions (N, 3): primID (-1: no hit), u, v, tfar, Ng."""
        hits: dict[str, NDArray[np.generic]] = self.embree.run(origins, directions, query="INTERSECT", output=True)
        return hits

    def points(self, camera: Camera) -> Reals:
        """(7, 2) landmarks in pixels, in K-FACE's order."""
        return camera.project(self.landmarks)

    def five(self, camera: Camera) -> Reals:
        """(5, 2) landmarks in pixels, in the alignment template's order: eyes, nose, mouth corners, image left first."""
        return self.points(camera)[[1, 2, 0, 3, 4]]

    def pose(self, camera: Camera) -> tuple[float, float, float]:
        """Yaw, pitch, roll in degrees of the direction from which the camera sees the head, signed like the rig's cameras.

        Unlike the camera's own angles these include the person's seat and the rotation of the image.
        """
        axes = (camera.axes() @ self.sitter.rotation).astype(np.float64)
        # One pixel to the right in the drawn image, in the camera's own image plane.
        step = np.linalg.inv(np.array(camera.to_pixels, np.float64)[:, :2])[:, 0]
        right, back = step[0] * axes[0] + step[1] * axes[1], -axes[2]
        yaw, pitch = np.arctan2(back[0], back[2]), np.arcsin(np.clip(back[1], -1, 1))
        level = np.array([np.cos(yaw), 0, -np.sin(yaw)])
        roll = np.arctan2(right @ np.cross(back, level), right @ level)
        return float(np.degrees(yaw)), float(np.degrees(pitch)), -float(np.degrees(roll))

    def truth(self, camera: Camera) -> Reals:
        """(13,) float32: the five landmarks' x, y in pixels in the alignment template's order, then yaw, pitch, roll."""
        return np.concatenate([self.five(camera).ravel(), self.pose(camera)]).astype(np.float32)

    def boxes(self, camera: Camera, name: str) -> list[tuple[float, float, float, float]]:
        """x, y, width, height of the boxes that K-FACE annotates in images of the camera `name`, in its order."""
        boxes = []
        visible = visible_boxes(name)
        for box, part in zip(BOXES, self.parts, strict=True):
            if box in visible:
                low, high = camera.project(part).min(0), camera.project(part).max(0)
                boxes.append((float(low[0]), float(low[1]), float(high[0] - low[0]), float(high[1] - low[1])))
        return boxes


class Sitter:
    """Everything of a person that no condition changes.

    Attributes:
        person: the person.
        neutral: (V, 3) coarse vertices without an expression.
        skin: the skin's texture at full, half and quarter size.
        strands: brightness of the hair, see `hair.strand_noise`.
        hair_colour, lip_colour, iris_colour, cloth_colour, cap_colour: (3,) linear reflectance.
        glasses: the person's own pair per accessory.
        occlusion: (V,) share of the sky that each vertex sees.
        anchor, rotation, shift: the map from head to studio coordinates.
    """

    def __init__(self, person: Person) -> None:
        self.person = person
        self.neutral = head(person)
        self.hair_colour = hair.hair_colour(person)
        full = paint.skin_texture(person, hair.hairline(), self.hair_colour)
        half = paint.mip(full)
        self.skin = (full, half, paint.mip(half))
        self.strands = hair.strand_noise(person)
        look = person.look
        tone = half[70:130, 225:290, :3].mean((0, 1))
        red = 0.25 + 0.8 * look["lip_red"]
        tint = np.array([-0.22, -0.80 - 0.1 * look["lip_hue"], -0.62 + 0.12 * look["lip_hue"]])
        self.lip_colour = (tone * np.exp(tint * red) * (1 - 0.35 * look["lip_dark"])).astype(np.float32)
        self.iris_colour = _iris_colour(look)
        grey = 0.015 + 0.25 * look["clothes"] ** 2
        hue = 2 * np.pi * (look["clothes_hue"] + np.array([0, 1 / 3, 2 / 3]))
        self.cloth_colour = (grey * (1 + 0.45 * np.cos(hue))).astype(np.float32)
        # Each person has glasses of each kind and a cap of their own.
        props = generator(person.seed, person.index, 5)
        self.glasses = {name: wear.draw_glasses(name, props) for name in wear.GLASSES}
        self.glasses["S006"] = self.glasses["S003"]
        hue = 2 * np.pi * (props.random() + np.array([0, 1 / 3, 2 / 3]))
        dark = float(np.exp(props.uniform(np.log(0.015), np.log(0.3))))
        self.cap_colour = (dark * (1 + props.uniform(0, 0.6) * np.cos(hue))).astype(np.float32)
        self._place()
        self.occlusion = np.ones(len(self.neutral), np.float32)
        self.occlusion = self._bake_occlusion()

    def _place(self) -> None:
        """Compute the rotation and shift from head to studio coordinates."""
        eyes = np.stack([self.neutral[_indices(mesh.EYE_RIGHT)].mean(0), self.neutral[_indices(mesh.EYE_LEFT)].mean(0)])
        self.anchor = eyes.mean(0) - np.array([0, _BELOW_EYES, _BEHIND_EYES], np.float32)
        yaw, pitch, roll = np.radians(self.person.seat[:3])
        cy, sy, cp, sp, cr, sr = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch), np.cos(roll), np.sin(roll)
        turn_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
        turn_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
        turn_z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
        self.rotation = (turn_y @ turn_x @ turn_z).astype(np.float32)
        self.shift = np.array(self.person.seat[3:], np.float32)

    def to_studio(self, points: Reals) -> Reals:
        """Transform points (N, 3) from head to studio coordinates, decimetres."""
        placed: Reals = (points - self.anchor) @ self.rotation.T + self.shift
        return placed.astype(np.float32)

    def with_hair_of(self, person: Person) -> Sitter:
        """The same sitter with the hair of `person`, who differs in hair only."""
        other = copy(self)
        other.person = person
        other.strands = hair.strand_noise(person)
        return other

    def scene(self, expression: str = "E01", accessory: str = "S001") -> Scene:
        """The person with expression E01…E03 and accessory S001…S006; ValueError for another expression."""
        return self.scene_of(expression_actions(self.person, expression), accessory)

    def scene_of(self, actions: dict[str, float], accessory: str = "S001") -> Scene:
        """The person with any facial actions (target name → weight) and accessory S001…S006."""
        regions = _regions()
        coarse = self.neutral.copy()
        for name, weight in actions.items():
            add_target(coarse, name, weight)
        hair.press_ears(self.person, coarse)
        fine = mesh.subdivision().apply(np.concatenate([coarse, self.occlusion[:, None]], 1))
        skin, occlusion = np.ascontiguousarray(fine[:, :3]), fine[:, 3:]
        normals = mesh.vertex_normals(skin, regions.triangles)
        skin = skin + normals * (0.05 * regions.cloth[:, None])
        # Occlusion was measured with closed lips over the teeth and lids over the eyes, which expressions open.
        occlusion = np.maximum(occlusion, regions.open_sky[:, None])
        masks = regions.masks.copy()
        masks[:, 2] = regions.cloth
        vertices, triangles, materials = [skin], [regions.triangles], [regions.material]
        attributes = [np.concatenate([normals, regions.rest, masks[:, :3], occlusion], 1)]
        count = len(skin)

        cap = hair.cap_edge(self.person) if accessory in wear.HATS else None
        shells = [(shell, HAIR) for shell in hair.hair_shells(self.person, skin, cap)]
        hairs = sum(len(shell.points) for shell, _ in shells)
        if cap is not None:
            shells += [(shell, CAP) for shell in hair.cap_shells(self.person, skin)]
        for shell, material in shells:
            vertices.append(shell.points)
            triangles.append(shell.triangles + count)
            materials.append(np.full(len(shell.triangles), material, np.int32))
            shell_normals = mesh.vertex_normals(shell.points, shell.triangles)
            ones = np.ones((len(shell.points), 1), np.float32)
            attributes.append(np.concatenate([shell_normals, shell.strand, shell.tangents, ones], 1))
            count += len(shell.points)
        if accessory in wear.GLASSES:
            eyes = np.stack([coarse[_indices(mesh.EYE_RIGHT)].mean(0), coarse[_indices(mesh.EYE_LEFT)].mean(0)])
            ears = np.stack([coarse[top].mean(0) for top in regions.ear_tops])
            beside = hair.beside_ears(coarse)
            for piece in wear.glasses(self.glasses[accessory], eyes, coarse[regions.bridge], ears, beside):
                vertices.append(piece.points)
                triangles.append(piece.triangles + count)
                materials.append(np.full(len(piece.triangles), piece.material, np.int32))
                facts = np.zeros((len(piece.points), _COLUMNS), np.float32)
                facts[:, NORMAL] = mesh.vertex_normals(piece.points, piece.triangles)
                facts[:, OCCLUSION] = 1
                attributes.append(facts)
                count += len(piece.points)

        everything = np.concatenate(attributes).astype(np.float32)
        everything[:, NORMAL] = everything[:, NORMAL] @ self.rotation.T
        tangents = slice(len(skin), len(skin) + hairs)
        everything[tangents, MASKS] = everything[tangents, MASKS] @ self.rotation.T
        scene = Scene(self, self.to_studio(np.concatenate(vertices)), np.concatenate(triangles).astype(np.int32),
                      np.concatenate(materials), everything)  # fmt: skip
        self._annotate(scene, coarse, accessory)
        return scene

    def _annotate(self, scene: Scene, coarse: Reals, accessory: str) -> None:
        base, regions = mesh.load_base(), _regions()
        right, left = coarse[_indices(mesh.EYE_RIGHT)].mean(0), coarse[_indices(mesh.EYE_LEFT)].mean(0)
        singles = [coarse[base.index(i)] for i in (mesh.NOSE, mesh.MOUTH_RIGHT, mesh.MOUTH_LEFT)]
        seven = [singles[0], right, left, singles[1], singles[2], coarse[regions.ears[0]], coarse[regions.ears[1]]]
        scene.landmarks = self.to_studio(np.stack(seven))
        scene.parts = [self.to_studio(coarse[part]) for part in regions.boxes]
        scene.accessory = accessory

    def _bake_occlusion(self) -> Reals:
        """(V,) share of the sky that each vertex of face and neck sees within a decimetre, hair included."""
        scene, base = self.scene_of({}), mesh.load_base()
        placed = self.to_studio(self.neutral)
        # Shoulders and arms are open.
        near = np.flatnonzero((base.vertices[:, 1] > 5.2) & (np.abs(base.vertices[:, 0]) < 1.6))
        points = placed[near]
        normals = mesh.vertex_normals(placed, mesh.quad_triangles(base.quads))[near]
        golden_angle = np.pi * (3 - np.sqrt(5))
        k = np.arange(20)
        up = np.sqrt(1 - (k + 0.5) / 20)
        around = np.stack(
            [np.sqrt(1 - up**2) * np.cos(golden_angle * k), np.sqrt(1 - up**2) * np.sin(golden_angle * k), up], 1
        )
        helper = np.where(np.abs(normals[:, :1]) < 0.7, np.array([[1.0, 0, 0]]), np.array([[0, 1.0, 0]]))
        a = np.cross(normals, helper)
        a /= np.maximum(np.linalg.norm(a, axis=1, keepdims=True), 1e-6)
        b = np.cross(normals, a)
        rays = a[:, None] * around[:, 0, None] + b[:, None] * around[:, 1, None] + normals[:, None] * around[:, 2, None]
        origins = np.repeat(points + 0.02 * normals, 20, 0).astype(np.float32)
        hits = scene.cast(origins, np.ascontiguousarray(rays.reshape(-1, 3), np.float32))
        blocked = (np.asarray(hits["primID"]) >= 0) & (np.asarray(hits["tfar"]) < 1.0)
        seen: Reals = np.ones(len(placed), np.float32)
        seen[near] = 1 - blocked.reshape(-1, 20).mean(1)
        return seen


def _iris_colour(look: Mapping[str, float]) -> Reals:
    """(3,) linear reflectance: black-brown to hazel, and green, grey or blue for light eyes."""
    dark, hazel = np.array([0.016, 0.008, 0.005]), np.array([0.10, 0.048, 0.02])
    colour = dark + look["iris"] ** 2 * (hazel - dark)
    green, blue = np.array([0.075, 0.08, 0.035]), np.array([0.075, 0.12, 0.19])
    mixed: Reals = colour + look["iris_light"] * (green + look["iris_hue"] * (blue - green) - colour)
    return mixed.astype(np.float32)


def _indices(originals: tuple[int, ...]) -> list[int]:
    base = mesh.load_base()
    return [base.index(i) for i in originals]


__all__ = ["FRAME", "MASKS", "NORMAL", "OCCLUSION", "REST", "Scene", "Sitter"]
