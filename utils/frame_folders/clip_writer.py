"""One video in, folders of frames out: where a video is split, which frames are taken, which clips are refused and why.

Frames are streamed: memory holds one at a time.
"""

import errno
import hashlib
import os
import shutil
from collections.abc import Iterable, Sequence
from itertools import islice, pairwise
from pathlib import Path

import cv2
import numpy as np

from utils.decoding.fields import Combs
from utils.decoding.probe import probe_video, unmarked_fields
from utils.decoding.read import iter_frames
from utils.decoding.video_info import VideoError, VideoInfo
from utils.motion.score import MOTION_MEASURE, MotionMeter, small_grey
from utils.video.encode import write_image
from utils.video.frame_windows import sample_segment, too_short
from utils.video.frames import resize_frames

BLACK_LEVEL = 32  # a clip is black if no pixel of its small grey frames reaches it
CUT_LEVELS, CUT_RATIO = 20, 4  # a cut changes the small grey frame by so many levels, and so much more than before
SHEET_FRAMES, SHEET_SIDE = 6, 112  # px, the longer side


def write_clips(video: Path, name: str, folder: Path, settings: dict) -> dict[str, dict]:
    """Write the clips of one video as folder/<clip>/00000.png ... and their contact sheets as folder/<clip>.jpg.

    Returns {clip: manifest row}; frames of a clip whose row says "rejected" are not worth keeping. A video is one clip
    called `name`; with settings["scenes"] a clip per scene, with settings["clip_frames"] a clip per so many frames:
    name_001, name_002. Raises VideoError if it is no usable video, OSError if a file cannot be written in full.
    """
    info = probe_video(video, decode=False)
    try:  # most videos hold what their packets promise, and then one decoding is enough
        rows = _write(info, name, folder, settings)
    except VideoError:
        if info.verified:
            raise
        for path in (*folder.glob(f"{name}_[0-9]*"), folder / name, folder / f"{name}.jpg"):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        rows = _write(probe_video(video), name, folder, settings)
    about = {"sha256": _sha256(video)}
    return {clip: about | row for clip, row in rows.items()}


def _write(info: VideoInfo, name: str, folder: Path, settings: dict) -> dict[str, dict]:
    """write_clips for a probed video."""
    length = settings.get("clip_frames")
    numbered = settings["scenes"] or length is not None
    segments, notes = _segments(info, settings["scenes"], all_parts=numbered)
    parts, combs = [], Combs()
    for first, end in segments:
        indices, fps = sample_segment(info, first, end, settings["target_fps"], settings["frame_stride"])
        pieces = [indices[n : n + length] for n in range(0, len(indices), length)] if length else [indices]
        if len(pieces) > 1 and len(pieces[-1]) < settings["min_frames"]:
            pieces.pop()  # what is left over
        parts += [(piece[: settings["max_frames"]], fps) for piece in pieces]
    clips = {f"{name}_{number:03d}" if numbered else name: part for number, part in enumerate(parts, 1)}

    whole = [indices for indices, _ in clips.values() if len(indices) >= settings["min_frames"]]
    frames = iter_frames(info, np.concatenate(whole) if whole else (), combs.add)
    rows = {}
    for clip, (indices, fps) in clips.items():
        row = {"source_fps": round(info.fps, 6), "first_frame": int(indices[0]), "last_frame": int(indices[-1])}
        row |= {"fps": round(fps, 6), "frames": len(indices)}
        if len(indices) < settings["min_frames"]:
            row["rejected"] = too_short(settings["min_frames"], settings["target_fps"])
        else:
            row |= _write_clip(islice(frames, len(indices)), len(indices), fps, folder / clip, settings)
        rows[clip] = row | {"notes": notes}
    notes += unmarked_fields(info, combs)  # of all rows
    return rows


def _segments(info: VideoInfo, scenes: bool, all_parts: bool) -> tuple[list[tuple[int, int]], list[str]]:
    """(parts [first, end) of the video without a gap or, with scenes, a cut inside; notes).

    Unless all_parts are wanted only the longest: a folder of frames cannot say where frames are missing.
    """
    bounds = sorted({0, *info.gaps, *(scene_cuts(info) if scenes else ()), info.frames})
    segments, notes = list(pairwise(bounds)), list(info.notes)
    if not all_parts and len(segments) > 1:
        first, end = max(segments, key=lambda segment: segment[1] - segment[0])
        segments = [(first, end)]
        notes.append(f"only frames {first} to {end - 1}: others are missing before or behind them")
    return segments, notes


def scene_cuts(info: VideoInfo) -> list[int]:
    """The first frame of each scene but the first, as PySceneDetect's adaptive detector sees it."""
    from scenedetect.common import FrameTimecode
    from scenedetect.detectors import AdaptiveDetector

    detector, cuts = AdaptiveDetector(min_scene_len=1), []
    scale = min(1.0, 144 / min(info.height, info.width))
    height, width = max(1, round(info.height * scale)), max(1, round(info.width * scale))
    for n, frame in enumerate(iter_frames(info, range(info.frames))):
        picture = cv2.cvtColor(resize_frames(frame[None], height, width, "stretch")[0], cv2.COLOR_RGB2BGR)
        cuts += [cut.frame_num for cut in detector.process_frame(FrameTimecode(n, info.fps), picture)]
    return cuts


def _write_clip(frames: Iterable[np.ndarray], count: int, fps: float, folder: Path, settings: dict) -> dict:
    """Write `count` frames to `folder` and their contact sheet beside it; returns what they show as a manifest row."""
    meter, content, brightest = MotionMeter(count, fps), hashlib.sha256(), 0
    jumps, thumbs, previous = [], [], None
    shown = set(np.linspace(0, count - 1, SHEET_FRAMES).round().astype(int).tolist())
    for n, frame in enumerate(frames):
        if settings["size"]:
            width, height = map(int, settings["size"].split("x"))
            frame = resize_frames(frame[None], height, width, settings["resize_mode"])[0]
        write_image(folder / f"{n:05d}.{settings['format']}", frame)
        content.update(np.ascontiguousarray(frame))
        grey = small_grey(frame)
        meter.add(frame)
        if previous is not None:
            jumps.append(float(cv2.absdiff(grey, previous).mean()))
        if n in shown:
            thumbs.append(_thumb(frame))
        brightest, previous = max(brightest, int(grey.max())), grey
    write_image(folder.with_suffix(".jpg"), np.concatenate(thumbs, axis=1))

    motion, cut = meter.score(), None if settings["scenes"] else find_cut(jumps)
    height, width = frame.shape[:2]
    row = {"width": width, "height": height, "motion_score": round(motion, 6), "motion_measure": MOTION_MEASURE}
    row["content"] = content.hexdigest()
    if cut is not None:
        row["cut_frame"] = cut
    found = {"black": brightest < BLACK_LEVEL, "static": count > 1 and meter.static(), "cut": cut is not None}
    if faults := [fault for fault, present in found.items() if present and fault not in settings["keep"]]:
        row["rejected"] = "cut inside; --scenes would split it" if faults[0] == "cut" else faults[0]
    elif len(os.listdir(folder)) != count:
        raise OSError(errno.EIO, "another process writes here", str(folder))
    return row


def find_cut(jumps: Sequence[float]) -> int | None:
    """The frame behind the hardest cut, from the mean difference of each frame to the one before, in grey levels.

    A cut stands out from both its neighbours. A flash does not, because it jumps twice, and neither does fast motion.
    """
    best = None
    for n, jump in enumerate(jumps):
        around = max((jumps[m] for m in (n - 1, n + 1) if 0 <= m < len(jumps)), default=jump)
        if jump >= max(CUT_LEVELS, CUT_RATIO * around) and (best is None or jump > jumps[best]):
            best = n
    return None if best is None else best + 1


def _thumb(frame: np.ndarray) -> np.ndarray:
    scale = SHEET_SIDE / max(frame.shape[:2])
    height, width = (max(1, round(side * scale)) for side in frame.shape[:2])
    return resize_frames(frame[None], height, width, "stretch")[0]


def _sha256(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise VideoError(f"cannot be read: {error.strerror}") from None
