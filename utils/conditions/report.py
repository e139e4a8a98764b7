"""What is wrong with the conditions of a data folder, for video_dataset.py --check."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from utils.cli import printable
from utils.conditions.clip_conditions import ClipConditions
from utils.data.clip_index import listed
from utils.files import write_text

if TYPE_CHECKING:
    from utils.decoding.video_info import VideoInfo


def check_conditions(data_dir: Path, clips: list["VideoInfo"], named: dict) -> None:
    """Print which clips lack which condition, and why, and add it to dataset_report.json. named: folders, as
    ClipConditions takes them. Raises DataError for a folder that is not there or belongs to no clip."""
    conditions = ClipConditions(data_dir, clips, **named)
    found = conditions.missing(clips)
    lines = [listed(names, reason) for reason, names in found.items()]
    what = ", ".join(conditions.all_names)
    print(f"conditions {what} of {len(clips)} clips:" if lines else f"conditions {what}: every clip has them")
    print("".join(f"  {printable(line)}\n" for line in lines), end="")
    report = data_dir / "dataset_report.json"
    about = json.loads(report.read_text(encoding="utf-8")) | {"conditions": found}
    write_text(report, json.dumps(about, indent=2) + "\n")
