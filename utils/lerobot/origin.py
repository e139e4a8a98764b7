"""Where a LeRobot dataset comes from and under which licence: noted beside it, and kept with what is made of it."""

import json
from pathlib import Path

from utils.files import write_text
from utils.lerobot.folder import INFO, is_lerobot

SOURCE = "source.json"  # of a dataset that came from a hub
CARD = "README.md"


def note_source(folder: Path, name: str, commit: str | None) -> None:
    """Note that a folder holds the dataset of this name, in this state."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / SOURCE, json.dumps({"dataset": name, "commit": commit}, indent=1) + "\n")


def source_of(folder: Path) -> dict[str, str]:
    """What note_source noted; {} for a folder without."""
    return _json(folder / SOURCE)


def origin_of(folder: Path) -> dict[str, str]:
    """{"dataset", "commit", "format", "robot", "licence"} of a LeRobot dataset, what is known of it; {} for others."""
    if not is_lerobot(folder):
        return {}
    info, source = _json(folder / INFO), source_of(folder)
    about = {"dataset": source.get("dataset") or folder.resolve().name, "commit": source.get("commit")}
    about["format"] = f"LeRobot {info.get('codebase_version', '')}".strip()
    about |= {"robot": info.get("robot_type"), "licence": _licence(folder / CARD)}
    return {name: value for name, value in about.items() if isinstance(value, str) and value}


def said_of(origin: dict[str, str]) -> str:
    """An origin in a line of a card; "" for none."""
    if not origin:
        return ""
    commit = f" at {origin['commit'][:12]}" if "commit" in origin else ""
    robot = f", robot {origin['robot']}" if "robot" in origin else ""
    licence = origin.get("licence", "not stated in it")
    return f"{origin['dataset']}{commit} ({origin['format']}{robot}); its licence: {licence}."


def _licence(card: Path) -> str | None:
    """What the head of a dataset card says."""
    from huggingface_hub.repocard import metadata_load
    from yaml import YAMLError

    try:
        found = (metadata_load(card) or {}).get("license")
    except (OSError, ValueError, YAMLError, AttributeError):
        return None
    return ", ".join(map(str, found)) if isinstance(found, list) else found


def _json(file: Path) -> dict:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}
