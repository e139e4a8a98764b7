"""A dataset of frame folders: video_0001/00000.png ... beside manifest.jsonl, and what makes the work resumable.

.prepare/settings.json holds the settings and the number of each source. .prepare/video_0001/ is where a video is worked
on; its record.json comes last and says that the video is done. So nothing depends on which process or machine did
which video, or in which order.
"""

import json
import os
import re
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from utils.cli import UserError, printable
from utils.data.manifest import MANIFEST
from utils.files import write_text

STATE_DIR = ".prepare"
CLIP_FOLDER = re.compile(r"video_(\d{4,})(?:_\d{3,})?")


class Job(NamedTuple):
    """What converting one video takes."""

    video: Path
    source: str  # the video's path relative to --video_dir
    work_dir: Path  # its name is that of the clip folder
    settings: dict
    stale: list[Path]  # clip folders of an earlier run

    def remove(self) -> None:
        """Remove every trace of the video; first the record, which vouches for the rest."""
        (self.work_dir / "record.json").unlink(missing_ok=True)
        for folder in (self.work_dir, *self.stale):
            shutil.rmtree(folder, ignore_errors=True)


def convert(job: Job) -> None:
    """Write the clips of a video and then its record. Raises OSError if a file cannot be written in full."""
    import cv2

    from utils.decoding.video_info import VideoError
    from utils.frame_folders.clip_writer import write_clips

    job.remove()
    work, output_dir = job.work_dir, job.work_dir.parent.parent
    work.mkdir()
    stamp = _stamp(job.video)
    try:
        rows = write_clips(job.video, work.name, work, job.settings)
    except (VideoError, cv2.error, MemoryError) as error:
        rows = {work.name: {"rejected": " ".join(str(error).split()) or "not enough memory"}}
    for clip, row in rows.items():
        if "rejected" not in row:
            os.replace(work / clip, output_dir / clip)
    for folder in (path for path in work.iterdir() if path.is_dir()):
        shutil.rmtree(folder)
    record = {"settings": job.settings, "source": job.source, "stamp": stamp, "clips": rows}
    write_text(work / "record.json", json.dumps(record) + "\n")


@dataclass(frozen=True)
class FrameFolders:
    """The dataset in output_dir that these settings make of the videos in video_dir.

    sources: paths relative to video_dir; number n, counted from 1, becomes video_000n.
    stale: {number: clip folders of that number} as they were when the dataset was opened.
    """

    video_dir: Path
    output_dir: Path
    settings: dict
    sources: list[str]
    stale: dict[int, list[Path]]

    @staticmethod
    def open(video_dir: Path, output_dir: Path, settings: dict, found: list[str], overwrite: bool) -> "FrameFolders":
        """Give each of the sources `found` a number; those that have one keep it, new ones go to the end.

        Raises UserError if output_dir holds a dataset of other settings or sources and not `overwrite`, or clips that
        this script did not write.
        """
        output_dir.mkdir(parents=True, exist_ok=True)
        stale = defaultdict(list)
        for name in sorted(os.listdir(output_dir)):
            if match := CLIP_FOLDER.fullmatch(name):
                stale[int(match[1])].append(output_dir / name)
        file, name = output_dir / STATE_DIR / "settings.json", printable(output_dir)
        stored = _read_json(file)
        if not stored and (stale or file.exists() or (output_dir / MANIFEST).exists()):
            raise UserError(f"{name} holds clips of unknown origin; choose another --output_dir")
        changes = _changes(stored, settings, found) if stored else []
        if changes and not overwrite:
            more = f" and {len(changes) - 3} more" if len(changes) > 3 else ""
            raise UserError(
                f"{name} holds a dataset of something else ({', '.join(changes[:3])}{more}); "
                "pass --overwrite to replace it or another --output_dir to keep both"
            )
        sources = found
        if stored and not changes:
            known = set(stored["sources"])
            sources = stored["sources"] + [source for source in found if source not in known]
        dataset = FrameFolders(video_dir, output_dir, settings, sources, dict(stale))
        if changes:
            (output_dir / MANIFEST).unlink(missing_ok=True)
            for number in range(len(sources) + 1, len(stored["sources"]) + 1):
                Job(video_dir, "", dataset.work_dir(number), settings, stale[number]).remove()
        file.parent.mkdir(exist_ok=True)
        write_if_new(file, json.dumps({"settings": settings, "sources": sources}, indent=1) + "\n")
        return dataset

    def work_dir(self, number: int) -> Path:
        return self.output_dir / STATE_DIR / f"video_{number:04d}"

    def sheet(self, clip: str) -> Path:
        """The contact sheet of a clip; a file that could not be read has none."""
        return self.work_dir(int(CLIP_FOLDER.fullmatch(clip)[1])) / f"{clip}.jpg"

    def job(self, number: int) -> Job:
        source = self.sources[number - 1]
        stale = self.stale.get(number, [])
        return Job(self.video_dir / source, source, self.work_dir(number), self.settings, stale)

    def records(self) -> dict[int, dict]:
        """{number: record} of the videos that are done."""
        found = {}
        for number, source in enumerate(self.sources, 1):
            record = _read_json(self.work_dir(number) / "record.json")
            if record and record["settings"] == self.settings and record["source"] == source:
                found[number] = record
        return found

    def unfinished(self, numbers: Iterable[int]) -> list[int]:
        """Those of the videos that are to be converted: new, changed, incomplete, unreadable the last time, or measured
        by an older measure of motion."""
        from utils.motion.score import MOTION_MEASURE

        records = self.records()
        clips = manifest_rows(records, self.settings["keep"])

        def done(number: int) -> bool:
            record = records.get(number)
            if not record or record["stamp"] != _stamp(self.video_dir / self.sources[number - 1]):
                return False
            rows = {clip: clips[clip] for clip in record["clips"]}
            kept = {clip: row["frames"] for clip, row in rows.items() if "folder" in row}
            if any(row.get("motion_measure", 1) != MOTION_MEASURE for row in rows.values() if "motion_score" in row):
                return False
            return all("sha256" in row for row in rows.values()) and all(
                _count(self.output_dir / clip) == frames for clip, frames in kept.items()
            )

        return [number for number in numbers if not done(number)]

    def publish(
        self,
        motion: str,
        license: str | None,
        captions: dict[str, tuple[str, ...]] | None,
        write_page: Callable[[dict[str, dict]], None],
    ) -> dict[str, dict]:
        """Write manifest.jsonl of all videos that are done, remove duplicates, call write_page; returns {clip: row}.

        captions: {source: its captions}, for the rows of its clips.

        Of several machines the last to finish need not be the last to write, so whoever writes looks again whether
        that was everything.
        """
        written, rows = None, {}
        while (records := self.records()) != written:
            rows, written = manifest_rows(records, self.settings["keep"], motion, license, captions), records
            for clip, row in rows.items():
                if "folder" not in row:
                    shutil.rmtree(self.output_dir / clip, ignore_errors=True)
            write_if_new(self.output_dir / MANIFEST, "".join(json.dumps(row) + "\n" for row in rows.values()))
            write_page(rows)
        return rows


def manifest_rows(
    records: dict[int, dict],
    keep: Iterable[str],
    motion: str = "const",
    license: str | None = None,
    captions: dict[str, tuple[str, ...]] | None = None,
) -> dict[str, dict]:
    """{clip: manifest row} in order of number; a row without "folder" says under "rejected" why there is none."""
    from utils.motion.score import to_buckets

    rows, first = {}, {}
    for number in sorted(records):
        record = records[number]
        for clip, found in record["clips"].items():
            row = {"source": record["source"], **found, "license": license}
            content, reason = row.pop("content", None), row.pop("rejected", None)
            if reason is None and first.setdefault(content, clip) != clip and "duplicate" not in keep:
                reason = f"duplicate of {first[content]}"
            if captions and reason is None:
                row["text"] = list(captions.get(record["source"], ()))
            rows[clip] = {"rejected": reason, **row} if reason else {"folder": clip, **row}
    kept = [row for row in rows.values() if "folder" in row]
    for row, bucket in zip(kept, to_buckets([row["motion_score"] for row in kept], motion), strict=True):
        row["motion_bucket_id"] = bucket
    return rows


def write_if_new(path: Path, text: str) -> None:
    """Write a text file unless it holds that text already, so that doing nothing changes nothing."""
    if not path.exists() or path.read_bytes() != text.encode():
        write_text(path, text)


def _read_json(path: Path) -> dict | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _stamp(path: Path) -> list[int] | None:
    """What changes when a file does; None if there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


def _count(folder: Path) -> int:
    try:
        return len(os.listdir(folder))
    except OSError:
        return 0


def _changes(stored: dict, settings: dict, found: list[str]) -> list[str]:
    """What is no longer as it was when the dataset was begun, in words; more videos are no change."""
    before, present = stored["settings"], set(found)
    changes = [
        f"--{name} {_shown(before.get(name))} -> {_shown(value)}"
        for name, value in ({name: None for name in before} | settings).items()
        if before.get(name) != value
    ]
    return changes + [f"{source} is gone" for source in stored["sources"] if source not in present]


def _shown(value: object) -> str:
    return "unset" if value is None else ",".join(value) if isinstance(value, list) else str(value)
