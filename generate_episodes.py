"""Write new episodes of a robot, drawn by a video model that obeys actions, as a LeRobot dataset.

    python generate_episodes.py --checkpoint checkpoints/RUN --dataset DATASET --output_dir generated_episodes
    python generate_episodes.py --checkpoint checkpoints/RUN --dataset DATASET --actions noisy --num_frames 64

Each begins with a real frame of --dataset. Its actions are those of another real episode (other), of the same one with
noise (noisy), or its own (own). The result is a dataset of format v3.0 that lerobot opens: videos, tasks, the actions
that were asked for, and columns that say of each row that it is generated, by which checkpoint and seed, and from which
frame. Stopped and typed again, it goes on.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from utils.cli import Parser, UserError, choice, integer, number, output_problems, printable, run

# torch and what is built on it are imported in main(): --help and a misspelt flag answer at once.

DECIDE = ("num_frames", "vectors", "actions", "action_noise", "starts", "seed", "label", "max_deviation")
DECIDE += ("sampler", "num_inference_steps", "overlap", "mixed_precision")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n", 1)[1])
    group = parser.add_argument_group("what")
    group.add_argument(
        "--checkpoint", type=Path, required=True, help="of either trainer: a run with --vectors, and --tasks"
    )
    group.add_argument("--dataset", type=Path, required=True, help="LeRobot dataset of first frames and actions")
    group.add_argument("--output_dir", type=Path, default=Path("generated_episodes"), help="of the new dataset")
    group.add_argument("--num_episodes", type=integer(1, 999_999), default=100, help="to write")
    group.add_argument("--num_frames", type=integer(2, 100_000), help="of each; default: as many as a piece has")
    group.add_argument("--vectors", metavar="NAME", help="which numbers are the actions; default: the only ones known")
    group.add_argument("--actions", type=choice("other", "noisy", "own"), default="other", help="of which episode")
    group.add_argument(
        "--action_noise", type=number(0), default=0.5, help="of noisy ones, in deviations of the dataset's actions"
    )
    group.add_argument(
        "--inverse_dynamics",
        type=Path,
        metavar="RUN",
        help="of train_inverse_dynamics.py: reads actions from videos",
    )
    group.add_argument(
        "--label", type=choice("requested", "read"), default="requested", help="which of the two are the column action"
    )
    group.add_argument(
        "--max_deviation",
        type=number(0, above=True),
        help="leave out episodes of which it believes that what it reads is off by more, in deviations of the data",
    )
    group.add_argument("--starts", type=choice("anywhere", "first"), default="anywhere", help="which real frame begins")
    group.add_argument("--seed", type=integer(0, 2**31), default=0, help="episode i is drawn with seed + i")
    group = parser.add_argument_group("how")
    group.add_argument("--batch_size", type=integer(1), default=8, help="episodes at a time")
    group.add_argument(
        "--sampler", type=choice("dpmpp_sde", "dpmpp", "unipc", "ddim", "euler"), default="dpmpp_sde", help="solver"
    )
    group.add_argument("--num_inference_steps", type=integer(1, 1000), default=25, help="of the solver")
    group.add_argument("--overlap", type=integer(1), default=4, help="frames that the pieces of a long episode share")
    group.add_argument("--mixed_precision", type=choice("auto", "no", "bf16", "fp16"), default="auto", help="precision")
    group.add_argument("--text_encoder", help="where the frozen text encoder lies, if not where the training found it")
    group.add_argument("--vae", help="where the autoencoder lies, if not where the training found it")
    group.add_argument("--debug", action="store_true", help="show tracebacks")
    parser.checks.append(check_args)
    return parser.parse_args(argv)


def check_args(args: argparse.Namespace) -> Iterator[str]:
    for flag, path in (("checkpoint", args.checkpoint), ("dataset", args.dataset)):
        if not path.exists():
            yield f"--{flag}: there is no {path}"
    if args.inverse_dynamics is None and (args.label == "read" or args.max_deviation is not None):
        yield f"--{'label' if args.label == 'read' else 'max_deviation'}: needs --inverse_dynamics, which reads actions"
    yield from output_problems(args.output_dir, args.dataset if args.dataset.is_dir() else None)


def main(args: argparse.Namespace) -> None:
    import numpy as np
    from tqdm.auto import tqdm

    from utils.lerobot.folder import LeRobotError
    from utils.lerobot.origin import origin_of
    from utils.lerobot.writer import LeRobotWriter
    from utils.robots.generated import card, columns, features
    from utils.robots.labels import Labels
    from utils.robots.starts import Starts
    from utils.robots.svd_world import open_world

    how = {name: getattr(args, name) for name in DECIDE}
    same = ("sampler", "num_inference_steps", "overlap", "mixed_precision")
    model = open_world(
        args.checkpoint,
        args.vectors,
        **{name: how[name] for name in same},
        text_encoder=args.text_encoder,
        vae=args.vae,
    )
    num_frames = model.checked_length(args.num_frames)
    starts = Starts(
        args.dataset,
        model.cameras,
        model.action,
        model.names,
        model.height,
        model.width,
        model.target_fps,
        model.resize_mode,
    )
    asked = args.seed, num_frames, args.actions, args.action_noise, args.starts == "anywhere"
    starts.draw(0, *asked)  # what cannot be had is said before anything is written
    labels = None
    if args.inverse_dynamics is not None:
        labels = Labels(args.inverse_dynamics, model.names, starts.fps)
        how["inverse_dynamics"] = printable(args.inverse_dynamics.name)
    about = {
        "file": printable(f"{model.file.parent.name}/{model.file.name}"),
        "sha256": model.sha256,
        "step": model.step,
    }
    checkpoint = f"{model.file.parent.name}, {model.sha256[:16]}"
    try:
        readme = card(starts, about, json.dumps(how))
        kinds = features(starts, model.names, labels is not None)
        robot = origin_of(args.dataset).get("robot")
        writer = LeRobotWriter(args.output_dir, starts.fps, kinds, robot, card=readme)
        writer.made_with({**how, **about, "num_frames": num_frames, "dataset": str(args.dataset.resolve())})
        left = [n for n in range(args.num_episodes) if n not in writer.staged() | writer.skipped()]
        bar = tqdm(total=args.num_episodes, initial=args.num_episodes - len(left), unit="episode", disable=None)
        for numbers in (left[n : n + args.batch_size] for n in range(0, len(left), args.batch_size)):
            batch = [starts.draw(n, *asked) for n in numbers]
            frames, actions = (np.stack([getattr(each, name) for each in batch]) for name in ("frame", "actions"))
            videos = model.follow([each.task for each in batch], frames, actions, [args.seed + n for n in numbers])
            for n, start, video in zip(numbers, batch, videos, strict=True):
                video[0] = start.frame  # it is known to the bit
                read = None if labels is None else labels.read(video)
                if args.max_deviation is not None and read[1].mean() > args.max_deviation:
                    writer.skip(n)
                else:
                    about = columns(start, checkpoint, args.seed + n, read, args.label)
                    writer.add(n, start.task or " ", about, starts.by_camera(video))
                bar.update()
        bar.close()
        skipped = len(writer.skipped())
        count = writer.finish()
    except LeRobotError as error:
        raise UserError(f"--output_dir: {printable(args.output_dir)} {error}") from None
    print(f"done: {printable(args.output_dir)}, {count} episodes of {num_frames} frames at {starts.fps:g} a second")
    if skipped:
        print(f"left out: {skipped} of which it is not sure what they show, see --max_deviation")


if __name__ == "__main__":
    run(lambda: main(parse_args()))
