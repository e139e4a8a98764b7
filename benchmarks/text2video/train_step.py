"""How fast is a training step? Our U-Net and its peers at equal size, side by side, and where our time goes.

    pip install --no-deps -r benchmarks/requirements.txt
    python -m benchmarks.text2video.train_step

Clips of 16 frames of 64x64 and of 8 frames of 32x32; networks as large as video-diffusion-pytorch's with dim 64 and
32, within 5%; the same loss, the same fused AdamW. On a CPU in float32 and, where it computes in it, in bfloat16; on a
CUDA card in bfloat16 with and without torch.compile. The three take turns step by step, and what is compared are
medians of ratios. Peak memory is that of processes of their own, FLOPs are counted, utilisation is against the matrix
product measured in between.
Result: results/train_step.json and train_step.png.
"""

import argparse
import statistics
import time
from pathlib import Path

from utils.cli import Parser, integer, run

# Size (T, H, W) -> parameters (video-diffusion-pytorch's with dim 64 and 32, and text 768 wide) and batch size.
CASES = {(8, 32, 32): (13_017_683, 4), (16, 64, 64): (41_801_875, 1)}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n", 1)[1])
    parser.add_argument("--repeats", type=integer(1, 1000), default=7, help="timed steps of each network")
    parser.add_argument("--parameters", type=integer(10_000), default=None, help="of each network; for a quick look")
    sizes = ["x".join(map(str, size)) for size in CASES]
    parser.add_argument("--sizes", nargs="+", choices=sizes, default=sizes, help="TxHxW; the larger is slow")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    import torch
    from tqdm.auto import tqdm

    from benchmarks.measure import write_result
    from benchmarks.text2video.peers import NAMES, step_alone
    from utils.hardware import multiplies_in_bf16

    device = "cuda" if torch.cuda.is_available() else "cpu"
    modes = {"cpu": [("fp32", False), ("bf16", False)], "cuda": [("bf16", False), ("bf16", True)]}[device]
    if not multiplies_in_bf16(device):
        modes = [("fp32", compiled) for _, compiled in modes[: 1 if device == "cpu" else 2]]
    cases = []
    for size in CASES:
        if "x".join(map(str, size)) not in args.sizes:
            continue
        parameters, batch_size = CASES[size]
        cases += [(args.parameters or parameters, (batch_size, *size), *mode) for mode in modes]
    # First what needs processes of its own: memory that this one has once held, it may not give back.
    bar = tqdm(total=2 * len(cases), desc="cases, alone and side by side", unit="case")
    alone = []
    for parameters, size, precision, _ in cases:
        alone.append({name: step_alone(name, parameters, size, precision, device, 1) for name in NAMES})
        bar.update()
    rows = []
    for case, found in zip(cases, alone, strict=True):
        rows.append(compare(*case, device, args.repeats, found))
        bar.update()
    bar.close()
    profiled = profile(*cases[-1][:3], device)
    command = f"python -m benchmarks.text2video.train_step --repeats {args.repeats} --sizes {' '.join(args.sizes)}"
    result = {"command": command, "device": device, "rows": rows, "profile": profiled}
    plot(rows, write_result("train_step", result).with_suffix(".png"))
    print("\n".join([*table(rows), "", *(f"{100 * share:5.1f}%  {name}" for name, share in profiled.items())]))


def compare(
    parameters: int, size: tuple[int, ...], precision: str, compiled: bool, device: str, repeats: int, alone: dict
) -> dict:
    """One case: what each network needs for a clip, and how ours relates to the others.

    alone: what step_alone found for each of them.
    """
    from benchmarks.measure import matmul_peak
    from benchmarks.text2video.peers import NAMES, OURS, NetworkStep, make_network

    steps = {name: NetworkStep(make_network(name, parameters), size, precision, device, compiled) for name in NAMES}
    for step in steps.values():
        step()  # the first one warms up
    seconds, peaks = {name: [] for name in NAMES}, []
    for _ in range(repeats):
        peaks.append(matmul_peak(device, precision))
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - start)
    networks = {}
    for name, step in steps.items():
        median = statistics.median(seconds[name])
        networks[name] = {
            "parameters": sum(parameter.numel() for parameter in step.network.parameters()),
            "seconds": round(median, 4),
            "clips_per_second": round(size[0] / median, 4),
            "gflops_per_clip": round(alone[name]["flops"] / size[0] / 1e9, 2),
            "utilisation": round(alone[name]["flops"] / median / statistics.median(peaks), 5),
            "peak_bytes": alone[name]["peak_bytes"],
        }
    for name in NAMES:
        pairs = zip(seconds[name], seconds[OURS], strict=True)
        networks[name]["ours_is_faster"] = round(statistics.median(theirs / own for theirs, own in pairs), 3)
        networks[name]["ours_takes_memory"] = round(networks[OURS]["peak_bytes"] / networks[name]["peak_bytes"], 3)
    about = {"size": size, "precision": precision, "compiled": compiled, "matmul_peak": statistics.median(peaks)}
    return about | {"networks": networks}


def profile(parameters: int, size: tuple[int, ...], precision: str, device: str, rows: int = 15) -> dict[str, float]:
    """Share of our step's time that each kind of operation takes by itself, the largest first."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as recorder

    from benchmarks.text2video.peers import OURS, NetworkStep, make_network

    step = NetworkStep(make_network(OURS, parameters), size, precision, device)
    step()
    kinds = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device == "cuda" else [])
    with recorder(activities=kinds) as record:
        step()
    column = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
    times = {event.key: getattr(event, column) for event in record.key_averages()}
    total = sum(times.values())
    largest = sorted(times, key=times.get, reverse=True)[:rows]
    return {name: round(times[name] / total, 4) for name in largest}


def table(rows: list[dict]) -> list[str]:
    """The rows as a table in Markdown."""
    lines = ["| clips | precision | network | clips/s | GFLOP per clip | of peak | ours is faster | our memory |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for row in rows:
        B, T, H, W = row["size"]
        how = row["precision"] + (", compiled" if row["compiled"] else "")
        for name, found in row["networks"].items():
            lines.append(
                f"| {B} of {T}x{H}x{W} | {how} | {name}, {found['parameters'] / 1e6:.1f}M | "
                f"{found['clips_per_second']:.3f} | {found['gflops_per_clip']:.0f} | {found['utilisation']:.0%} | "
                f"{found['ours_is_faster']:.2f} times | {found['ours_takes_memory']:.2f} times |"
            )
    return lines


def plot(rows: list[dict], path: Path) -> None:
    """How many times as fast as each peer ours is, and how much of its memory it takes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    bars = [
        (f"{'x'.join(map(str, row['size'][1:]))}, {row['precision']}{' compiled' * row['compiled']}\n{name}", found)
        for row in rows
        for name, found in list(row["networks"].items())[1:]
    ]
    figure, (speed, memory) = pyplot.subplots(1, 2, figsize=(10, 0.55 * len(bars) + 1.2), dpi=110, sharey=True)
    places = range(len(bars), 0, -1)
    speed.barh(places, [found["ours_is_faster"] for _, found in bars], color="tab:blue")
    memory.barh(places, [found["ours_takes_memory"] for _, found in bars], color="tab:orange")
    speed.axvline(1, color="black", linewidth=1), memory.axvline(1, color="black", linewidth=1)
    speed.axvline(1.5, color="tab:green", linewidth=1, linestyle="--")
    speed.set_yticks(list(places), [label for label, _ in bars], fontsize=8)
    speed.set(xlabel="clips per second of ours / of the peer (goal: 1.5)")
    memory.set(xlabel="peak memory of ours / of the peer")
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


if __name__ == "__main__":
    run(lambda: main(parse_args()))
