"""Does a video model know which policy is good? Policies act inside it and in the simulator, from the same starts.

    python -m benchmarks.robots.in_the_loop --checkpoint RUN --success RUN --policies RUN RUN ... --work_dir DIR

From each start a policy of train_policy.py acts in the simulator, and in the video model from the same first frame;
there a network reads from the video whether the task is done, and from the simulator's own pictures, too, to tell its
mistakes. Goes on when typed again. Results: results/in_the_loop.json with the share of starts in which both agree,
beside that in which two would that know nothing but the shares, and the rank correlation over policies; a plot, and
sheets of real beside generated episodes in --work_dir.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.robots.simulator import STEPS_PER_SECOND, TASKS, MetaWorld, Simulator
from utils.cli import Parser, UserError, choice, integer, run

PLACES = 300_000  # seeds of places from here on are those of the starts
SHOWN = 8  # episodes on the sheet
KINDS = ("simulator", "simulator, read", "video model")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.split("\n\n")[0], epilog="\n\n".join(__doc__.split("\n\n")[1:]))
    parser.add_argument("--checkpoint", type=Path, required=True, help="a run with --vectors action and first frames")
    parser.add_argument("--success", type=Path, required=True, help="of train_inverse_dynamics.py --vectors success")
    parser.add_argument("--policies", type=Path, nargs="+", required=True, help="runs of train_policy.py")
    parser.add_argument("--work_dir", type=Path, required=True, help="what was found, plot and sheet stay here")
    parser.add_argument("--tasks", type=choice(*TASKS), nargs="+", default=list(TASKS), help="of Meta-World")
    parser.add_argument("--starts", type=integer(1), default=10, help="of each task")
    parser.add_argument("--num_frames", type=integer(2), default=64, help="of an episode, here and there")
    parser.add_argument("--execute", type=integer(1), default=8, help="actions before a policy looks again")
    parser.add_argument("--num_inference_steps", type=integer(1), default=10, help="of sampling")
    parser.add_argument("--batch_size", type=integer(1), default=25, help="episodes at a time")
    parser.add_argument("--name", default="in_the_loop", help="of the result")
    return parser.parse_args(argv)


def main(args: argparse.Namespace, make: Callable[[str, int, int], Simulator] = MetaWorld) -> None:
    from tqdm.auto import tqdm

    from benchmarks.measure import same_settings, write_result
    from utils.files import write_text
    from utils.robots.labels import SuccessReader
    from utils.robots.policies import TrainedPolicy
    from utils.robots.svd_world import open_world
    from utils.video.contact_sheet import contact_sheet
    from utils.video.encode import write_image

    if len({folder.name for folder in args.policies}) < len(args.policies):
        raise UserError("--policies: two have the same name, by which they are told apart")
    decide = ("checkpoint", "success", "tasks", "starts", "num_frames", "execute", "num_inference_steps")
    same_settings(args.work_dir, {name: getattr(args, name) for name in decide})
    world = open_world(args.checkpoint, num_inference_steps=args.num_inference_steps)
    fps = world.target_fps or STEPS_PER_SECOND / 2
    judge, found = SuccessReader(args.success, fps), {}
    for folder in tqdm(args.policies, desc="policies", unit="policy", disable=None):
        file = args.work_dir / "found" / f"{folder.name}.json"
        if not file.is_file():
            policy = TrainedPolicy(folder)
            policy.check(world.names, fps, [TASKS[task] for task in args.tasks])
            kept, sheet = tried(args, world, policy, judge, make)
            write_text(file, json.dumps(kept) + "\n")
            write_image(args.work_dir / f"{folder.name}.png", contact_sheet(*zip(*sheet, strict=True)))
        found[folder.name] = json.loads(file.read_text(encoding="utf-8"))
    result = {"command": command(args), **compared(found)}
    print(table(result))
    plot(result["policies"], args.work_dir / f"{args.name}.png")
    print(write_result(args.name, result))


def command(args: argparse.Namespace) -> str:
    """What to type for the same, but for where its files lie."""
    names = " ".join(each.name for each in args.policies)
    words = f"python -m benchmarks.robots.in_the_loop --checkpoint RUN --success RUN --policies {names} --work_dir DIR"
    words += f" --tasks {' '.join(args.tasks)}"
    numbers = ("starts", "num_frames", "execute", "num_inference_steps", "name")
    return " ".join([words, *(f"--{name} {getattr(args, name)}" for name in numbers)])


def tried(args: argparse.Namespace, world, policy, judge, make: Callable) -> tuple[dict, list]:
    """({kind: {task: [whether it was done]}}, [(frames, label)] of some) of a policy from all starts."""
    from benchmarks.robots.acting import acted
    from utils.robots.rollouts import roll_out

    starts, real = [], []  # (task, seed); (frames, whether it was done) in the simulator
    for task in args.tasks:
        simulator = make(task, world.height, 2)
        for seed in range(PLACES, PLACES + args.starts):
            starts.append((task, seed))
            real.append(acted(policy, simulator, task, seed, args.num_frames, args.execute))
        simulator.close()
    drawn = []
    for begin in range(0, len(starts), args.batch_size):
        part = slice(begin, begin + args.batch_size)
        tasks, seeds = [TASKS[task] for task, _ in starts[part]], [seed for _, seed in starts[part]]
        frames = np.stack([video[0] for video, _ in real[part]])
        drawn += list(roll_out(world, policy, tasks, frames, seeds, args.num_frames, args.execute)[0])
    seen = ([done for _, done in real], [judge.says_done(video) for video, _ in real], map(judge.says_done, drawn))
    found = {kind: {task: [] for task in args.tasks} for kind in KINDS}
    for kind, each in zip(KINDS, seen, strict=True):
        for (task, _), done in zip(starts, each, strict=True):
            found[kind][task].append(bool(done))
    spread = np.unique(np.linspace(0, len(starts) - 1, SHOWN).astype(int))
    pairs = [((KINDS[0], real[n][0]), (KINDS[2], drawn[n])) for n in spread]
    sheet = [(v, f"{kind}: {TASKS[starts[n][0]]}") for n, pair in zip(spread, pairs, strict=True) for kind, v in pair]
    return found, sheet


def compared(found: dict[str, dict]) -> dict:
    """What the kinds have in common, over all starts, and over policies."""
    flat = {kind: [sum(each[kind].values(), []) for each in found.values()] for kind in KINDS}
    shares = {kind: [sum(each) / len(each) for each in of_policies] for kind, of_policies in flat.items()}
    real, result = np.array(sum(flat[KINDS[0]], [])), {}
    for kind in KINDS[1:]:
        read = np.array(sum(flat[kind], []))
        chance = real.mean() * read.mean() + (1 - real.mean()) * (1 - read.mean())
        result[kind] = {"agreement": float((real == read).mean()), "by_chance": float(chance)}
        result[kind]["rank_correlation"] = rank_correlation(shares[KINDS[0]], shares[kind])
    cells = {kind: [np.mean(done) for each in found.values() for done in each[kind].values()] for kind in KINDS}
    result[KINDS[2]]["rank_correlation_of_tasks"] = rank_correlation(cells[KINDS[0]], cells[KINDS[2]])
    policies = {name: {kind: shares[kind][n] for kind in KINDS} for n, name in enumerate(found)}
    return {"starts": len(flat[KINDS[0]][0]), **result, "policies": policies, "found": found}


def rank_correlation(one: list[float], other: list[float]) -> float | None:
    """Spearman's; ties share a rank; None where one side is all the same."""
    ranks = [np.searchsorted(np.sort(x), x, "left") + np.searchsorted(np.sort(x), x, "right") for x in (one, other)]
    if any(len(set(each)) < 2 for each in ranks):
        return None
    return float(np.corrcoef(*ranks)[0, 1])


def table(result: dict) -> str:
    lines = ["| policy | " + " | ".join(KINDS) + " |", "|---|" + "---|" * len(KINDS)]
    for name, shares in result["policies"].items():
        lines.append(f"| {name} | " + " | ".join(f"{shares[kind]:.0%}" for kind in KINDS) + " |")
    for kind in KINDS[1:]:
        each = result[kind]
        order = "none" if each["rank_correlation"] is None else f"{each['rank_correlation']:.2f}"
        agreed = f"{each['agreement']:.0%} of starts ({each['by_chance']:.0%} by chance)"
        lines.append(f"{kind}: agrees with the simulator in {agreed}, rank correlation over policies {order}")
    return "\n".join(lines)


def plot(policies: dict[str, dict[str, float]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    from utils.logs.plots import save_figure

    figure, axes = pyplot.subplots(figsize=(5, 5))
    for name, shares in policies.items():
        axes.scatter(shares[KINDS[0]], shares[KINDS[2]], label=name)
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":")
    axes.set(xlabel="succeeds in the simulator", ylabel="succeeds in the video model", xlim=(0, 1), ylim=(0, 1))
    axes.legend(fontsize=7)
    save_figure(figure, path)


if __name__ == "__main__":
    run(lambda: main(parse_args()))
