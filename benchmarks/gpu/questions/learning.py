"""What is learnt of hard data in the minutes that are left? The base preset at 16x64x64, AdamW against Muon."""

import json
import shutil
from functools import partial
from pathlib import Path

from benchmarks.gpu.questions.running import NEVER, run_script
from benchmarks.gpu.rows import Rows, peak_gib
from utils.logs.metrics import read_metrics

# The text is learnt from the captions, because no hub is in reach. Muon's rate is the demo preset's.
OPTIMIZERS = {
    "AdamW, 1e-4": ["--optimizer", "adamw", "--learning_rate", 1e-4],
    "Muon, 2e-3": ["--optimizer", "muon", "--learning_rate", 2e-3],
}
JUDGING = 0.2  # share of the time that drawing and judging the videos may take
LEAST = 20  # s of training, below which there is nothing to learn from it


def measure(rows: Rows, tiny: bool, folder: Path) -> None:
    from utils.demo_data.demo_dataset import write_demo_dataset

    data = folder / "hard"
    if tiny:
        write_demo_dataset(data, num_clips=16, hard=True)
    else:
        write_demo_dataset(data, num_clips=2000, num_frames=16, frame_size=64, hard=True)
    common = ["--data_dir", data, "--preset", "tiny" if tiny else "base", "--text_encoder", "builtin", "--no_augment"]
    common += ["--lr_scheduler", "warmup_stable_decay", "--lr_warmup_steps", 20, "--no_wandb", "--num_workers"]
    common += [0, "--num_timesteps", 8] if tiny else [8, "--batch_size", 16]
    for place, (name, flags) in enumerate(OPTIMIZERS.items()):
        seconds = (1 - JUDGING) * rows.left / (len(OPTIMIZERS) - place)
        rows.row(name, partial(learn, [*common, *flags], folder / f"run{place}", seconds, tiny))
        for sheet in sorted((folder / f"run{place}" / "run" / "samples").rglob("*.png"))[-1:]:
            shutil.copy(sheet, folder / f"learning_{place}.png")


def learn(flags: list, run_dir: Path, seconds: float, tiny: bool) -> dict:
    """Train for about so long and judge what comes: shares of the videos that are right, seen and held out."""
    import train_text2video

    trial = 2 if tiny else 30
    never = ["--validate_every", NEVER, "--sample_every", NEVER, "--checkpoint_every", NEVER]
    short = ["--output_dir", run_dir / "trial", "--max_train_steps", trial, "--log_every", 5]
    run_script(train_text2video, [*flags, *never, *short])
    rate = read_metrics(run_dir / "trial" / "metrics.jsonl")
    rate = max(row["train/steps_per_second"] for row in rate if "train/steps_per_second" in row)
    if not tiny and seconds < LEAST:
        raise RuntimeError(f"{seconds:.0f} s of training were left, too few to learn in")
    steps = 4 if tiny else int(seconds * rate)
    run_script(train_text2video, [*flags, *never, "--output_dir", run_dir / "run", "--max_train_steps", steps])
    figures = {"steps": steps, "steps_per_second": rate, **peak_gib()}
    return figures | judged(run_dir / "run", flags[flags.index("--data_dir") + 1], 2 if tiny else 48)


def judged(run: Path, data: Path, num_prompts: int) -> dict:
    """{"seen": share, "held_out": share} with all attributes right, as evaluate_text2video.py judges them."""
    import evaluate_text2video

    flags = ["--checkpoint", run, "--data_dir", data, "--num_prompts", num_prompts, "--batch_size", 16]
    flags += ["--num_inference_steps", 2 if num_prompts < 10 else 25, "--output_dir", run / "judged"]
    run_script(evaluate_text2video, flags)
    groups = json.loads((run / "judged" / "evaluation.json").read_text(encoding="utf-8"))["groups"]
    return {name.replace(" ", "_"): group["all"]["share"] for name, group in groups.items()}
