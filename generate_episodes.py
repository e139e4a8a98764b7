"""Write new episodes of a robot, drawn by a video model that obeys actions, as a LeRobot dataset.

    python generate_episodes.py --checkpoint checkpoints/RUN --dataset DATASET --output_dir generated_episodes
    python generate_episodes.py --checkpoint checkpoints/RUN --dataset DATASET --actions noisy --num_frames 64

Each begins with a real frame of --dataset. Its actions are those of another real episode (other), of the same one with
noise (noisy), or its own (own); or the model is told of none and shows what it expects, and they are read from the
video (none, with --inverse_dynamics and --label read). The result is a dataset of format v3.0 that lerobot opens:
videos, tasks, actions, and columns that say of each row that it is generated, by which checkpoint and seed, and from
which frame. Stopped and typed again, it goes on.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from utils.cli import Parser, choice, integer, number, printable, run
from utils.robots import world_args
from utils.robots.world_args import add_start_args, add_world_args, world_problems

# torch and what is built on it are imported in main(): --help and a misspelt flag answer at once.

DECIDE = ("vectors", "actions", "action_noise", "starts", "seed", "label", "max_deviation", *world_args.DECIDE)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n", 1)[1])
    add_world_args(parser)
    group = parser.add_argument_group("what")
    add_start_args(group, Path("generated_episodes"))
    group.add_argument("--num_frames", type=integer(2, 100_000), help="of each; default: as many as a piece has")
    group.add_argument("--actions", type=choice("other", "noisy", "own", "none"), default="other", help="whose")
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
    group.add_argument(
        "--min_done",
        type=number(0, 1),
        default=0.5,
        help="with --success: leave out episodes that are never so sure of it",
    )
    group.add_argument("--debug", action="store_true", help="show tracebacks")
    parser.checks.append(check_args)
    return parser.parse_args(argv)


def check_args(args: argparse.Namespace) -> Iterator[str]:
    if args.inverse_dynamics is None and (args.label == "read" or args.max_deviation is not None):
        yield f"--{'label' if args.label == 'read' else 'max_deviation'}: needs --inverse_dynamics, which reads actions"
    if args.actions == "none" and args.label != "read":
        yield "--actions: none needs --inverse_dynamics and --label read, for nothing else says what was done"
    yield from world_problems(args)


def main(args: argparse.Namespace) -> None:
    import numpy as np

    from utils.robots.generated import GeneratedEpisodes
    from utils.robots.labels import Labels, SuccessReader
    from utils.robots.world_args import starts_of, state_reader_of, world_of

    how = {name: getattr(args, name) for name in DECIDE}
    world = world_of(args)
    how["num_frames"] = num_frames = world.checked_length(args.num_frames)
    starts = starts_of(args, world)
    asked = args.seed, num_frames, args.actions, args.action_noise, args.starts == "anywhere"
    starts.draw(0, *asked)  # what cannot be had is said before anything is written
    labels = judge = None
    if args.inverse_dynamics is not None:
        labels = Labels(args.inverse_dynamics, world.names, starts.fps)
        how["inverse_dynamics"] = printable(args.inverse_dynamics.name)
    if args.success is not None:
        judge = SuccessReader(args.success, starts.fps)
        how |= {"success": printable(args.success.name), "min_done": args.min_done}
    states = state_reader_of(args, starts)
    how |= {} if states is None else {"state": printable(args.state.name)}
    kinds = {"read": labels is not None, "asked": args.actions != "none", "judged": judge is not None}
    state = () if states is None else states.names
    episodes = GeneratedEpisodes(args.output_dir, starts, world, how, **kinds, state=state)

    for numbers in episodes.left(args.num_episodes, args.batch_size):
        batch, seeds = [starts.draw(n, *asked) for n in numbers], [args.seed + n for n in numbers]
        frames, actions = (np.stack([getattr(each, name) for each in batch]) for name in ("frame", "actions"))
        if kinds["asked"]:
            episodes.told(actions)
        videos = world.follow([each.task for each in batch], frames, actions, seeds, listens=kinds["asked"])
        for n, start, video, seed in zip(numbers, batch, videos, seeds, strict=True):
            video[0] = start.frame  # it is known to the bit
            read = None if labels is None else labels.read(video)
            done = None if judge is None else judge.done(video)
            unsure = args.max_deviation is not None and read[1].mean() > args.max_deviation
            if unsure or (done is not None and done.max() < args.min_done):
                episodes.skip(n)
            else:
                state = None if states is None else states.read(video)[0]
                episodes.add(n, start, video, seed, read=read, label=args.label, done=done, state=state)

    count, skipped = episodes.finish()
    print(f"done: {printable(args.output_dir)}, {count} episodes of {num_frames} frames at {starts.fps:g} a second")
    if skipped:
        print(f"left out: {skipped} that are not sure enough, see --max_deviation and --success")


if __name__ == "__main__":
    run(lambda: main(parse_args()))
