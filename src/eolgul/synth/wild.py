"""Draw photos in the wild: any camera, light and background, occlusions, poor lenses and small files.

They are for training sets of many identities. Shape, skin, eyes and brows of a person stay the same; the hair differs from
one occasion to the next.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from eolgul.synth.crop import as_detected
from eolgul.synth.mesh import Reals
from eolgul.synth.paint import noise
from eolgul.synth.person import Person, generator
from eolgul.synth.population import other_style
from eolgul.synth.render import U8, jpeg, render
from eolgul.synth.rig import Camera, Light
from eolgul.synth.scene import Scene, Sitter

# Side of a whole photograph in pixels, as in LFW: the face in the middle of its surroundings.
PHOTO = 250
_HEAD = 2.4  # decimetres from chin to crown
_BACKDROP = 160
# Facial actions (ARKit names) of unposed faces, and their greatest strength.
_ACTIONS = {
    "mouthSmile": 0.9, "jawOpen": 0.35, "eyeSquint": 0.5, "eyeBlink": 0.35, "browInnerUp": 0.5, "browOuterUp": 0.5, "browDown": 0.7,
    "mouthPucker": 0.3, "mouthFrown": 0.4, "cheekSquint": 0.5, "mouthUpperUp": 0.4, "mouthPress": 0.4,
}  # fmt: skip
_UNPAIRED = ("jawOpen", "browInnerUp", "mouthPucker")


def photographs(person: Person, count: int, stream: int, *, aligned: bool) -> list[tuple[bytes, Reals]]:
    """Draw photos of a person in the wild.

    About three images share one occasion (hair, expression, accessory), because each occasion costs a scene.

    Args:
        person: who is drawn.
        count: number of images.
        stream: number of the random stream; different uses of the same person take different streams.
        aligned: aligned faces of 112×112 pixels instead of whole photographs of 250×250.

    Returns:
        (JPEG, truth) of each image; see `Scene.truth`.
    """
    sitter = Sitter(person)
    occasions = max(2, count // 3)
    pictures: list[tuple[bytes, Reals]] = [(b"", np.zeros(0))] * count
    for occasion in range(min(occasions, count)):
        rng = generator(person.seed, person.index, stream, 2, occasion)
        scene = _occasion(sitter, rng)
        for k in range(occasion, count, occasions):
            pictures[k] = photograph(scene, generator(person.seed, person.index, stream, 3, k), aligned=aligned)
    return pictures


def photograph(scene: Scene, rng: np.random.Generator, *, aligned: bool) -> tuple[bytes, Reals]:
    """Draw one JPEG of a scene in the wild; returns it and its truth."""
    camera = _camera(rng)
    if aligned:
        camera = as_detected(scene, camera, rng)
    # Indoors and outdoors: from hard sun with dark shadows to a grey sky without shadows.
    light = Light(
        yaw=float(rng.normal(0, 20) if rng.random() < 0.5 else rng.uniform(-100, 100)),
        pitch=float(rng.normal(18, 18)),
        lux=float(np.exp(rng.uniform(np.log(250), np.log(1300)))),
        spread=float(rng.uniform(3, 28)),
        fill=float(rng.uniform(0.12, 0.9)),
    )
    picture = render(scene, camera, light, rng, noise=float(rng.uniform(0.3, 1.0)), backdrop=_backdrop(rng))
    image = _tint(Image.fromarray(picture), rng)
    if rng.random() < 0.16:
        image = _occlude(image, scene.five(camera), rng)
    return jpeg(_degrade(image, rng), int(rng.integers(35, 97))), scene.truth(camera)


def _occasion(sitter: Sitter, rng: np.random.Generator) -> Scene:
    person = sitter.person
    if rng.random() < 0.5:
        look = {**person.look, "hair_volume": float(rng.uniform(0.6, 1.2)), "hair_length": float(rng.uniform(0, 1)),
                "hair_side": float(rng.choice([-1, 1])), "lash": float(rng.uniform(0.3, 1)) if not person.male else 0.35}  # fmt: skip
        sitter = sitter.with_hair_of(replace(person, hair_style=other_style(person, rng), look=look))
    actions: dict[str, float] = {}
    for action, most in _ACTIONS.items():
        # Most facial actions are at rest in most images.
        strength = most * float(rng.uniform(0, 1)) * float(rng.random() < (0.55 if action == "mouthSmile" else 0.2))
        for side in [""] if action in _UNPAIRED else ["Left", "Right"]:
            actions[f"faceunits/{action}{side}"] = strength
    accessories = ("S001", "S002", "S003", "S004", "S005", "S006")
    return sitter.scene_of(actions, accessories[int(rng.choice(6, p=(0.7, 0.1, 0.07, 0.05, 0.06, 0.02)))])


def _camera(rng: np.random.Generator) -> Camera:
    """A camera at 0.5 to 4 metres; the head fills half to two thirds of the image."""
    yaw, pitch = float(np.clip(rng.normal(0, 24), -65, 65)), float(np.clip(rng.normal(2, 10), -30, 35))
    distance = float(np.exp(rng.uniform(np.log(5), np.log(40))))
    height = PHOTO * float(rng.uniform(0.48, 0.68))
    middle = (PHOTO - 1) / 2
    centre = (middle + float(rng.normal(0, 8)), middle + float(rng.normal(0, 8)))
    roll = float(np.clip(rng.normal(0, 7), -25, 25))
    return Camera(yaw, pitch, height / _HEAD * distance, PHOTO, PHOTO, roll=roll, distance=distance, centre=centre)


def _backdrop(rng: np.random.Generator) -> Reals:
    """(_BACKDROP, _BACKDROP, 3) linear colours: a blurred background of noise, rectangles and ellipses."""
    shape = (_BACKDROP, _BACKDROP)
    tone = np.exp(rng.uniform(np.log(0.03), np.log(0.9)))
    colour = tone * np.exp(rng.normal(0, 0.25, 3))
    cells = int(rng.integers(2, 24))
    rough = np.stack([noise(rng, cells, cells, shape) for _ in range(3)], -1)
    rough = 0.5 * rough + noise(rng, cells, cells, shape)[..., None]
    scenery = Image.fromarray((255 * np.clip(colour * np.exp(rng.uniform(0.05, 0.6) * rough), 0, 1)).astype(np.uint8))
    drawing = ImageDraw.Draw(scenery)
    for _ in range(int(rng.integers(0, 9))):
        x, y, w, h = rng.uniform(-0.2, 1, 4) * _BACKDROP
        box = (int(x), int(y), int(x + abs(w) / 2 + 2), int(y + abs(h) + 2))
        shade = tuple(
            int(c) for c in 255 * np.clip(np.exp(rng.uniform(np.log(0.02), 0)) * np.exp(rng.normal(0, 0.3, 3)), 0, 1)
        )
        (drawing.rectangle if rng.random() < 0.7 else drawing.ellipse)(box, fill=shade)
    blurred = scenery.filter(ImageFilter.GaussianBlur(float(np.exp(rng.uniform(np.log(0.5), np.log(9))))))
    return np.asarray(blurred, np.float32) / 255


def _tint(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Apply imperfect white balance, exposure, contrast and saturation."""
    pixels = np.asarray(image, np.float32) / 255
    pixels = pixels * np.exp(rng.normal(0, 0.06, 3)) * float(np.exp(rng.normal(0.05, 0.17)))
    grey = pixels.mean(2, keepdims=True)
    saturation = 0.0 if rng.random() < 0.06 else float(rng.uniform(0.6, 1.25))
    pixels = grey + saturation * (pixels - grey)
    pixels = np.clip(pixels, 0, 1) ** float(np.exp(rng.normal(0, 0.18)))
    return Image.fromarray((pixels * 255 + 0.5).astype(np.uint8))


def _occlude(image: Image.Image, five: Reals, rng: np.random.Generator) -> Image.Image:
    """Cover a part of the face, rarely both eyes, with a blurred polygon or ellipse."""
    unit = float(np.linalg.norm(five[:2].mean(0) - five[3:].mean(0))) + 1
    centre = five[int(rng.integers(2, 5))] + rng.normal(0, 0.5, 2) * unit + (0, 0.5 * unit)
    wide, high = rng.uniform(0.4, 1.2, 2) * unit
    angle = rng.uniform(0, np.pi)
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) if rng.random() < 0.5 else _circle()
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    outline = corners * (wide, high) @ turn.T + centre
    mask = Image.new("L", image.size)
    ImageDraw.Draw(mask).polygon([tuple(point) for point in outline.tolist()], fill=255)
    mask = mask.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 2.0))))
    colour = np.exp(rng.uniform(np.log(0.03), np.log(0.9))) * np.exp(rng.normal(0, 0.3, 3))
    shape = (image.height, image.width)
    surface = colour * np.exp(0.18 * noise(rng, 5, 5, shape) + 0.06 * noise(rng, 40, 40, shape))[..., None]
    thing = Image.fromarray((255 * np.clip(surface, 0, 1) ** 0.45).astype(np.uint8))
    return Image.composite(thing, image, mask)


def _circle() -> Reals:
    turn = np.linspace(0, 2 * np.pi, 25)[:-1]
    return np.stack([np.cos(turn), np.sin(turn)], 1)


def _degrade(image: Image.Image, rng: np.random.Generator) -> U8:
    """Apply one of defocus, low resolution and motion blur, or none, and noise."""
    size = image.size
    chance = rng.random()
    if chance < 0.3:
        image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.2, 1.6))))
    elif chance < 0.5:
        factor = float(rng.uniform(0.28, 0.8))
        small = (max(8, round(size[0] * factor)), max(8, round(size[1] * factor)))
        image = image.resize(small, Image.Resampling.BILINEAR).resize(size, Image.Resampling.BICUBIC)
    elif chance < 0.58:
        # Motion blur: the mean of the image along a short line.
        angle, length = rng.uniform(0, np.pi), float(rng.uniform(1, 4))
        steps = [image.transform(size, Image.Transform.AFFINE,
                                 (1, 0, length * t * np.cos(angle), 0, 1, length * t * np.sin(angle)), Image.Resampling.BILINEAR)
                 for t in np.linspace(-0.5, 0.5, 5)]  # fmt: skip
        image = Image.fromarray((np.mean([np.asarray(step, np.float32) for step in steps], 0) + 0.5).astype(np.uint8))
    pixels = np.asarray(image, np.float32)
    sigma = float(np.exp(rng.uniform(np.log(0.5), np.log(9)))) if rng.random() < 0.6 else 0.5
    noisy = pixels + sigma * rng.standard_normal(pixels.shape, np.float32)
    return np.clip(noisy + 0.5, 0, 255).astype(np.uint8)
