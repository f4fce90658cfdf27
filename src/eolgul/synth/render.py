"""Render an image of a `Scene` for a camera and a light, by ray casting.

One ray per pixel, and four more where neighbours differ (edges, brows, strands): as smooth as 2×2 rays everywhere at a
third of the cost. Skin is Lambertian, wrapped around the terminator a little further in red than in blue, which is a cheap
approximation of light below the skin; hair shines along its strands (Kajiya and Kay, 1989).
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from eolgul.synth import paint
from eolgul.synth.mesh import EYE, HAIR, LASH, LENS, SKIN, Reals
from eolgul.synth.rig import Camera, Light
from eolgul.synth.scene import MASKS, NORMAL, OCCLUSION, Scene
from eolgul.synth.surfaces import Surfaces

U8 = NDArray[np.uint8]

# Light from the walls as a share of the lamp's: front lamps light the whole studio, a side lamp leaves the far cheek dark.
_FILL_FRONT, _FILL_SIDE = 0.27, 0.13
# The rig's cameras adapt to the light in part: an image at 40 lux is darker than one at 1,000 lux, but not 25 times.
_GAIN_EXPONENT = 0.62
# Light in the studio when the lamps are off (L7), lux.
_RESIDUAL_LUX = 7.0
# Number of half-transparent surfaces that a ray passes: two layers of hair on either side, and a lens.
_LAYERS = 6
_WRAP = np.array([0.30, 0.14, 0.08], np.float32)
# By material: the share of a lamp's light that it blocks. Lashes cast no shadow.
_CASTS_SHADOW = np.array([1, 1, 1, 0, 1, 1, 0.8, 1], np.float32)
_SUBPIXELS = np.array([[-0.375, -0.125], [0.125, -0.375], [0.375, 0.125], [-0.125, 0.375]])


def render(
    scene: Scene,
    camera: Camera,
    light: Light,
    rng: np.random.Generator,
    *,
    blur: float = 0.0,
    noise: float = 1.0,
    backdrop: Reals | None = None,
) -> U8:
    """Render an image.

    Args:
        scene: who and what is seen.
        camera: from where.
        light: under which light.
        rng: random numbers of the sensor's noise.
        blur: standard deviation of an additional blur, pixels.
        noise: factor of the sensor's noise.
        backdrop: (N, N, 3) linear colours of the background instead of the studio's wall: six decimetres square at the
            sitter's distance, mirrored outside of it.

    Returns:
        (height, width, 3) uint8, sRGB.
    """
    height, width = camera.height, camera.width
    columns, rows = np.meshgrid(np.arange(width), np.arange(height))
    pixels = np.stack([columns.ravel(), rows.ravel()], 1).astype(np.float64)
    painter = _Painter(scene, camera, light, backdrop)
    linear = painter.colours(pixels).reshape(height, width, 3)
    edges = np.flatnonzero(_find_edges(linear).ravel())
    if len(edges):
        finer = painter.colours((pixels[edges][:, None] + _SUBPIXELS).reshape(-1, 2), subpixels=True).reshape(-1, 4, 3)
        linear.reshape(-1, 3)[edges] = _average_samples(finer)
    return _develop(linear, light, rng, blur, noise)


def jpeg(picture: U8, quality: int = 92) -> bytes:
    """Encode an image (height, width, 3) uint8 as JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _find_edges(linear: Reals) -> NDArray[np.bool_]:
    """(height, width) flags of the pixels that differ visibly from a neighbour."""
    tone = np.sqrt(np.clip(linear, 0, 1)).max(2)
    limit = 0.08 * max(0.25, float(np.quantile(tone, 0.95)))
    flags = np.zeros(tone.shape, bool)
    across, down = np.abs(np.diff(tone, axis=1)) > limit, np.abs(np.diff(tone, axis=0)) > limit
    flags[:, 1:] |= across
    flags[:, :-1] |= across
    flags[1:] |= down
    flags[:-1] |= down
    return flags


def _average_samples(samples: Reals) -> Reals:
    """Mean over samples (N, S, 3), each limited to the sensor's range first, so that highlights keep smooth edges."""
    limited: Reals = np.minimum(samples, 1.6).mean(1)
    return limited


def _develop(linear: Reals, light: Light, rng: np.random.Generator, blur: float, noise: float) -> U8:
    """Apply the blur of the lens, the noise of the sensor and the camera's tone curve to linear colours."""
    side = 0.06 + 0.5 * blur
    linear = _smooth(_smooth(linear, side, 0), side, 1)
    gain = exposure(light)
    seen = 1 - np.exp(-1.35 * np.maximum(linear, 0))
    # Dark images are amplified more, and so is their noise.
    sigma = (0.0010 + 0.008 * np.sqrt(seen)) * noise * (1 + 0.8 * (1 - gain))
    seen = seen + sigma * rng.standard_normal(linear.shape, np.float32)
    seen = np.clip(seen, 0, 1)
    srgb = np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055)
    developed: U8 = (srgb * 255 + 0.5).astype(np.uint8)
    return developed


def _smooth(image: Reals, side: float, axis: int) -> Reals:
    padded = np.concatenate([image.take([0], axis), image, image.take([-1], axis)], axis)
    n = image.shape[axis]
    before, after = padded.take(range(n), axis), padded.take(range(2, n + 2), axis)
    smoothed: Reals = image * (1 - 2 * side) + side * (before + after)
    return smoothed


def exposure(light: Light) -> float:
    """The brightness of a white card under a light, 1 at 1,000 lux."""
    return float(((light.lux + _RESIDUAL_LUX) / (1000 + _RESIDUAL_LUX)) ** _GAIN_EXPONENT)


@dataclass(frozen=True)
class _Hits:
    """Where rays hit the scene: material (N,), unit normal and ray direction (N, 3), attributes (N, 10)."""

    material: NDArray[np.integer]
    normal: Reals
    directions: Reals
    facts: Reals


class _Painter:
    """Computes colours of pixels for one scene, camera and light."""

    def __init__(self, scene: Scene, camera: Camera, light: Light, backdrop: Reals | None) -> None:
        self.scene, self.camera, self.light, self.backdrop = scene, camera, light, backdrop
        self.position = camera.position()
        self.lamps = light.directions()
        gain = exposure(light)
        lit = light.lux / (light.lux + _RESIDUAL_LUX)
        front = max(0.0, float(np.cos(np.radians(light.yaw))))
        self.key = 1.06 * gain * lit
        room = light.fill if light.fill is not None else _FILL_SIDE + (_FILL_FRONT - _FILL_SIDE) * front
        self.fill = gain * (lit * room + (1 - lit) * 0.5)
        size = camera.distance / camera.focal / float(np.sqrt(abs(np.linalg.det(np.array(camera.to_pixels)[:, :2]))))
        texel = (paint.TOP - paint.BOTTOM) / paint.ROWS
        level = int(np.clip(np.round(np.log2(size / texel) - 0.25), 0, 2))
        self.surfaces = Surfaces(scene, level, coarse=size > 0.011)

    def colours(self, pixels: Reals, *, subpixels: bool = False) -> Reals:
        """Linear colours (N, 3) of pixels (N, 2); `subpixels`: each four of them belong to one pixel."""
        directions = self.camera.rays(pixels)
        origins = np.tile(self.position, (len(pixels), 1))
        colour = np.zeros((len(pixels), 3), np.float32)
        left = np.ones(len(pixels), np.float32)
        active = np.arange(len(pixels))
        for layer in range(_LAYERS):
            hits = self.scene.cast(origins, directions)
            triangle = np.asarray(hits["primID"])
            missed = triangle < 0
            if missed.any():
                behind = active[missed]
                colour[behind] += left[behind, None] * self._background(directions[missed])
            met = np.flatnonzero(~missed)
            if not len(met):
                break
            distance = np.asarray(hits["tfar"])[met, None]
            points = origins[met] + distance * directions[met]
            u, v = np.asarray(hits["u"])[met], np.asarray(hits["v"])[met]
            shaded, alpha = self._shade(
                triangle[met],
                np.stack([1 - u - v, u, v], 1),
                points,
                directions[met],
                active[met] if subpixels else None,
            )
            # Skin seen from inside is the mouth or a nostril that comes through a thin face: the ray continues.
            within = np.einsum("ij,ij->i", np.asarray(hits["Ng"])[met], directions[met]) > 0
            within &= self.scene.material[triangle[met]] == SKIN
            alpha[within] = 0
            if layer == _LAYERS - 1:
                alpha[:] = 1
            where = active[met]
            colour[where] += (left[where] * alpha)[:, None] * shaded
            left[where] *= 1 - alpha
            through = np.flatnonzero(left[where] > 0.04)
            if not len(through):
                break
            active = where[through]
            # The next surface may be close: step a little past this one, further for loose strands than for skin.
            step = np.where(within[through], 0.0004, 0.004).astype(np.float32)[:, None]
            origins = np.ascontiguousarray(points[through] + step * directions[met][through], np.float32)
            directions = np.ascontiguousarray(directions[met][through])
        return colour

    def _background(self, directions: Reals) -> Reals:
        """Colours of the backdrop, or of a grey studio wall that is brighter where the lamp reaches it."""
        if self.backdrop is not None:
            local = directions @ self.camera.axes().T
            side = len(self.backdrop)
            plane = (local[:, :2] / np.maximum(local[:, 2:], 1e-3) * self.camera.distance / 6 + 0.5) * side
            cell = np.abs((np.floor(plane).astype(np.int64) + side) % (2 * side) - side) % side
            seen: Reals = self.backdrop[cell[:, 1], cell[:, 0]]
            return seen
        up = directions @ np.array([0, 1, 0], np.float32)
        aside = directions @ self.camera.axes()[0]
        wall = 0.20 + 0.25 * up - 0.9 * (aside**2)
        tint = (0.75 * self.key + self.fill) * np.array([0.96, 1.0, 1.03], np.float32)
        painted: Reals = np.clip(wall, 0.04, 1)[:, None] * tint
        return painted

    def _shade(
        self,
        triangle: NDArray[np.integer],
        weights: Reals,
        points: Reals,
        directions: Reals,
        subpixel: NDArray[np.integer] | None,
    ) -> tuple[Reals, Reals]:
        """Colour (N, 3) and opacity (N,) of hits; `weights` (N, 3) are those of the triangles' corners."""
        scene = self.scene
        corners = scene.triangles[triangle]
        facts = scene.attributes[corners[:, 0]] * weights[:, :1]
        facts += scene.attributes[corners[:, 1]] * weights[:, 1:2]
        facts += scene.attributes[corners[:, 2]] * weights[:, 2:]
        material = scene.material[triangle]
        normal = facts[:, NORMAL]
        normal /= np.maximum(np.sqrt(np.einsum("ij,ij->i", normal, normal)), 1e-6)[:, None]
        facing = np.einsum("ij,ij->i", normal, directions)
        # Thin surfaces are lit on the visible side; skin at a silhouette keeps its own normal.
        turn = (facing > 0) & (material >= LASH)
        normal[turn] *= -1
        albedo, gloss, alpha = self.surfaces.paint(material, facts)
        # Half of the loose hair is gaps. They need no light, which is the most expensive part.
        visible = np.flatnonzero(alpha > 0)
        hits = _Hits(material[visible], normal[visible], directions[visible], facts[visible])
        lit = self._visible(
            points[visible], hits.normal, hits.material, None if subpixel is None else subpixel[visible]
        )
        colour = np.zeros((len(points), 3), np.float32)
        colour[visible] = self._light(hits, lit, albedo[visible], gloss[visible])
        return colour, alpha

    def _visible(
        self, points: Reals, normal: Reals, material: NDArray[np.integer], subpixel: NDArray[np.integer] | None
    ) -> Reals:
        """(N,) share of the lamp that each point sees; `subpixel`: of one of the lamp's points, else of all of them."""
        lit = np.zeros(len(points), np.float32)
        if self.key <= 0 or not len(points):
            return lit
        middle = self.lamps.mean(0)
        facing = np.flatnonzero(normal @ middle > -0.3)
        start = np.ascontiguousarray(points[facing] + 0.012 * normal[facing] + 0.004 * middle, np.float32)
        # Strands are too fine to show single points of the lamp: one ray suffices. The four samples of a pixel use one point
        # each, the same in every pixel: with random points the edges of shadows would be grainy.
        strand = material[facing] == HAIR
        if subpixel is not None:
            casts = [(np.arange(len(facing)), self.lamps[subpixel[facing] % 4 % len(self.lamps)], 1.0)]
        else:
            hairs, rest = np.flatnonzero(strand), np.flatnonzero(~strand)
            casts = [(hairs, np.tile(middle / np.linalg.norm(middle), (len(hairs), 1)).astype(np.float32), 1.0)]
            casts += [(rest, np.tile(lamp, (len(rest), 1)), 1 / len(self.lamps)) for lamp in self.lamps]
        for rays, lamps, share in casts:
            if not len(rays):
                continue
            hits = self.scene.cast(start[rays], lamps)
            blocker = np.asarray(hits["primID"])
            behind = self.scene.material[blocker]
            blocked = np.where(blocker >= 0, _CASTS_SHADOW[behind], 0)
            # Hair is loose: it lets part of the light through, most of it to other hair.
            airy = (blocker >= 0) & (behind == HAIR)
            blocked = np.where(airy, np.where(strand[rays], 0.35, 0.8), blocked)
            lit[facing[rays]] += (1 - blocked) * share
        return lit

    def _light(self, hits: _Hits, lit: Reals, albedo: Reals, gloss: Reals) -> Reals:
        """Linear colours (N, 3) of hits under the lamp, of which they see the share `lit` (N,), and under the room's light."""
        material, normal, directions, facts = hits.material, hits.normal, hits.directions, hits.facts
        lamp = self.lamps.mean(0)
        lamp = lamp / np.linalg.norm(lamp)
        towards = normal @ lamp
        skin = (material == SKIN)[:, None]
        wrap = np.where(skin, _WRAP, 0.05)
        diffuse = np.clip((towards[:, None] + wrap) / (1 + wrap), 0, 1)
        # Light passes through the wings of the nose and the rims of the ears: no crease of the skin is black.
        occlusion = facts[:, OCCLUSION].clip(0, 1)[:, None]
        occlusion = np.where(
            skin & (facts[:, MASKS.start + 1 : MASKS.start + 2] < 0.5), 0.3 + 0.7 * occlusion, occlusion
        )
        # Light from a crease was reflected by skin before: creases are reddish rather than dark.
        open_sky = np.where(skin, occlusion ** np.array([0.75, 1.1, 1.2], np.float32), occlusion)
        sky = 0.72 + 0.28 * normal[:, 1:2]
        # The lamp is large: a point that sees little sky also sees little of the lamp.
        soft = 0.45 + 0.55 * open_sky
        light = self.key * diffuse * lit[:, None] * soft + self.fill * sky * open_sky
        colour = albedo * light
        half = lamp - directions
        half /= np.linalg.norm(half, axis=1, keepdims=True)
        mirror = np.clip(np.einsum("ij,ij->i", normal, half), 0, 1)
        grazing = (1 - np.clip(-np.einsum("ij,ij->i", normal, directions), 0, 1)) ** 4
        sheen = gloss * (0.035 * mirror**10 + 0.05 * mirror**45) * (1 + 4 * grazing) * self.key * lit
        sheen += gloss * 0.05 * grazing * self.fill * occlusion[:, 0]
        wet = material == EYE
        sheen[wet] = self._glint(normal[wet], directions[wet], lit[wet])
        dark = material == LENS
        sheen[dark] = 0.05 * mirror[dark] ** 60 * self.key + 0.015 * self.fill
        strands = np.flatnonzero(material == HAIR)
        if len(strands):
            tangent = facts[strands][:, MASKS]
            tangent = tangent / np.maximum(np.linalg.norm(tangent, axis=1, keepdims=True), 1e-6)
            along = np.einsum("ij,ij->i", tangent, half[strands])
            sheen[strands] = (
                gloss[strands] * (1 - along**2) ** 24 * self.key * lit[strands] * np.clip(towards[strands] + 0.3, 0, 1)
            )
        colour += sheen[:, None]
        shaded: Reals = colour.astype(np.float32)
        return shaded

    def _glint(self, normal: Reals, directions: Reals, lit: Reals) -> Reals:
        """The lamp's reflection in a wet eye, visible even in the shadow of a lid."""
        reflected = directions - 2 * np.einsum("ij,ij->i", directions, normal)[:, None] * normal
        shine = np.zeros(len(normal), np.float32)
        for lamp, share in zip((*self.lamps, self.lamps.mean(0)), (0.3, 0.3, 0.3, 1.0), strict=True):
            shine += share * np.clip(reflected @ lamp, 0, 1) ** 220
        return (0.75 * shine * self.key * (0.4 + 0.6 * lit) + 0.02 * self.fill).astype(np.float32)
