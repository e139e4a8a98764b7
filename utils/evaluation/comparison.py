"""Several evaluated runs in order."""

import json
from pathlib import Path

from utils.cli import UserError
from utils.evaluation.benchmark import GROUPS


def compare_runs(paths: list[Path]) -> str:
    """Runs in order, from the evaluation.json of each: by right videos and by kernel distance, as text.

    Runs whose 95 % intervals overlap are not ranked against each other. Raises UserError for a file that is not one of
    ours, and for distances to other data or with other numbers of clips, which do not compare.
    """
    from models.metrics.distances import Distance, rank_runs

    runs = {}
    for path in paths:
        try:
            runs[str(path.parent)] = json.loads(path.read_text(encoding="utf-8"))
            kernel = {
                name: found["kernel"]
                for name, found in runs[str(path.parent)]["distances"].items()
                if "kernel" in found
            }
            runs[str(path.parent)]["kernel"] = {name: Distance(**found) for name, found in kernel.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"--compare: {path} is not an evaluation.json of this program ({error!r})") from None
    if len(runs) < len(paths):
        raise UserError("--compare: two of the files lie in one folder; give each run once")
    lines = []
    for group in GROUPS:
        if all(group in run.get("groups", {}) for run in runs.values()):
            shares = {}
            for name, run in runs.items():
                found = run["groups"][group]["all"]
                shares[name] = Distance(f"all right, {group}", found["share"], *found["interval"])
            lines += [f"share of videos with everything right, {group}:", *_places(rank_runs(shares, False))]
    same = {(run["data"], run["num_videos"], run["num_real"]) for run in runs.values()}
    if len(same) > 1:
        raise UserError(
            "--compare: the runs were measured against other clips, or with other --num_prompts or --num_real"
        )
    for feature in runs[next(iter(runs))]["kernel"]:
        if all(feature in run["kernel"] for run in runs.values()):
            ranked = rank_runs({name: run["kernel"][feature] for name, run in runs.items()})
            lines += [f"kernel distance to the data on {feature} features:", *_places(ranked)]
    return "\n".join(lines)


def _places(ranked: list) -> list[str]:
    return [f"  {run}" for run in ranked]
