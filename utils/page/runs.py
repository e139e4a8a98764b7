"""What lies in a folder of runs: models to draw with, their samples, curves and figures."""

import json
from pathlib import Path

from utils.cli import printable

SETTINGS = (
    *("preset", "data_dir", "num_frames", "frame_size", "height", "width", "batch_size", "max_train_steps", "seed"),
    *("learning_rate", "text_encoder", "vae", "tasks", "maps", "vectors", "audio", "pretrained_model_name"),
)


def find_models(folder: Path) -> list[str]:
    """Names of the runs that a text-to-video model came from, the newest first."""
    found = sorted(folder.glob("*/best_model.pth"), key=lambda path: path.stat().st_mtime, reverse=True)
    return [path.parent.name for path in found]


def find_runs(folder: Path) -> list[str]:
    """Names of all runs that have begun, of any trainer, the newest first."""
    found = sorted(folder.glob("*/metrics.jsonl"), key=lambda path: path.stat().st_mtime, reverse=True)
    return [path.parent.name for path in found]


def sample_folders(run: Path) -> list[str]:
    """Names of the folders of samples that the training drew on its way, the newest first."""
    return sorted((path.parent.name for path in run.glob("samples/*/contact_sheet.png")), reverse=True)


def pictures(run: Path) -> list[tuple[str, str]]:
    """(path, name) of what evaluation has drawn."""
    return [(str(path), path.stem) for path in sorted(run.glob("evaluation/*.png"))]


def facts(run: Path) -> list[list[str]]:
    """[name, value] rows of a run: how far it is, its newest figures, and how it was started."""
    last = {}
    for line in _text(run / "metrics.jsonl").splitlines():
        try:
            last |= json.loads(line)
        except ValueError:
            break  # a last line that is being written
    rows = [[name, f"{value:.5g}"] for name, value in last.items() if name != "time" and isinstance(value, int | float)]
    try:
        settings = json.loads(_text(run / "args.json") or "{}")
    except ValueError:
        settings = {}
    given = ((name, settings.get(name)) for name in SETTINGS)
    return rows + [[name, printable(value)] for name, value in given if value not in (None, [], "", False)]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
