"""Does a generated clip of the demo's kind show what its prompt says? Classical computer vision, no learning.

    python -m tests.judge generated_videos/demo          # scores the videos there against their prompts

Per frame the object is where the chroma (largest minus smallest channel) exceeds half of its peak. Its colour is the
nearest hue of its core, its shape the ideal mask of the same area and centre that fits best over all frames, its
direction the axis along which its centroid travels: more than an eighth of the frame, and twice as far as along the
other one.
"""

import colorsys
import json
import re
import sys
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np

from utils import shapes
from utils.video_io import probe_video, read_frames

MIN_CHROMA = 60  # of 255; less is background
HUES = {name: colorsys.rgb_to_hsv(*(value / 255 for value in rgb))[0] for name, rgb in shapes.COLOURS.items()}


def judge(frames: np.ndarray) -> dict[str, str | None]:
    """frames: uint8 (T, H, W, 3) -> {"colour", "shape", "direction"}, None where nothing can be said."""
    nothing = dict.fromkeys(("colour", "shape", "direction"))
    num_frames, height, width, _ = frames.shape
    chroma = frames.max(-1).astype(float) - frames.min(-1)
    places, colours, misfits = [], [], []
    for t in range(num_frames):
        peak = chroma[t].max()
        if peak < MIN_CHROMA:
            continue
        _, labels, stats, _ = cv2.connectedComponentsWithStats((chroma[t] > peak / 2).astype(np.uint8), connectivity=8)
        blob = labels == 1 + stats[1:, cv2.CC_STAT_AREA].argmax()
        near = cv2.dilate(blob.astype(np.uint8), np.ones((5, 5)))
        alpha = near * np.clip(chroma[t] / np.percentile(chroma[t][blob], 80), 0, 1)
        area = alpha.sum()
        x = (alpha * (np.arange(width) + 0.5)).sum() / area
        y = (alpha * (np.arange(height) + 0.5)[:, None]).sum() / area
        places.append((t, x, y))
        hue = colorsys.rgb_to_hsv(*(frames[t][blob & (chroma[t] > 0.8 * peak)].mean(0) / 255))[0]
        colours.append(min(HUES, key=lambda name: min(abs(hue - HUES[name]), 1 - abs(hue - HUES[name]))))  # noqa: B023
        radius, centre = np.sqrt(area / np.pi), np.array([[x, y]])
        ideal = (shapes.coverage(shape, radius, centre, height, width)[0] for shape in shapes.SHAPES)
        misfits.append([((mask - alpha) ** 2).sum() / area for mask in ideal])
    if len(places) < 0.75 * num_frames:
        return nothing
    t, *track = np.array(places).T
    travel = [np.polyfit(t, coordinate, 1)[0] * (num_frames - 1) for coordinate in track]
    main = int(np.argmax(np.abs(travel)))
    moves = abs(travel[main]) > height / 8 and abs(travel[main]) > 2 * abs(travel[1 - main])
    names = (("left", "right"), ("up", "down"))[main]
    return {
        "colour": max(set(colours), key=colours.count),
        "shape": shapes.SHAPES[int(np.mean(misfits, axis=0).argmin())],
        "direction": names[int(travel[main] > 0)] if moves else None,
    }


def wanted(prompt: str) -> dict[str, str | None]:
    """The attributes that a prompt of the demo names."""
    words = set(re.findall("[a-z]+", prompt.lower()))

    def named(options):
        return next((name for name in options if words & {name, f"{name}wards"}), None)

    return {"colour": named(shapes.COLOURS), "shape": named(shapes.SHAPES), "direction": named(shapes.DIRECTIONS)}


def score(folder: Path) -> dict[str, dict[str, float]]:
    """Group of prompts -> share of its videos that are right, per attribute and all together."""
    rows = defaultdict(list)
    for sidecar in sorted(folder.glob("*.json")):
        about = json.loads(sidecar.read_text(encoding="utf-8"))
        info = probe_video(sidecar.with_suffix(".mp4"))
        seen, asked = judge(read_frames(info, range(info.frames))), wanted(about["prompt"])
        right = {name: seen[name] == asked[name] for name in asked}
        rows[about["group"]].append(right | {"all": all(right.values())})
    return {
        group: {"videos": len(rs), **{key: np.mean([r[key] for r in rs]) for key in rs[0]}}
        for group, rs in rows.items()
    }


if __name__ == "__main__":
    for group, shares in score(Path(sys.argv[1])).items():
        numbers = ", ".join(f"{name} {share:.0%}" for name, share in shares.items() if name != "videos")
        print(f"{group} ({shares['videos']} videos): {numbers}")
