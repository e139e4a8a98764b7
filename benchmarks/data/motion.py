"""How well measures of motion agree with motion that is known, and what they cost.

    python -m benchmarks.data.motion      # some minutes

Objects of known size and speed before a still camera: squares, discs, bars, textured ones, two at a time; on plain,
softly and finely textured and noisy backgrounds; 5 to 30 frames a second; through five codecs. The true score is the
share of the picture that moves times its speed. Beside the grid there are scenes drawn at random, of more shapes,
backgrounds and speeds: those the measure was tuned on, and others that were held out. Measured: the share of each set
within a factor of 1.5 of the truth, the lowest and highest ratio of the grid, whether its backgrounds sort the same
motions alike (the lowest rank correlation of two of them), the largest error of a pan or zoom, how many of the still
clips are called static, ms of the processor a frame.
Result: results/motion.json and a table.
"""

import argparse
import itertools
import time
from collections import defaultdict
from collections.abc import Callable, Iterable

import cv2
import numpy as np

from benchmarks.data.motion_scenes import Scene, grid, held_out, mean_radius, pan, still_scenes, tuning
from utils.cli import Parser, run
from utils.motion.parts import large_parts
from utils.motion.score import FAR_SECONDS, NEAR_SECONDS, MotionMeter

WITHIN = 1.5
DRAWN = {"tuning": tuning, "held_out": held_out}
PANS = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)  # short sides per second
Measure = Callable[[np.ndarray, float], tuple[float, bool]]  # (clip, fps) -> (score, static)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n", 1)[1])
    parser.add_argument("--quick", action="store_true", help="two scenes, for a quick look")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    from benchmarks.measure import write_result

    cv2.setNumThreads(1)
    scenes = [(scene, *scene.clip()) for scene in grid(args.quick)]
    others = {name: [(s, *s.clip()) for s in drawn()[: 2 if args.quick else None]] for name, drawn in DRAWN.items()}
    still = [(scene, scene.clip()[0]) for scene in still_scenes(args.quick)]
    rows = {}
    for name, measure in measures().items():
        rows[name] = judged(measure, scenes, still, PANS[3:4] if args.quick else PANS)
        for other, drawn in others.items():
            results = [(measure(clip, scene.fps), truth) for scene, clip, truth in drawn]
            rows[name][f"within_{other}"] = within([score / truth for (score, _), truth in results])
            rows[name]["moving_called_static"] += sum(static for (_, static), _ in results)
        print(f"{name}: {rows[name]}", flush=True)
    command = "python -m benchmarks.data.motion" + " --quick" * args.quick
    write_result("motion", {"command": command, "scenes": len(scenes), "measures": rows})
    print("\n".join(table(rows)))


def measures() -> dict[str, Measure]:
    """Ours, the one before it, and simpler ones: a flow, where the frames differ."""
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    return {
        "Farneback, 64 px (measure 1)": pairwise(farneback, 64, masked=False),
        "Farneback of changed pixels, 64 px": pairwise(farneback, 64),
        "Farneback of changed pixels, 128 px": pairwise(farneback, 128),
        "DIS of changed pixels, 128 px": pairwise(lambda *frames: dis.calc(*frames, None), 128),
        "block matching of changed pixels, 128 px": pairwise(block_matching, 128),
        "phase correlation, 128 px": pairwise(phase_correlation, 128, masked=False),
        "where the picture changes (measure 2)": ours,
    }


def ours(clip: np.ndarray, fps: float) -> tuple[float, bool]:
    meter = MotionMeter(len(clip), fps)
    for frame in clip:
        meter.add(frame)
    return meter.score(), meter.static()


def pairwise(flow_of: Callable[[np.ndarray, np.ndarray], np.ndarray], side: int, masked: bool = True) -> Measure:
    """The mean length of a flow over half a second or, where it is above 0.25 short sides/s, an eighth; masked: where
    the frames differ by 6 times the median difference and 3 levels. Static is a score below 0.002."""

    def speed(before: np.ndarray, after: np.ndarray, seconds: float) -> np.ndarray:
        if np.array_equal(before, after):
            return np.zeros(before.shape)
        found = np.linalg.norm(flow_of(before, after), axis=-1) / side / seconds
        if masked:
            difference = cv2.blur(cv2.absdiff(before, after), (3, 3))
            spread = 1.4826 * np.median(difference)
            level = max(3.0, 6 * spread) if spread < 3 else 3.0  # the camera moves
            found = found * large_parts(difference > level, 6)
        return found

    def measure(clip: np.ndarray, fps: float) -> tuple[float, bool]:
        height, width = (round(length * side / min(clip.shape[1:3])) for length in clip.shape[1:3])
        greys = [cv2.cvtColor(cv2.resize(f, (width, height), interpolation=cv2.INTER_AREA), 7) for f in clip]
        far, near = max(1, min(round(FAR_SECONDS * fps), len(clip) - 1)), max(1, round(NEAR_SECONDS * fps))
        speeds = []
        for n in range(0, len(greys) - far, far):
            late, soon = speed(greys[n], greys[n + far], far / fps), speed(greys[n], greys[n + near], near / fps)
            speeds.append(np.where(soon > 0.25, soon, late).mean())
        score = float(np.mean(speeds))
        return score, score < 0.002

    return measure


def farneback(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    return cv2.calcOpticalFlowFarneback(before, after, None, 0.5, 3, 15, 3, 5, 1.2, 0)


def phase_correlation(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """One shift for the whole picture."""
    window = cv2.createHanningWindow(before.shape[::-1], cv2.CV_64F)
    shift, _ = cv2.phaseCorrelate(before.astype(float), after.astype(float), window)
    return np.broadcast_to(shift, (*before.shape, 2))


def block_matching(before: np.ndarray, after: np.ndarray, block: int = 8, reach: int = 16) -> np.ndarray:
    """For each pixel the whole shift within reach whose block around it differs least; the shorter of equal ones."""
    height, width = before.shape
    padded = cv2.copyMakeBorder(after, *[reach] * 4, cv2.BORDER_REPLICATE)
    best, flow = np.full(before.shape, np.inf, np.float32), np.zeros((height, width, 2), np.float32)
    for y, x in sorted(itertools.product(range(-reach, reach + 1, 2), repeat=2), key=lambda shift: np.hypot(*shift)):
        moved = padded[reach + y : reach + y + height, reach + x : reach + x + width]
        cost = cv2.blur(cv2.absdiff(before, moved).astype(np.float32), (block, block))
        better = cost < best - 0.5
        best[better], flow[better] = cost[better], (x, y)
    return flow


def judged(measure: Measure, scenes: list, still: list, speeds: Iterable[float]) -> dict:
    """What the measure makes of (scene, clip, true score), of (scene, clip) that are still, and of pans and zooms."""
    ratios, by_background, lost, seconds = {}, defaultdict(lambda: defaultdict(list)), 0, 0.0
    for scene, clip, truth in scenes:
        start = time.process_time()
        score, static = measure(clip, scene.fps)
        seconds += time.process_time() - start
        ratios[scene] = score / truth
        by_background[scene.background][round(truth, 5)].append(score)
        lost += static
    order = sorted(ratios, key=ratios.get)
    calm = {
        flickers: np.mean([measure(clip, scene.fps)[1] for scene, clip in still if bool(scene.flicker) == flickers])
        for flickers in (False, True)
    }
    ordered = [[np.mean(scores) for _, scores in sorted(found.items())] for found in by_background.values()]
    errors = [abs(measure(pan(speed), 10)[0] / speed - 1) for speed in speeds]
    zooms = [abs(measure(pan(0, zoom=zoom), 10)[0] / zoomed(zoom) - 1) for zoom in (0.1, 0.3)]
    frames = sum(len(clip) for _, clip, _ in scenes)
    return {
        "within": within(ratios.values()),
        "lowest": [round(ratios[order[0]], 2), shown(order[0])],
        "highest": [round(ratios[order[-1]], 2), shown(order[-1])],
        "rank_correlation": round(min(itertools.starmap(rank_correlation, itertools.combinations(ordered, 2))), 3),
        "pan_error": round(max(errors), 3),
        "zoom_error": round(max(zooms), 3),
        "moving_called_static": lost,
        "still_called_static": round(float(calm[False]), 3),
        "flickering_called_static": round(float(calm[True]), 3),
        "ms_per_frame": round(1000 * seconds / frames, 2),
    }


def within(ratios: Iterable[float]) -> float:
    """Share of them within a factor of WITHIN of 1."""
    return round(float(np.mean([1 / WITHIN <= ratio <= WITHIN for ratio in ratios])), 3)


def zoomed(zoom: float, seconds: float = 2.0) -> float:
    """True score of pan(0, zoom=zoom): the rate of log scale, averaged over the time, times the mean radius."""
    return float(np.log(1 + zoom * seconds) / seconds * mean_radius())


def rank_correlation(one: list[float], other: list[float]) -> float:
    """Spearman's."""
    return float(np.corrcoef(np.argsort(np.argsort(one)), np.argsort(np.argsort(other)))[0, 1])


def shown(scene: Scene) -> str:
    where = f"{scene.background}, {scene.fps} fps, {scene.codec}"
    return f"{scene.shape} {scene.size} px, {scene.step:g} px a frame, {where}"


def table(rows: dict[str, dict]) -> list[str]:
    """The rows as a table in Markdown."""
    lines = [
        f"| Measure | within {WITHIN} | tuning | held out | ratio | rank correlation | pan error | zoom | still "
        "| ms a frame |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        lines.append(
            f"| {name} | {row['within']:.0%} | {row['within_tuning']:.0%} | {row['within_held_out']:.0%} "
            f"| {row['lowest'][0]} to {row['highest'][0]} "
            f"| {row['rank_correlation']:.2f} | {row['pan_error']:.0%} | {row['zoom_error']:.0%} "
            f"| {row['still_called_static']:.0%} | {row['ms_per_frame']:.2f} |"
        )
    return lines


if __name__ == "__main__":
    run(lambda: main(parse_args()))
