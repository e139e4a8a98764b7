"""Episodes of a simulated arm, as a LeRobot dataset: scripted experts, and experts that are pushed off their way.

    python -m benchmarks.robots.record --output_dir DIR                  # five tasks, minutes; goes on when typed again
    python -m benchmarks.robots.record --output_dir DIR --size 128 --tasks push

Seeds are fixed: the same command writes the same numbers. An episode ends a little after it has succeeded. Explored
ones have noise on their actions that lasts, so that what happens next does not follow from the first frame: what a
video model has to know in order to obey actions. Those that miss (--missed) aim beside the thing, and those of trained
policies (--acted, --policies) err as policies do, which whoever is to tell success from nearly has to have seen. Such a
reader needs episodes that go on for longer (--behind 16), or it learns that a task is done where an episode ends.
"""

import argparse
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from benchmarks.robots.acting import planned
from benchmarks.robots.simulator import ACTION, STATE, STEPS_PER_SECOND, TASKS, MetaWorld, Simulator
from utils.cli import Parser, UserError, choice, integer, number, printable, run

CAMERA = "observation.images.table"
OFF = 0.02, 0.1  # m beside the thing, of those that miss it
KINDS = "plain", "explored", "missed", "acted"
LASTING = 0.8  # of the noise from one action to the next


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n", 1)[1])
    parser.add_argument("--output_dir", type=Path, required=True, help="of the dataset")
    parser.add_argument("--tasks", type=choice(*TASKS), nargs="+", default=list(TASKS), help="of Meta-World")
    parser.add_argument("--episodes", type=integer(1, 9999), default=100, help="of each task")
    parser.add_argument("--explored", type=number(0, 1), default=0.5, help="share of them with noise on the actions")
    parser.add_argument("--missed", type=number(0, 1), default=0.0, help="share of them that aim beside the thing")
    parser.add_argument("--acted", type=number(0, 1), default=0.0, help="share of them by --policies, who take turns")
    parser.add_argument("--policies", type=Path, nargs="+", default=[], help="runs of train_policy.py")
    parser.add_argument("--execute", type=integer(1), default=4, help="their actions before they look again")
    parser.add_argument(
        "--behind", type=integer(0), default=4, help="frames that an episode goes on for once it has succeeded"
    )
    parser.add_argument("--noise", type=number(0), default=0.6, help="standard deviation of that noise")
    parser.add_argument("--size", type=integer(16, 1024, multiple_of=2), default=64, help="px, of the frames")
    parser.add_argument("--max_frames", type=integer(2, 500), default=64, help="of an episode")
    parser.add_argument("--action_repeat", type=integer(1, 16), default=2, help="steps of the simulator in a frame")
    parser.add_argument("--seed", type=integer(0, 10**6), default=0, help="of the first episode; others count from it")
    parser.checks.append(check_args)
    return parser.parse_args(argv)


def check_args(args: argparse.Namespace) -> Iterator[str]:
    if (args.acted > 0) != bool(args.policies):
        yield "--acted, --policies: each needs the other"
    if round(args.explored + args.missed + args.acted, 6) > 1:
        yield "--explored, --missed, --acted: are more than all episodes"


def main(args: argparse.Namespace, make: Callable[[str, int, int], Simulator] = MetaWorld) -> None:
    """make: a simulator of a task, size and action_repeat."""
    from tqdm import tqdm

    from utils.lerobot.folder import LeRobotError
    from utils.lerobot.writer import LeRobotWriter

    try:
        words = [TASKS[task] for task in args.tasks]
        fps = STEPS_PER_SECOND / args.action_repeat
        policies = [opened(folder, fps, words) for folder in args.policies]
        writer = LeRobotWriter(args.output_dir, fps, features(args.size), "sawyer", words, card(args))
        writer.made_with({name: str(value) for name, value in vars(args).items() if name != "output_dir"})
        numbers = [(n, task, k) for n, task in enumerate(args.tasks) for k in range(args.episodes)]
        done, simulators = writer.staged(), {}
        bar = tqdm(numbers, desc="recording", unit="episode", disable=None)
        for n, task, k in bar:
            if (index := n * args.episodes + k) in done:
                continue
            if task not in simulators:
                for simulator in simulators.values():
                    simulator.close()
                simulators = {task: make(task, args.size, args.action_repeat)}
            policy = policies and policies[k % len(policies)]
            frames, columns = episode(simulators[task], TASKS[task], args.seed + k, kind_of(k, args), policy, args)
            writer.add(index, TASKS[task], columns, {CAMERA: frames})
        writer.finish()
    except LeRobotError as error:
        raise UserError(f"--output_dir: {printable(args.output_dir)} {error}") from None
    print(summary(args.output_dir))


def opened(folder: Path, fps: float, tasks: list[str]):
    """The policy of a run; it has to know these tasks."""
    from utils.robots.policies import TrainedPolicy

    policy = TrainedPolicy(folder)
    policy.check(ACTION, fps, tasks)
    return policy


def kind_of(k: int, args: argparse.Namespace) -> str:
    """Of the k-th episode of a task: the plain ones come first."""
    begins = np.cumsum([1 - args.explored - args.missed - args.acted, args.explored, args.missed])
    return KINDS[int(np.searchsorted(np.round(begins * args.episodes, 6), k, side="right"))]


def features(size: int) -> dict[str, dict]:
    return {
        CAMERA: {"dtype": "video", "shape": [size, size, 3], "names": ["height", "width", "channels"]},
        "observation.state": {"dtype": "float32", "shape": [len(STATE)], "names": list(STATE)},
        "action": {"dtype": "float32", "shape": [len(ACTION)], "names": list(ACTION)},
        "success": {"dtype": "bool", "shape": [1], "names": None},
        "noise": {"dtype": "float32", "shape": [1], "names": None},
        "off": {"dtype": "float32", "shape": [1], "names": None},
        "acted": {"dtype": "bool", "shape": [1], "names": None},
        "start_seed": {"dtype": "int64", "shape": [1], "names": None},
    }


def episode(
    simulator: Simulator, task: str, seed: int, kind: str, policy, args: argparse.Namespace
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(frames (T, size, size, 3), columns) of one of KINDS: frame t is what is seen before action t. policy: who acts
    in an acted one."""
    now, seen, left = simulator.reset(seed), defaultdict(list), args.max_frames
    noise, distance = args.noise * (kind == "explored"), 0.0
    if kind == "missed":
        aside = np.random.default_rng([seed, 0x0FF])
        direction, distance = aside.standard_normal(3), aside.uniform(*OFF)
        decide = expert(simulator, distance * direction / np.linalg.norm(direction))
    else:
        decide = planned(policy, task, args.execute) if kind == "acted" else expert(simulator)
    rng, push = np.random.default_rng([seed, 0xE2]), np.zeros(len(ACTION))
    while left > 0:
        push = LASTING * push + (1 - LASTING**2) ** 0.5 * noise * rng.standard_normal(len(ACTION))
        picture = simulator.picture()
        action = np.clip(decide(picture) + push, -1, 1).astype(np.float32)
        row = {"frames": picture, "observation.state": now.state, "action": action, "success": now.success}
        for name, value in row.items():
            seen[name].append(value)
        left = min(left - 1, args.behind) if now.success else left - 1
        now = simulator.step(action)
    columns = {name: np.array(values) for name, values in seen.items()}
    frames, length = columns.pop("frames"), len(seen["success"])
    about = {"noise": np.float32(noise), "off": np.float32(distance), "acted": kind == "acted", "start_seed": seed}
    return frames, columns | {name: np.full(length, value) for name, value in about.items()}


def expert(simulator: Simulator, off: np.ndarray | float = 0.0) -> Callable[[np.ndarray], np.ndarray]:
    """What the scripted expert does, whatever the picture, if it sees the thing off by so much."""
    return lambda picture: simulator.expert(off)


def card(args: argparse.Namespace) -> str:
    """README.md of the dataset."""
    return f"""---
license: mit
tags:
- LeRobot
- robotics
configs:
- config_name: default
  data_files: data/*/*.parquet
---
# A simulated arm

Meta-World {", ".join(args.tasks)}: {args.episodes} episodes of each, seeds from {args.seed}, drawn at
{args.size}x{args.size}. Scripted experts; {args.explored:.0%} of the episodes with noise of {args.noise:g} on the
actions, which the column noise says; {args.missed:.0%} by experts that see the thing beside its place, by as many
metres as the column off says; {args.acted:.0%} by trained policies, as the column acted says. Written by
benchmarks/robots/record.py.
"""


def summary(root: Path) -> str:
    """How many episodes of each task there are, how long, and how many succeed."""
    from utils.lerobot.folder import LeRobotFolder

    dataset, tasks = LeRobotFolder(root), defaultdict(list)
    for each in dataset.episodes.values():
        rows = dataset.rows(each)
        kinds = [name for name in ("noise", "off", "acted") if rows[name][0].as_py()]
        kind = ("noise", "off", "acted").index(kinds[0]) + 1 if kinds else 0
        tasks[each.tasks[0]].append((len(rows), any(rows["success"].to_pylist()), kind))
    lines = [f"{printable(root)}: {len(dataset.episodes)} episodes at {dataset.fps:g} frames a second"]
    for task, found in tasks.items():
        lengths = [length for length, _, _ in found]
        shares = [[done for _, done, of_kind in found if of_kind == kind] for kind in range(len(KINDS))]
        pairs = zip(shares, KINDS, strict=True)
        said = ", ".join(f"{sum(each)} of {len(each)} {kind}" if each else f"none {kind}" for each, kind in pairs)
        lines.append(f"  {task}: {min(lengths)} to {max(lengths)} frames; succeed: {said}")
    return "\n".join(lines)


if __name__ == "__main__":
    run(lambda: main(parse_args()))
