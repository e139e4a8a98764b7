"""Are conditions obeyed and edits right, on the demo, and what do baselines make of it?

    python -m benchmarks.text2video.tasks --work_dir DIR             # hours; goes on when typed again

For each seed the demo's clips with depth, motion and sound, a model of preset `demo` that learns all tasks and
conditions at once from nothing, and evaluate_text2video.py --task on it. Result: results/tasks.json with shares right
of seen and of held-out combinations, of each task in each of its ways, and seconds.
"""

import argparse
import json
from pathlib import Path

from utils.cli import Parser, integer, run

TASKS = "text=0.4 first_frame=0.15 continuation=0.1 first_last=0.1 in_between=0.05 inpainting=0.15 outpainting=0.05"
LEARNT = ["--tasks", *TASKS.split(), "--maps", "depth", "--vectors", "--audio"]
LEARNT += ["--condition_dropout", "0.6", "--text_dropout", "0.1"]
MEASURED = "first_frame continuation first_last in_between inpainting depth vectors audio recolour"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n", 1)[1])
    parser.add_argument("--seeds", type=integer(0, 1000), nargs="+", default=[0, 1, 2], help="of data and trainings")
    parser.add_argument("--work_dir", type=Path, required=True, help="data, runs and videos stay here")
    parser.add_argument("--num_prompts", type=integer(1, 10_000), default=48, help="per group: seen and held out")
    parser.add_argument("--num_clips", type=integer(8), default=1500, help="fewer for a quick look")
    parser.add_argument("--steps", type=integer(1), default=2900, help="of the training")
    parser.add_argument("--num_inference_steps", type=integer(1, 1000), default=25, help="of each video")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    from benchmarks.measure import write_result

    runs = {}
    for seed in args.seeds:
        runs[f"seed {seed}"] = one_seed(args, args.work_dir / f"seed{seed}", seed)
    command = f"python -m benchmarks.text2video.tasks --work_dir DIR --seeds {' '.join(map(str, args.seeds))}"
    command += (
        f" --steps {args.steps} --num_prompts {args.num_prompts} --num_inference_steps {args.num_inference_steps}"
    )
    print(write_result("tasks", {"command": command, "training": " ".join(LEARNT), "runs": runs}))


def one_seed(args: argparse.Namespace, work: Path, seed: int) -> dict:
    """What tasks.json says of a model of this seed, and the seconds that its training and its judging took."""
    from benchmarks.latents.demo256 import SECONDS, data, into, timed

    found = work / "run" / "evaluation" / "tasks.json"
    if not (work / "data" / "dataset.json").is_file():
        flags = ["--num_clips", args.num_clips, "--conditions", "--seed", seed, "--output_dir", work / "data"]
        timed(work, "data", "video_dataset.py", *flags)
    if not found.is_file():
        how = ["--preset", "demo", *LEARNT, "--max_train_steps", args.steps, "--seed", seed]
        timed(work, "training", "train_text2video.py", *data(work), *how, *into(work / "run"))
        how = ["--num_prompts", args.num_prompts, "--num_inference_steps", args.num_inference_steps]
        drawn = ["--checkpoint", work / "run", "--task", *MEASURED.split(), *how]
        timed(work, "judged", "evaluate_text2video.py", *data(work), *drawn)
    tasks = json.loads(found.read_text(encoding="utf-8"))
    return {"tasks": tasks["tasks"], "seconds": json.loads((work / SECONDS).read_text(encoding="utf-8"))}


if __name__ == "__main__":
    run(lambda: main(parse_args()))
