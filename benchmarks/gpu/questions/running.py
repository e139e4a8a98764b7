"""Does everything run, and compute what a CPU computes?"""

import contextlib
import os
import signal
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from accelerate.state import AcceleratorState

from benchmarks.gpu.rows import DEVICE, Rows, peak_gib
from utils.cli import Stopped
from utils.hardware import multiplies_in_bf16
from utils.logs.metrics import read_metrics

NEVER = 1_000_000_000


def measure(rows: Rows, tiny: bool, folder: Path) -> None:
    import infer_svd
    import train_svd
    from tests.tiny_svd import tiny_svd_pipeline
    from utils.demo_data.demo_dataset import write_demo_dataset

    # What everything below works on.
    preset, seconds, steps = ("tiny", 1.0, 3) if tiny else ("demo", 10.0, 20)
    data, svd = folder / "clips", folder / "svd"
    write_demo_dataset(data, num_clips=16 if tiny else 400)
    tiny_svd_pipeline().save_pretrained(svd / "model")

    rows.row(f"the same {steps} steps here and on the CPU, float32", lambda: same_losses(preset, steps, tf32=False))
    if not tiny:
        rows.row(f"the same {steps} steps, convolutions in TF32", lambda: same_losses(preset, steps, tf32=True))
    rows.row("the videos of two seeds here and on the CPU, float32", lambda: same_videos(preset, 2 if tiny else 25))

    common = ["--data_dir", data, "--preset", preset, "--lr_scheduler", "constant", "--log_every", 1 if tiny else 20]
    common += ["--num_timesteps", 8] if tiny else []  # of which samples take as many steps
    for precision in ("bf16", "fp16", "no") if multiplies_in_bf16(DEVICE) else ("fp16", "no"):
        flags = [*common, "--mixed_precision", precision, "--output_dir", folder / precision]
        rows.row(f"{preset} preset, {seconds:g} s, {precision}", lambda flags=flags: train_for(seconds, flags))
    flags = [*common, "--mixed_precision", "no", "--output_dir", folder / "resumed"]
    rows.row("resumed after half of the steps, against all at once", lambda: resumed(flags, 2 if tiny else 10))
    rows.row("evaluate_text2video.py", lambda: evaluate(folder / "resumed" / "whole", data, folder, 2 if tiny else 24))

    # SVD with a tiny network: every flag that has a path of its own on a GPU.
    dataset = prepare(data, svd / "dataset_root")
    for name, more in {
        "as by default": [],
        "fp16, LoRA, no cache": ["--mixed_precision", "fp16", "--trainable", "lora", "--no_cache"],
        "compiled": ["--compile"],
    }.items():
        if tiny and more:
            continue
        argv = ["--pretrained_model_name", svd / "model", "--dataset_dir", dataset, "--output_dir", svd / name]
        argv += ["--num_frames", 4, "--width", 64, "--height", 64, "--max_train_steps", 2 if tiny else 4, "--no_wandb"]
        argv += ["--num_inference_steps", 2, "--num_validation_clips", 1, "--num_workers", 0 if tiny else 2, *more]
        rows.row(f"train_svd.py, tiny network, {name}", lambda argv=argv: timed(train_svd, argv))
    picture = next(dataset.rglob("*.png"))
    for offload in ("none",) if tiny else ("none", "model", "sequential"):
        argv = ["--model_dir", svd / "model", "--input_image", picture, "--output_dir", svd / f"videos_{offload}"]
        argv += ["--num_frames", 4, "--width", 64, "--height", 64, "--num_inference_steps", 2, "--offload", offload]
        rows.row(f"infer_svd.py, tiny network, --offload {offload}", lambda argv=argv: timed(infer_svd, argv))
    if not tiny:  # last, because compiling may take all the time that is left
        flags = [*common, "--compile", "--output_dir", folder / "compiled"]
        rows.row(f"{preset} preset, {seconds:g} s, compiled", lambda: train_for(seconds, flags))


def run_script(script, flags: list) -> None:
    """A script's main, as the command line calls it; what accelerate keeps of it is forgotten."""
    try:
        script.main(script.parse_args([str(flag) for flag in flags]))
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)  # or the next could not choose its precision


def timed(script, flags: list) -> dict:
    start = time.perf_counter()
    run_script(script, flags)
    return {"seconds": time.perf_counter() - start, **peak_gib()}


def prepare(data: Path, output_dir: Path) -> Path:
    import prepare_dataset

    flags = ["--video_dir", data / "videos", "--output_dir", output_dir, "--num_workers", 0]
    run_script(prepare_dataset, [*flags, "--max_samples", 4])
    return output_dir


@contextlib.contextmanager
def stopped_after(seconds: float, run_dir: Path) -> Iterator[None]:
    """Inside the block this process gets a SIGTERM once its training in run_dir has worked for so long: it saves and
    leaves, as it does for a user."""
    over = threading.Event()

    def watch() -> None:
        while not (run_dir / "metrics.jsonl").exists():
            if over.wait(0.1):
                return
        if not over.wait(seconds):
            os.kill(os.getpid(), signal.SIGTERM)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    except Stopped:
        pass
    finally:
        over.set()
        watcher.join()


def train_for(seconds: float, flags: list) -> dict:
    """A training, stopped by a signal; its speed, its loss in the first and the last tenth, and its peak of memory."""
    import train_text2video

    run_dir = flags[flags.index("--output_dir") + 1]
    never = ["--max_train_steps", NEVER, "--validate_every", NEVER, "--sample_every", NEVER]
    with stopped_after(seconds, run_dir):
        run_script(train_text2video, [*flags, *never, "--checkpoint_every", NEVER, "--no_wandb"])
    rows = [row for row in read_metrics(run_dir / "metrics.jsonl") if "train/loss" in row]
    if not rows:
        raise RuntimeError("it was stopped before its first row of metrics")
    tenth = -(-len(rows) // 10)
    first, last = (statistics.mean(row["train/loss"] for row in part) for part in (rows[:tenth], rows[-tenth:]))
    later = rows[len(rows) // 3 :]
    return {
        "steps": rows[-1]["step"],
        "steps_per_second": statistics.median(row["train/steps_per_second"] for row in later),
        "data_wait_share": statistics.mean(row["train/data_wait_share"] for row in later),
        "skipped_steps": rows[-1]["train/skipped_steps"],
        "first_loss": first,
        "last_loss": last,
        **peak_gib(),
    }


def resumed(flags: list, half: int) -> dict:
    """The largest difference of a loss between a run that was resumed after half of its steps and one that was not."""
    import train_text2video

    run_dir = flags[-1]
    found = []
    for name, parts in (("whole", (2 * half,)), ("parts", (half, 2 * half))):
        for steps in parts:
            flags[-1] = run_dir / name
            more = ["--max_train_steps", steps, "--resume", "auto", "--no_wandb", "--log_every", 1]
            run_script(train_text2video, [*flags, *more, "--sample_every", NEVER])
        rows = read_metrics(run_dir / name / "metrics.jsonl")
        found.append([row["train/loss"] for row in rows if "train/loss" in row])
    return {"largest_difference": max(abs(a - b) for a, b in zip(*found, strict=True))}


@contextlib.contextmanager
def convolutions(tf32: bool) -> Iterator[None]:
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = tf32
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def step_of(preset: str, device: str):
    """A training step of a preset, the same on every device."""
    import train_text2video
    from benchmarks.measure import TrainingStep
    from utils.demo_data.shapes import benchmark_prompts

    flags = ["--preset", preset, "--data_dir", ".", "--mixed_precision", "no"]
    return TrainingStep(train_text2video.parse_args(flags), benchmark_prompts(16, False, False), device)


def same_losses(preset: str, steps: int, tf32: bool) -> dict:
    """The largest relative difference of a loss between this device and the CPU, over some steps of training."""
    losses = {}
    with convolutions(tf32):
        for device in ("cpu", DEVICE):
            step = step_of(preset, device)
            torch.manual_seed(1)
            losses[device] = [step().item() for _ in range(steps)]
    pairs = list(zip(losses["cpu"], losses[DEVICE], strict=True))
    return {"largest_difference": max(abs(a - b) / a for a, b in pairs), "last_loss": pairs[-1][1]}


def same_videos(preset: str, num_inference_steps: int) -> dict:
    """The largest difference between the videos of the same seeds on this device and on the CPU, of 255."""
    videos = []
    with convolutions(tf32=False):
        for device in ("cpu", DEVICE):
            step = step_of(preset, device)
            step.model.eval()
            T, H, W = step.videos.shape[2:]
            settings = {"num_frames": T, "height": H, "width": W, "num_inference_steps": num_inference_steps}
            videos.append(step.model.sample(step.captions[:2], [0, 1], guidance_scale=2.0, **settings).cpu())
    return {"largest_difference_of_255": (videos[0] - videos[1]).abs().max().item() * 127.5}


def evaluate(checkpoint: Path, data: Path, folder: Path, num_prompts: int) -> dict:
    """Seconds that evaluate_text2video.py takes."""
    import evaluate_text2video

    flags = ["--checkpoint", checkpoint, "--data_dir", data, "--output_dir", folder / "videos"]
    flags += ["--num_prompts", num_prompts, "--num_inference_steps", 2 if num_prompts < 10 else 25]
    return timed(evaluate_text2video, flags)
