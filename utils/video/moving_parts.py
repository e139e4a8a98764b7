"""Which parts of the picture move between two frames, and how far.

Dense flow alone smears a small object over the background around it and sees nothing inside what has no texture. So:

1. Flow is DIS (Kroeger et al. 2016, arXiv:1603.03590), at full resolution only around what changes.
2. Noise is what flow does not explain: the median difference between the frames, with or without flow. A pixel has
   changed if it differs by CHANGE times that. A change of the whole brightness is taken out before.
3. Flat regions carry no flow. A region moves with the edges around it that changed (Lucas and Kanade 1981, over all of
   its edge, so that straight edges do not mislead), unless more of them stay; the figure is the smaller side of an edge
   and does not lean on the border of the picture.
4. Textured pixels move if they changed and flow explains it, except for the ground that a region is about to cover.
"""

from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np

CHANGE, LEAST_CHANGE = 6.0, 3.0  # times the noise; levels of 255
STRONG_CHANGE = 10.0  # levels; what codecs repaint at a key frame stays below, or moves by less than a pixel
MOST_NOISE = 6.0  # levels; more is a cut, or motion too fast for flow
UNEXPLAINED = 0.1  # of the energy of a change may remain after flow
FLAT = 3.0  # levels per px
EDGE = 2.1  # px, half the width of an edge as the gradient sees it
FEWEST = 0.001  # of the picture, in one part


class Motion(NamedTuple):
    """flow: float32 (h, w, 2), to the right and down in px, 0 where nothing moves; changed: beyond the noise."""

    flow: np.ndarray
    changed: bool


class _Change(NamedTuple):
    """Two frames and what is between them; all float32 (h, w) but flow, and bool masks."""

    before: np.ndarray
    flow: np.ndarray
    difference: np.ndarray
    rest: np.ndarray  # difference that remains after flow
    noise: float

    @property
    def threshold(self) -> float:
        return max(LEAST_CHANGE, CHANGE * self.noise)

    @property
    def changed(self) -> np.ndarray:
        return large_parts(np.abs(self.difference) > self.threshold, 6)

    @property
    def explained(self) -> np.ndarray:
        return _energy(self.rest) < UNEXPLAINED * _energy(self.difference)


def moving_parts(before: np.ndarray, after: np.ndarray) -> Motion:
    """What moves between two frames, uint8 grey (h, w) of the same size."""
    still = np.zeros((*before.shape, 2), np.float32)
    if cv2.blur(cv2.absdiff(before, after), (3, 3)).max() < LEAST_CHANGE:
        return Motion(still, False)
    change = _compare(before, after, finest_scale=1)
    changed = change.changed
    if not changed.any():
        return Motion(still, False)
    explained = changed & change.explained
    if _everywhere(explained):  # the camera moves, and only what ought to change and does not stays
        ought = np.abs((_gradient(change.before) * change.flow).sum(-1)) > change.threshold
        stays = _density(ought & ~changed) > _density(explained)
        return Motion(np.where(stays[..., None], 0, change.flow), True)
    window = _around(changed, margin=48)
    part = _compare(before[window], after[window], finest_scale=0)._replace(noise=change.noise)
    still[window] = _objects(part)
    strongly = np.abs(change.difference) > max(STRONG_CHANGE, 2 * change.threshold)
    clearly = np.linalg.norm(still, axis=-1) > 1
    return Motion(still, any(large_parts(mask, FEWEST * before.size).any() for mask in (strongly, clearly)))


def _compare(before: np.ndarray, after: np.ndarray, finest_scale: int) -> _Change:
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)  # others smooth over the edges of objects
    dis.setFinestScale(finest_scale)
    flow = dis.calc(*(_dithered(frame, seed) for seed, frame in enumerate((before, after))), None)
    before, after = before.astype(np.float32), after.astype(np.float32)
    moved = warp(after, flow)
    gain, offset = _brightness(before, moved)
    difference, rest = (cv2.blur(gain * frame + offset - before, (3, 3)) for frame in (after, moved))
    return _Change(before, flow, difference, rest, min(_deviation(difference), _deviation(rest), MOST_NOISE))


def _objects(change: _Change) -> np.ndarray:
    """Flow of what moves before a still camera, (h, w, 2) in px."""
    changed, explained = change.changed, change.explained
    gradient, moving = _gradient(change.before), changed & explained
    flat, region, distance = _regions(np.linalg.norm(gradient, axis=-1) < max(FLAT, 3 * change.noise))
    motions, moves = _region_motions(region, region * ~flat, gradient, change, moving)
    inside = moves[region]

    # Textured pixels: known where they changed, else as those around them that would show it.
    near = _density(moving)
    flow_near = cv2.blur(change.flow * moving[..., None], (11, 11)) / (near[..., None] + 1e-6)
    stays = np.where(changed, ~explained, np.abs((gradient * flow_near).sum(-1)) > change.threshold)
    alike = (near > 0.002) & (near > _density(stays))
    textured = moving | (~stays & alike)
    covered = cv2.dilate(warp(inside.astype(np.float32), -change.flow), np.ones((5, 5))) > 0.5
    textured &= ~covered | (_energy(change.rest) < (change.threshold / 2) ** 2)

    # Of an edge each half goes with the region on its side, if one of the two moves.
    beside = cv2.dilate(inside.astype(np.uint8), np.ones((7, 7))) > 0
    by_region = flat | ((region > 0) & (inside | beside | (distance <= 1.2)))
    flow = np.where(by_region[..., None], motions[region], change.flow)
    return flow * np.where(by_region, inside, textured)[..., None]


def _regions(flat: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(flat without specks, number of the region at each pixel, distance to it in px): connected flat pixels and the
    EDGE px around them, each with the nearest; 0 is far from all."""
    _, label, facts, _ = cv2.connectedComponentsWithStats(flat.astype(np.uint8), connectivity=4)
    label[facts[label, cv2.CC_STAT_AREA] < 9] = 0
    flat = label > 0
    distance, nearest = cv2.distanceTransformWithLabels(
        (~flat).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    number = np.zeros(nearest.max() + 1, np.int32)
    number[nearest[flat]] = label[flat]
    return flat, np.where(distance <= EDGE, number[nearest], 0), distance


def _region_motions(
    region: np.ndarray, edge: np.ndarray, gradient: np.ndarray, change: _Change, moving: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(motion of each region in px (n, 2), whether it moves (n,)); `edge` has a region's number on its edge alone."""
    count = region.max() + 1
    on_edge = edge > 0
    owner, slope, moved = edge[on_edge], gradient[on_edge], moving[on_edge]

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(owner, values, count)

    normal = (slope * change.flow[on_edge]).sum(-1) * moved
    xx, xy, yy = (total(slope[:, i] * slope[:, j] * moved) for i, j in ((0, 0), (0, 1), (1, 1)))
    x, y = total(slope[:, 0] * normal), total(slope[:, 1] * normal)
    ridge = 1e-3 * (xx + yy) + 1e-6
    xx, yy = xx + ridge, yy + ridge
    motions = np.stack([yy * x - xy * y, xx * y - xy * x], axis=-1) / (xx * yy - xy**2)[:, None]

    for_it = total(moved)
    against = total(~change.changed[on_edge] & (np.abs((slope * motions[owner]).sum(-1)) > change.threshold))
    direction = np.abs(motions) / (np.linalg.norm(motions, axis=-1, keepdims=True) + 1e-9)
    border = [sum(np.bincount(side, minlength=count) for side in (r[0], r[-1])) for r in (region.T, region)]
    leans = 3 * (border * direction.T).sum(0) > for_it  # an edge is about 3 px wide

    area, beside = np.bincount(region.ravel(), minlength=count), np.zeros(count)
    for one, other in ((region[1:], region[:-1]), (region[:, 1:], region[:, :-1])):
        across = (one != other) & (one > 0) & (other > 0)
        for a, b in ((one[across], other[across]), (other[across], one[across])):
            np.maximum.at(beside, a, area[b])
    moves = (for_it > 2) & (for_it > against / 2) & ((beside > area) | ~leans)
    moves[0] = False
    return motions, moves


def _everywhere(mask: np.ndarray) -> bool:
    """Some of it in nearly every quarter-sized window of the picture."""
    side = min(mask.shape) // 4
    return cv2.dilate(mask.astype(np.uint8), np.ones((side, side))).mean() > 0.95


def _density(mask: np.ndarray) -> np.ndarray:
    return cv2.blur(mask.astype(np.float32), (11, 11))


def _around(mask: np.ndarray, margin: int) -> tuple[slice, slice]:
    x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
    return slice(max(0, y - margin), y + height + margin), slice(max(0, x - margin), x + width + margin)


def _brightness(before: np.ndarray, moved: np.ndarray) -> tuple[float, float]:
    """(gain, offset) that take `moved` to `before`, from the pixels that agree; (1, 0) if the frames are unlike."""
    x, y = moved.ravel()[::7], before.ravel()[::7]
    gain, offset = 1.0, 0.0
    for _ in range(2):
        if x.var() < 1:
            return 1.0, float(np.median(y - x))
        covariance = np.cov(x, y)
        gain = covariance[0, 1] / covariance[0, 0]
        if gain * covariance[0, 1] < 0.8 * covariance[1, 1]:
            return 1.0, 0.0
        offset = y.mean() - gain * x.mean()
        error = np.abs(gain * x + offset - y)
        agree = error <= max(1.0, 3.7 * np.median(error))
        x, y = x[agree], y[agree]
    return float(gain), float(offset)


def _deviation(difference: np.ndarray) -> float:
    """Standard deviation by the median, which small objects do not move."""
    return 1.4826 * float(np.median(np.abs(difference.ravel()[::3])))


def _energy(difference: np.ndarray) -> np.ndarray:
    return cv2.blur(difference**2, (5, 5))


def _gradient(frame: np.ndarray) -> np.ndarray:
    """(h, w, 2), levels per px."""
    return np.stack([cv2.Sobel(frame, cv2.CV_32F, *axis, scale=1 / 8) for axis in ((1, 0), (0, 1))], axis=-1)


def warp(frame: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """The frame at x + flow(x), float32 (h, w)."""
    x, y = np.meshgrid(*(np.arange(side, dtype=np.float32) for side in reversed(frame.shape)))
    return cv2.remap(frame, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def large_parts(mask: np.ndarray, fewest: float) -> np.ndarray:
    """The connected parts of at least so many px."""
    _, label, facts, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    return mask & (facts[label, cv2.CC_STAT_AREA] >= fewest)


def _dithered(frame: np.ndarray, seed: int) -> np.ndarray:
    """Plus or minus a level: without any texture along an edge, as in synthetic pictures, DIS does not move."""
    return cv2.subtract(cv2.add(frame, _dither(frame.shape, seed)), 1)


@lru_cache(8)
def _dither(shape: tuple[int, int], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 3, shape, dtype=np.uint8)
