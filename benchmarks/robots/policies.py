"""Do generated episodes make policies better? The same small network learns from N real episodes of each task, from
these and generated ones, and from 4N real ones, and then acts in the simulator.

    python -m benchmarks.robots.policies --checkpoint RUN --inverse_dynamics RUN --success RUN --work_dir DIR

Hours; goes on when typed again, and parts of it (--counts, --seeds, --ways) may run beside each other in a --work_dir.
Generated episodes begin with first frames of places that no real episode has. Either the video model shows what it
expects to be done there, and another network reads the actions; or the policy of the N real ones acts in the model.
What is not seen to succeed is left out. All trainings have equally many steps. Result: results/policies.json with
shares of episodes that succeed and their intervals (Wilson, 95 %), and a plot in --work_dir.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from benchmarks.robots.simulator import TASKS, MetaWorld, Simulator
from utils.cli import Parser, choice, integer, run

WAYS = {
    "real": "N real",
    "generated": "and what the model expects",
    "acted": "and what their policy does in the model",
    "more": "4N real",
}
GENERATED, INFO = "generated", "meta/info.json"
MORE = 4  # times as many real ones
STARTS = 10_000  # seeds of places from here on are those of generated episodes
JUDGED = 200_000  # and from here on those in which policies are judged
PIECE = 16  # frames of a clip in training
WANTED, AT = 10, 10  # percent more with generated episodes, at this N


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.split("\n\n")[0], epilog="\n\n".join(__doc__.split("\n\n")[1:]))
    parser.add_argument("--work_dir", type=Path, required=True, help="episodes, policies and results stay here")
    parser.add_argument("--checkpoint", type=Path, help="of the video model; needed for generated episodes")
    parser.add_argument("--inverse_dynamics", type=Path, help="reads actions; needed as well")
    parser.add_argument("--success", type=Path, help="reads whether a task is done; needed as well")
    parser.add_argument("--tasks", type=choice(*TASKS), nargs="+", default=list(TASKS), help="one policy does all")
    parser.add_argument("--counts", type=integer(1), nargs="+", default=[5, 10, 25], help="real episodes of each task")
    parser.add_argument("--seeds", type=integer(0), nargs="+", default=[0, 1, 2], help="of trainings")
    parser.add_argument("--ways", type=choice(*WAYS), nargs="+", default=list(WAYS), help="what is learnt from")
    parser.add_argument("--episodes", type=integer(1), default=50, help="of each task that a policy is judged by")
    parser.add_argument("--max_frames", type=integer(1), default=100, help="that it may take for one")
    parser.add_argument("--execute", type=integer(1, 8), default=8, help="actions before a policy looks again")
    parser.add_argument("--num_starts", type=integer(1), default=80, help="generated episodes of each task, unfiltered")
    parser.add_argument("--num_rollouts", type=integer(1), default=40, help="of each task, before those not done go")
    parser.add_argument("--num_frames", type=integer(PIECE), default=64, help="of generated episodes")
    parser.add_argument("--num_inference_steps", type=integer(1), default=10, help="of the video model's sampling")
    parser.add_argument("--steps", type=integer(1), default=600, help="of each training")
    parser.add_argument("--size", type=integer(16, 512, multiple_of=2), default=64, help="px of the real frames")
    parser.add_argument("--name", default="policies", help="of the result")
    parser.checks.append(check_args)
    return parser.parse_args(argv)


def check_args(args: argparse.Namespace) -> Iterator[str]:
    needed = {"generated": ("checkpoint", "inverse_dynamics", "success"), "acted": ("checkpoint", "success")}
    for name in dict.fromkeys(name for way in args.ways for name in needed.get(way, ())):
        if getattr(args, name) is None:
            yield f"--{name}: is needed for generated episodes; --ways real more goes without"


def main(args: argparse.Namespace, make: Callable[[str, int, int], Simulator] = MetaWorld) -> None:
    from benchmarks.measure import same_settings, write_result
    from benchmarks.robots.acting import in_words, replays

    decide = ("tasks", "max_frames", "execute", "num_starts", "num_rollouts", "num_frames", "num_inference_steps")
    same_settings(args.work_dir, {name: getattr(args, name) for name in (*decide, "steps", "size")})
    rows = {}
    for count in args.counts:
        for way in args.ways:
            found = [judged(args, count, way, seed, make) for seed in args.seeds]
            rows.setdefault(count, {})[way] = [dict(zip(args.tasks, each, strict=True)) for each in found]
    result = {"command": command(args), "success": {str(n): of_way(found) for n, found in rows.items()}}
    if "generated" in args.ways:
        kept = json.loads((args.work_dir / GENERATED / INFO).read_text(encoding="utf-8"))
        result["generated"] = kept["total_episodes"]
        result["replayed"] = replays(args, real(args, max(args.counts), make), make)
        print(in_words(result["replayed"]))
    print(table(result["success"]))
    plot(result["success"], args.work_dir / f"{args.name}.png")
    print(write_result(args.name, result))


def command(args: argparse.Namespace) -> str:
    """What to type for the same, but for where its files lie."""
    words = "python -m benchmarks.robots.policies --checkpoint RUN --inverse_dynamics RUN --success RUN --work_dir DIR"
    lists = {name: " ".join(map(str, getattr(args, name))) for name in ("tasks", "counts", "seeds", "ways")}
    names = (
        "episodes",
        "execute",
        "num_starts",
        "num_rollouts",
        "num_frames",
        "num_inference_steps",
        "steps",
        "size",
        "name",
    )
    return " ".join([words, *(f"--{name} {value}" for name, value in lists.items()), *flags(args, *names)])


def flags(args: argparse.Namespace, *names: str) -> list[str]:
    return [f"--{name}={getattr(args, name)}" for name in names]


def judged(args: argparse.Namespace, count: int, way: str, seed: int, make: Callable) -> list[list[bool]]:
    """Which episodes of each task a policy of this kind succeeds in; trained and tried where that is not kept."""
    from benchmarks.robots.acting import successes
    from utils.files import write_text
    from utils.robots.policies import TrainedPolicy

    name = name_of(count, way, seed)
    file, found = args.work_dir / "judged" / f"{name}.json", {}
    if file.is_file():
        found = json.loads(file.read_text(encoding="utf-8"))
    left = [task for task in args.tasks if len(found.get(task, ())) < args.episodes]
    if left:
        policy, places = TrainedPolicy(trained(args, count, way, seed, make)), range(JUDGED, JUDGED + args.episodes)
        how = {"size": args.size, "action_repeat": 2, "num_frames": args.max_frames + 1, "execute": args.execute}
        found |= {task: successes(policy, make, task, places, **how) for task in left}
        write_text(file, json.dumps(found) + "\n")
        print(f"{name}: " + ", ".join(f"{task} {sum(found[task])}" for task in args.tasks), flush=True)
    return [found[task][: args.episodes] for task in args.tasks]


def name_of(count: int, way: str, seed: int) -> str:
    kind, amount = {"more": ("real", count * MORE)}.get(way, (way, count))
    return f"{kind}_{amount}_seed{seed}"


def trained(args: argparse.Namespace, count: int, way: str, seed: int, make: Callable) -> Path:
    """The run of a policy, trained where there is none."""
    from utils.files import write_text

    run_dir = args.work_dir / "policies" / name_of(count, way, seed)
    if not (run_dir / "finished").is_file():
        more = {"generated": partial(generated, args, make), "acted": partial(acted, args, count, seed, make)}.get(way)
        data = real(args, count * MORE if way == "more" else count, make)
        train(args, data, more and more(), seed, run_dir)
        write_text(run_dir / "finished", "")
    return run_dir


def real(args: argparse.Namespace, count: int, make: Callable) -> Path:
    """So many episodes of experts of each task."""
    return recorded(args, f"real_{count}", make, "--episodes", count, "--explored", 0)


def recorded(args: argparse.Namespace, name: str, make: Callable, *words) -> Path:
    from benchmarks.robots import record

    folder = args.work_dir / name
    if not (folder / INFO).is_file():
        words = ["--output_dir", folder, "--tasks", *args.tasks, "--size", args.size, *words]
        record.main(record.parse_args([str(word) for word in words]), make)
    return folder


def generated(args: argparse.Namespace, make: Callable) -> Path:
    """Episodes of the video model from new places."""
    import generate_episodes

    folder = args.work_dir / GENERATED
    if not (folder / INFO).is_file():
        words = ["--actions", "none", "--label", "read", *flags(args, "inverse_dynamics")]
        draw(args, make, generate_episodes, folder, args.num_starts, *words)
    return folder


def acted(args: argparse.Namespace, count: int, seed: int, make: Callable) -> Path:
    """Episodes in which the policy of N real ones does its task in the video model, from the same places."""
    import rollout_world_model

    folder = args.work_dir / f"acted_{count}_seed{seed}"
    if not (folder / INFO).is_file():
        policy = trained(args, count, "real", seed, make)
        words = ["--policy", policy, "--only_done", *flags(args, "execute")]
        draw(args, make, rollout_world_model, folder, args.num_rollouts, *words)
    return folder


def draw(args: argparse.Namespace, make: Callable, script, folder: Path, count: int, *words) -> None:
    """So many episodes of each task, by one of the scripts that draw them, from first frames of new places."""
    new = ("--episodes", args.num_starts, "--seed", STARTS, "--explored", 0, "--max_frames", 2)
    common = ["--dataset", recorded(args, "starts", make, *new), "--output_dir", folder, "--starts", "first"]
    common += ["--num_episodes", count * len(args.tasks), "--batch_size", 16]
    common += flags(args, "checkpoint", "success", "num_frames", "num_inference_steps")
    script.main(script.parse_args([str(word) for word in (*common, *words)]))


def train(args: argparse.Namespace, data: Path, more: Path | None, seed: int, run_dir: Path) -> None:
    import train_policy

    words = ["--data_dir", data, "--output_dir", run_dir, "--resume", "auto", "--seed", seed, "--no_wandb"]
    words += ["--num_frames", PIECE, "--frame_size", args.size, "--max_train_steps", args.steps]
    words += ["--validate_every", args.steps, "--checkpoint_every", args.steps]
    words += [] if more is None else ["--generated", more]
    train_policy.main(train_policy.parse_args([str(word) for word in words]))


def of_way(found: dict[str, list[dict[str, list[bool]]]]) -> dict[str, dict]:
    """{way: {"all" or a task: {"share", "interval", "by_seed"}}} of {way: [{task: [bool]} of each seed]}."""
    from utils.evaluation.scores import wilson

    def shares(runs: list[list[bool]]) -> dict:
        hits, count = sum(map(sum, runs)), sum(map(len, runs))
        by_seed = [sum(each) / len(each) for each in runs]
        return {"share": hits / count, "interval": list(wilson(hits, count)), "by_seed": by_seed}

    return {
        way: {"all": shares([sum(each.values(), []) for each in runs])}
        | {task: shares([each[task] for each in runs]) for task in runs[0]}
        for way, runs in found.items()
    }


def table(success: dict[str, dict]) -> str:
    """Percent, with their intervals."""
    tasks = list(next(iter(next(iter(success.values())).values())))
    lines = ["| N | learnt from | " + " | ".join(tasks) + " |", "|---|---|" + "---|" * len(tasks)]
    for count, ways in success.items():
        for way, found in ways.items():
            cells = (found[task] for task in tasks)
            said = [f"{c['share']:.0%} ({c['interval'][0]:.0%} to {c['interval'][1]:.0%})" for c in cells]
            lines.append(f"| {count} | {WAYS[way]} | {' | '.join(said)} |")
        for way in ("generated", "acted"):
            if count == str(AT) and {"real", way} <= ways.keys():
                gain = 100 * (ways[way]["all"]["share"] - ways["real"]["all"]["share"])
                lines.append(f"{WAYS[way]}: {gain:+.1f} points at N = {count}; {WANTED:+d} are wanted")
    return "\n".join(lines)


def plot(success: dict[str, dict], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    from utils.logs.plots import save_figure

    figure, axes = pyplot.subplots(figsize=(6, 4))
    for way, name in WAYS.items():
        points = [(int(n), ways[way]["all"]) for n, ways in success.items() if way in ways]
        if points:
            middle = [each["share"] for _, each in points]
            off = [[abs(each["interval"][end] - each["share"]) for _, each in points] for end in (0, 1)]
            axes.errorbar([n for n, _ in points], middle, off, marker="o", capsize=3, label=name)
    axes.set(xlabel="N, real episodes of each task", ylabel="share of episodes that succeed", ylim=(0, 1))
    axes.legend()
    save_figure(figure, path)


if __name__ == "__main__":
    run(lambda: main(parse_args()))
