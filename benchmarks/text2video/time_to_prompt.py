"""How long until a model does what the prompt says? Accuracy against minutes of training, ours and the peer's.

    python -m benchmarks.text2video.time_to_prompt --minutes 3 5 10                    # ours; about half an hour
    pip install --no-deps -r benchmarks/requirements.txt
    python -m benchmarks.text2video.time_to_prompt --peer --minutes 5 10               # the peer, on the same cores

Ours: the demo preset on a freshly written demo dataset (--data_seed), one training per number of minutes, with as many
steps as fit into them; `seconds` in the result is what the training loop took from its first step to its last, with
its validations and samples. Then evaluate_text2video.py judges the videos of its prompts, half of them worded as no
training caption is.

The peer, video-diffusion-pytorch, is the 2022 library that people copy: its Unet3D and GaussianDiffusion with a learned
vector per caption. Its Trainer is for CUDA and unconditional GIFs, so its loop is written out here with its settings
(Adam, L1, 1000 timesteps, no moving average in the first 2,000 steps), except where they would hold it back in so few
minutes: dim 32, batches of 4, no accumulation, learning rate 3e-4. Its own sampler takes 1000 steps, half an hour for 4
clips: here it gets 15 of DDIM, and fewer prompts. Both go into results/time_to_prompt.json and .png.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from utils.cli import Parser, UserError, integer, number, run

ROOT = Path(__file__).parents[2]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n", 1)[1])
    parser.add_argument("--minutes", type=number(0, 1e4, above=True), nargs="+", default=[3, 5, 10], help="of training")
    parser.add_argument("--num_prompts", type=integer(1, 10_000), default=192, help="per group: seen and held out")
    parser.add_argument(
        "--data_seed", type=integer(0, 2**32 - 1), default=1, help="of the demo dataset that is written"
    )
    parser.add_argument("--work_dir", type=Path, help="keep data, runs and videos here; default: a temporary folder")
    parser.add_argument("--num_inference_steps", type=integer(1, 1000), default=15, help="of the peer's videos")
    parser.add_argument("--peer", action="store_true", help="measure video-diffusion-pytorch instead of ours")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    from benchmarks.measure import RESULTS, hardware, write_result
    from utils.demo_data.demo_dataset import write_demo_dataset

    with tempfile.TemporaryDirectory() as temporary:
        work = args.work_dir or Path(temporary)
        write_demo_dataset(work / "data", seed=args.data_seed)
        points = peer_curve(args, work) if args.peer else our_curve(args, work)
    path = RESULTS / "time_to_prompt.json"
    curves = json.loads(path.read_text(encoding="utf-8"))["curves"] if path.exists() else {}
    name = "video-diffusion-pytorch 0.7.0" if args.peer else "ours, demo preset"
    curves[name] = {"command": command(args), "points": points}
    curves[name] |= {"data_seed": args.data_seed, "hardware": hardware()}
    plot(curves, write_result("time_to_prompt", {"curves": curves}).with_suffix(".png"))
    for point in points:
        print(json.dumps(point))


def command(args: argparse.Namespace) -> str:
    """What to type for the same curve, but for where its files lie."""
    flags = ["--minutes", *(f"{minutes:g}" for minutes in args.minutes), "--num_prompts", args.num_prompts]
    flags += ["--data_seed", args.data_seed]
    flags += ["--peer", "--num_inference_steps", args.num_inference_steps] if args.peer else []
    return " ".join(map(str, ["python -m benchmarks.text2video.time_to_prompt", *flags]))


def our_curve(args: argparse.Namespace, work: Path) -> list[dict]:
    """One training per number of minutes, then the score of each."""
    rate = train(work, "rate", 60)["steps_per_second"]
    points = []
    for minutes in args.minutes:
        steps = max(1, int(0.97 * minutes * 60 * rate))
        points.append({"minutes": minutes, **train(work, f"{minutes:g}_minutes", steps)})
        rate = points[-1]["steps"] / points[-1]["seconds"]
    for point in points:
        run_dir = work / f"{point['minutes']:g}_minutes"
        script("evaluate_text2video.py", "--checkpoint", run_dir, "--num_prompts", args.num_prompts, data=work)
        judged = json.loads((run_dir / "evaluation" / "evaluation.json").read_text(encoding="utf-8"))
        point["groups"] = judged["groups"]
    return points


def train(work: Path, name: str, steps: int) -> dict:
    """Train the demo preset for so many steps: {"steps", "seconds", "command_seconds", "steps_per_second"}."""
    start = time.perf_counter()
    flags = ["--preset", "demo", "--max_train_steps", steps, "--output_dir", work / name, "--no_wandb"]
    script("train_text2video.py", *flags, data=work)
    command = time.perf_counter() - start
    rows = [json.loads(line) for line in (work / name / "metrics.jsonl").read_text().splitlines()]
    rates = [row["train/steps_per_second"] for row in rows if "train/steps_per_second" in row]
    steps_logged = [row["step"] for row in rows if "train/steps_per_second" in row]
    counts = [now - before for before, now in zip([0, *steps_logged], steps_logged, strict=False)]
    seconds = sum(count / rate for count, rate in zip(counts, rates, strict=True))
    later = rates[len(rates) // 2 :]
    return {
        "steps": steps,
        "seconds": round(seconds, 1),
        "command_seconds": round(command, 1),
        "steps_per_second": round(sum(later) / len(later), 3),
    }


def script(name: str, *flags, data: Path) -> None:
    """Run one of the scripts as a user would. Raises UserError if it fails."""
    run_script(name, "--data_dir", data / "data", *flags)


def run_script(name: str, *flags) -> None:
    """Run a script of this repository in a process of its own. Raises UserError if it fails."""
    command = [sys.executable, str(ROOT / name), *map(str, flags)]
    if subprocess.run(command, cwd=ROOT).returncode:
        raise UserError(f"{' '.join(command)} failed, see above")


# The peer -------------------------------------------------------------------------------------------------------------


def peer_curve(args: argparse.Namespace, work: Path) -> list[dict]:
    """One training, its weights kept at each number of minutes, and then the score of each."""
    import copy

    import torch

    from benchmarks.text2video.peers import import_peer
    from utils.evaluation.benchmark import benchmark
    from utils.evaluation.judge import judge, wanted
    from utils.evaluation.scores import score_groups
    from utils.training.batches import Batches
    from utils.training.order import EndlessSampler, seed_step
    from utils.video.frames import to_uint8
    from video_dataset import TextVideoDataset

    peer = import_peer()
    dataset = TextVideoDataset(work / "data", 8, 32, augment=False, target_fps=4.0, split="train")
    words = sorted({word for caption in dataset.captions() for word in caption.split()})

    class Conditioned(torch.nn.Module):
        """The peer's network and a learned vector per caption, the mean of its words'."""

        def __init__(self):
            super().__init__()
            unet = peer.Unet3D(dim=32, cond_dim=64)
            self.diffusion = peer.GaussianDiffusion(unet, image_size=32, num_frames=8)
            self.table = torch.nn.EmbeddingBag(len(words) + 1, 64)

        def embed(self, captions: list[str]) -> torch.Tensor:
            ids = [[words.index(w) if w in words else len(words) for w in caption.split()] for caption in captions]
            offsets = torch.tensor([0, *map(len, ids)]).cumsum(0)[:-1]
            return self.table(torch.tensor(sum(ids, [])), offsets)

    seed_step(0)
    model = Conditioned().train()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-4)
    sampler = EndlessSampler(len(dataset), seed=0)
    batches = Batches(dataset, 4, 0, sampler)
    points, weights, seconds, steps = [], [], 0.0, 0
    for minutes in sorted(args.minutes):
        while seconds < minutes * 60:
            start = time.perf_counter()
            batch = next(batches)
            loss = model.diffusion((batch["video"] + 1) / 2, cond=model.embed(batch["text"]), null_cond_prob=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            seconds, steps = seconds + time.perf_counter() - start, steps + 1
        points.append({"minutes": minutes, "steps": steps, "seconds": round(seconds, 1)})
        weights.append(copy.deepcopy(model.state_dict()))
        print(f"{minutes:g} minutes, {steps} steps", flush=True)
    for point, kept in zip(points, weights, strict=True):
        model.load_state_dict(kept)
        rows = {}
        for group, prompts in benchmark(args.num_prompts, hard=False).items():
            videos = peer_sample(model, prompts, args.num_inference_steps)
            rows[group] = [(wanted(prompt), judge(to_uint8(v))) for prompt, v in zip(prompts, videos, strict=True)]
        point["groups"] = score_groups(rows)
    return points


def peer_sample(model, prompts: list[str], num_inference_steps: int, batch_size: int = 16):
    """Videos (N, 3, T, H, W) in [-1, 1] by DDIM with the peer's default guidance of 2."""
    import torch
    from diffusers import DDIMScheduler

    diffusion, videos = model.diffusion, []
    scheduler = DDIMScheduler(
        diffusion.num_timesteps, trained_betas=diffusion.betas.tolist(), timestep_spacing="trailing"
    )
    scheduler.set_timesteps(num_inference_steps)
    model.eval()
    with torch.no_grad():
        for first in range(0, len(prompts), batch_size):
            cond = model.embed(prompts[first : first + batch_size])
            x = torch.randn(len(cond), 3, 8, 32, 32, generator=torch.Generator().manual_seed(first))
            for t in scheduler.timesteps:
                noise_pred = diffusion.denoise_fn.forward_with_cond_scale(
                    x, t.expand(len(x)), cond=cond, cond_scale=2.0
                )
                x = scheduler.step(noise_pred, t, x).prev_sample
            videos += list(x.clamp(-1, 1))
    model.train()
    return videos


def plot(curves: dict, path: Path) -> None:
    """All three attributes right against minutes, seen and held out, of every curve."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7.5, 4.5), dpi=110)
    for colour, (name, curve) in zip(("tab:blue", "tab:red", "tab:green"), curves.items(), strict=False):
        minutes = [0, *(point["seconds"] / 60 for point in curve["points"])]
        for group, style in (("seen", "-o"), ("held out", "--s")):
            found = [point["groups"][group]["all"] for point in curve["points"]]
            shares = [found[0]["chance"], *(each["share"] for each in found)]
            low, high = zip((shares[0],) * 2, *(each["interval"] for each in found), strict=True)
            axes.plot(minutes, shares, style, color=colour, markersize=4, label=f"{name}, {group}")
            axes.fill_between(minutes, low, high, color=colour, alpha=0.12, linewidth=0)
    axes.set(xlabel="minutes of training on two CPU cores", ylabel="videos with colour, shape and direction right")
    axes.set(ylim=(-0.03, 1.03), xlim=(0, None)), axes.grid(alpha=0.3), axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


if __name__ == "__main__":
    run(lambda: main(parse_args()))
