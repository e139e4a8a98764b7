"""Where a clip moves, and how far: with the camera, or part by part before a still one.

A camera that moves changes nearly all of the picture, as dense flow explains: DIS (Kroeger et al. 2016,
arXiv:1603.03590). Before a still camera objects are followed by where the picture changes (see objects.py), and
flow tells how far the rest moves where it explains the change.
"""

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np

from utils.motion.objects import (
    CHANGE,
    LEAST_CHANGE,
    MOST_NOISE,
    brightness,
    difference,
    object_flows,
)

STRONG_CHANGE = 10.0  # levels; what codecs repaint at a key frame stays below, or does not move
LEAST_FLOW = 3.0  # levels
UNEXPLAINED = 0.1  # of the energy of a change may remain after flow
FEWEST = 0.001  # of the picture, in one part
WIDE = 0.4  # of the picture
MOST_WRONG = 0.15  # of what changes may contradict one motion of the whole
BAR_LEVEL = 20  # of Y, 16 in black bars
FAST = 0.12  # short sides per second, above which far pairs lose track


def window_flows(frames: Sequence[np.ndarray], segment: int, per_second: float) -> tuple[np.ndarray, bool]:
    """(flow from each frame to the next, float32 (n - 1, h, w, 2), to the right and down in px; whether anything
    changes beyond the noise).

    frames: n of uint8 YCrCb (h, w, 3), so many per_second; for `segment` of them at a time the camera moves or not.
    """
    whole, inside = frames[0].shape[:2], without_bars(frames)
    frames, last = [np.ascontiguousarray(frame[inside]) for frame in frames], len(frames) - 1
    flows, changed = np.zeros((last, *frames[0].shape[:2], 2), np.float32), False
    still = []  # segments before the one at hand
    for start in range(0, last, segment):
        stop = min(start + segment, last)
        pair = _Pair(frames[start], frames[stop])
        flow = None
        if pair.wide:
            flow = _soon_or_late(frames, start, stop, per_second, camera=True)
        if flow is None:
            still.append((start, stop))
            changed |= pair.strong
        else:
            flows[start:stop], changed = flow, True
        if still and (flow is not None or stop == last):
            first, end = still[0][0], still[-1][1]
            flows[first:end], left = object_flows(frames[first : end + 1])
            changed |= bool(flows[first:end].any())
            for one, other in still if left.mean() > FEWEST else ():
                flow = _soon_or_late(frames, one, other, per_second, camera=False)
                flows[one:other] += flow * (left[..., None] & ~flows[one:other].any(-1, keepdims=True))
            still = []
    if flows.shape[1:3] != whole:
        flows, inner = np.zeros((last, *whole, 2), np.float32), flows
        flows[:, *inside] = inner
    return flows, changed


def without_bars(frames: Sequence[np.ndarray]) -> tuple[slice, slice]:
    """Where the picture is between black bars, of frames uint8 YCrCb (h, w, 3); all of it without any.

    Bars stay black, and the picture between them, at least half of either side, begins with a line that is not.
    """
    light = np.max([frame[..., 0] for frame in frames], axis=0)
    found = []
    for axis in (1, 0):
        share = (light > BAR_LEVEL).mean(axis=axis)
        lit = np.flatnonzero(share > 0)
        first, end = (lit[0], lit[-1] + 1) if len(lit) else (0, 0)
        bars = end - first >= len(share) / 2 and min(share[first + 1 : end - 1], default=0) > 0
        bars = bars and min(share[min(first + 2, end - 1)], share[max(end - 3, first)]) > 0.3
        found.append(slice(first, end) if bars else slice(None))
    return found[0], found[1]


def changes(before: np.ndarray, after: np.ndarray) -> bool:
    """Whether two frames uint8 YCrCb (h, w, 3) differ beyond the noise and the brightness of the whole."""
    inside = without_bars((before, after))
    before, after = before[inside], after[inside]
    pair = _Pair(before, after)
    return pair.strong or pair.wide and _flow(before, after, camera=True) is not None


def _soon_or_late(
    frames: Sequence[np.ndarray], start: int, stop: int, per_second: float, camera: bool
) -> np.ndarray | None:
    """Flow (h, w, 2) from one frame to the next, measured from the first frame of a segment to the second where it is
    fast, else to the last; None if it is not the camera that moves and should be."""
    fast = FAST * min(frames[0].shape[:2]) / per_second
    soon = _flow(frames[start], frames[start + 1], camera)
    if soon is not None and (_length(soon) > fast / 2).mean() > 0.9 or stop == start + 1:
        return soon
    late = _flow(frames[start], frames[stop], camera)
    if late is None or soon is None:
        return soon if late is None else late / (stop - start)
    late /= stop - start
    far = np.maximum(_length(soon), _length(late)) > fast
    late[far] = soon[far]
    return late


class _Pair:
    """Two frames uint8 YCrCb (h, w, 3); changed: where they differ beyond the noise, bool (h, w)."""

    def __init__(self, before: np.ndarray, after: np.ndarray):
        self.amount, noise = difference(before, after)
        self.threshold = max(LEAST_CHANGE, CHANGE * noise)

    @property
    def wide(self) -> bool:
        return _wide(self.amount > max(LEAST_CHANGE, self.threshold / 3) / 2)

    @property
    def strong(self) -> bool:
        strong = self.amount > max(STRONG_CHANGE, 2 * self.threshold)
        return bool(large_parts(strong, FEWEST * strong.size).any())


def _flow(before: np.ndarray, after: np.ndarray, camera: bool) -> np.ndarray | None:
    """Flow (h, w, 2) in px of a moving camera, None if it is still; or of what changed before a still one."""
    before, after = (np.ascontiguousarray(frame[..., 0]) for frame in (before, after))
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)  # others smooth over the edges of objects
    dis.setFinestScale(1)
    flow = dis.calc(*(_dithered(frame, seed) for seed, frame in enumerate((before, after))), None)
    before, after = before.astype(np.float32), after.astype(np.float32)
    moved = warp(after, flow)
    gain, offset = brightness(before.ravel()[::7], moved.ravel()[::7])
    change, rest = (cv2.blur(gain * frame + offset - before, (3, 3)) for frame in (after, moved))
    threshold = max(LEAST_FLOW, CHANGE * min(_deviation(change), _deviation(rest), MOST_NOISE))
    changed = large_parts(np.abs(change) > threshold, 6)
    explained = changed & (_energy(rest) < UNEXPLAINED * _energy(change))
    if not camera:
        return flow * explained[..., None]
    if not _everywhere(explained):
        return _one_motion(before, after, flow, changed, explained, threshold) if _wide(explained) else None
    ought = _change_of(before, flow) > threshold  # what ought to change and does not stays
    stays = _density(ought & ~changed) > _density(explained)
    flow[stays] = 0
    return flow


def _one_motion(
    before: np.ndarray,
    after: np.ndarray,
    flow: np.ndarray,
    changed: np.ndarray,
    explained: np.ndarray,
    threshold: float,
) -> np.ndarray | None:
    """Flow (h, w, 2) of a camera before which much is flat: one shift, turn and zoom for all that changes, if it
    explains that and little stays that it would move."""
    y, x = (places[:: max(1, len(places) // 500)].astype(np.float32) for places in np.nonzero(explained))
    points = np.stack([x, y], axis=-1)
    ahead = points + flow[y.astype(int), x.astype(int)]
    matrix, _ = cv2.estimateAffinePartial2D(points, ahead, ransacReprojThreshold=1.5)
    if matrix is None:
        return None
    grid = np.stack(np.meshgrid(*(np.arange(side, dtype=np.float32) for side in reversed(before.shape))), axis=-1)
    flow = (grid @ matrix[:, :2].T + matrix[:, 2] - grid).astype(np.float32)
    moved = warp(after, flow)
    target = grid + flow
    inside = ((target >= 0) & (target <= np.array(before.shape[::-1]) - 1)).all(-1)
    gain, offset = brightness(before.ravel()[::7], moved.ravel()[::7])
    rest = cv2.blur(gain * moved + offset - before, (3, 3))
    ought = _change_of(before, flow) > 2 * threshold
    wrong = inside & ((changed & (np.abs(rest) > 2 * threshold)) | (ought & ~changed))
    return flow if wrong.sum() < MOST_WRONG * (changed & inside).sum() else None


def _wide(mask: np.ndarray) -> bool:
    """It reaches three sides of the picture and its convex hull has much of it."""
    rows = np.flatnonzero(mask.any(axis=1))
    if not len(rows):
        return False
    ends = mask[rows].argmax(axis=1), mask.shape[1] - 1 - mask[rows, ::-1].argmax(axis=1)  # the hull of these is that
    points = np.concatenate([np.stack([end, rows], axis=1) for end in ends]).astype(np.int32)
    x, y, width, height = cv2.boundingRect(points)
    margin = min(mask.shape) // 16
    sides = (x < margin) + (y < margin) + (x + width > mask.shape[1] - margin) + (y + height > mask.shape[0] - margin)
    return sides >= 3 and cv2.contourArea(cv2.convexHull(points)) > WIDE * mask.size


def _length(flow: np.ndarray) -> np.ndarray:
    return np.sqrt(flow[..., 0] ** 2 + flow[..., 1] ** 2)


def _everywhere(mask: np.ndarray) -> bool:
    """Some of it in nearly every quarter-sized window of the picture."""
    side = min(mask.shape) // 4
    return cv2.dilate(mask.astype(np.uint8), np.ones((side, side))).mean() > 0.95


def _density(mask: np.ndarray) -> np.ndarray:
    return cv2.blur(mask.astype(np.float32), (11, 11))


def _deviation(difference: np.ndarray) -> float:
    """Standard deviation by the median, which small objects do not move."""
    return 1.4826 * float(np.median(np.abs(difference.ravel()[::3])))


def _energy(difference: np.ndarray) -> np.ndarray:
    return cv2.blur(difference**2, (5, 5))


def _change_of(frame: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """Levels by which a small motion would change each px, (h, w)."""
    slopes = [cv2.Sobel(frame, cv2.CV_32F, *axis, scale=1 / 8) for axis in ((1, 0), (0, 1))]
    return np.abs(slopes[0] * flow[..., 0] + slopes[1] * flow[..., 1])


def warp(frame: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """The frame at x + flow(x), float32 (h, w)."""
    x, y = np.meshgrid(*(np.arange(side, dtype=np.float32) for side in reversed(frame.shape)))
    return cv2.remap(frame, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def large_parts(mask: np.ndarray, fewest: float) -> np.ndarray:
    """The connected parts of at least so many px."""
    _, label, facts, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    return mask & (facts[:, cv2.CC_STAT_AREA] >= fewest)[label]


def _dithered(frame: np.ndarray, seed: int) -> np.ndarray:
    """Plus or minus a level: without any texture along an edge, as in synthetic pictures, DIS does not move."""
    return cv2.subtract(cv2.add(frame, _dither(frame.shape, seed)), 1)


@lru_cache(8)
def _dither(shape: tuple[int, int], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 3, shape, dtype=np.uint8)
