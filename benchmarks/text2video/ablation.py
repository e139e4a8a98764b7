"""Which settings learn most in the same time? One factor changed at a time, from one base.

    python -m benchmarks.text2video.ablation --jobs 2    # hours on two cores; stopped and typed again, it goes on
    python -m benchmarks.text2video.ablation --report    # the table and the plot of what is there already

Each variant is trained by train_text2video.py on one core, with two seeds or more and as many steps as --steps of the
base cost in processor time (measured side by side). Then it is judged on the benchmark's prompts, half of them
in sentence forms that training never had. What is compared is the mean share of right colours, shapes and directions
over seen and held-out combinations: after minutes it separates variants sooner than the share of videos that have
everything right. Results: results/ablation.json, ablation.md and ablation.png.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue

from utils.cli import Parser, integer, run

# What the table starts from: the demo preset before it took this table's winners, which are all cheaper.
BASE = [
    *("--model_channels", "64", "--channel_mult", "1", "1.5", "--text_dim", "128"),
    *("--cross_attention_levels", "0", "1", "--self_attention_levels", "0", "1"),
]
# Factor -> variant -> flags on top of BASE.
FACTORS = {
    "base": {"before the winners": []},
    "prediction type": {
        "epsilon, unweighted (the guide's)": ["--prediction_type", "epsilon", "--loss_weighting", "none"],
        "v": ["--prediction_type", "v_prediction"],
    },
    "timesteps": {
        "uniform (the guide's)": ["--timestep_sampling", "uniform"],
        "logit-normal, 1 wide": ["--logit_std", "1"],
    },
    "noise shift": {
        "2": ["--noise_shift", "2"],
        "4": ["--noise_shift", "4"],
        "1 (the guide's)": ["--noise_shift", "1"],
    },
    "loss weighting": {
        "none": ["--loss_weighting", "none"],
        "min-SNR": ["--loss_weighting", "min_snr"],
        "cap 10": ["--snr_gamma", "10"],
    },
    "text dropout": {"0.1 (the guide's)": ["--text_dropout", "0.1"]},
    "convolution": {"full 3x3x3 (the guide's)": ["--conv_type", "full"]},
    "attention to the text": {
        "in every level (the guide's)": ["--cross_attention_levels", "1", "1"],
        # attention inside a frame stands beside that to the text, so it goes with it
        "in the middle only": ["--cross_attention_levels", "0", "0", "--self_attention_levels", "0", "0"],
    },
    "attention along time": {
        "in every level (the guide's)": ["--temporal_attention_levels", "1", "1"],
        "in the middle only": ["--temporal_attention_levels", "0", "0"],
    },
    "learning rate": {"half": ["--learning_rate", "1e-3"], "1.5 times": ["--learning_rate", "3e-3"]},
    "batch size": {"4": ["--batch_size", "4"], "16": ["--batch_size", "16"]},
    "EMA decay": {"0.98": ["--ema_decay", "0.98"], "0.999": ["--ema_decay", "0.999"]},
    "text encoder": {"64 wide": ["--text_dim", "64"], "256 wide": ["--text_dim", "256"]},
    "patch stem": {"2x2": ["--patch_size", "2"]},
    "optimizer": {"AdamW, 1e-3": ["--optimizer", "adamw", "--learning_rate", "1e-3"]},
    "position features": {"none (the guide's)": ["--no_position_features"]},
    "attention inside a frame": {"in the middle only": ["--self_attention_levels", "0", "0"]},
    "channels": {
        "48 and 96": ["--model_channels", "48", "--channel_mult", "1", "2"],
        "96 and 144": ["--model_channels", "96"],
    },
    "all winners": {
        "the demo preset": [
            *("--model_channels", "48", "--channel_mult", "1", "2", "--text_dim", "64"),
            *("--cross_attention_levels", "0", "0", "--self_attention_levels", "0", "0"),
        ]
    },
}
# Of the base's models: other ways to sample, without training. Variant -> settings of CaptionedDiffusion.sample.
SAMPLING = {
    **{f"guidance {scale:g}": {"guidance_scale": scale} for scale in (1.0, 3.0, 4.0)},
    "DPM-Solver++ without fresh noise": {"sampler": "dpmpp"},
    "DDIM": {"sampler": "ddim"},
}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n", 1)[1])
    parser.add_argument("--data_dir", type=Path, default=Path("demo_video_data"), help="written by video_dataset.py")
    parser.add_argument("--steps", type=integer(1), default=420, help="of the base; others get the same time")
    parser.add_argument("--seeds", type=integer(1, 100), default=2, help="runs of each variant")
    parser.add_argument("--jobs", type=integer(1, 64), default=1, help="runs at a time, each on a core of its own")
    parser.add_argument("--num_prompts", type=integer(1, 192), default=32, help="per group: seen and held out")
    parser.add_argument("--num_inference_steps", type=integer(1, 1000), default=12, help="of each judged video")
    parser.add_argument("--factors", nargs="+", default=list(FACTORS), help="only these")
    parser.add_argument("--report", action="store_true", help="train nothing")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # how a run is started in its own process: JSON
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    if args.one:
        print(json.dumps(train_and_judge(args, **json.loads(args.one))))
        return
    path = results_path()
    rows = json.loads(path.read_text(encoding="utf-8"))["runs"] if path.exists() else []
    if not args.report:
        run_all(args, rows)
    report(args, rows)


def results_path() -> Path:
    from benchmarks.measure import RESULTS

    return RESULTS / "ablation.json"


def run_all(args: argparse.Namespace, rows: list[dict]) -> None:
    """Run what is not in `rows` yet, --jobs at a time, and keep every result as it comes."""
    from tqdm.auto import tqdm

    done = {(row["factor"], row["variant"], row["seed"]) for row in rows}
    queue = [
        {"factor": factor, "variant": list(FACTORS[factor])[rank], "seed": seed}
        for rank in range(max(map(len, FACTORS.values())))  # all seeds of each factor's first variant come first
        for factor in args.factors
        for seed in range(args.seeds)
        if rank < len(FACTORS[factor]) and (factor, list(FACTORS[factor])[rank], seed) not in done
    ]
    cores: Queue[int] = Queue()
    for core in sorted(os.sched_getaffinity(0))[: args.jobs]:
        cores.put(core)

    def run_one(job: dict) -> dict | None:
        core = cores.get()
        flags = [
            f"--{name}={getattr(args, name)}" for name in ("data_dir", "steps", "num_prompts", "num_inference_steps")
        ]
        try:
            result = subprocess.run(
                [sys.executable, "-m", "benchmarks.text2video.ablation", "--one", json.dumps(job), *flags],
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                preexec_fn=lambda: os.sched_setaffinity(0, {core}),
                capture_output=True,
                text=True,
            )
        finally:
            cores.put(core)
        if result.returncode:
            print(f"{job}: failed\n{result.stderr[-2000:]}", file=sys.stderr)
            return None
        return json.loads(result.stdout.splitlines()[-1])

    with ThreadPoolExecutor(max(1, args.jobs)) as pool, tqdm(total=len(queue), desc="runs", unit="run") as bar:
        for row in pool.map(run_one, queue):
            if row is not None:
                rows.append(row)
                save(args, rows)
            bar.update()


def save(args: argparse.Namespace, rows: list[dict]) -> None:
    from benchmarks.measure import write_result

    names = ("steps", "num_prompts", "num_inference_steps")
    settings = {name: getattr(args, name) for name in names}
    write_result(
        "ablation", {"command": "python -m benchmarks.text2video.ablation --jobs 2", "settings": settings, "runs": rows}
    )


def train_and_judge(args: argparse.Namespace, factor: str, variant: str, seed: int) -> dict:
    """Train one variant for the time that args.steps of the base take, and judge it."""
    import torch

    import train_text2video
    from benchmarks.measure import TrainingStep, cost_ratio
    from models.diffusion.captioned import CaptionedDiffusion
    from utils.evaluation.benchmark import judge_model
    from utils.evaluation.scores import score_groups
    from utils.hardware import multiplies_in_bf16
    from utils.runs.model_file import load_model, unpack_model

    torch.set_num_threads(1)
    common = ["--preset", "demo", *BASE, "--data_dir", str(args.data_dir), "--no_wandb", "--seed", str(seed)]
    flags = FACTORS[factor][variant]
    captions = [path.read_text(encoding="utf-8") for path in sorted((args.data_dir / "captions").glob("*.txt"))]
    base, changed = (train_text2video.parse_args([*common, *more]) for more in ([], flags))
    ratio = cost_ratio(TrainingStep(changed, captions), TrainingStep(base, captions)) if flags else 1.0
    steps = round(args.steps / ratio)

    with tempfile.TemporaryDirectory() as folder:
        rare = ["--validate_every", "1000000", "--sample_every", "1000000", "--checkpoint_every", "1000000"]
        flags = [*common, *flags, *rare, "--max_train_steps", str(steps), "--output_dir", folder]
        start, stdout = time.process_time(), sys.stdout
        sys.stdout = sys.stderr
        try:
            train_text2video.main(train_text2video.parse_args(flags))
        finally:
            sys.stdout = stdout
        seconds = time.process_time() - start
        stored = load_model(Path(folder))
        losses = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    model = CaptionedDiffusion(*unpack_model(stored)).eval()
    row = {"factor": factor, "variant": variant, "seed": seed, "steps": steps, "cost": round(ratio, 4)}
    row |= {
        "processor_seconds": round(seconds),
        "val_loss": next(row["val/loss"] for row in losses if "val/loss" in row),
    }
    for name, changes in {"": {}, **(SAMPLING if factor == "base" else {})}.items():
        settings = {
            "num_frames": stored["num_frames"],
            "height": stored["height"],
            "width": stored["width"],
            "guidance_scale": stored["guidance_scale"],
            "num_inference_steps": args.num_inference_steps,
        } | changes
        with torch.autocast("cpu", torch.bfloat16, enabled=multiplies_in_bf16("cpu")):
            groups = score_groups(judge_model(model, args.num_prompts, False, 16, settings))
        row.setdefault("scores", {})[name] = {
            group: {name: (found["right"], found["of"]) for name, found in scores.items()}
            for group, scores in groups.items()
        }
    return row


def learnt(scores: dict) -> float:
    """Mean share of right colours, shapes and directions over the groups of one judged model."""
    from utils.evaluation.scores import CORE

    return statistics.mean(group[name][0] / group[name][1] for group in scores.values() for name in CORE)


def table_rows(rows: list[dict]) -> list[dict]:
    """One line per variant: its figure for each seed, their mean, and its distance from the base's mean."""
    lines = []
    for factor, variants in FACTORS.items():
        for variant in variants:
            runs = [row for row in rows if (row["factor"], row["variant"]) == (factor, variant)]
            for name in dict.fromkeys(name for row in runs for name in row["scores"]):
                judged = [row["scores"][name] for row in runs if name in row["scores"]]
                lines.append(
                    {
                        "factor": "sampling" if name else factor,
                        "variant": name or variant,
                        "steps": round(statistics.mean(row["steps"] for row in runs)),
                        "seeds": [round(100 * learnt(scores), 1) for scores in judged],
                        "all_seen": share(judged, "seen", "all"),
                        "all_held_out": share(judged, "held out", "all"),
                    }
                )
                lines[-1]["mean"] = round(statistics.mean(lines[-1]["seeds"]), 1)
    for line in lines:
        line["difference"] = round(line["mean"] - lines[0]["mean"], 1)
    return lines


def share(judged: list[dict], group: str, name: str) -> float:
    """Right videos in a hundred over the runs of a variant."""
    counts = [scores[group][name] for scores in judged]
    return round(100 * sum(right for right, _ in counts) / sum(of for _, of in counts), 1)


def report(args: argparse.Namespace, rows: list[dict]) -> None:
    """ablation.md, ablation.png, and the table on the terminal."""
    if not rows:
        print("no run is there yet")
        return
    lines = table_rows(rows)
    text = [
        "| factor | variant | steps | learnt, per seed (%) | mean | against the base | all right: seen / held out |"
    ]
    text.append("|---|---|---|---|---|---|---|")
    for line in lines:
        seeds = ", ".join(f"{value:.1f}" for value in line["seeds"])
        text.append(
            f"| {line['factor']} | {line['variant']} | {line['steps']} | {seeds} | {line['mean']:.1f} | "
            f"{line['difference']:+.1f} | {line['all_seen']:.0f} / {line['all_held_out']:.0f} |"
        )
    folder = results_path().parent
    (folder / "ablation.md").write_text("\n".join(text) + "\n", encoding="utf-8")
    plot(lines, folder / "ablation.png")
    print("\n".join(text))


def plot(lines: list[dict], path: Path) -> None:
    """Every variant's seeds and mean as dots on a line, the base's mean as the vertical."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 0.28 * len(lines) + 1.2), dpi=110)
    places = range(len(lines), 0, -1)
    for place, line in zip(places, lines, strict=True):
        axes.plot(line["seeds"], [place] * len(line["seeds"]), "o", color="lightsteelblue", markersize=5)
        axes.plot(line["mean"], place, "|", color="tab:blue", markersize=12, markeredgewidth=2)
    axes.axvline(lines[0]["mean"], color="tab:orange", linewidth=1, label="the base")
    axes.set_yticks(list(places), [f"{line['factor']}: {line['variant']}" for line in lines], fontsize=8)
    axes.set(xlabel="right colours, shapes and directions (%), after the same time on one core", xlim=(0, 100))
    axes.grid(axis="x", alpha=0.3), axes.legend(loc="lower left", fontsize=8)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


if __name__ == "__main__":
    run(lambda: main(parse_args()))
