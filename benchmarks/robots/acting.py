"""In the simulator: what a policy does there, and what actions do that were read from videos."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.robots.simulator import TASKS, Simulator


def acted(policy, simulator: Simulator, task: str, seed: int, num_frames: int, execute: int) -> tuple[np.ndarray, bool]:
    """(frames uint8 (num_frames, H, W, 3), whether the task is done in any) of a policy, see utils/robots/policies.py,
    from the place of a seed on. execute: actions that it takes before it looks again."""
    now, frames, done, decide = simulator.reset(seed), [], False, planned(policy, TASKS[task], execute)
    while len(frames) < num_frames:
        done, _ = done or now.success, frames.append(simulator.picture())
        now = simulator.step(np.clip(decide(frames[-1]), -1, 1))
    return np.stack(frames), done


def planned(policy, task: str, execute: int) -> Callable[[np.ndarray], np.ndarray]:
    """What a policy, see utils/robots/policies.py, does next, given what is seen, uint8 (H, W, 3): it looks at every
    execute-th picture. task: in words."""
    left = []

    def decide(picture: np.ndarray) -> np.ndarray:
        left[:] = left or policy.act([task], picture[None])[0][:execute]
        return left.pop(0)

    return decide


def succeeds(policy, simulator: Simulator, task: str, seed: int, num_frames: int, execute: int) -> bool:
    """What acted says, without frames that nobody looks at."""
    simulator.reset(seed)
    for begin in range(0, num_frames - 1, execute):
        planned = policy.act([TASKS[task]], simulator.picture()[None])[0][: min(execute, num_frames - 1 - begin)]
        if any(simulator.step(np.clip(action, -1, 1)).success for action in planned):
            return True
    return False


def replayed(simulator: Simulator, seed: int, actions: np.ndarray) -> bool:
    """Whether these actions (T, D), from the place of a seed on, do the task."""
    simulator.reset(seed)
    return any(simulator.step(np.clip(action, -1, 1)).success for action in actions)


def successes(
    policy,
    make: Callable[[str, int, int], Simulator],
    task: str,
    seeds: Sequence[int],
    *,
    size: int,
    action_repeat: int,
    num_frames: int,
    execute: int,
) -> list[bool]:
    """Of each seed. make, size, action_repeat: see record.main."""
    simulator = make(task, size, action_repeat)
    try:
        return [succeeds(policy, simulator, task, seed, num_frames, execute) for seed in seeds]
    finally:
        simulator.close()


def replays(args, real: Path, make: Callable[[str, int, int], Simulator]) -> dict[str, dict[str, float | None]]:
    """{task: {"generated", "real"}}: shares of episodes whose actions do the task when the simulator takes them from
    the same place.

    Those of generated episodes, and those that the same reader finds in `real` ones: what the latter do and the former
    do not is wrong in the video. args: of policies.py.
    """
    from benchmarks.robots.episodes import episodes
    from utils.lerobot.folder import LeRobotFolder
    from utils.robots.labels import Labels

    drawn, starts = LeRobotFolder(args.work_dir / "generated"), LeRobotFolder(args.work_dir / "starts")
    real_ones = LeRobotFolder(real)
    seeds = {each.index: first(starts, each, "start_seed") for each in starts.episodes.values()}
    labels, taken = Labels(args.inverse_dynamics, drawn.names["action"], drawn.fps), {}
    for each in drawn.episodes.values():
        place = seeds[first(drawn, each, "generated.source_episode")]
        taken.setdefault((each.tasks[0], "generated"), []).append((place, drawn.numbers(each, "action")[0]))
    for each, window in zip(real_ones.episodes.values(), episodes(real_ones.root), strict=True):
        place = first(real_ones, each, "start_seed")
        taken.setdefault((each.tasks[0], "real"), []).append((place, labels.read(window.frames)[0]))
    found = {}
    for task in args.tasks:
        simulator = make(task, args.size, 2)
        for kind in ("generated", "real"):
            each = taken.get((TASKS[task], kind), [])[: args.episodes]
            done = [replayed(simulator, place, actions) for place, actions in each]
            found.setdefault(task, {})[kind] = sum(done) / len(done) if done else None
        simulator.close()
    return found


def first(dataset, episode, column: str) -> int:
    """What the first row of an episode has."""
    return dataset.rows(episode)[column][0].as_py()


def in_words(found: dict[str, dict[str, float | None]]) -> str:
    """Of replays, as Markdown."""
    lines = ["| actions that are read, replayed | " + " | ".join(found) + " |", "|---" * (1 + len(found)) + "|"]
    for kind in ("real", "generated"):
        shares = (each[kind] for each in found.values())
        said = " | ".join("none" if share is None else f"{share:.0%}" for share in shares)
        lines.append(f"| from {kind} videos | {said} |")
    return "\n".join(lines)
