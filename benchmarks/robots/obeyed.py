"""Does a video model do what its actions say? Held-out episodes from their first frame: with their own actions, with
those of another episode, and with none.

    python -m benchmarks.robots.obeyed --checkpoint RUN --data_dir DIR --held_out DIR --work_dir DIR --name obeyed

Beside what really happened: PSNR, SSIM, how far optical flow is off, and how far the gripper is, which a small network
reads from the pixels; it learns that from the frames of --data_dir, and its own error on real held-out frames is
stated. A model that obeys is further off with another's actions: at least 1.5 times. --horizon: a curve over so many
frames, each piece going on from the last frames of the one before. Results: results/<name>.json, and a plot and a sheet
of frames in --work_dir.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np

from utils.cli import Parser, integer, run

WAYS = ("own actions", "another's actions", "no actions")
SHOWN = 5  # windows on the sheet
WANTED = 1.5  # error with another's actions over that with one's own


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n", 1)[1])
    parser.add_argument("--checkpoint", type=Path, required=True, help="a run with --vectors action and first frames")
    parser.add_argument("--data_dir", type=Path, required=True, help="the dataset that it learnt from")
    parser.add_argument("--held_out", type=Path, required=True, help="a dataset of other episodes")
    parser.add_argument("--work_dir", type=Path, required=True, help="the tracker, plot and sheet stay here")
    parser.add_argument("--name", default="obeyed", help="of the result")
    parser.add_argument("--num_windows", type=integer(2), default=48, help="held-out episodes, a window of each")
    parser.add_argument("--horizon", type=integer(2), default=None, help="frames of the curve; default: the model's")
    parser.add_argument("--overlap", type=integer(1), default=4, help="frames that pieces of the curve share")
    parser.add_argument("--num_inference_steps", type=integer(1), default=25, help="of sampling")
    parser.add_argument("--tracker_steps", type=integer(1), default=3000, help="fewer for a quick look")
    parser.add_argument("--batch_size", type=integer(1), default=16, help="videos at a time")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    from benchmarks.measure import write_result
    from benchmarks.robots.episodes import check_rate, episodes, windows
    from benchmarks.robots.tracker import errors, kept_tracker
    from utils.robots.svd_world import open_world
    from utils.video.contact_sheet import contact_sheet
    from utils.video.encode import write_image

    model = open_world(args.checkpoint, num_inference_steps=args.num_inference_steps, overlap=args.overlap)
    check_rate(model, args.held_out)
    tracker = kept_tracker(args.work_dir / "tracker.safetensors", episodes(args.data_dir), args.tracker_steps)
    length, horizon = model.num_frames, model.checked_length(args.horizon)
    real, long = (windows(args.held_out, frames, args.num_windows) for frames in (length, horizon))
    result = {"command": command(args), "step": model.step, "frames": length}
    result |= {"windows": len(real), "windows_of_the_curve": len(long)}
    own = np.concatenate([errors(tracker, each.frames, each.states) for each in real])
    result["tracker_cm"] = {"mean": float(own.mean()), "largest": float(own.max())}
    still = [np.repeat(each.frames[:1], length, axis=0) for each in real]
    drawn = {"first frame for ever": still} | {way: draw(model, real, way, length, args) for way in WAYS}
    result["ways"] = {way: measured(real, videos, tracker) for way, videos in drawn.items()}
    result["ratio"] = result["ways"][WAYS[1]]["gripper_cm"] / result["ways"][WAYS[0]]["gripper_cm"]
    spread = range(0, len(real), -(-len(real) // SHOWN))
    shown = [(real[n], *(drawn[way][n] for way in WAYS)) for n in spread]
    rows = [frames for each, *made in shown for frames in (each.frames, *made)]
    labels = [f"{what}: {each.task}" for each, *_ in shown for what in ("real", *WAYS)]
    write_image(args.work_dir / f"{args.name}.png", contact_sheet(rows, labels))

    if horizon > length:
        made = {way: draw(model, long, way, horizon, args) for way in WAYS}
        off = {way: [errors(tracker, *pair) for pair in zip(made[way], states(long), strict=True)] for way in WAYS}
        result["horizon"] = {way: np.mean(found, axis=0).round(3).tolist() for way, found in off.items()}
        plot(result["horizon"], result["tracker_cm"]["mean"], args.work_dir / f"{args.name}_horizon.png")
    print(table(result))
    print(write_result(args.name, result))


def command(args: argparse.Namespace) -> str:
    """What to type for the same, but for where its files lie."""
    words = ["python -m benchmarks.robots.obeyed --checkpoint RUN --data_dir DIR --held_out DIR --work_dir DIR"]
    words += ["--name", args.name, "--num_windows", args.num_windows]
    words += ["--num_inference_steps", args.num_inference_steps]
    words += ["--horizon", args.horizon, "--overlap", args.overlap] if args.horizon else []
    return " ".join(map(str, words))


def draw(model, real: list, way: str, num_frames: int, args: argparse.Namespace) -> list[np.ndarray]:
    """uint8 (num_frames, H, W, 3) from the first frame of each window on."""
    from tqdm.auto import tqdm

    videos = []
    for first in tqdm(range(0, len(real), args.batch_size), desc=way, unit="batch", disable=None, leave=False):
        seeds = list(range(first, min(first + args.batch_size, len(real))))
        others = [(n + len(real) // 2) % len(real) if way == WAYS[1] else n for n in seeds]
        actions = np.stack([real[n].actions[:num_frames] for n in others])
        prompts, frames = [real[n].task for n in seeds], np.stack([real[n].frames[0] for n in seeds])
        videos += model.follow(prompts, frames, actions, seeds, listens=way != WAYS[2])
    return videos


def states(windows: list) -> list[np.ndarray]:
    return [each.states for each in windows]


def as_video(frames: np.ndarray):
    """uint8 (T, H, W, 3) -> float32 (3, T, H, W) in [-1, 1]."""
    import torch

    return torch.from_numpy(frames).permute(3, 0, 1, 2).float() / 127.5 - 1


def measured(real: list, videos: list[np.ndarray], tracker: Callable) -> dict[str, float]:
    """Means over windows of frames behind the first, which was given."""
    import torch

    from benchmarks.robots.tracker import errors
    from models.reconstruction import psnr, ssim
    from utils.conditions.making import FLOW_SCALE, flow_of

    def flow(frames: np.ndarray) -> np.ndarray:  # px a frame
        return flow_of(frames)[:-1].astype(np.float32) * max(frames.shape[1:3]) / FLOW_SCALE

    made = torch.stack([as_video(video[1:]) for video in videos])
    truth = torch.stack([as_video(each.frames[1:]) for each in real])
    off = [errors(tracker, *pair) for pair in zip(videos, states(real), strict=True)]
    pairs = zip(videos, real, strict=True)
    flows = [np.linalg.norm(flow(video) - flow(each.frames), axis=-1).mean() for video, each in pairs]
    return {
        "psnr": psnr(made, truth).clamp(max=99).mean().item(),  # some stand still
        "ssim": ssim(made, truth).mean().item(),
        "flow_px": float(np.mean(flows)),
        "gripper_cm": float(np.mean([each[1:] for each in off])),
        "gripper_cm_at_the_end": float(np.mean([each[-1] for each in off])),
    }


def table(result: dict) -> str:
    lines = [
        "| | PSNR | SSIM | flow off by, px | gripper off by, cm | in the last frame |",
        "|---|---|---|---|---|---|",
    ]
    for way, found in result["ways"].items():
        numbers = f"{found['psnr']:.1f} | {found['ssim']:.3f} | {found['flow_px']:.2f} | {found['gripper_cm']:.2f}"
        lines.append(f"| {way} | {numbers} | {found['gripper_cm_at_the_end']:.2f} |")
    said = "obeyed" if result["ratio"] >= WANTED else f"NOT obeyed, {WANTED:g} is wanted"
    lines.append(f"another's over own actions: {result['ratio']:.2f} times, {said}")
    lines.append(f"the tracker itself is off by {result['tracker_cm']['mean']:.2f} cm on real frames")
    return "\n".join(lines)


def plot(curves: dict[str, list[float]], own_error: float, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    from utils.logs.plots import save_figure

    figure, axes = pyplot.subplots(figsize=(7, 4))
    for way, curve in curves.items():
        axes.plot(curve, label=way)
    axes.axhline(own_error, color="grey", linestyle=":", label="error of the tracker itself")
    axes.set(xlabel="frame", ylabel="gripper off by, cm", ylim=(0, None))
    axes.legend()
    save_figure(figure, path)


if __name__ == "__main__":
    run(lambda: main(parse_args()))
