"""What moves before a still camera, and how fast: from where the picture changes, without optical flow.

Flow at this size sees nothing inside what has no texture and loses objects in texture. Where frames differ is sure. An
object O that moves by s between two frames changes the picture along its edge, or all over if it has texture; either
way the convex hull of the change is that of O and O + s, so that

1. the middle of the hull moves with the object: from the hulls of successive pairs comes its speed;
2. the points of the hull whose shift by s lies in it too are O, exactly if O is convex.

Changes at different times belong to one object if together they are connected, as where it sweeps its own place, or if
they move alike and what lies between them has their colour. Pairs are as far apart as makes an object move by STEP px.
What moves in no consistent way is left to the caller.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

CHANGE, LEAST_CHANGE = 6.0, 4.0  # times the noise; levels of 255
MOST_NOISE = 6.0  # levels
LEAST_FLICKER = 0.3  # levels
COLOUR = 0.5  # of a difference in colour counts
EDGE_SHARE = 0.4  # of a strong difference: where the edge of what changed is
STEP, LEAST_STEP = 3.0, 0.8  # px between the frames of a pair
STEADY = 0.7  # share of a step that two steps in a row have in common
WEAK, PEAK_PIXELS = 0.15, 20  # share of the strongest change of a pair, in so many px, that may be the codec's
STRONG = 2.0  # times the threshold, in some px of a change
LARGER = 3.0  # times the usual size
MOST_INTERVALS = 12  # in which an object should move alike
MOST_STAYS = 0.25  # of an object that does not change as it would
MOST_PARTS = 12  # the largest are looked at
NEAR, FAR = 1, 6  # px; half the distance at which changes are one
FEWEST = 6  # px of a change
ALIKE = 0.35  # by which share the steps of two parts of one object may differ


@dataclass
class _Part:
    """Connected changes over time; hulls: for each pair its polygon (n, 2) or None; steps: (pairs, 2) px in a pair."""

    hulls: list
    steps: np.ndarray
    region: np.ndarray  # bool (h, w)

    @property
    def length(self) -> float:
        lengths = np.linalg.norm(self.steps, axis=1)[[hull is not None for hull in self.hulls]]
        return float(np.median(lengths)) if len(lengths) else 0.0


def object_flows(frames: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(flow from each frame to the next, float32 (n - 1, h, w, 2) in px; the changes that it leaves out, bool (h, w)).

    frames: n of uint8 YCrCb (h, w, 3), evenly spaced, of a still camera.
    """
    differences = lru_cache(None)(lambda start, stop: difference(frames[start], frames[stop]))
    count, shape = len(frames) - 1, frames[0].shape[:2]
    flows, left = np.zeros((count, *shape, 2), np.float32), np.ones(shape, bool)
    half = count // 2
    if count >= MOST_INTERVALS:  # objects that pass the same place later are apart at first
        spans = range(half + 1), range(half, count + 1)
        left = np.any([_add_flows(flows, frames, differences, span, left, NEAR, STEP) for span in spans], axis=0)
    for reach in (NEAR, FAR) if count else ():
        if left.any():
            left = _add_flows(flows, frames, differences, range(count + 1), left, reach, LEAST_STEP)
    return flows, left


def _add_flows(
    flows: np.ndarray,
    frames: Sequence[np.ndarray],
    differences: Callable,
    span: range,
    where: np.ndarray,
    reach: int,
    least: float,
) -> np.ndarray:
    """Add to the flows what moves within `where` (h, w) in the frames of the span, and by at least so many px in the
    farthest pairs; returns the changes that are left, (h, w)."""
    shape, intervals, far = where.shape, len(span) - 1, 1
    done, open_, last = np.zeros_like(where), [np.zeros_like(where)], False
    while not last:
        last = 4 * far > intervals
        pairs = [(n, n + far) for n in span[: intervals - far + 1 : far]]
        found = [differences(*pair) for pair in pairs]
        parts = _parts(found, where, reach)
        parts = [part for part in parts if (part.region & ~done).sum() > part.region.sum() / 2]
        for part in _joined(parts, [(frames[start], frames[stop]) for start, stop in pairs]):
            bodies = None
            if part.length >= (least if last else STEP) and _steady(part):
                bodies = [
                    None if hull is None else _body(shape, hull, step)
                    for hull, step in zip(part.hulls, part.steps, strict=True)
                ]
            if bodies and _whole(bodies, part.steps, found, [frames[start] for start, _ in pairs]):
                done |= part.region
                for (start, stop), body, step in zip(pairs, bodies, part.steps, strict=True):
                    if body is not None:
                        stop = stop if stop + far <= span[-1] else span[-1]
                        fresh = body * ~flows[start:stop].any(-1)
                        flows[start:stop] += fresh[..., None] * step.astype(np.float32) / far
            else:
                open_.append(part.region)
        far *= 2
    return np.any([region for region in open_ if (region & ~done).sum() >= region.sum() / 2], axis=0)


def _whole(bodies: list, steps: np.ndarray, differences: list, frames: list[np.ndarray]) -> bool:
    """Whether little in the bodies stays that their motion would change; else they are several objects."""
    stays = []
    for body, step, (amount, _), frame in zip(bodies, steps, differences, frames, strict=True):
        if body is not None:
            light = cv2.blur(frame[..., 0], (3, 3))
            slopes = [cv2.Sobel(light, cv2.CV_32F, *axis, scale=1 / 8) for axis in ((1, 0), (0, 1))]
            length = max(1.0, float(np.linalg.norm(step)) / STEP)
            ought = np.abs(slopes[0] * step[0] + slopes[1] * step[1]) / length > 3 * LEAST_CHANGE
            stays.append((body * (ought & (amount < LEAST_CHANGE))).sum() / max(1.0, body.sum()))
    return float(np.median(stays)) < MOST_STAYS


def difference(before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, float]:
    """(how much two frames differ beyond the brightness of the whole, in levels, float32 (h, w), of brightness or half
    as much of colour, in which codecs are coarse; the standard deviation of its noise).

    before, after: uint8 YCrCb (h, w, 3).
    """
    if cv2.absdiff(before, after).max() < LEAST_CHANGE:
        return np.zeros(before.shape[:2], np.float32), 0.0
    gain, offset = 1.0, 0.0
    if abs(cv2.mean(before)[0] - cv2.mean(after)[0]) > LEAST_FLICKER:
        gain, offset = brightness(*(frame[::4, ::7, 0].ravel().astype(np.float32) for frame in (before, after)))
    grey = 128 * (gain - 1)
    change = cv2.blur(cv2.addWeighted(before, gain, after, -1, 0, dtype=cv2.CV_32F), (3, 3))
    planes = zip(cv2.split(change), (-offset, grey, grey), (1, COLOUR, COLOUR), strict=True)
    changed = [np.abs(plane - usual) * weight for plane, usual, weight in planes]
    noise = 1.4826 * max(float(np.median(plane[::4, ::4])) for plane in changed)
    return cv2.max(cv2.max(*changed[:2]), changed[2]), min(noise, MOST_NOISE)


def _parts(differences: list[tuple[np.ndarray, float]], where: np.ndarray, reach: int) -> list[_Part]:
    """Changes that are at most twice `reach` px apart, if at different times."""
    usual = float(np.median([noise for _, noise in differences]))
    peaks = [np.partition(amount.ravel(), -PEAK_PIXELS)[-PEAK_PIXELS] for amount, _ in differences]
    masks = []
    for (amount, noise), peak in zip(differences, peaks, strict=True):
        threshold = max(LEAST_CHANGE, CHANGE * max(noise, usual), WEAK * max(peak, np.median(peaks)))
        masks.append(_clear(amount, threshold) & where)
    near = cv2.dilate(np.any(masks, axis=0).astype(np.uint8), np.ones((2 * reach + 1, 2 * reach + 1)))
    _, label, facts, _ = cv2.connectedComponentsWithStats(near, connectivity=8)
    parts = []
    for number in 1 + np.argsort(-facts[1:, cv2.CC_STAT_AREA])[:MOST_PARTS]:
        x, y, width, height, _ = facts[number].tolist()
        box, region = np.s_[y : y + height, x : x + width], label == number
        hulls = [
            _hull(mask[box] & region[box], amount[box], (x, y))
            for mask, (amount, _) in zip(masks, differences, strict=True)
        ]
        parts.append(_part(hulls, region))
    return parts


def _part(hulls: list, region: np.ndarray) -> _Part:
    """Without the hulls that are much larger than usual, which are a codec's key frame."""
    areas = sorted(cv2.contourArea(hull) for hull in hulls if hull is not None)
    most = LARGER * areas[(len(areas) - 1) * 3 // 4] if areas else 0.0
    hulls = [None if hull is None or cv2.contourArea(hull) > most else hull for hull in hulls]
    return _Part(hulls, _steps(hulls, region.shape), region)


def _hull(mask: np.ndarray, amount: np.ndarray, corner: tuple[int, int]) -> np.ndarray | None:
    """Convex hull of what changed, int32 (n, 2) as x, y in the picture."""
    if mask.sum() < FEWEST:
        return None
    mask = mask & (amount > EDGE_SHARE * np.quantile(amount[mask], 0.98))
    _, label, facts, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    areas = facts[:, cv2.CC_STAT_AREA].copy()
    areas[0] = 0
    mask = (areas >= max(3, areas.max() / 20))[label]
    if not mask.any():
        return None
    rows = np.nonzero(mask.any(axis=1))[0]  # the ends of each row are enough
    ends = mask[rows].argmax(axis=1), mask.shape[1] - 1 - mask[rows, ::-1].argmax(axis=1)
    points = np.stack([np.concatenate(ends), np.concatenate([rows, rows])], axis=-1)
    return cv2.convexHull(points.astype(np.int32))[:, 0] + np.int32(corner)


def _steps(hulls: list, shape: tuple[int, int]) -> np.ndarray:
    """How far the object moves in each pair, (pairs, 2) in px, from where the hulls are; 0 if that is unknown.

    At the border it is the middle of what is visible that moves otherwise, and the side away from the border counts."""
    places = np.full((len(hulls), 3, 2), np.nan)  # least, middle, most of x and y
    for n, hull in enumerate(hulls):
        if hull is not None:
            low, high = hull.min(0), hull.max(0)
            moments = cv2.moments(hull)
            middle = (low + high) / 2
            if moments["m00"] > 0:
                middle = np.array([moments["m10"], moments["m01"]]) / moments["m00"]
            at_low, at_high = low <= 0, high >= np.array(shape[::-1]) - 1
            places[n, 0] = np.where(at_low, np.nan, low)
            places[n, 1] = np.where(at_low | at_high, np.nan, middle)
            places[n, 2] = np.where(at_high, np.nan, high)
    moved = np.diff(places, axis=0)
    low, middle, high = moved[:, 0], moved[:, 1], moved[:, 2]
    step = np.where(np.isnan(middle), np.where(np.isnan(low), high, low), middle)
    present = np.array([hull is not None for hull in hulls])
    both = present[1:] & present[:-1]
    step = np.where(both[:, None], np.nan_to_num(step), np.nan)  # from border to border: no motion that way
    if not both.any():
        return np.zeros((len(hulls), 2))
    smooth = np.full((len(hulls), 2), np.nan)
    for n in range(len(hulls)):
        around = step[max(0, n - 2) : n + 2]
        around = around[~np.isnan(around[:, 0])]
        if len(around):
            smooth[n] = np.median(around, axis=0)
    known = ~np.isnan(smooth[:, 0])
    smooth[~known] = np.median(smooth[known], axis=0)
    return smooth


def _steady(part: _Part) -> bool:
    pairs = part.steps[[hull is not None for hull in part.hulls]]
    if len(pairs) < 2:
        return len(pairs) == 1
    length = np.linalg.norm(pairs, axis=1).mean()
    return np.linalg.norm(pairs[1:] + pairs[:-1], axis=1).mean() / 2 > STEADY * length


def _joined(parts: list[_Part], pairs: list[tuple[np.ndarray, np.ndarray]]) -> list[_Part]:
    """Parts of one object made one."""
    parts = sorted(parts, key=lambda part: -part.region.sum())
    joined: list[_Part] = []
    for part in parts:
        for n, other in enumerate(joined):
            if both := _join(other, part, pairs):
                joined[n] = both
                break
        else:
            joined.append(part)
    return joined


def _join(one: _Part, other: _Part, pairs: list[tuple[np.ndarray, np.ndarray]]) -> _Part | None:
    common = [n for n, (a, b) in enumerate(zip(one.hulls, other.hulls, strict=True)) if a is not None and b is not None]
    if not common:
        return None
    apart = np.linalg.norm(one.steps[common] - other.steps[common], axis=1)
    if np.median(apart) > ALIKE * max(one.length, other.length) + 0.3:
        return None
    shape, votes = pairs[0][0].shape[:2], []
    for n in common:
        hull = cv2.convexHull(np.concatenate([one.hulls[n], other.hulls[n]]))[:, 0]
        whole = _filled(shape, hull) > 0
        gap = whole & ~(_filled(shape, one.hulls[n]) > 0) & ~(_filled(shape, other.hulls[n]) > 0)
        if gap.sum() < 0.1 * whole.sum():
            votes.append(True)
            continue
        along = (one.hulls[n].mean(0) - other.hulls[n].mean(0)) @ one.steps[n]
        front, back = (one, other) if along > 0 else (other, one)
        inside = np.median(pairs[n][0][_filled(shape, back.hulls[n]) > 0], axis=0)
        ahead = np.median(pairs[n][1][_filled(shape, front.hulls[n]) > 0], axis=0)
        like = np.abs(pairs[n][0][gap] - inside).max(-1) < 25
        votes.append(np.abs(inside - ahead).max() < 25 and like.mean() > 0.6)
    if np.mean(votes) < 0.5:
        return None
    hulls = []
    for a, b in zip(one.hulls, other.hulls, strict=True):
        known = [hull for hull in (a, b) if hull is not None]
        hulls.append(cv2.convexHull(np.concatenate(known))[:, 0] if known else None)
    return _part(hulls, one.region | other.region)


def _filled(shape: tuple[int, int], hull: np.ndarray) -> np.ndarray:
    return cv2.fillConvexPoly(np.zeros(shape, np.float32), hull, 1.0)


def _body(shape: tuple[int, int], hull: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Share of each pixel that the object covers: what the hull of its change has in common with itself `step` on."""
    whole = _filled(shape, hull)
    shift = np.float32([[1, 0, step[0]], [0, 1, step[1]]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.minimum(whole, cv2.warpAffine(whole, shift, shape[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE))


def _clear(amount: np.ndarray, threshold: float) -> np.ndarray:
    """What is above the threshold, in connected parts of which some px are far above, bool (h, w)."""
    mask = amount > threshold
    _, label = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    strong = np.bincount(label[amount > STRONG * threshold], minlength=label.max() + 1) >= FEWEST
    return mask & strong[label]


def brightness(before: np.ndarray, moved: np.ndarray) -> tuple[float, float]:
    """(gain, offset) that take `moved` to `before`, from the pixels that agree; (1, 0) if the frames are unlike."""
    x, y = moved.astype(float), before.astype(float)
    gain, offset = 1.0, 0.0
    for _ in range(2):
        dx, dy = x - x.mean(), y - y.mean()
        if dx @ dx < len(x):  # a standard deviation of a level
            return 1.0, float(np.median(y - x))
        gain = (dx @ dy) / (dx @ dx)
        if gain * (dx @ dy) < 0.8 * (dy @ dy):
            return 1.0, 0.0
        offset = y.mean() - gain * x.mean()
        error = np.abs(gain * x + offset - y)
        agree = error <= max(1.0, 3.7 * np.median(error))
        x, y = x[agree], y[agree]
    return float(gain), float(offset)
