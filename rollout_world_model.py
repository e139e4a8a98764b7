"""Let a policy act inside a video model: from real first frames on it sees what the model draws of its own actions.

    python rollout_world_model.py --checkpoint checkpoints/RUN --policy checkpoints/POLICY --dataset DATASET \\
        --success checkpoints/SUCCESS --output_dir rollouts

The policy is one of train_policy.py. It looks at the last frame, the model draws what its next --execute actions lead
to, and so on. With --success, a run of train_inverse_dynamics.py that has learnt whether the task is done, a table says
how often each task is. Result: a LeRobot dataset of the episodes as generate_episodes.py writes them, whose actions are
the policy's, with rollouts.json (how often which task was done) and rollouts.png. With --only_done it holds those alone
in which the task was done, and a policy may learn from them. Stopped and typed again, it goes on.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from utils.cli import Parser, UserError, integer, number, printable, run
from utils.robots import world_args
from utils.robots.world_args import add_start_args, add_world_args, world_problems

# torch and what is built on it are imported in main(): --help and a misspelt flag answer at once.

DECIDE = ("vectors", "starts", "seed", "execute", *world_args.DECIDE)
SHOWN = 8  # episodes in the picture


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.split("\n\n")[0], epilog="\n\n".join(__doc__.split("\n\n")[1:]))
    add_world_args(parser)
    group = parser.add_argument_group("what")
    group.add_argument("--policy", type=Path, required=True, help="a run of train_policy.py")
    add_start_args(group, Path("rollouts"))
    parser.set_defaults(starts="first")
    group.add_argument("--num_frames", type=integer(2, 100_000), default=64, help="of each episode")
    group.add_argument(
        "--execute", type=integer(1), help="actions before it looks again; default: all that it answers with"
    )
    group.add_argument(
        "--done", type=number(0, 1, above=True), default=0.5, help="with --success: so sure must it be, at some frame"
    )
    group.add_argument("--only_done", action="store_true", help="with --success: leave out the other episodes")
    group.add_argument("--debug", action="store_true", help="show tracebacks")
    parser.checks.append(check_args)
    return parser.parse_args(argv)


def check_args(args: argparse.Namespace) -> Iterator[str]:
    if args.only_done and args.success is None:
        yield "--only_done: needs --success, which reads whether the task is done"
    yield from world_problems(args)


def main(args: argparse.Namespace) -> None:
    import numpy as np

    from utils.files import write_text
    from utils.robots.generated import GeneratedEpisodes
    from utils.robots.labels import SuccessReader
    from utils.robots.policies import TrainedPolicy
    from utils.robots.rollouts import done_by_task, most_executed, roll_out, shown, table
    from utils.robots.world_args import starts_of, state_reader_of, world_of
    from utils.runs.checkpoint import sha256
    from utils.video.contact_sheet import contact_sheet
    from utils.video.encode import write_image

    world, policy = world_of(args), TrainedPolicy(args.policy)
    starts = starts_of(args, world)
    policy.check(world.names, starts.fps, sorted({task for _, task, _ in starts.episodes.values()}))
    most = most_executed(world, policy)
    if (args.execute or most) > most:
        raise UserError(f"--execute: got {args.execute}; of the policy's {policy.chunk} actions a piece shows {most}")
    judge = None if args.success is None else SuccessReader(args.success, starts.fps)
    how = {name: getattr(args, name) for name in DECIDE} | {"execute": args.execute or most}
    how |= {"num_frames": args.num_frames, "policy": policy.folder.parent.name, "policy_sha256": sha256(policy.file)}
    how |= {} if judge is None else {"success": args.success.name, "done": args.done, "only_done": args.only_done}
    states = state_reader_of(args, starts)
    how |= {} if states is None else {"state": args.state.name}
    kinds = {"read": False, "asked": False, "judged": judge is not None}
    kinds["state"] = () if states is None else states.names
    episodes = GeneratedEpisodes(args.output_dir, starts, world, how, **kinds)

    asked = args.seed, args.num_frames, "none", 0, args.starts == "anywhere"
    for numbers in episodes.left(args.num_episodes, args.batch_size):
        batch, seeds = [starts.draw(n, *asked) for n in numbers], [args.seed + n for n in numbers]
        frames, tasks = np.stack([each.frame for each in batch]), [each.task for each in batch]
        videos, actions = roll_out(world, policy, tasks, frames, seeds, args.num_frames, how["execute"])
        episodes.told(actions)
        for n, start, video, taken, seed in zip(numbers, batch, videos, actions, seeds, strict=True):
            believed = None if judge is None else judge.done(video)
            if args.only_done and believed.max() < args.done:
                episodes.skip(n)
            else:
                state = None if states is None else states.read(video)[0]
                episodes.add(n, start._replace(actions=taken), video, seed, done=believed, state=state)

    count, skipped = episodes.finish()
    tasks = [starts.draw(n, *asked).task for n in range(args.num_episodes)]
    if judge is not None:
        found = done_by_task(args.output_dir, tasks, args.seed, args.done)
        write_text(args.output_dir / "rollouts.json", json.dumps({**how, "done_by_task": found}, indent=1) + "\n")
        print(table(found))
    write_image(args.output_dir / "rollouts.png", contact_sheet(*shown(args.output_dir, world.cameras, SHOWN)))
    print(f"done: {printable(args.output_dir)}, {count} episodes of {args.num_frames} frames, and rollouts.png")
    if skipped:
        print(f"left out: {skipped} in which the task was not done")


if __name__ == "__main__":
    run(lambda: main(parse_args()))
