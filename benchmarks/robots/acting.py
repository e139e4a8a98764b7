"""A policy in the simulator: what it does, and how often that is what it is asked to do."""

from collections.abc import Callable, Sequence

import numpy as np

from benchmarks.robots.simulator import TASKS, Simulator


def acted(policy, simulator: Simulator, task: str, seed: int, num_frames: int, execute: int) -> tuple[np.ndarray, bool]:
    """(frames uint8 (num_frames, H, W, 3), whether the task is done in any) of a policy, see utils/robots/policies.py,
    from the place of a seed on. execute: actions that it takes before it looks again."""
    now, frames, done, planned = simulator.reset(seed), [], False, []
    while len(frames) < num_frames:
        done, _ = done or now.success, frames.append(simulator.picture())
        planned = planned or list(policy.act([TASKS[task]], frames[-1][None])[0][:execute])
        now = simulator.step(np.clip(planned.pop(0), -1, 1))
    return np.stack(frames), done


def succeeds(policy, simulator: Simulator, task: str, seed: int, num_frames: int, execute: int) -> bool:
    """What acted says, without frames that nobody looks at."""
    simulator.reset(seed)
    for begin in range(0, num_frames - 1, execute):
        planned = policy.act([TASKS[task]], simulator.picture()[None])[0][: min(execute, num_frames - 1 - begin)]
        if any(simulator.step(np.clip(action, -1, 1)).success for action in planned):
            return True
    return False


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
