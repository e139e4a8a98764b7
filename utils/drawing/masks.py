"""Where an edit may change a video: a mask from a picture or a video, a box, or what has the colour of a point."""

import argparse
from pathlib import Path

import cv2
import numpy as np

from utils.cli import UserError, printable
from utils.conditions.known_clips import placed
from utils.conditions.maps import ConditionError, as_floats, map_indices, probe_map, read_map
from utils.decoding.video_info import VideoInfo


def mask_of(args: argparse.Namespace, frames: np.ndarray, info: VideoInfo, indices: np.ndarray) -> np.ndarray | None:
    """bool (T, H, W), True where the flags --mask, --box or --pick let the frames change; None without any of them.

    frames: uint8 (T, H, W, 3), cut from the middle of these frames of the video `info`. Raises UserError for a mask
    that does not fit, and for one without a hole.
    """
    if args.mask is not None:
        mask, flag = _from_file(args.mask, frames, info, indices), "--mask"
    elif args.box is not None:
        mask, flag = _from_box(args.box, frames, info), "--box"
    elif args.pick is not None:
        mask, flag = _from_point(args.pick, args.tolerance, frames, info), "--pick"
    else:
        return None
    if args.grow:
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * args.grow + 1, 2 * args.grow + 1))
        mask = np.stack([cv2.dilate(each.astype(np.uint8), kernel) > 0 for each in mask])
    if not mask.any():
        raise UserError(f"{flag}: nothing is marked, so nothing may change; white is what is drawn anew")
    return mask


def _from_file(path: Path, frames: np.ndarray, info: VideoInfo, indices: np.ndarray) -> np.ndarray:
    try:
        found = probe_map(path)
        values = as_floats(read_map(found, map_indices(found, info, indices), 1 if found.info else found.channels))
    except ConditionError as error:
        raise UserError(f"--mask: {printable(path)} {error}") from None
    height, width = frames.shape[1:3]
    shape = (found.info.width, found.info.height) if found.info else values.shape[2:0:-1]
    if abs(shape[0] * info.height / (shape[1] * info.width) - 1) > 0.02:
        raise UserError(
            f"--mask: {printable(path)} is {shape[0]}x{shape[1]}, the video {info.width}x{info.height}; cut it alike"
        )
    return placed(values, height, width, "crop", (0.5, 0.5)).max(axis=-1) > 0


def _cut(points: np.ndarray, frames: np.ndarray, info: VideoInfo) -> np.ndarray:
    """Points (x, y) in px of the video -> in px of frames that were cut from its middle."""
    height, width = frames.shape[1:3]
    scale = max(height / info.height, width / info.width)
    slack = np.array([info.width * scale - width, info.height * scale - height]) / 2
    return np.asarray(points, float).reshape(-1, 2) * scale - slack


def _from_box(box: list[int], frames: np.ndarray, info: VideoInfo) -> np.ndarray:
    (left, top), (right, bottom) = np.rint(_cut(np.array(box), frames, info)).astype(int)
    mask = np.zeros(frames.shape[:3], bool)
    mask[:, max(0, top) : max(0, bottom), max(0, left) : max(0, right)] = True
    return mask


def _from_point(point: list[int], tolerance: int, frames: np.ndarray, info: VideoInfo) -> np.ndarray:
    """What is connected to the point and has its colour, followed by where it overlaps from frame to frame."""
    height, width = frames.shape[1:3]
    x, y = np.floor(_cut(np.array(point), frames, info))[0].astype(int)
    if not (0 <= x < width and 0 <= y < height):
        raise UserError(f"--pick: {point[0]} {point[1]} lies outside the part of the video that is used")
    colour = frames[0, max(0, y - 1) : y + 2, max(0, x - 1) : x + 2].reshape(-1, 3).mean(axis=0)
    masks, before = [], np.zeros((height, width), bool)
    before[y, x] = True
    for frame in frames:
        alike = np.abs(frame - colour).max(axis=-1) <= tolerance
        _, labels = cv2.connectedComponents(alike.astype(np.uint8), connectivity=8)
        inside = np.bincount(labels[before & alike], minlength=labels.max() + 1)
        inside[0] = 0
        if not inside.any():  # it has gone further than its own size: the largest of its colour
            inside = np.bincount(labels.ravel(), minlength=labels.max() + 1)
            inside[0] = 0
        mask = labels == inside.argmax() if inside.any() else np.zeros_like(before)
        before = mask if mask.any() else before
        masks.append(mask)
    return np.stack(masks)


def feathered(mask: np.ndarray, width: int) -> np.ndarray:
    """float32 (T, H, W): 0 outside the mask, to the bit, rising to 1 over `width` px inside it."""
    depth = np.stack([cv2.distanceTransform(each.astype(np.uint8), cv2.DIST_L2, 5) for each in mask])
    return np.clip(depth / (width + 1), 0, 1) if width else mask.astype(np.float32)


def blended(before: np.ndarray, drawn: np.ndarray, mask: np.ndarray, width: int) -> np.ndarray:
    """uint8 (T, H, W, 3): what was drawn inside the mask, with a soft seam, and the frames as they were outside."""
    share = feathered(mask, width)[..., None]
    return np.rint(before + share * (drawn.astype(np.float32) - before)).astype(np.uint8)
