"""What does a video cost, and what is it worth? Accuracy and seconds per video of each sampler and number of steps.

    python -m benchmarks.text2video.sampling --checkpoint checkpoints/demo

The model is judged on the benchmark's prompts, the same for every line, half of them worded as no training caption is;
the 1000 steps of DDPM, which the original guide has, are what the others are compared with. The seconds of a video do
not depend on what the model has learnt: each line's are taken next to one step of DDPM, as a ratio of medians, and
those of DDPM are 1000 of its steps. Result: results/sampling.json and sampling.png.
"""

import argparse
import statistics
import time
from pathlib import Path

from utils.cli import Parser, integer, run

REFERENCE = ("ddpm", 1000)
SAMPLERS = ("dpmpp_sde", "dpmpp", "unipc", "ddim")
STEPS = (10, 15, 25, 50)
DEFAULT = ("dpmpp_sde", 25)  # of generate_text2video.py


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n", 1)[1])
    parser.add_argument(
        "--checkpoint", type=Path, default=Path("checkpoints/demo"), help="best_model.pth or its folder"
    )
    parser.add_argument("--num_prompts", type=integer(1, 192), default=48, help="per group: seen and held out")
    parser.add_argument("--batch_size", type=integer(1, 4096), default=16, help="videos at once")
    parser.add_argument("--repeats", type=integer(1, 1000), default=5, help="timings of each line")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    import torch
    from tqdm.auto import tqdm

    from benchmarks.measure import write_result
    from models.diffusion.captioned import CaptionedDiffusion
    from utils.hardware import choose_precision
    from utils.runs.model_file import load_model, unpack_model

    device = "cuda" if torch.cuda.is_available() else "cpu"
    stored = load_model(args.checkpoint)
    model = CaptionedDiffusion(*unpack_model(stored)).eval().to(device)
    sizes = {name: stored[name] for name in ("num_frames", "height", "width", "guidance_scale")}
    precision = choose_precision("auto", on_cpu=device == "cpu")
    choices = [(sampler, steps) for sampler in SAMPLERS for steps in STEPS] + [REFERENCE]
    rows = []
    with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
        for sampler, steps in tqdm(choices, desc="samplers", unit="line"):
            settings = sizes | {"sampler": sampler, "num_inference_steps": steps}
            rows.append({"sampler": sampler, "steps": steps, **time_of(args, model, settings, device)})
            rows[-1]["groups"] = accuracy(args, model, settings)
    found = {(row["sampler"], row["steps"]): row for row in rows}
    default, reference = found[DEFAULT], found[REFERENCE]
    goal = {
        "time": default["relative_time"] / reference["relative_time"],
        "points_lost": round(100 * (share(reference) - share(default)), 2),
    }
    goal["met"] = goal["time"] <= 1 / 40 and goal["points_lost"] <= 2
    settings = {"num_prompts": args.num_prompts, "batch_size": args.batch_size, "precision": precision, **sizes}
    result = {"command": command(args), "device": device, "settings": settings, "goal": goal, "rows": rows}
    plot(rows, write_result("sampling", result).with_suffix(".png"))
    print("\n".join(table(rows)))
    print(f"the default: 1/{1 / goal['time']:.1f} of the time of DDPM's 1000 steps, {goal['points_lost']} points less")


def command(args: argparse.Namespace) -> str:
    return f"python -m benchmarks.text2video.sampling --checkpoint {args.checkpoint} --num_prompts {args.num_prompts}"


def time_of(args: argparse.Namespace, model, settings: dict, device: str) -> dict[str, float]:
    """{"relative_time": of a video, in steps of DDPM, "seconds": of a video}, both of a full batch; the text included.

    DDPM's own relative time is its number of steps: only a few of them are timed.
    """
    prompts, seeds = ["a red circle moving right"] * args.batch_size, range(args.batch_size)
    few = settings | {"sampler": "ddpm", "num_inference_steps": 10}
    timed = few if settings["sampler"] == "ddpm" else settings

    def seconds(what: dict) -> float:
        start = time.perf_counter()
        model.sample(prompts, seeds=seeds, **what).cpu()
        return time.perf_counter() - start

    pairs = [(seconds(timed), seconds(few) / 10) for _ in range(args.repeats)]
    relative = statistics.median(own / step for own, step in pairs)
    own = statistics.median(own for own, _ in pairs) / args.batch_size
    if timed is few:
        relative, own = float(settings["num_inference_steps"]), own * settings["num_inference_steps"] / 10
    return {"relative_time": round(relative, 2), "seconds": round(own, 5)}


def accuracy(args: argparse.Namespace, model, settings: dict) -> dict:
    """Shares of right videos, with their intervals, of seen and held-out combinations."""
    from utils.evaluation.benchmark import judge_model
    from utils.evaluation.scores import score_groups

    return score_groups(judge_model(model, args.num_prompts, False, args.batch_size, settings))


def share(row: dict, name: str = "all") -> float:
    """Right videos of both groups together."""
    groups = row["groups"].values()
    return sum(group[name]["right"] for group in groups) / sum(group[name]["of"] for group in groups)


def table(rows: list[dict]) -> list[str]:
    """The rows as a table in Markdown."""
    lines = [
        "| sampler | steps | s per video | steps of DDPM | all right | strict | speed |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        shares = " | ".join(f"{share(row, name):.1%}" for name in ("all", "strict", "speed"))
        lines.append(
            f"| {row['sampler']} | {row['steps']} | {row['seconds']:.3f} | {row['relative_time']:.1f} | {shares} |"
        )
    return lines


def plot(rows: list[dict], path: Path) -> None:
    """Right videos against time, a line per sampler."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(10, 4), dpi=110, sharex=True)
    for axes, name in zip(panels, ("all", "speed"), strict=True):
        for sampler in dict.fromkeys(row["sampler"] for row in rows):
            own = [row for row in rows if row["sampler"] == sampler]
            axes.plot(
                [row["relative_time"] for row in own], [100 * share(row, name) for row in own], "o-", label=sampler
            )
        axes.set(xscale="log", xlabel="time of a video, in steps of DDPM", ylim=(-2, 102)), axes.grid(alpha=0.3)
        axes.set_title({"all": "colour, shape and direction right (%)", "speed": "speed right (%)"}[name], fontsize=10)
    panels[0].legend()
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


if __name__ == "__main__":
    run(lambda: main(parse_args()))
