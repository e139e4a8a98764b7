"""How long a user waits for a script: seconds to its --help, and to the first step of training.

    python -m benchmarks.data.startup                    # a few minutes on two cores

--help of every script of the top level in fresh processes: seconds by the clock (the goal is less than 0.3) and of the
processor, which other programs on the machine change little, and how many times those of `python -c pass`.

Training: from the command line to the first row of metrics.jsonl of train_text2video.py with the demo preset, on a CPU
and with files that have been read before (the goal is 15 seconds). `stages` are read off what it prints on the way.
`imports` come from one run with -X importtime, which makes them somewhat longer; each package counts its own modules
alone. `first_time` is a run that had to look through the clips, which later ones know. Medians of fresh processes; the
results go into results/startup.json and startup.png.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from utils.cli import Parser, UserError, integer, run

ROOT = Path(__file__).parents[2]
HELP_GOAL, STEP_GOAL = 0.3, 15  # s
PACKAGES = 8  # shown by name in the account of the imports
# What the trainer prints, and what it has done by then.
STAGES = {"training and": "Python, imports, clips", "parameters in": "model"}
LAST_STAGE = "optimizer and first step"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n", 1)[1])
    parser.add_argument("--help_repeats", type=integer(1, 1000), default=9, help="processes per script")
    parser.add_argument("--step_repeats", type=integer(1, 100), default=3, help="trainings up to the first step")
    parser.add_argument("--clips", type=integer(8, 100_000), default=1500, help="of the demo dataset")
    parser.add_argument("--preset", default="demo", help="of train_text2video.py")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    from benchmarks.measure import write_result
    from utils.demo_data.demo_dataset import write_demo_dataset

    helps = help_times(sorted(path.name for path in ROOT.glob("*.py")), args.help_repeats)
    with tempfile.TemporaryDirectory() as temporary:
        data = Path(temporary, "data")
        write_demo_dataset(data, args.clips)
        command = ["train_text2video.py", "--preset", args.preset, "--data_dir", str(data), "--log_every", "1"]
        command += ["--no_wandb"]
        first_time = first_step(command)
        runs = [first_step(command) for _ in range(args.step_repeats)]
        imports = import_times(command)
    training = {stage: round(statistics.median(found[stage] for found in runs), 2) for stage in runs[0]}
    total = round(statistics.median(sum(found.values()) for found in runs), 2)
    step = {"seconds": total, "goal": STEP_GOAL, "met": total < STEP_GOAL, "stages": training, "imports": imports}
    step["first_time"] = round(sum(first_time.values()), 2)
    result = {"settings": vars(args), "help_goal": HELP_GOAL, "help": helps, "first_step": step}
    plot(result, write_result("startup", result).with_suffix(".png"))
    print(json.dumps(result, indent=1))


def help_times(scripts: list[str], repeats: int) -> dict[str, dict]:
    """{script: medians}, and those of a Python that does nothing; the scripts take turns."""
    from benchmarks.data.prepare import seconds

    commands = {"python -c pass": ["-c", "pass"], **{script: [script, "--help"] for script in scripts}}
    for command in commands.values():
        seconds(command)  # compiles what has not been
    turns = {name: [] for name in commands}
    for _ in range(repeats):
        for name, command in commands.items():
            turns[name].append(seconds(command))
    clock, spent = (
        {name: statistics.median(turn[n] for turn in found) for name, found in turns.items()} for n in (0, 1)
    )
    return {
        name: {
            "seconds": round(clock[name], 3),
            "processor_seconds": round(spent[name], 3),
            "times_python": round(clock[name] / clock["python -c pass"], 2),
            "met": clock[name] < HELP_GOAL,
        }
        for name in commands
    }


def first_step(command: list[str]) -> dict[str, float]:
    """{stage: seconds} of a training up to its first step; then it is ended. Raises UserError if there is none."""
    with tempfile.TemporaryDirectory() as run_dir:
        metrics, marks = Path(run_dir, "metrics.jsonl"), dict.fromkeys([*STAGES.values(), LAST_STAGE])
        start = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, *command, "--output_dir", run_dir],
            cwd=ROOT,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},  # or the lines would come late
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        try:
            for line in process.stdout:
                for words, stage in STAGES.items():
                    if words in line and marks[stage] is None:
                        marks[stage] = time.perf_counter()
                if all(marks[stage] for stage in STAGES.values()):
                    break
            while process.poll() is None and not (metrics.exists() and "train/loss" in metrics.read_text()):
                time.sleep(0.01)
            marks[LAST_STAGE] = time.perf_counter()
            if process.poll():
                raise UserError(f"{' '.join(command)} ended before its first step")
        finally:
            process.kill()
            process.communicate()
    times = [start, *marks.values()]
    return {stage: after - before for stage, before, after in zip(marks, times, times[1:], strict=False)}


def import_times(command: list[str]) -> dict[str, float]:
    """{package: seconds that the import of its modules took}, the dearest first, the others as one."""
    with tempfile.TemporaryDirectory() as run_dir:
        flags = ["--output_dir", run_dir, "--max_train_steps", "1"]
        result = subprocess.run(
            [sys.executable, "-X", "importtime", *command, *flags], cwd=ROOT, capture_output=True, text=True
        )
    return packages(result.stderr)


def packages(log: str) -> dict[str, float]:
    """import_times from what -X importtime writes."""
    spent = Counter()
    for own, name in re.findall(r"import time: +(\d+) \| +\d+ \| +(\w+)", log):
        spent[name] += int(own) / 1e6
    named = dict(spent.most_common(PACKAGES))
    return {name: round(value, 2) for name, value in (named | {"others": spent.total() - sum(named.values())}).items()}


def plot(result: dict, path: Path) -> None:
    """Bars: --help of every script on the left, the way to the first step on the right."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4), dpi=110)
    rows = list(result["help"].items())[::-1]
    for n, (unit, label) in enumerate((("seconds", "by the clock"), ("processor_seconds", "of the processor"))):
        places = [place + (0.5 - n) * 0.4 for place in range(len(rows))]
        left.bar_label(left.barh(places, [row[unit] for _, row in rows], 0.36, label=label), fmt="%.2f", fontsize=7)
    left.set_yticks(range(len(rows)), [name for name, _ in rows], fontsize=8)
    left.axvline(HELP_GOAL, color="tab:red", linestyle="--", linewidth=1, label="goal: below")
    left.set(xlabel="seconds to --help"), left.legend(fontsize=8, loc="upper right")
    step = result["first_step"]
    for place, parts in ((1, step["stages"]), (0, step["imports"])):
        start = 0
        for name, value in parts.items():
            right.barh(place, value, 0.5, left=start, edgecolor="white")
            if value > 0.02 * STEP_GOAL:
                angle = 90 if parts is step["imports"] else 0
                right.text(
                    start + value / 2,
                    place,
                    name.replace(", ", "\n"),
                    fontsize=7,
                    ha="center",
                    va="center",
                    rotation=angle,
                )
            start += value
    right.axvline(STEP_GOAL, color="tab:red", linestyle="--", linewidth=1)
    right.set_yticks((0, 1), ("imports", "first step"))
    right.set(xlabel=f"seconds to the first step: {step['seconds']:g}, goal {STEP_GOAL}")
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


if __name__ == "__main__":
    run(lambda: main(parse_args()))
