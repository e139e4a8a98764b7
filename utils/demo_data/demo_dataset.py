"""The demo dataset of moving shapes: captioned clips with their ground truth, and prompts seen and held out."""

import argparse
import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from utils.cli import printable
from utils.data.errors import DataError
from utils.demo_data import shapes
from utils.demo_data.demo_conditions import RATE, depth_of, motion_of, sound_of
from utils.files import write_text

FOLDERS = "videos", "captions", "depth", "vectors"  # the last two with conditions
DEMO_FILE = re.compile(r"clip_\d{5,}\.(mp4|txt|csv)")


def write_files(
    folder: Path, name: str, frames: np.ndarray, caption: str, objects: list[dict], fps: float, conditions: bool
) -> None:
    """One clip with its caption, and with `conditions` its depth, motion and sound, in folders that are there."""
    from utils.video.encode import write_video

    size = frames.shape[1]
    sound = sound_of(objects, fps, size) if conditions else None
    write_video(folder / "videos" / f"{name}.mp4", frames, fps, sound, RATE)
    (folder / "captions" / f"{name}.txt").write_text(caption + "\n", encoding="utf-8", newline="\n")
    if conditions:
        write_video(folder / "depth" / f"{name}.mp4", depth_of(objects, len(frames), size), fps)
        motion = motion_of(objects, fps, size)
        (folder / "vectors" / f"{name}.csv").write_text(motion, encoding="utf-8", newline="\n")


def write_demo_dataset(
    output_dir: Path,
    num_clips: int = 1500,
    num_frames: int = 16,
    frame_size: int = 64,
    fps: int = 8,
    seed: int = 0,
    hard: bool = False,
    overwrite: bool = False,
    conditions: bool = False,
) -> bool:
    """Write the moving-shapes dataset; the same arguments write the same bytes. conditions: also depth/, vectors/ and
    sound in the videos, see demo_conditions.py.

    A folder finished with these settings is left alone (returns False); a half-written one is written again. Raises
    DataError if it was finished with other settings and not `overwrite`, or if its videos/ holds foreign files.
    """
    from tqdm import tqdm

    output_dir, done = Path(output_dir), Path(output_dir) / "dataset.json"
    folders = [output_dir / name for name in FOLDERS[: 4 if conditions else 2]]
    settings = dict(num_clips=num_clips, num_frames=num_frames, frame_size=frame_size, fps=fps, seed=seed, hard=hard)
    settings |= {"conditions": True} if conditions else {}
    if done.exists() and not overwrite:
        try:
            found = json.loads(done.read_text(encoding="utf-8"))["settings"]
        except (ValueError, KeyError, TypeError):
            raise DataError(
                f"{done}: not a demo dataset's file; choose another --output_dir or pass --overwrite"
            ) from None
        differences = [
            f"{key} {found.get(key)} -> {settings.get(key)}"
            for key in dict.fromkeys([*settings, "conditions"])
            if found.get(key) != settings.get(key)
        ]
        if differences:
            raise DataError(
                f"{output_dir} holds a demo dataset with other settings ({', '.join(differences)}); "
                "pass --overwrite to replace it or --output_dir to keep both"
            )
        if all(len(list(folder.glob("clip_*"))) == num_clips for folder in folders):
            return False
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        foreign = [
            path.name
            for path in folder.iterdir()
            if not path.name.startswith(".") and not DEMO_FILE.fullmatch(path.name)
        ]
        if foreign:
            raise DataError(f"{folder} holds other files ({printable(min(foreign))}); choose another --output_dir")
    done.unlink(missing_ok=True)
    for path in (path for folder in folders for path in folder.glob("clip_*")):
        path.unlink()

    plans = shapes.plan_clips(num_clips, seed, hard)

    def write_clip(index: int) -> dict:
        frames, caption, objects = shapes.make_clip(plans[index], index, seed, num_frames, frame_size, hard)
        name = f"clip_{index:05d}"
        write_files(output_dir, name, frames, caption, objects, fps, conditions)
        return {
            "file": f"videos/{name}.mp4",
            "caption": caption,
            "form": plans[index]["form"],
            "fps": fps,
            "frames": num_frames,
            "size": frame_size,
            "seed": [seed, index],
            "objects": objects,
        }

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        rows = list(
            tqdm(
                pool.map(write_clip, range(num_clips)), total=num_clips, desc="writing clips", unit="clip", disable=None
            )
        )
    write_text(output_dir / "metadata.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    for name, held_out in (("seen_prompts.txt", False), ("heldout_prompts.txt", True)):
        prompts = shapes.benchmark_prompts(96 if hard else 48, hard, held_out, forms=(shapes.FULL_FORMS,))
        write_text(output_dir / name, "\n".join(prompts) + "\n")
    write_text(done, json.dumps({"settings": settings}, indent=2) + "\n")  # last: its presence means finished
    return True


def write_demo(args: argparse.Namespace) -> None:
    """The demo dataset that the flags of video_dataset.py describe."""
    names = "output_dir num_clips num_frames frame_size fps seed hard overwrite conditions"
    written = write_demo_dataset(**{name: getattr(args, name) for name in names.split()})
    folder = printable(args.output_dir)
    print(f"{folder}: {args.num_clips} clips " + ("written" if written else "are already there, left alone"))
