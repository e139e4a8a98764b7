"""Clips whose motion is known: objects before a still camera, what is still but noisy, and what codecs make of both."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np

HEIGHT, WIDTH = 192, 256
BACKGROUNDS = ("plain", "soft texture", "fine texture", "noise")
MORE_BACKGROUNDS = ("same grey", "checker", "stripes")  # the first as bright as the object, of another colour
OBJECTS = ("square", "disc", "bar", "textured square", "two squares")
CODECS = {  # encoder, pixel format, options, file
    "lossless": ("ffv1", "bgr0", {}, "clip.mkv"),
    "H.264": ("libx264", "yuv420p", {}, "clip.mp4"),
    "VP9": ("libvpx-vp9", "yuv420p", {"deadline": "realtime", "cpu-used": "8"}, "clip.webm"),
    "MPEG-4": ("mpeg4", "yuv420p", {}, "clip.avi"),
    "MJPEG": ("mjpeg", "yuvj420p", {}, "clip.avi"),
}


@dataclass(frozen=True)
class Scene:
    """An object of `size` px that moves `step` px a frame, at `angle` degrees, over a still picture of 256x192.

    It turns round before the border, or `leaves` the picture. A bar is as wide as a third of its size and three times
    as high, an ellipse half as high as wide. noise: standard deviation of the camera's, in levels; flicker: share by
    which the brightness swings; seed: of textures and colours, 7 being always red.
    """

    shape: str = "square"
    size: int = 24
    step: float = 3.0
    angle: float = 0.0
    background: str = "plain"
    fps: int = 10
    codec: str = "lossless"
    seconds: float = 2.0
    leaves: bool = False
    noise: float = 0.0
    flicker: float = 0.0
    seed: int = 7

    def clip(self) -> tuple[np.ndarray, float]:
        """(uint8 RGB (T, 192, 256, 3), its true score: area share times speed in short sides/s, over the frames)."""
        rng, frames, shares = np.random.default_rng(self.seed), [], []
        picture, skin = _background(self.background, rng), _skin(rng)
        for n, (x, y) in enumerate(self._places()):
            frame, covered = picture, np.zeros((HEIGHT, WIDTH, 1))
            for left, top in [(x, y), (WIDTH - x - self.size, y + self.size + 12)][: 1 + (self.shape == "two squares")]:
                mask = _cover(self.shape, left, top, self.size)[..., None]
                frame = frame * (1 - mask) + self._colour(skin, left, top) * mask
                covered = np.maximum(covered, mask)
            frame = frame * (1 + self.flicker * np.sin(2.1 * n)) + rng.normal(0, self.noise, frame.shape)
            frames.append(np.clip(np.rint(frame), 0, 255).astype(np.uint8))
            shares.append(covered.mean())
        share = (np.mean(shares[1:]) + np.mean(shares[:-1])) / 2
        return _through(self.codec, np.stack(frames), self.fps), float(share * self.step * self.fps / HEIGHT)

    def _places(self) -> list[np.ndarray]:
        """The upper left corner (x, y) of the object in each frame."""
        picture = np.array([WIDTH, HEIGHT])
        direction = np.array([np.cos(np.radians(self.angle)), np.sin(np.radians(self.angle))])
        travelled = np.arange(round(self.seconds * self.fps) + 1) * self.step
        if self.leaves:
            return list(picture * (0.75, 0.5) - (0, self.size / 2) + travelled[:, None] * direction)
        room = (picture * 0.9 - self.size - 20) / np.maximum(np.abs(direction), 1e-6)
        way = np.abs((travelled + room.min()) % (2 * room.min()) - room.min())  # there and back
        return list((picture - self.size - direction * room.min()) / 2 + way[:, None] * direction)

    def _colour(self, skin: np.ndarray, left: float, top: float) -> np.ndarray:
        red = np.array([200.0, 40.0, 40.0])
        if not self.shape.startswith("textured"):
            return red if self.seed == 7 else np.random.default_rng(self.seed).permuted([210.0, 40.0, 60.0])
        shift = np.float32([[1, 0, left - 10], [0, 1, top - 10]])
        return red + cv2.warpAffine(skin, shift, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REFLECT)[..., None]


def grid(quick: bool = False) -> list[Scene]:
    """Sizes, speeds, backgrounds, codecs, rates and shapes."""
    if quick:
        return [Scene(background=name, step=step, seconds=1) for name in BACKGROUNDS[:2] for step in (1, 3)]
    scenes = []
    for background in BACKGROUNDS:

        def add(**facts) -> None:
            scenes.append(Scene(background=background, **facts))  # noqa: B023

        for size in (16, 24, 40):
            for step in (2, 5):
                add(size=size, step=step)
        for codec in CODECS:
            for size, step in ((16, 5), (32, 2), (40, 4)):
                add(size=size, step=step, codec=codec)
        for fps in (5, 15, 30):
            for size, speed in ((24, 30), (16, 75)):
                add(size=size, step=speed / fps, fps=fps, codec="H.264")
        for shape in OBJECTS[1:]:
            add(shape=shape, codec="H.264")
            add(shape=shape, size=36, step=4, angle=40, codec="H.264")
        add(size=32, step=4, leaves=True)
        add(noise=3)
        add(step=1, codec="H.264")
        add(size=28, angle=45, codec="H.264")
        add(size=64, step=1.5, codec="H.264")
    return list(dict.fromkeys(scenes))


def mixed(seeds: range, shapes: tuple[str, ...], sizes: tuple[int, ...], backgrounds: tuple[str, ...]) -> list[Scene]:
    """One scene for each seed, of facts drawn at random: all rates, codecs, directions and speeds at which the object
    moves by 0.05 to 0.8 short sides/s."""
    scenes = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        fps, size = (int(rng.choice(values)) for values in ((6, 8, 10, 15, 25, 30), sizes))
        scenes.append(
            Scene(
                shape=str(rng.choice(shapes)),
                size=size,
                step=round(HEIGHT * float(np.exp(rng.uniform(np.log(0.05), np.log(0.8)))) / fps, 2),
                angle=int(rng.integers(360)),
                background=str(rng.choice(backgrounds)),
                fps=fps,
                codec=str(rng.choice(list(CODECS))),
                seconds=float(rng.choice([1.0, 1.6, 2.5])),
                noise=float(rng.choice([0, 2])),
                seed=seed,
            )
        )
    return scenes


def tuning() -> list[Scene]:
    """What the measure may be tuned on, beside `grid`."""
    shapes = ("square", "disc", "bar", "textured square", "textured disc")
    return mixed(range(1000, 1100), shapes, (20, 28, 36, 50), BACKGROUNDS + MORE_BACKGROUNDS[:2])


def held_out() -> list[Scene]:
    """Other seeds, shapes, sizes and backgrounds than those of `tuning`: looked at to report, not to tune."""
    shapes = ("disc", "ellipse", "square", "textured disc", "textured ellipse", "textured bar")
    return mixed(range(5000, 5100), shapes, (18, 24, 32, 44, 60), BACKGROUNDS + MORE_BACKGROUNDS)


def still_scenes(quick: bool = False) -> list[Scene]:
    """Nothing moves, but there is noise, and the brightness may flicker."""
    codecs, backgrounds = (list(CODECS)[:1], BACKGROUNDS[:1]) if quick else (CODECS, BACKGROUNDS)
    return [
        Scene(step=0, background=background, codec=codec, noise=noise, flicker=flicker)
        for background in backgrounds
        for codec in codecs
        for noise in (0, 2, 4)
        for flicker in (0, 0.04)
    ]


def pan(speed: float, fps: int = 10, zoom: float = 0.0, seconds: float = 2.0) -> np.ndarray:
    """uint8 RGB (T, 192, 256, 3): the camera moves over a soft texture by `speed` short sides/s, or comes nearer by the
    share `zoom` a second, whose true score is that times the mean distance from the middle."""
    rng = np.random.default_rng(0)
    side = 2 * WIDTH + round(speed * seconds * HEIGHT)
    texture = cv2.GaussianBlur(rng.normal(size=(2 * HEIGHT, side, 3)), None, 6)
    texture = 128 + 45 * texture / texture.std()
    frames = []
    for n in range(round(seconds * fps) + 1):
        scale = 1 / (1 + zoom * n / fps)
        x, y = WIDTH + speed * HEIGHT * n / fps, HEIGHT
        to_texture = np.float32([[scale, 0, x - scale * WIDTH / 2], [0, scale, y - scale * HEIGHT / 2]])
        flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
        frame = cv2.warpAffine(texture, to_texture, (WIDTH, HEIGHT), flags=flags)
        frames.append(np.clip(np.rint(frame), 0, 255).astype(np.uint8))
    return np.stack(frames)


def mean_radius() -> float:
    """Mean distance of a pixel from the middle, in short sides."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return float(np.hypot(y + 0.5 - HEIGHT / 2, x + 0.5 - WIDTH / 2).mean() / HEIGHT)


def _background(name: str, rng: np.random.Generator) -> np.ndarray:
    """float RGB (192, 256, 3)."""
    if name == "same grey":
        return np.broadcast_to([60.0, 110.0, 70.0], (HEIGHT, WIDTH, 3))
    if name in MORE_BACKGROUNDS:
        y, x = np.mgrid[:HEIGHT, :WIDTH]
        bright = (x // 14 + y // 14) % 2 if name == "checker" else (x + y) // 10 % 2
        return np.repeat(90.0 + 70 * bright[..., None], 3, axis=-1)
    blur, contrast = {"plain": (0, 0), "soft texture": (12, 25), "fine texture": (1.5, 25), "noise": (0, 30)}[name]
    texture = rng.normal(size=(HEIGHT, WIDTH, 3))
    if blur:
        texture = cv2.GaussianBlur(texture, None, blur)
    return 140 + contrast * texture / texture.std()


def _skin(rng: np.random.Generator) -> np.ndarray:
    skin = cv2.GaussianBlur(rng.normal(size=(200, 200)), None, 1.5)
    return 45 * skin / skin.std()


def _cover(shape: str, x: float, y: float, size: int) -> np.ndarray:
    """Share of each pixel (192, 256) that the object covers, its upper left corner at (x, y)."""
    columns, rows = np.arange(WIDTH), np.arange(HEIGHT)[:, None]
    shape = shape.removeprefix("textured ")
    if shape in ("disc", "ellipse"):
        flat = 1 + (shape == "ellipse")
        distance = np.hypot(columns + 0.5 - x - size / 2, flat * (rows + 0.5 - y - size / 2))
        return np.clip(size / 2 + 0.5 - distance, 0, 1)
    width, height = (size // 3, size * 3) if shape == "bar" else (size, size)
    y -= (height - size) / 2
    across = np.clip(np.minimum(columns + 1, x + width) - np.maximum(columns, x), 0, 1)
    return across * np.clip(np.minimum(rows + 1, y + height) - np.maximum(rows, y), 0, 1)


def _through(codec: str, clip: np.ndarray, fps: int) -> np.ndarray:
    """The clip written with a codec of CODECS and read again."""
    if codec == "lossless":
        return clip
    name, pix_fmt, options, file = CODECS[codec]
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, file))
        with av.open(path, "w") as output:
            stream = output.add_stream(name, rate=fps, options=options)
            stream.height, stream.width, stream.pix_fmt = *clip.shape[1:3], pix_fmt
            for frame in clip:
                output.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
            output.mux(stream.encode(None))
        with av.open(path) as container:
            return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
