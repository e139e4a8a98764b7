"""How long will `make demo` take on this machine? A few steps of what it does, timed, and one line.

    python -m benchmarks.text2video.demo_time

What a demo that was begun before has done already is left out. Writes no file.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

from utils.cli import Parser, run


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n", 1)[1])
    parser.add_argument("--data_dir", type=Path, default=Path("demo_video_data"), help="where the demo's clips go")
    parser.add_argument("--run_dir", type=Path, default=Path("checkpoints/demo"), help="where its training goes")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    import torch

    import train_text2video
    import video_dataset
    from benchmarks.measure import TrainingStep
    from utils.demo_data.demo_dataset import write_demo_dataset
    from utils.demo_data.shapes import benchmark_prompts
    from utils.runs.run_folder import newest_step

    with tempfile.TemporaryDirectory() as folder:
        clips = video_dataset.parse_args([]).num_clips
        seconds = time.perf_counter()
        write_demo_dataset(Path(folder, "clips"), num_clips=40)
        writing = (time.perf_counter() - seconds) / 40 * clips
        settings = train_text2video.parse_args(["--preset", "demo", "--data_dir", folder])
    if (args.data_dir / "dataset.json").is_file():
        writing = 0.0

    step = TrainingStep(settings, benchmark_prompts(16, False, False))
    rate = 1 / median_seconds(step, 8)
    steps = max(0, settings.max_train_steps - newest_step(args.run_dir))

    # A batch of videos at two numbers of steps: the difference is that many steps of sampling.
    def draw(num_inference_steps: int) -> None:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=step.bf16):
            step.model.sample(
                step.captions,
                range(len(step.captions)),
                num_frames=settings.num_frames,
                height=settings.frame_size,
                width=settings.frame_size,
                num_inference_steps=num_inference_steps,
                guidance_scale=settings.guidance_scale,
            )

    step.model.eval()
    few, more = (median_seconds(lambda count=count: draw(count), 2) for count in (2, 5))
    videos = 2 * 48  # evaluate_text2video.py's --num_prompts, seen and held out
    drawing = max(0.0, more - few) / 3 * 25 / len(step.captions) * videos

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    precision = "bfloat16" if step.bf16 else "float32"
    print(
        f"make demo takes about {in_words(writing + steps / rate + drawing)} on this machine ({cores} cores, "
        f"{precision}): {steps:,} training steps at {rate:.1f} a second, {videos} videos to judge; Ctrl-C stops it, "
        "make demo goes on"
    )


def median_seconds(call, repeats: int) -> float:
    """Seconds of a call: the median of some, after one that warms up."""
    call()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def in_words(seconds: float) -> str:
    """12 minutes, or 2 hours 10 minutes; at least one minute."""
    minutes = max(1, round(seconds / 60))
    hours, rest = divmod(minutes, 60)
    parts = [f"{hours} hour{'s' * (hours > 1)}"] * bool(hours) + [f"{rest} minute{'s' * (rest != 1)}"] * bool(rest)
    return " ".join(parts)


if __name__ == "__main__":
    run(lambda: main(parse_args()))
