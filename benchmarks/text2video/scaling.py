"""How does a training step grow with frames, size and batch? Seconds and memory, ours and the 2022 peer's.

    pip install --no-deps -r benchmarks/requirements.txt
    python -m benchmarks.text2video.scaling

Networks as large as video-diffusion-pytorch's with dim 32, in bfloat16; one thing grows at a time, from 8 frames of
32x32. Each point is a process of its own; a point that needs too much memory ends its curve. The exponent p of cost ~
n^p is that of the last doubling: where something fixed (weights, optimizer) is large, the first ones say little.

The base preset at 16 frames of 256x256 is predicted for CUDA: weights, gradients, AdamW, moving average, and what
autograd keeps, counted on the meta device; where there is a CUDA card it is measured beside. Result:
results/scaling.json and scaling.png.
"""

import argparse
import math
from pathlib import Path

from utils.cli import Parser, integer, run

BASE = {"batch": 1, "frames": 8, "size": 32}
GROWTH = {"frames": (8, 16, 32, 64), "size": (32, 64, 128), "batch": (1, 2, 4, 8)}
PARAMETERS = 13_017_683  # of video-diffusion-pytorch with dim 32


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n", 1)[1])
    parser.add_argument("--steps", type=integer(1, 100), default=3, help="timed at each point")
    parser.add_argument("--parameters", type=integer(10_000), default=PARAMETERS, help="of each network")
    parser.add_argument("--largest", type=integer(8), default=128, help="leave out larger numbers; for a quick look")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    import torch
    from tqdm.auto import tqdm

    from benchmarks.measure import write_result
    from benchmarks.text2video.peers import OURS, PEER_2022, step_alone
    from utils.hardware import multiplies_in_bf16

    device = "cuda" if torch.cuda.is_available() else "cpu"
    precision = "bf16" if multiplies_in_bf16(device) else "fp32"
    points = [(name, what, n) for what, values in GROWTH.items() for n in values for name in (OURS, PEER_2022)]
    curves, failed = {}, set()
    for name, what, n in tqdm([point for point in points if point[2] <= args.largest], desc="points", unit="point"):
        setting = BASE | {what: n}
        clips = (setting["batch"], setting["frames"], setting["size"], setting["size"])
        if (name, what) in failed:
            continue
        try:
            found = step_alone(name, args.parameters, clips, precision, device, args.steps)
        except RuntimeError as error:  # killed for memory, or CUDA's own word for it
            print(f"{name} ends at {what} {n}: {error}")
            failed.add((name, what))
            continue
        curves.setdefault(name, {}).setdefault(what, []).append({"n": n, **found})
    exponents = {
        name: {
            what: {value: exponent(points, value) for value in ("seconds", "peak_bytes")} for what, points in of.items()
        }
        for name, of in curves.items()
    }
    memory = {"predicted": predict((1, 16, 256, 256)), "measured": None}
    if device == "cuda":
        memory["measured"] = base_preset_peak((1, 16, 256, 256))
    command = f"python -m benchmarks.text2video.scaling --steps {args.steps}"
    result = {"command": command, "device": device, "precision": precision, "curves": curves, "exponents": exponents}
    result["base_preset_16x256x256"] = memory
    plot(curves, exponents, write_result("scaling", result).with_suffix(".png"))
    for name, of in exponents.items():
        for what, values in of.items():
            print(f"{name}, {what}: seconds ~ n^{values['seconds']}, memory ~ n^{values['peak_bytes']}")
    print(
        "base preset, 16 frames of 256x256:", {name: f"{n / 2**30:.2f} GiB" for name, n in memory["predicted"].items()}
    )


def exponent(points: list[dict], value: str) -> float | None:
    """p of value ~ n^p over the last two points; None for a single one."""
    if len(points) < 2:
        return None
    a, b = points[-2:]
    return round(math.log(b[value] / a[value]) / math.log(b["n"] / a["n"]), 2)


def base_settings():
    """The trainer's parsed arguments for its defaults."""
    import train_text2video

    return train_text2video.parse_args(["--data_dir", "."])


def predict(size: tuple[int, ...]) -> dict[str, int]:
    """Bytes that a training step of the base preset needs on a CUDA card, by item, for clips of size (B, T, H, W)."""
    import torch

    from benchmarks.text2video.peers import TEXT_DIM, TOKENS
    from models.ledger import step_bytes
    from utils.runs.new_model import make_unet

    with torch.device("meta"):
        unet = make_unet(base_settings(), TEXT_DIM).to("meta").train()
        B, T, H, W = size
        inputs = torch.empty(B, 3, T, H, W), torch.zeros(B), torch.empty(B, TOKENS, TEXT_DIM)
    return step_bytes(unet, inputs)


def base_preset_peak(size: tuple[int, ...]) -> int | None:
    """What CUDA really allocates for it; None if it does not fit."""
    import torch

    from benchmarks.text2video.peers import TEXT_DIM, NetworkStep
    from utils.runs.new_model import make_unet
    from utils.training.ema import moving_average

    try:
        step = NetworkStep(make_unet(base_settings(), TEXT_DIM), size, "bf16", "cuda")
        average = moving_average(list(step.network.parameters()), 0.999)
        for _ in range(2):
            step()
            average.step(step.network.parameters())
        return torch.cuda.max_memory_allocated()
    except torch.OutOfMemoryError:
        return None


def plot(curves: dict, exponents: dict, path: Path) -> None:
    """Seconds (above) and memory (below) against frames, size and batch, on logarithmic axes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(2, len(GROWTH), figsize=(11, 6.5), dpi=110, sharex="col", sharey="row")
    for row, (value, unit, label) in zip(
        panels, (("seconds", 1, "seconds per step"), ("peak_bytes", 2**30, "peak memory (GiB)")), strict=True
    ):
        for axes, what in zip(row, GROWTH, strict=True):
            for (name, of), colour in zip(curves.items(), ("tab:blue", "tab:red"), strict=False):
                points = of.get(what, [])
                slope = exponents[name].get(what, {}).get(value)
                axes.plot(
                    [point["n"] for point in points],
                    [point[value] / unit for point in points],
                    "o-",
                    color=colour,
                    label=f"{name}: n^{slope}",
                )
            axes.set(xscale="log", yscale="log"), axes.grid(alpha=0.3, which="both"), axes.legend(fontsize=7)
            axes.set_xticks(GROWTH[what], GROWTH[what]), axes.minorticks_off()
        row[0].set_ylabel(label)
    for axes, what in zip(panels[1], ("frames", "pixels a side", "clips per batch"), strict=True):
        axes.set_xlabel(what)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


if __name__ == "__main__":
    run(lambda: main(parse_args()))
