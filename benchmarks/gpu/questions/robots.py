"""What does a model of the world cost on a card: its training, and a policy that acts inside it?

On the demo's clips with the motion of their object as actions, from first frames on; the policy has random weights.
"""

import json
from functools import partial
from pathlib import Path

from benchmarks.gpu.questions.running import NEVER, run_script
from benchmarks.gpu.rows import Rows, peak_gib, seconds_of
from utils.logs.metrics import read_metrics

BATCH, LOOKS = 16, 4  # episodes at a time, and how often a policy looks in each
STEPS = (25, 10, 4)  # of sampling
SHARE = 0.5  # of the time that the model may learn for


def measure(rows: Rows, tiny: bool, folder: Path) -> None:
    from utils.demo_data.demo_dataset import write_demo_dataset

    data, run = folder / "actions", folder / "world"
    count = {"num_clips": 16} if tiny else {"num_clips": 1500, "num_frames": 16, "frame_size": 64}
    write_demo_dataset(data, **count, conditions=True)
    flags = [
        "--data_dir",
        data,
        "--text_encoder",
        "builtin",
        "--vectors",
        "--tasks",
        "first_frame=0.6",
        "continuation=0.4",
    ]
    flags += ["--no_wandb", "--preset", "tiny", "--num_workers", 0] if tiny else ["--num_workers", 8, "--no_wandb"]
    flags += ["--num_timesteps", 8] if tiny else ["--preset", "demo", "--patch_size", 8, "--batch_size", 16]
    rows.row("a model of the world learns at 16x64x64", partial(learn, flags, run, SHARE * rows.left, tiny))
    for steps in STEPS[-1:] if tiny else STEPS:
        rows.row(f"{BATCH} policies look and act in it, {steps} steps", partial(look, run, steps, tiny))
    rows.row("its actions are obeyed", partial(obeyed, run, data, tiny))


def learn(flags: list, run: Path, seconds: float, tiny: bool) -> dict:
    """Train for about so long: seconds of a step, and its memory."""
    import train_text2video

    never = [
        "--validate_every",
        NEVER,
        "--sample_every",
        NEVER,
        "--checkpoint_every",
        NEVER,
        "--log_every",
        1 + 4 * (not tiny),
    ]
    trial = 2 if tiny else 30
    run_script(train_text2video, [*flags, *never, "--output_dir", run.with_name("trial"), "--max_train_steps", trial])
    rates = read_metrics(run.with_name("trial") / "metrics.jsonl")
    rate = max(row["train/steps_per_second"] for row in rates if "train/steps_per_second" in row)
    steps = 2 if tiny else max(1, int(seconds * rate))
    run_script(train_text2video, [*flags, *never, "--output_dir", run, "--max_train_steps", steps])
    return {"seconds": 1 / rate, "steps": steps, **peak_gib()}


def look(run: Path, steps: int, tiny: bool) -> dict:
    """Seconds from what policies see to what they see next, and frames a second of all of them together."""
    import numpy as np

    from models.robots.policy import Policy
    from utils.robots.policies import TrainedPolicy
    from utils.robots.rollouts import most_executed, roll_out
    from utils.robots.world_model import WorldModel

    world = WorldModel(run, num_inference_steps=steps, overlap=2 if tiny else 4)
    names, size = list(world.names), (world.height, world.width)
    policy = Policy(["move"], names, [0.0] * len(names), [1.0] * len(names), frame_size=size, fps=world.target_fps or 8)
    folder = run.with_name("policy")
    policy.save_pretrained(folder)
    policy, count = TrainedPolicy(folder), 2 if tiny else BATCH
    execute = most_executed(world, policy)
    frames = np.zeros((count, *size, 3), np.uint8)
    length = 1 + LOOKS * execute
    acted = partial(roll_out, world, policy, ["move"] * count, frames, list(range(count)), length, execute)
    seconds = seconds_of(acted, repeats=1 if tiny else 3, warm_up=1)
    return {"seconds": seconds / LOOKS, "frames_per_second": count * (length - 1) / seconds, **peak_gib()}


def obeyed(run: Path, data: Path, tiny: bool) -> dict:
    """Shares of clips that are right in all that evaluate_text2video.py --task vectors asks, by way and group."""
    import evaluate_text2video

    flags = ["--checkpoint", run, "--data_dir", data, "--task", "vectors", "--num_prompts", 2 if tiny else 48]
    run_script(
        evaluate_text2video, [*flags, "--num_inference_steps", 2 if tiny else 25, "--output_dir", run / "judged"]
    )
    found = json.loads((run / "judged" / "tasks.json").read_text(encoding="utf-8"))["tasks"]["vectors"]
    shares = {(way, group): each for way, groups in found.items() for group, each in groups.items()}
    return {f"{way} {group}".replace(" ", "_"): each["all"]["value"] for (way, group), each in shares.items()}
