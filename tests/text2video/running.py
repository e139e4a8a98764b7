"""Running the text-to-video scripts in tests, with the tiny preset."""

from pathlib import Path

import generate_text2video
import train_text2video
from utils.logs.metrics import read_metrics

ROOT = Path(__file__).parents[2]


def train(data, output_dir, *flags, preset="tiny"):
    argv = ["--data_dir", str(data), "--output_dir", str(output_dir), "--preset", preset, "--no_wandb"]
    argv += ["--log_every", "1", "--num_timesteps", "8"]  # of which samples take as many steps
    train_text2video.main(train_text2video.parse_args([*argv, *flags]))


def generate(*flags):
    generate_text2video.main(generate_text2video.parse_args([*map(str, flags), "--mixed_precision", "no"]))


def losses(run_dir) -> list[float]:
    return [row["train/loss"] for row in read_metrics(run_dir / "metrics.jsonl") if "train/loss" in row]
