"""Do videos move as the data does? Runs, samplers, steps and guidance, each evaluated on the same prompts.

    python -m benchmarks.faithful.guidance --runs checkpoints/demo --work_dir DIR
    python -m benchmarks.faithful.guidance --runs ... --work_dir DIR --name steps --steps 1 2 4 8 16 25 50

Each line is one evaluate_text2video.py, whose videos stay in the folder; typed again it goes on. Result:
results/guidance.json, or what --name says: shares of videos that are right (and coherent: strict), misfit of outlines,
the ratios of travel, change near and far from objects and contrast to those of clips that show the same prompts,
distances to the data. Of runs that differ by their seeds the means follow, with the lowest and highest.
"""

import argparse
import itertools
import json
from pathlib import Path

from utils.cli import Parser, choice, integer, number, run

HOW = ("sampler", "steps", "guidance_scale", "low", "rescale", "parallel", "autoguidance")
PLAIN = 0.0, 1.0  # rescale and parallel that change nothing


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n", 1)[1])
    parser.add_argument("--runs", type=Path, nargs="+", required=True, help="run folders of train_text2video.py")
    parser.add_argument("--data_dir", type=Path, help="demo data; by default of each run that which it learnt from")
    parser.add_argument("--name", type=choice("guidance", "steps", "patches"), default="guidance", help="of the result")
    parser.add_argument("--work_dir", type=Path, required=True, help="the videos stay here")
    parser.add_argument("--num_prompts", type=integer(1, 10_000), default=48, help="per group: seen and held out")
    parser.add_argument(
        "--samplers", type=choice("dpmpp_sde", "dpmpp", "unipc", "ddim"), nargs="+", default=["dpmpp_sde"]
    )
    parser.add_argument("--steps", type=integer(1, 1000), nargs="+", default=[25], help="of the sampler")
    parser.add_argument("--guidance_scales", type=number(0), nargs="+", default=[1.0, 1.5, 2.0], help="1 is none")
    parser.add_argument(
        "--lows", type=number(0, 0.99), nargs="+", default=[0.0, 0.6], help="guidance acts from here to 1: pure noise"
    )
    parser.add_argument("--rescales", type=number(0, 1), nargs="+", default=[0.0], help="--guidance_rescale")
    parser.add_argument("--parallels", type=number(0, 1), nargs="+", default=[1.0], help="--guidance_parallel")
    parser.add_argument(
        "--weaker",
        type=Path,
        nargs="+",
        help="one of each run, for --autoguidance: each way is then drawn with and without it",
    )
    args = parser.parse_args(argv)
    if args.weaker is not None and len(args.weaker) != len(args.runs):
        parser.error(f"--weaker: {len(args.weaker)} for {len(args.runs)} --runs; give one of each")
    return args


def main(args: argparse.Namespace) -> None:
    from benchmarks.measure import write_result
    from benchmarks.text2video.time_to_prompt import run_script

    rows = []
    weaker = dict(zip(args.runs, args.weaker or (), strict=False))
    ways = args.samplers, args.steps, args.guidance_scales, args.lows, args.rescales, args.parallels
    for run_dir, *how in itertools.product(args.runs, *ways, (False, True) if weaker else (False,)):
        sampler, steps, scale, low, rescale, parallel, by_weaker = how
        first = args.lows[0], args.rescales[0], args.parallels[0], False
        if scale == 1 and (low, rescale, parallel, by_weaker) != first:
            continue  # there is no guidance to be changed
        plain = (rescale, parallel) == PLAIN
        name = f"{run_dir.name}_{sampler}_{steps}_{scale:g}_{low:g}"
        name += "" if plain else f"_{rescale:g}_{parallel:g}"
        folder = args.work_dir / f"{name}{'_weaker' * by_weaker}"
        if not (folder / "evaluation.json").is_file():
            data_dir = args.data_dir or json.loads((run_dir / "args.json").read_text(encoding="utf-8"))["data_dir"]
            flags = ["--checkpoint", run_dir, "--data_dir", data_dir, "--num_prompts", args.num_prompts]
            flags += ["--sampler", sampler, "--num_inference_steps", steps, "--guidance_scale", scale]
            flags += ["--guidance_interval", low, 1, "--guidance_rescale", rescale, "--guidance_parallel", parallel]
            flags += ["--autoguidance", weaker[run_dir]] if by_weaker else []
            run_script("evaluate_text2video.py", *flags, "--output_dir", folder)
        found = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
        rows.append({"run": run_dir.name, **dict(zip(HOW, how, strict=True)), **row(found)})
        print(line(rows[-1]), flush=True)
    command = "python -m benchmarks.faithful.guidance --runs DIR ... --work_dir DIR"
    for name in ("name", "num_prompts", "samplers", "steps", "guidance_scales", "lows", "rescales", "parallels"):
        values = getattr(args, name)
        command += f" --{name} {' '.join(map(str, values if isinstance(values, list) else [values]))}"
    command += " --weaker DIR ..." if weaker else ""
    summary = means(rows) if len(args.runs) > 1 else []
    print("\n".join(map(line, summary)))
    print(write_result(args.name, {"command": command, "rows": rows, "means": summary}))


def row(found: dict) -> dict:
    """What of an evaluation.json is compared."""
    shares = {
        f"{name}, {group}": scores[name]["share"]
        for group, scores in found["groups"].items()
        for name in ("all", "strict")
    }
    distances = {f"{name} distance": each["kernel"]["value"] for name, each in found["distances"].items()}
    ratios = {name: each["ratio"] for name, each in found["like"].items()}
    return shares | {"misfit": found["faithful"].get("misfit", {}).get("median")} | ratios | distances


def means(rows: list[dict], how: tuple[str, ...] = HOW) -> list[dict]:
    """Over the runs, of each way to draw (the same in `how`): [mean, lowest, highest] of every number."""
    ways = {}
    for each in rows:
        ways.setdefault(tuple(each[key] for key in how), []).append(each)
    summary = []
    for way, group in ways.items():
        numbers = [key for key in group[0] if key not in ("run", *how)]
        found = {key: [each[key] for each in group if each[key] is not None] for key in numbers}
        spread = {key: [sum(some) / len(some), min(some), max(some)] for key, some in found.items() if some}
        summary.append({"runs": len(group), **dict(zip(how, way, strict=True)), **spread})
    return summary


def line(row: dict) -> str:
    def shown(value) -> str:
        if isinstance(value, list):
            return f"{value[0]:.3g} ({value[1]:.3g} to {value[2]:.3g})"
        return f"{value:.3g}" if isinstance(value, float) else str(value)

    return ", ".join(f"{key} {shown(value)}" for key, value in row.items())


if __name__ == "__main__":
    run(lambda: main(parse_args()))
