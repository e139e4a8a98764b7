"""What one step of fine-tuning Stable Video Diffusion costs: ours, that of diffusers' training scripts, each saving.

    OMP_NUM_THREADS=1 python -m benchmarks.svd.step     # five minutes on one core; a GPU is timed too

Counted, on the meta device, so exactly and without weights or a GPU: the floating-point operations of a step of
img2vid-xt in its linear layers, convolutions and attention, recomputed ones included, and the bytes that it keeps.
Element-wise work and the optimizer are left out of the former; CUDA's own memory and the encoders' activations, which
are gone before the U-Net's are there, out of the latter.

Timed: the same steps. On a GPU img2vid-xt with random weights, one variant after the other, with the peak of memory and
the share of the speed at which the card multiplies large bfloat16 matrices. Without one a tiny model, all variants in
turn: it shows that they run and what they save there, not what they save at full size.

"ours" is train_svd.py. "peer" is the way of diffusers' training scripts with the same scope: the VAE encodes every
frame and CLIP the first one in every step, all U-Net weights are float32 and have a moving average, and recomputation
is that of enable_gradient_checkpointing(). In both the VAE is in float32, as its config asks, and CLIP in bfloat16.
"""

import argparse
from pathlib import Path

from benchmarks.svd.counts import count, print_counts
from benchmarks.svd.networks import full_networks, tiny_networks
from benchmarks.svd.recipes import TERA, TIMED_ONLY, VARIANTS, clip_size, parse_clip, sum_of
from benchmarks.svd.times import add_utilisation, time_full_size, time_tiny
from utils.cli import Parser, integer, run

MEMORY_GOALS = {"512x320x25": 22, "1024x576x25": 40}  # GiB
COST_GOAL, UTILISATION_GOAL = 0.5, 0.4  # of the peer's step; of the card's matrix products


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n", 1)[1])
    parser.add_argument(
        "--clips", type=clip_size, nargs="+", default=list(MEMORY_GOALS), help="WIDTHxHEIGHTxFRAMES, counted and timed"
    )
    parser.add_argument("--tiny_clip", type=clip_size, default="128x128x8", help="what is timed without a GPU")
    parser.add_argument("--repeats", type=integer(2, 1000), default=25, help="timed steps of each variant")
    parser.add_argument("--tiny", action="store_true", help="count the tiny model, to try the benchmark itself")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    import torch

    from benchmarks.measure import matmul_peak, write_result

    networks = tiny_networks() if args.tiny else full_networks()
    counted = {}
    for clip in map(parse_clip, args.clips):
        counted[str(clip)] = {name: count(recipe, clip, networks) for name, recipe in VARIANTS.items()}
        print_counts(clip, counted[str(clip)])

    if torch.cuda.is_available():
        peak = matmul_peak("cuda", "bf16")
        timed = {"model": "img2vid-xt, random weights", "matmul_tflops": round(peak / TERA, 1), "clips": {}}
        for clip in map(parse_clip, args.clips):
            timed["clips"][str(clip)] = time_full_size(clip, args.repeats)
            add_utilisation(timed["clips"][str(clip)], counted[str(clip)], peak)
        judged = goals(counted, timed["clips"])
    else:
        variants = time_tiny(parse_clip(args.tiny_clip), args.repeats)
        timed = {"model": "tests/tiny_svd.py on a CPU, not img2vid-xt", "clips": {args.tiny_clip: variants}}
        judged = goals(counted, {})
    print(f"timed: {timed['model']}")
    for clip, variants in timed["clips"].items():
        print("\n".join(f"{clip}, {name}: {figures}" for name, figures in variants.items()))
    for goal in judged:
        verdict = {True: "met", False: "missed", None: "not measured, needs a GPU"}[goal["met"]]
        print(f"{goal['goal']}: {goal['value']}, {verdict}")
    recipes = {name: recipe._asdict() for name, recipe in (VARIANTS | TIMED_ONLY).items()}
    command = f"python -m benchmarks.svd.step --clips {' '.join(args.clips)} --repeats {args.repeats}"
    result = {"command": command, "recipes": recipes, "counted": counted, "timed": timed, "goals": judged}
    plot(counted, write_result("svd_step", result).with_suffix(".png"))


def goals(counted: dict, timed: dict) -> list[dict]:
    """[{"goal", "value", "met"}]. counted, timed: {clip: {variant: figures}}; what `timed` lacks is not judged."""
    first = next(iter(counted))
    judged = []

    def judge(goal: str, value: float | None, met: bool | None) -> None:
        judged.append({"goal": goal, "value": value, "met": met})

    def on_gpu(clip: str, variant: str, key: str) -> float | None:
        return timed.get(clip, {}).get(variant, {}).get(key)

    def share(ours: float | None, peer: float | None) -> float | None:
        return round(ours / peer, 3) if ours and peer else None

    operations = share(*(sum_of(counted[first][name]["tflop"]) for name in ("ours", "peer")))
    seconds = share(*(on_gpu(first, name, "seconds") for name in ("ours", "peer")))
    text = f"{first}: at most {COST_GOAL} of the peer's"
    judge(f"{text} operations, counted", operations, operations <= COST_GOAL)
    judge(f"{text} seconds", seconds, seconds and seconds <= COST_GOAL)
    for clip, gib in MEMORY_GOALS.items():
        if clip in counted:
            size, peak = round(sum_of(counted[clip]["ours"]["gib"]), 2), on_gpu(clip, "ours", "peak_gib")
            judge(f"{clip}: at most {gib} GiB, counted", size, size <= gib)
            judge(f"{clip}: at most {gib} GiB, measured", peak, peak and peak <= gib)
    used = on_gpu(first, "ours", "utilisation")
    text = f"{first}: the U-Net at {UTILISATION_GOAL:.0%} or more of the card's matrix products"
    judge(text, used, used and used >= UTILISATION_GOAL)
    return judged


def plot(counted: dict[str, dict], path: Path) -> None:
    """Operations and bytes of every variant, a row of two charts for each size of clip."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    kept, learning = ("activations", "recomputed"), ("gradients", "optimizer", "ema")
    operations = {
        "VAE and CLIP": lambda flops: flops["VAE"] + flops["CLIP"],
        "U-Net, forward": lambda flops: sum_of(flops["forward"]),
        "U-Net, backward": lambda flops: sum_of(flops["backward"]),
    }
    memory = {
        "activations": lambda gib: sum(gib[item] for item in kept),
        "gradients, optimizer, average": lambda gib: sum(gib[item] for item in learning),
        "weights": lambda gib: sum(size for item, size in gib.items() if item not in kept + learning),
    }
    figure, rows = pyplot.subplots(len(counted), 2, figsize=(12, 3.6 * len(counted)), dpi=110, squeeze=False)
    for (clip, variants), (left, right) in zip(counted.items(), rows, strict=True):
        for axes, key, parts, unit in ((left, "tflop", operations, "TFLOP a step"), (right, "gib", memory, "GiB")):
            start = [0.0] * len(variants)
            for label, part in parts.items():
                widths = [part(variant[key]) for variant in variants.values()]
                axes.barh(list(variants), widths, left=start, label=label)
                start = [a + b for a, b in zip(start, widths, strict=True)]
            for row, total in enumerate(start):
                axes.text(total, row, f" {total:.1f}", va="center", fontsize=8)
            axes.set(xlabel=f"{unit}, counted", title=clip, xlim=(0, 1.4 * max(start)))  # room for the legend
            axes.invert_yaxis(), axes.grid(axis="x", alpha=0.3)
        right.set_yticklabels([])
        if clip in MEMORY_GOALS:
            right.axvline(MEMORY_GOALS[clip], color="black", linestyle="--", linewidth=1, label="goal for ours")
        left.legend(fontsize=8), right.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


if __name__ == "__main__":
    run(lambda: main(parse_args()))
