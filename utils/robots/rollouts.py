"""A policy inside a video model: it acts on what the model draws, and the model draws what that leads to."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from utils.data.clip_index import usable_clips
from utils.data.find_clips import FolderFormat
from utils.decoding.read import read_frames
from utils.lerobot.folder import LeRobotFolder
from utils.robots.policies import TrainedPolicy
from utils.robots.svd_world import SvdWorld
from utils.robots.world_model import WorldModel


def most_executed(world: WorldModel | SvdWorld, policy: TrainedPolicy) -> int:
    """Actions that can be taken before the policy looks again: what it answers with, as far as a piece reaches."""
    return min(policy.chunk, world.num_frames - world.overlap)


def roll_out(
    world: WorldModel | SvdWorld,
    policy: TrainedPolicy,
    tasks: Sequence[str],
    first_frames: np.ndarray,
    seeds: Sequence[int],
    num_frames: int,
    execute: int,
) -> tuple[np.ndarray, np.ndarray]:
    """(videos uint8 (B, num_frames, H, W, 3), actions (B, num_frames, D) in the units of the data, one at each frame).

    first_frames: uint8 (B, H, W, 3). execute: actions that are taken before the policy looks again, see most_executed.
    Each piece is drawn from the last frames of what there is, with the actions that were taken in them and the next.
    """
    videos, taken = first_frames[:, None], np.zeros((len(tasks), 0, len(policy.names)), np.float32)
    while videos.shape[1] < num_frames:
        known = world.overlap if videos.shape[1] >= world.overlap else 1
        planned = policy.act(tasks, videos[:, -1])
        asked = np.concatenate([taken[:, taken.shape[1] - known + 1 :], planned], axis=1)[:, : world.num_frames]
        missing = world.num_frames - asked.shape[1]  # they decide frames that are not kept
        asked = np.concatenate([asked, np.repeat(asked[:, -1:], missing, axis=1)], axis=1)
        new = world.go_on(tasks, videos[:, -known:], asked, seeds)[:, :execute]
        videos, taken = np.concatenate([videos, new], axis=1), np.concatenate([taken, planned[:, :execute]], axis=1)
    last = policy.act(tasks, videos[:, num_frames - 1])[:, :1]
    return videos[:, :num_frames], np.concatenate([taken[:, : num_frames - 1], last], axis=1)


def done_by_task(root: Path, tasks: Sequence[str], seed: int, done: float) -> dict[str, dict[str, int]]:
    """{task: {"episodes", "done"}} of a dataset of rollouts. tasks: of all episodes, by number; those that are not in
    it were left out, because they were not done. seed: of number 0. done: how sure it must be, at some frame."""
    dataset, found = LeRobotFolder(root), defaultdict(lambda: {"episodes": 0, "done": 0})
    for task in tasks:
        found[task]["episodes"] += 1
    for episode in dataset.episodes.values():
        rows = dataset.rows(episode)
        number = rows["generated.seed"][0].as_py() - seed
        found[tasks[number]]["done"] += max(rows["generated.done"].to_pylist()) >= done
    return dict(found)


def table(found: Mapping[str, Mapping[str, int]]) -> str:
    """Of done_by_task, as Markdown."""
    lines = ["| task | done |", "|---|---|"]
    return "\n".join(lines + [f"| {task} | {each['done']} of {each['episodes']} |" for task, each in found.items()])


def shown(root: Path, cameras: Sequence[str] | None, most: int) -> tuple[list[np.ndarray], list[str]]:
    """(frames of episodes, spread over a dataset, their tasks), for a contact sheet."""
    items, _, _ = usable_clips(root, FolderFormat(cameras=cameras), 1, None, "skip", "empty", None)
    chosen = [items[n] for n in np.unique(np.linspace(0, len(items) - 1, min(most, len(items))).astype(int))]
    return [read_frames(info, range(info.frames)) for info, _ in chosen], [texts[0] for _, texts in chosen]
