"""Tables of tasks: for the terminal, and as tasks.json."""

import json
from dataclasses import asdict, is_dataclass
from pathlib import Path

from utils.files import write_text


def task_table(task: str, found: dict[str, dict[str, dict]]) -> str:
    """A line for each way and group of {way: {group: {what: share or mean}}}."""
    lines = []
    for way, groups in found.items():
        for group, measures in groups.items():
            cells = [f"{name} {_cell(value)}" for name, value in measures.items()]
            lines.append(f"{task}, {way}, {group}: {', '.join(cells)}")
    return "\n".join(lines)


def _cell(value) -> str:
    return f"{value:.1f}" if isinstance(value, float) else f"{value.value:.0%}"


def write_tasks(path: Path, about: dict, found: dict) -> Path:
    """Add tasks to those in the file that were drawn by the same model with the same settings."""
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        tasks = known["tasks"] if known["about"] == json.loads(json.dumps(about)) else {}
    except (OSError, ValueError, KeyError, TypeError):
        tasks = {}
    tasks |= {task: _plain(ways) for task, ways in found.items()}
    write_text(path, json.dumps({"about": about, "tasks": tasks}, indent=2) + "\n")
    return path


def _plain(value):
    if is_dataclass(value):
        return asdict(value)
    return {name: _plain(each) for name, each in value.items()} if isinstance(value, dict) else value
