"""evaluation.json and report.html of evaluate_text2video.py: every number, and the videos sorted worst first."""

import dataclasses
import json
import os
from html import escape
from pathlib import Path

from models.metrics.distances import Distance
from utils.evaluation.benchmark import LIKE
from utils.evaluation.judge import Verdict, judge, wanted
from utils.evaluation.motion_statistics import MotionComparison
from utils.evaluation.samples import Sample
from utils.evaluation.scores import NOTHING, right
from utils.files import write_text
from utils.video.gallery import grid, table, write_page

MAX_VIDEOS = 400  # on the page; evaluation.json has them all
INTRODUCTION = (
    "Each share with its 95 % Wilson interval. Chance is what right videos would score with their prompts "
    "shuffled. All: colour, shape and direction. Strict: all, and one coherent object in every frame."
)


def write_report(output_dir: Path, result: dict, samples: list[Sample]) -> Path:
    """Write evaluation.json and report.html; returns the page.

    result: what the script found, see evaluate_text2video.py; with "groups" the samples have been judged.
    """
    judged = [(sample, wanted(sample.prompt), judge(sample.frames)) for sample in samples] if "groups" in result else []
    rows = [_row(sample, output_dir) for sample in samples]
    for row, (_, asked, verdict) in zip(rows, judged, strict=bool(judged)):
        row |= {"asked": asked, "judged": dataclasses.asdict(verdict), "right": right(verdict, asked)}
    text = json.dumps({**result, "samples": rows}, indent=1, ensure_ascii=False, default=_plain)
    write_text(output_dir / "evaluation.json", text + "\n")

    page = output_dir / "report.html"
    source = f"{result['checkpoint']}, step {result['step']}" if "checkpoint" in result else result["videos"]
    body = [f"<p>{escape(source)}, against {escape(result['data_dir'])}</p>"]
    if judged:
        body += _scores(result)
    body += _data(result)
    body += _videos(samples, judged, page)
    write_page(page, "Evaluation", body)
    return page


def _plain(found: Distance | MotionComparison) -> dict:
    """A measured number, or a comparison of two, as JSON."""
    plain = dataclasses.asdict(found)
    return plain | {"differ": found.differ} if isinstance(found, MotionComparison) else plain


def _row(sample: Sample, output_dir: Path) -> dict:
    """What evaluation.json keeps of a sample."""
    video = os.path.relpath(sample.path, output_dir)
    return {"video": video, "prompt": sample.prompt, "group": sample.group, "nearest": sample.nearest}


def _scores(result: dict) -> list[str]:
    """The judge's shares per group, and what was taken for what."""
    body = [f"<p>{INTRODUCTION}</p>"]
    for group, scores in result["groups"].items():
        lines = []
        for name, found in scores.items():
            interval = " to ".join(f"{100 * end:.1f}" for end in found["interval"])
            chance = "" if found["chance"] is None else f"{found['chance']:.1%}"
            lines.append([name, f"{found['share']:.1%}", interval, f"{found['right']} of {found['of']}", chance])
        body += [f"<h2>{escape(group)}</h2>", table(["", "right", "95 % interval", "videos", "chance"], lines)]
    for attribute, matrix in result["confusion"].items():
        if matrix:
            columns = list(next(iter(matrix.values())))
            lines = [[asked, *(str(seen[name]) for name in columns)] for asked, seen in matrix.items()]
            body += [f"<h2>{attribute}: asked and seen</h2>", table(["asked", *columns], lines)]
    return body


def _data(result: dict) -> list[str]:
    """Distances, motion and copies."""
    lines = [
        [f"{distance.kind}, {feature}", str(distance), ""]
        for feature, distances in result["distances"].items()
        for distance in distances.values()
    ]
    if "clip_score" in result:
        lines.append(["CLIP score", str(result["clip_score"]), ""])
    lines += [
        [pair.generated.kind, str(pair.generated), f"{pair.real}{', differs' if pair.differ else ''}"]
        for pair in result["motion"].values()
    ]
    lines += [[share.kind, str(share), ""] for share in result["copies"].values()]
    lines += [
        [each["share"].kind, str(each["share"]), f"median {name} {each['median']:.3g}, {each['median_of_data']:.3g}"]
        for name, each in result.get("faithful", {}).items()
    ]
    lines += [
        [LIKE[name], f"{each['mean']:.3g}", f"{each['mean_of_data']:.3g}, ratio {each['ratio']:.2f}"]
        for name, each in result.get("like", {}).items()
    ]
    heading = f"<h2>Against {result['num_real']} training clips</h2>"
    return [heading, table(["", "videos [95 % interval]", "training clips"], lines)]


def _videos(samples: list[Sample], judged: list[tuple[Sample, dict, Verdict]], page: Path) -> list[str]:
    """The videos, worst first: most attributes wrong, or nearest to a training clip; then the nearest pairs."""
    if judged:
        order = sorted(judged, key=lambda row: sum(right(row[2], row[1]).values()) / len(right(row[2], row[1])))
        videos = [
            {"video": sample.path, "prompt": sample.prompt, "note": wrong, "bad": bool(wrong)}
            for sample, asked, verdict in order[:MAX_VIDEOS]
            for wrong in [_wrong(asked, verdict)]
        ]
    else:
        videos = [
            {"video": sample.path, "prompt": sample.prompt, "note": sample.note} for sample in samples[:MAX_VIDEOS]
        ]
    nearest = sorted(samples, key=lambda sample: sample.nearest["ratio"])[:8]
    pairs = []
    for sample in nearest:
        note = f"{sample.nearest['ratio']:.2f} of the usual distance between training clips"
        pairs.append({"video": sample.path, "prompt": sample.prompt, "note": note})
        pairs.append({"video": Path(sample.nearest["clip"]), "prompt": "its nearest training clip", "note": ""})
    of = f"{len(videos)} of {len(samples)}" if len(videos) < len(samples) else str(len(samples))
    return [
        f"<h2>Videos, worst first ({of})</h2>" if judged else f"<h2>Videos ({of})</h2>",
        grid(videos, page),
        "<h2>Nearest to training clips</h2>",
        grid(pairs, page),
    ]


def _wrong(asked: dict, verdict: Verdict) -> str:
    """What the judge sees instead of what was asked for; "" if everything is right."""
    hits = right(verdict, asked)
    wrong = [f"{name}: {getattr(verdict, name) or NOTHING}" for name in asked if hits.get(name) is False]
    return ", ".join(wrong + [f"not coherent ({', '.join(verdict.flaws)})"] * (not verdict.coherent))
