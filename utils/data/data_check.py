"""The data check: what is wrong with a data folder, in words, as dataset_report.json, and as a sheet of pictures."""

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from utils.arguments.buckets import Bucket
from utils.cli import printable
from utils.data.clip_index import bucket_counts, buckets_line, by_remark, is_too_short, listed, probe_all
from utils.data.find_clips import FolderFormat, find_clips
from utils.decoding.video_info import is_picture
from utils.files import write_text
from utils.video.frame_windows import too_short

if TYPE_CHECKING:
    from utils.decoding.video_info import VideoInfo


def check_dataset(
    data_dir: Path,
    how: FolderFormat,
    num_frames: int,
    target_fps: float | None,
    buckets: Sequence[Bucket] | None,
) -> dict:
    """Look for corrupt, short, static, duplicate and caption-less clips; writes data_dir/dataset_report.json.

    num_frames: that a clip needs at least, unless buckets say so. Returns the report: {videos: n, ok: n usable for
    training, findings: {reason: [names]}, duplicates: [[names]], captions_without_video: [names], notes: {name:
    [remarks]}, buckets: {shape: n usable}, ignored: n hidden or other files}. Static clips and duplicates are usable.
    """
    from tqdm import tqdm

    num_frames = min((bucket.frames for bucket in buckets or ()), default=num_frames)
    clips, orphans = find_clips(data_dir, how)
    infos = list(probe_all(data_dir, clips, decode=True))
    findings, notes, same, usable = defaultdict(list), {}, defaultdict(list), []
    readable = [(clip, info) for clip, info in zip(clips, infos, strict=True) if not isinstance(info, str)]
    for clip, info in zip(clips, infos, strict=True):
        if isinstance(info, str):
            findings[info].append(clip.name)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        contents = pool.map(lambda pair: clip_content(pair[1]), readable)
        for (clip, info), (static, digest) in tqdm(
            zip(readable, contents, strict=True), total=len(readable), desc="checking", unit="video", disable=None
        ):
            name = clip.name
            short = is_too_short(info, num_frames, target_fps)
            if not short and not clip.problem:
                usable.append(info)
            if short:
                findings[too_short(num_frames, target_fps)].append(name)
            if clip.problem:
                findings[clip.problem].append(name)
            if static and not is_picture(info):
                findings["static: nothing moves"].append(name)
            if info.notes:
                notes[name] = list(info.notes)
            same[digest].append(name)
    report = {
        "videos": len(clips),
        "ignored": max(0, _count(data_dir / "videos") - len(clips)),
        "ok": len(usable),
        "findings": dict(findings),
        "duplicates": [names for names in same.values() if len(names) > 1],
        "captions_without_video": orphans,
        "notes": notes,
        "buckets": bucket_counts(usable, buckets, target_fps) if buckets else {},
    }
    write_text(data_dir / "dataset_report.json", json.dumps(report, indent=2) + "\n")
    return report


def _count(folder: Path) -> int:
    return len(os.listdir(folder)) if folder.is_dir() else 0


def clip_content(info: "VideoInfo") -> tuple[bool, str]:
    """(whether nothing moves, hash of the content), from 8 frames over the clip."""
    from utils.decoding.read import read_frames
    from utils.motion.score import is_static
    from utils.video.frames import resize_frames

    try:
        frames = read_frames(info, np.linspace(0, info.frames - 1, min(8, info.frames)).round())
    except (ValueError, OSError) as error:
        return False, f"{info.path}: {error}"  # gone since it was probed
    grey = resize_frames(frames, 64, 64, "stretch").mean(axis=-1)
    thumbs = grey.reshape(len(grey), 16, 4, 16, 4).mean(axis=(2, 4))
    digest = hashlib.sha256(np.round(thumbs).astype(np.uint8).tobytes() + str(info.frames).encode())
    return is_static(frames, fps=1), digest.hexdigest()


def print_check(data_dir: Path, report: dict) -> None:
    print(f"{printable(data_dir)}: {report['ok']} of {report['videos']} videos are usable")
    lines = [listed(names, reason) for reason, names in report["findings"].items()]
    lines += [listed(names, "duplicates") for names in report["duplicates"][:5]]
    if len(report["duplicates"]) > 5:
        lines.append(f"and {len(report['duplicates']) - 5} more groups of duplicates")
    if report["captions_without_video"]:
        lines.append(listed(report["captions_without_video"], "caption without a video"))
    lines += [listed(names, f"note: {note}") for note, names in by_remark(report["notes"]).items()]
    if report["buckets"]:
        lines.append(buckets_line(report["buckets"]))
    print("".join(f"  {line}\n" for line in lines or ["nothing to report"]), end="")


def save_contact_sheet(path: Path, dataset, rows: int = 8) -> bool:
    """PNG of what training sees: a clip per row, spread over the TextVideoDataset; False if this install draws none."""
    try:
        from utils.video.contact_sheet import contact_sheet
        from utils.video.encode import write_image
        from utils.video.frames import to_uint8
    except ImportError:
        return False
    chosen = np.unique(np.linspace(0, len(dataset) - 1, rows).round().astype(int))
    samples = [dataset[i] for i in chosen]
    videos = [to_uint8(sample["video"]) for sample in samples]
    write_image(path, contact_sheet(videos, [sample["text"] for sample in samples], max_frames=8))
    return True
