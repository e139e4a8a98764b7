"""What does the demo in latents learn and how long does it take; and what would as much compute learn in pixels?

    python -m benchmarks.latents.demo256 --work_dir DIR      # hours; goes on when typed again
    python -m benchmarks.latents.demo256 --work_dir DIR --seeds 0 --pixels

For each seed what `make demo256` does: clips of 16x256x256, an autoencoder, diffusion in its latents, videos of the
benchmark's prompts, judged. With --pixels besides: the demo's network on the same clips at 16x64x64 pixels, in patches
of 4 and of 8, for as many multiplications (counted) as the diffusion in latents takes; the autoencoder's are not
counted. Result: results/demo256.json with shares right, distances, motion, outlines and backgrounds, and seconds.
"""

import argparse
import json
import time
from pathlib import Path

from utils.cli import Parser, integer, run

PATCHES = (4, 8)
SECONDS = "seconds.json"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n", 1)[1])
    parser.add_argument("--seeds", type=integer(0, 1000), nargs="+", default=[0, 1, 2], help="of data and trainings")
    parser.add_argument("--pixels", action="store_true", help="train in pixels too")
    parser.add_argument("--work_dir", type=Path, required=True, help="data, runs and videos stay here")
    parser.add_argument("--num_prompts", type=integer(1, 10_000), default=48, help="per group: seen and held out")
    parser.add_argument("--num_clips", type=integer(8), default=1500, help="fewer for a quick look")
    parser.add_argument("--autoencoder_steps", type=integer(1), default=700, help="fewer for a quick look")
    parser.add_argument("--steps", type=integer(1), default=None, help="of the diffusion; default: the preset's")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    from benchmarks.measure import write_result

    runs = {}
    for seed in args.seeds:
        work = args.work_dir / f"seed{seed}"
        runs[f"latents, seed {seed}"] = latents(args, work, seed)
        for patch in PATCHES * args.pixels:
            runs[f"pixels in patches of {patch}, seed {seed}"] = pixels(args, work, seed, patch)
    result = {"command": command(args), "runs": runs}
    for name, found in runs.items():
        shares = ", ".join(f"{group} {scores['all']['share']:.0%}" for group, scores in found["groups"].items())
        print(f"{name}: all right {shares}; {sum(found['seconds'].values()) / 60:.0f} minutes")
    print(write_result("demo256", result))


def command(args: argparse.Namespace) -> str:
    """What to type for the same, but for where its files lie."""
    words = ["python -m benchmarks.latents.demo256 --work_dir DIR --seeds", *args.seeds]
    words += ["--pixels"] * args.pixels + ["--num_prompts", args.num_prompts]
    return " ".join(map(str, words))


def latents(args: argparse.Namespace, work: Path, seed: int) -> dict:
    """What `make demo256` does, from data to figures."""
    flags = ["--num_clips", args.num_clips, "--num_frames", 16, "--frame_size", 256, "--seed", seed]
    if not (work / "data" / "dataset.json").is_file():
        timed(work, "data", "video_dataset.py", *flags, "--output_dir", work / "data")
    if not (work / "autoencoder" / "vae" / "config.json").is_file():
        how = ["--preset", "small", "--max_train_steps", args.autoencoder_steps, "--seed", seed]
        timed(work, "autoencoder", "train_autoencoder.py", *data(work), *how, *into(work / "autoencoder"))
    how = ["--preset", "demo256", "--vae", work / "autoencoder", "--latent_cache", work / "data" / "latents"]
    return trained(args, work, "latents", seed, how, steps(args), ("data", "autoencoder"))


def pixels(args: argparse.Namespace, work: Path, seed: int, patch: int) -> dict:
    """The demo's network on 16x64x64 pixels, for as many multiplications as the latents took."""
    how = ["--preset", "demo", "--num_frames", 16, "--frame_size", 64, "--target_fps", 8, "--patch_size", patch]
    in_latents = steps(args) * flops(["--preset", "demo256"], *latent_shape())
    count = max(1, round(in_latents / flops(how, 3, (16, 64, 64))))
    return trained(args, work, f"pixels{patch}", seed, how, count)


def steps(args: argparse.Namespace) -> int:
    import train_text2video

    return args.steps or train_text2video.parse_args(["--preset", "demo256", "--dry_run"]).max_train_steps


def latent_shape() -> tuple[int, tuple[int, int, int]]:
    """(channels, (frames, height, width)) of a clip to the autoencoder of `--preset small`."""
    import tomllib

    from utils.arguments.presets import CONFIGS

    small = tomllib.loads((CONFIGS / "autoencoder" / "small.toml").read_text(encoding="utf-8"))
    side = small["frame_size"] // small["patch_size"]
    return small["latent_channels"], (small["num_frames"] // small["patch_frames"], side, side)


def flops(flags: list, channels: int, clip: tuple[int, int, int]) -> int:
    """Multiplications and additions of a step with these flags, counted."""
    import torch

    import train_text2video
    from models.ledger import step_flops
    from utils.runs.new_model import make_unet

    settings = train_text2video.parse_args([*map(str, flags), "--dry_run"])
    with torch.device("meta"):
        unet = make_unet(settings, settings.text_dim, channels).to("meta").train()
        batch = settings.batch_size
        inputs = torch.empty(batch, channels, *clip), torch.zeros(batch), torch.empty(batch, 16, settings.text_dim)
    return step_flops(unet, inputs)


def trained(args, work: Path, name: str, seed: int, how: list, count: int, before: tuple[str, ...] = ()) -> dict:
    """Train and evaluate, unless that is done; what evaluation.json says, and the seconds of these and of `before`."""
    run_dir, found = work / name, work / name / "evaluation" / "evaluation.json"
    if not found.is_file():
        how = [*how, "--seed", seed, "--max_train_steps", count]
        timed(work, name, "train_text2video.py", *data(work), *how, *into(run_dir))
        drawn = ["--checkpoint", run_dir, "--num_prompts", args.num_prompts, "--batch_size", 8]
        timed(work, f"{name}, judged", "evaluate_text2video.py", *data(work), *drawn)
    figures = json.loads(found.read_text(encoding="utf-8"))
    seconds = json.loads((work / SECONDS).read_text(encoding="utf-8"))
    figures = {key: figures[key] for key in ("step", "groups", "distances", "motion", "faithful")}
    return {**figures, "seconds": {what: seconds[what] for what in (*before, name, f"{name}, judged")}}


def data(work: Path) -> list:
    return ["--data_dir", work / "data"]


def into(run_dir: Path) -> list:
    return ["--output_dir", run_dir, "--resume", "auto", "--no_wandb"]


def timed(work: Path, what: str, *command) -> None:
    """Run a script as a user would, and note in the folder how long it took."""
    from benchmarks.text2video.time_to_prompt import run_script

    start, file = time.perf_counter(), work / SECONDS
    run_script(*command)
    noted = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    noted[what] = round(time.perf_counter() - start, 1)
    file.write_text(json.dumps(noted, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run(lambda: main(parse_args()))
