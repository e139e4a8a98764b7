"""Does a clip of the demo's kind show what its prompt says? Classical computer vision, nothing learned.

Every shape of the demo is brighter than every background, in its largest channel at least. So in each frame the object
is what exceeds half way between the median and the peak of the largest channel, wherever that connects to the largest
blob. There a pixel is background + alpha * (object - background), and alpha, by least squares over the channels, gives
area, centroid and, compared with the ideal masks of that area and centroid, shape.
"""

import colorsys
import re
from dataclasses import dataclass

import cv2
import numpy as np

from utils.demo_data import shapes

MIN_CONTRAST = 60  # 8-bit levels between object and background, in the largest channel
MIN_SATURATION = 0.35  # below it the object is white; the demo's colours have 0.68 or more
MIN_RADIUS, MAX_RADIUS = 0.08, 0.4  # fraction of the frame; what is smaller or larger is no object
MIN_TRAVEL = 1 / 8  # fraction of the frame; what moves less has no direction
MAX_STRAY = 0.16  # of the travel: rms distance from a straight, steady path; one leap between two places has 0.167
MIN_SEEN = 0.75  # share of the frames that must show an object, or nothing is said about the clip
MAX_MISFIT = 0.2  # mean squared error of the best mask; blurred shapes reach 0.13, random blobs begin at 0.3
SPEED_LIMIT = (shapes.SPEEDS["slow"][1] + shapes.SPEEDS["fast"][0]) / 2
SIZE_LIMIT = (shapes.SIZES["small"][1] + shapes.SIZES["large"][0]) / 2

# What breaks coherence, see Verdict.
SECOND_AREA = 0.1  # of the object's area
SIZE_CHANGE = 1.2  # largest radius over smallest; from small to large it is 1.2 to 1.35
COLOUR_CHANGE = 60  # 8-bit levels, length over the channels; from orange to yellow it is 84
SHAPE_CHANGE = 0.03  # how much better another shape may fit a frame; in real clips it fits worse, by 0.05 or more
JUMP = 0.1  # fraction of the frame

VALUES = {  # of each attribute, those that the judge tells apart
    "colour": tuple(shapes.HARD_COLOURS),
    "shape": shapes.SHAPES,
    "direction": tuple(shapes.DIRECTIONS),
    "speed": tuple(shapes.SPEEDS),
    "size": tuple(shapes.SIZES),
}
# In [0, 1), red is 0. Clips of the four easy colours too are told apart by all: an orange shape is no red one.
HUES = {name: colorsys.rgb_to_hsv(*rgb)[0] for name, rgb in shapes.HARD_COLOURS.items() if name != "white"}


@dataclass(frozen=True)
class Verdict:
    """What a clip shows. An attribute is None where nothing can be said about it: all five where fewer than 3/4 of the
    frames show an object.

    direction: of a straight line fitted to the centroids; None if it leads less than 1/8 of the frame, if its smaller
    component is more than half of the larger, or if the centroids stray from it. speed: its length, so None then too.
    shape: whose ideal mask of the same area and centroid fits best, over all frames; None if none fits.

    coherent: one thing from the first frame to the last, that is, none of these `flaws`:
    "absent"  a frame without an object
    "second"  a frame with another blob of at least a tenth of the object's area
    "size"    the largest radius is more than 1.2 times the smallest
    "colour"  the object's mean colour varies by more than 60 levels (a quarter of white)
    "shape"   a frame that another shape fits clearly better than the clip's, or a clip that no shape fits
    "jump"    a step between frames that differs from the clip's median step by more than a tenth of the frame
    """

    colour: str | None
    shape: str | None
    direction: str | None
    speed: str | None
    size: str | None
    coherent: bool
    flaws: tuple[str, ...] = ()
    travel: float | None = None  # from the first to the last frame, fraction of the frame, along the larger axis
    radius: float | None = None  # of the circle of the same area, fraction of the frame
    frames_seen: int = 0  # frames with an object
    misfit: float | None = None  # of the shape, mean over the frames: see Blob
    flicker: float | None = None  # mean change from frame to frame far from the object, 8-bit levels
    near: float | None = None  # the same near it
    contrast: float | None = None  # between the object's inside and what is around it, length in 8-bit levels of RGB


@dataclass(frozen=True)
class Blob:
    """The object of one frame; lengths in px."""

    centre: tuple[float, float]  # x, y; the centre of the first pixel is (0.5, 0.5)
    radius: float
    rgb: np.ndarray  # mean colour of its inside
    misfits: tuple[float, ...]  # of each of shapes.SHAPES: mean squared error over the object's area
    contrast: float  # length in 8-bit levels of RGB
    alone: bool


def judge(frames: np.ndarray) -> Verdict:
    """What a clip shows; frames: uint8 RGB (T, H, W, 3), at least 2, of any size."""
    num_frames, height, width, _ = frames.shape
    blobs = [find_object(frame) for frame in frames.astype(np.float32)]
    seen = [t for t, blob in enumerate(blobs) if blob]
    blobs = [blobs[t] for t in seen]
    if len(seen) < max(2, MIN_SEEN * num_frames):
        return Verdict(None, None, None, None, None, False, ("absent",), frames_seen=len(seen))

    centres = np.array([blob.centre for blob in blobs]) / (width, height)
    radii = np.array([blob.radius for blob in blobs]) / (height * width) ** 0.5
    colours = np.array([blob.rgb for blob in blobs])
    misfits = np.array([blob.misfits for blob in blobs])  # (frames seen, shapes)

    slope, start = np.polyfit(seen, centres, 1)  # of x and y
    travel, path = slope * (num_frames - 1), start + np.outer(seen, slope)
    stray = np.linalg.norm(centres - path, axis=1)
    axis = int(np.abs(travel).argmax())
    distance, aside = abs(travel[axis]), abs(travel[1 - axis])
    steady = (stray**2).mean() ** 0.5 <= MAX_STRAY * distance
    moves = distance > MIN_TRAVEL and distance > 2 * aside and steady
    direction = (("left", "right"), ("up", "down"))[axis][int(travel[axis] > 0)] if moves else None
    radius = float(np.median(radii))
    best = int(misfits.mean(axis=0).argmin())
    shaped = misfits[:, best].mean() <= MAX_MISFIT

    steps = np.diff(centres, axis=0) / np.diff(seen)[:, None]
    flaws = {
        "absent": len(seen) < num_frames,
        "second": not all(blob.alone for blob in blobs),
        "size": radii.max() > SIZE_CHANGE * radii.min(),
        "colour": np.linalg.norm(np.ptp(colours, axis=0)) > COLOUR_CHANGE,
        "shape": not shaped or (misfits[:, best] - misfits.min(axis=1)).max() > SHAPE_CHANGE,
        "jump": np.linalg.norm(steps - np.median(steps, axis=0), axis=1).max() > JUMP,
    }
    return Verdict(
        colour=name_colour(colours.mean(axis=0)),
        shape=shapes.SHAPES[best] if shaped else None,
        direction=direction,
        speed=("fast" if distance > SPEED_LIMIT else "slow") if moves else None,
        size="large" if radius > SIZE_LIMIT else "small",
        coherent=not any(flaws.values()),
        flaws=tuple(name for name, found in flaws.items() if found),
        travel=float(distance),
        radius=radius,
        frames_seen=len(seen),
        misfit=float(misfits[:, best].mean()),
        flicker=change_of(frames, dict(zip(seen, blobs, strict=True)), near=False),
        near=change_of(frames, dict(zip(seen, blobs, strict=True)), near=True),
        contrast=float(np.mean([blob.contrast for blob in blobs])),
    )


def change_of(frames: np.ndarray, blobs: dict[int, "Blob"], near: bool) -> float | None:
    """Mean absolute change from frame to frame, in 8-bit levels, of what is less than two radii from the object in one
    of both (near), or not; None where that is less than a tenth of every frame. The backgrounds of the demo stand
    still."""
    y, x = np.mgrid[: frames.shape[1], : frames.shape[2]] + 0.5
    far = {t: np.hypot(x - blob.centre[0], y - blob.centre[1]) > 2 * blob.radius for t, blob in blobs.items()}
    changes = []
    for t in far:
        if t + 1 in far and (where := (far[t] & far[t + 1]) ^ near).mean() >= 0.1:
            changes.append(np.abs(frames[t + 1][where].astype(np.float32) - frames[t][where]).mean())
    return float(np.mean(changes)) if changes else None


def find_object(frame: np.ndarray) -> Blob | None:
    """The largest thing that stands out of a frame, float32 (H, W, 3) in 8-bit levels; None if nothing does."""
    height, width, _ = frame.shape
    level = np.maximum.reduce(cv2.split(cv2.GaussianBlur(frame, (3, 3), 0)))  # smoother: noise frays no outline
    ground, peak = np.median(level), level.max()
    if peak - ground < MIN_CONTRAST:
        return None
    bright = (level > (ground + peak) / 2).astype(np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(bright, connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA]
    blob = (labels == 1 + areas.argmax()).astype(np.uint8)

    # The object's own colour, from its inside, and the background's, from outside its soft outline and the other blobs.
    margin = max(2, min(height, width) // 20)  # px
    near = grow(blob, margin)
    outside = 1 - grow(bright, margin).astype(np.float32)
    inside = cv2.erode(blob, np.ones((3, 3), np.uint8), borderValue=0)
    if not outside.any() or not inside.any():
        return None
    rgb = frame[inside > 0].mean(axis=0)
    weight = smooth(outside, 2 * margin)
    background = smooth(frame * outside[..., None], 2 * margin) / np.maximum(weight, 1e-6)[..., None]
    contrast = rgb - background

    length = np.maximum(np.einsum("hwc,hwc->hw", contrast, contrast), 1)  # squared
    share = np.einsum("hwc,hwc->hw", frame - background, contrast) / length
    alpha = near * np.clip(share, 0, 1)
    area = float(alpha.sum())
    radius = max(area, 0) ** 0.5 / np.pi**0.5
    if not MIN_RADIUS <= radius / (height * width) ** 0.5 <= MAX_RADIUS:
        return None
    x = float((alpha.sum(axis=0) * (np.arange(width) + 0.5)).sum() / area)
    y = float((alpha.sum(axis=1) * (np.arange(height) + 0.5)).sum() / area)
    ideal = [shapes.coverage(shape, radius, [(x, y)], height, width)[0] for shape in shapes.SHAPES]
    misfits = tuple(float(((mask - alpha) ** 2).sum() / area) for mask in ideal)
    strength = float(np.linalg.norm(contrast[inside > 0].mean(axis=0)))
    return Blob(
        (x, y), radius, rgb, misfits, strength, alone=bool(np.sort(areas)[:-1].max(initial=0) < SECOND_AREA * area)
    )


def smooth(image: np.ndarray, sigma: float) -> np.ndarray:
    return cv2.GaussianBlur(image, (0, 0), sigma)


def grow(mask: np.ndarray, margin: int) -> np.ndarray:
    return cv2.dilate(mask, np.ones((2 * margin + 1, 2 * margin + 1), np.uint8))


def name_colour(rgb: np.ndarray) -> str:
    """The nearest of shapes.HARD_COLOURS by hue, or white."""
    hue, saturation, _ = colorsys.rgb_to_hsv(*(np.clip(rgb, 0, 255) / 255))
    if saturation < MIN_SATURATION:
        return "white"
    return min(HUES, key=lambda name: min(abs(hue - HUES[name]), 1 - abs(hue - HUES[name])))


def wanted(prompt: str) -> dict[str, str | None]:
    """The five attributes that a prompt of the demo names, by any synonym of shapes.WORDS.

    None where it names none, or two that differ: then no answer would be the right one.
    """
    said = set(re.findall("[a-z]+", prompt.lower()))
    asked = {}
    for attribute, values in VALUES.items():
        named = [value for value in values if said & SYNONYMS[value]]
        asked[attribute] = named[0] if len(named) == 1 else None
    return asked


# Value -> the words that say it; of "to the left" the last.
SYNONYMS = {value: {value} for values in VALUES.values() for value in values}
for _table in shapes.WORDS.values():
    for _value, _texts in _table.items():
        SYNONYMS[_value] |= {text.split()[-1] for text in _texts}
