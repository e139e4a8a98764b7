"""Running prepare_dataset.py in tests."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

import prepare_dataset
from prepare_dataset import main, parse_args

TREE = Path(prepare_dataset.__file__).parent


def prepare(videos: Path, output: Path, *flags: str, workers: int = 0) -> dict[str, dict]:
    """Run the script; {source: manifest row}."""
    argv = ["--video_dir", str(videos), "--output_dir", str(output), "--num_workers", str(workers), *flags]
    main(parse_args(argv))
    return manifest(output)


def manifest(output: Path) -> dict[str, dict]:
    rows = [json.loads(line) for line in (output / "manifest.jsonl").read_text().splitlines()]
    return {row["source"]: row for row in rows}


def contents(output: Path) -> dict[str, bytes]:
    return {str(path.relative_to(output)): path.read_bytes() for path in output.rglob("*") if path.is_file()}


def frames_of(folder: Path) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path)) for path in sorted(folder.iterdir())])
