"""What makes the network faster, and what does it cost? One finished model, drawn in several ways.

    python -m benchmarks.realtime.network --checkpoint checkpoints/demo
    python -m benchmarks.realtime.network --checkpoint checkpoints/demo --ways bfloat16 compiled

Every way draws the benchmark's prompts with the same seeds, in turns, so that all of them see the same machine. Result:
results/network.json with where the time of a plain drawing goes (text, network, decoder; kinds of operations), and for
each way the median of its time over that of a plain drawing in the same turn, how far its videos are from the plain
ones (mean of the absolute differences, in levels of 255; where a way only rounds otherwise, a model may still draw a
different video from the same seed), and how many are right.
"""

import argparse
import statistics
import time
from contextlib import ExitStack
from pathlib import Path

from utils.cli import Parser, choice, integer, run

SETTINGS = ("num_frames", "height", "width", "guidance_scale", "guidance_interval", "sampler")
WAYS = (  # of faster.py
    *("guidance in two calls", "text projected once", "deep levels every 2nd step", "deep levels every 3rd step"),
    *("linear layers in int8", "bfloat16", "compiled", "compiled, bfloat16"),
)
KINDS = {  # of operations, by what their names contain; the first that fits
    "convolutions": ("conv",),
    "attention": ("scaled_dot_product", "flash_attention", "bmm", "softmax"),
    "matrix products": ("addmm", "mm", "linear", "matmul"),
    "norms": ("norm",),
    "copies": ("copy", "cat", "clone", "contiguous", "_to_copy", "pad"),
}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n", 1)[1])
    parser.add_argument("--checkpoint", type=Path, required=True, help="run folder of a demo model")
    parser.add_argument("--ways", type=choice(*WAYS), nargs="+", default=list(WAYS), help="beside a plain drawing")
    parser.add_argument("--num_prompts", type=integer(1, 10_000), default=24, help="per group: seen and held out")
    parser.add_argument("--batch_size", type=integer(1), default=8, help="videos at once")
    parser.add_argument("--num_inference_steps", type=integer(1), default=25, help="of the sampler")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    import numpy as np
    import torch
    from tqdm.auto import tqdm

    from benchmarks.measure import write_result
    from benchmarks.realtime.faster import ways
    from utils.drawing.opened import open_model
    from utils.evaluation.benchmark import benchmark
    from utils.evaluation.judge import judge, wanted
    from utils.evaluation.scores import score
    from utils.video.frames import to_uint8

    opened = open_model(args.checkpoint, None, None, "cuda" if torch.cuda.is_available() else "cpu")
    model = opened.model
    how = {name: opened.said[name] for name in SETTINGS if name in opened.said}
    how |= {"num_inference_steps": args.num_inference_steps}
    prompts = [prompt for group in benchmark(args.num_prompts, hard=False).values() for prompt in group]
    batches = [prompts[n : n + args.batch_size] for n in range(0, len(prompts), args.batch_size)]
    parts, made = profile(model, batches[0], how), ways(model)
    names = ["plain", *dict.fromkeys(args.ways)]
    seconds, rows, frames = ({name: [] for name in names} for _ in range(3))
    for number, batch in enumerate(tqdm(batches, desc="turns", unit="turn")):
        seeds = range(number * args.batch_size, number * args.batch_size + len(batch))
        for name in names:
            with made[name]():
                if number == 0:
                    model.sample(batch, seeds, **how)  # what is compiled is compiled now
                start = time.perf_counter()
                clips = [to_uint8(video) for video in model.sample(batch, seeds, **how)]
                seconds[name].append(time.perf_counter() - start)
            frames[name] += clips
            rows[name] += [(wanted(prompt), judge(clip)) for prompt, clip in zip(batch, clips, strict=True)]
    found = {}
    for name in names:
        ratios = [own / plain for own, plain in zip(seconds[name], seconds["plain"], strict=True)]
        apart = [np.abs(a.astype(int) - b).mean() for a, b in zip(frames[name], frames["plain"], strict=True)]
        right = score(rows[name])["all"]["share"]
        found[name] = {"time": statistics.median(ratios), "levels": float(np.mean(apart)), "right": right}
        print(f"{name}: {found[name]['time']:.2f} of the time, {np.mean(apart):.2f} levels apart, {right:.0%} right")
    command = f"python -m benchmarks.realtime.network --checkpoint DIR --num_prompts {args.num_prompts}"
    command += f" --batch_size {args.batch_size} --num_inference_steps {args.num_inference_steps}"
    print(write_result("network", {"command": command, "settings": how, "parts": parts, "ways": found}))


def profile(model, prompts: list[str], how: dict) -> dict[str, dict[str, float]]:
    """Shares of the time of one drawing: of text encoder, network, decoder and the rest; and of a call of the network,
    by the KINDS of its operations."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    from benchmarks.realtime.faster import instead

    model.sample(prompts, range(len(prompts)), **how)
    watched = {"text": (model.text_encoder, "encode"), "network": (model.diffusion.unet, "forward")}
    if model.autoencoder is not None:
        watched["decoder"] = model.autoencoder, "decode"
    spent = dict.fromkeys(watched, 0.0)
    with ExitStack() as stack:
        for name, (module, method) in watched.items():
            stack.enter_context(instead(module, method, timed(getattr(module, method), spent, name)))
        start = time.perf_counter()
        model.sample(prompts, range(len(prompts)), **how)
        whole = time.perf_counter() - start
    parts = {name: each / whole for name, each in spent.items()}
    with profiler(activities=[ProfilerActivity.CPU]) as found:
        model.sample(prompts, range(len(prompts)), **(how | {"num_inference_steps": 2}))
    kinds: dict[str, float] = {}
    for event in found.key_averages():
        kind = next((kind for kind, words in KINDS.items() if any(word in event.key for word in words)), "other")
        kinds[kind] = kinds.get(kind, 0) + event.self_cpu_time_total
    every = sum(kinds.values())
    return {
        "of a drawing": parts | {"samplers and the rest": 1 - sum(parts.values())},
        "of operations": {kind: each / every for kind, each in sorted(kinds.items())},
    }


def timed(call, spent: dict[str, float], name: str):
    def answer(*args, **kwargs):
        start = time.perf_counter()
        result = call(*args, **kwargs)
        spent[name] += time.perf_counter() - start
        return result

    return answer


if __name__ == "__main__":
    run(lambda: main(parse_args()))
