"""Are actions read rightly from videos, real ones and generated ones; and does the reader know where it is wrong?

    python -m benchmarks.robots.labelled --checkpoint RUN --inverse_dynamics RUN --held_out DIR --work_dir DIR

Held-out episodes: what is read from the real video, and from what the video model draws of its first frame with the
same actions and with those of another episode, against the actions that were taken, or asked for. Windows are put into
quarters by what the reader believes of its error. Results: results/labelled.json, and a plot in --work_dir.
"""

import argparse
from pathlib import Path

import numpy as np

from utils.cli import Parser, integer, run

QUARTERS = 4


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n", 1)[1])
    parser.add_argument("--checkpoint", type=Path, required=True, help="a run with --vectors action and first frames")
    parser.add_argument("--inverse_dynamics", type=Path, required=True, help="a run of train_inverse_dynamics.py")
    parser.add_argument("--held_out", type=Path, required=True, help="a dataset that neither has learnt from")
    parser.add_argument("--work_dir", type=Path, required=True, help="the plot stays here")
    parser.add_argument("--num_windows", type=integer(QUARTERS), default=48, help="held-out episodes, a window of each")
    parser.add_argument("--num_inference_steps", type=integer(1), default=25, help="of sampling")
    parser.add_argument("--batch_size", type=integer(1), default=16, help="videos at a time")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    from benchmarks.measure import write_result
    from benchmarks.robots.episodes import check_rate, windows
    from benchmarks.robots.obeyed import WAYS, draw
    from utils.lerobot.folder import LeRobotFolder
    from utils.robots.labels import Labels
    from utils.robots.svd_world import open_world

    model = open_world(args.checkpoint, num_inference_steps=args.num_inference_steps)
    check_rate(model, args.held_out)
    labels = Labels(args.inverse_dynamics, model.names, model.target_fps or LeRobotFolder(args.held_out).fps)
    real = windows(args.held_out, model.num_frames, args.num_windows)
    shifted = [real[(n + len(real) // 2) % len(real)] for n in range(len(real))]  # as draw has them
    seen = {
        "real": ([each.frames for each in real], [each.actions for each in real]),
        "generated, own actions": (draw(model, real, WAYS[0], model.num_frames, args), [each.actions for each in real]),
        "generated, another's actions": (
            draw(model, real, WAYS[1], model.num_frames, args),
            [each.actions for each in shifted],
        ),
    }
    spread = np.concatenate([each.actions for each in real]).std(axis=0)
    found, points = {}, {}
    for what, (videos, actions) in seen.items():
        found[what], points[what] = compared(labels, videos, actions, spread, model.names)
    words = f"--num_windows {args.num_windows} --num_inference_steps {args.num_inference_steps}"
    command = (
        "python -m benchmarks.robots.labelled --checkpoint RUN --inverse_dynamics RUN --held_out DIR --work_dir DIR"
    )
    plot(points, args.work_dir / "labelled.png")
    print(table(found))
    print(write_result("labelled", {"command": f"{command} {words}", "step": model.step, "read": found}))


def compared(labels, videos: list, actions: list, spread: np.ndarray, names: tuple) -> tuple[dict, np.ndarray]:
    """(errors of what is read, [(believed, true) error of each window] in deviations). spread: (D,), of the data."""
    read = [labels.read(video) for video in videos]
    off = [np.abs(mine[:-1] - theirs[: len(mine) - 1]) for (mine, _), theirs in zip(read, actions, strict=True)]
    true = np.array([(each / spread).mean() for each in off])
    believed = np.array([deviation.mean() for _, deviation in read])
    order = np.array_split(believed.argsort(), QUARTERS)
    ranks = [values.argsort().argsort() for values in (believed, true)]
    every = np.concatenate(off)
    about = {
        "error": float(true.mean()),
        "of_each": {name: float(value) for name, value in zip(names, every.mean(axis=0), strict=True)},
        "by_quarters": [float(true[part].mean()) for part in order],
        "rank_correlation": float(np.corrcoef(*ranks)[0, 1]),
    }
    return about, np.stack([believed, true], axis=1)


def table(found: dict) -> str:
    lines = ["| video | error, deviations | surest quarter | least sure | rank correlation |", "|---|---|---|---|---|"]
    for what, each in found.items():
        ends = f"{each['by_quarters'][0]:.3f} | {each['by_quarters'][-1]:.3f}"
        lines.append(f"| {what} | {each['error']:.3f} | {ends} | {each['rank_correlation']:.2f} |")
    return "\n".join(lines)


def plot(points: dict[str, np.ndarray], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    from utils.logs.plots import save_figure

    figure, axes = pyplot.subplots(figsize=(6, 5))
    for what, pairs in points.items():
        axes.scatter(pairs[:, 0], pairs[:, 1], s=12, alpha=0.7, label=what)
    axes.set(xlabel="believed error, deviations", ylabel="true error, deviations", xlim=(0, None), ylim=(0, None))
    axes.legend()
    save_figure(figure, path)


if __name__ == "__main__":
    run(lambda: main(parse_args()))
