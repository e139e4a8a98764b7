"""Do students draw in a few steps what their teachers draw in many?

    python -m benchmarks.realtime.students --teachers checkpoints/demo --work_dir DIR
    python -m benchmarks.realtime.students --teachers A B C --work_dir DIR --methods consistency distribution

For each run of train_text2video.py on the demo dataset: the teacher as it draws by default, the teacher in as few steps
as the students, and a student of each method and number of steps, all on the same prompts. Typed again it goes on.
Result: results/students.json with the seconds of each training, shares right, likeness to the data, and diversity: how
far videos of one prompt lie apart, compared with clips of the data that show the same. Means over the teachers follow.
"""

import argparse
import json
import time
from pathlib import Path

from utils.cli import Parser, choice, integer, number, run


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n", 1)[1])
    parser.add_argument(
        "--teachers", type=Path, nargs="+", required=True, help="run folders; they differ by their seeds"
    )
    parser.add_argument("--work_dir", type=Path, required=True, help="students and videos stay here")
    parser.add_argument(
        "--methods", type=choice("consistency", "distribution"), nargs="+", default=["consistency"], help="of students"
    )
    parser.add_argument("--steps", type=integer(1, 1000), nargs="+", default=[4, 2, 1], help="of students")
    parser.add_argument("--max_train_steps", type=integer(1), help="of each student; default: half of the teacher's")
    parser.add_argument("--learning_rate", type=number(0, above=True), help="of each student; default: the teacher's")
    parser.add_argument("--num_prompts", type=integer(1, 10_000), default=48, help="per group: seen and held out")
    parser.add_argument("--num_samples", type=integer(2, 1000), default=8, help="of one prompt, for diversity")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    from benchmarks.faithful.guidance import line, means
    from benchmarks.measure import write_result
    from benchmarks.text2video.time_to_prompt import run_script

    rows = []
    for teacher in args.teachers:
        work = args.work_dir / teacher.name
        data_dir = json.loads((teacher / "args.json").read_text(encoding="utf-8"))["data_dir"]
        rows.append({"run": teacher.name, "model": "teacher"} | evaluated(args, teacher, data_dir, work / "teacher"))
        for steps in args.steps:
            few = ["--sampler", "ddim", "--num_inference_steps", steps]
            found = evaluated(args, teacher, data_dir, work / f"teacher{steps}", few)
            rows.append({"run": teacher.name, "model": f"teacher in {steps}"} | found)
            for method in args.methods:
                student = work / f"{method}{steps}"
                if not (student / "seconds.json").is_file():
                    flags = ["--teacher", teacher, "--method", method, "--num_inference_steps", steps]
                    flags += ["--resume", "auto", "--no_wandb"]
                    for name in ("max_train_steps", "learning_rate"):
                        flags += [] if getattr(args, name) is None else [f"--{name}", getattr(args, name)]
                    start = time.perf_counter()
                    run_script("distill_text2video.py", *flags, "--output_dir", student)
                    seconds = round(time.perf_counter() - start, 1)
                    (student / "seconds.json").write_text(json.dumps(seconds), encoding="utf-8")
                found = evaluated(args, student, data_dir, student / "evaluation")
                found["seconds"] = json.loads((student / "seconds.json").read_text(encoding="utf-8"))
                rows.append({"run": teacher.name, "model": f"{method} in {steps}"} | found)
                print(line(rows[-1]), flush=True)
    summary = means(rows, ("model",)) if len(args.teachers) > 1 else []
    print("\n".join(map(line, summary or rows)))
    command = "python -m benchmarks.realtime.students --teachers DIR ... --work_dir DIR"
    for name in ("methods", "steps", "max_train_steps", "learning_rate", "num_prompts", "num_samples"):
        if (values := getattr(args, name)) is not None:
            command += f" --{name} {' '.join(map(str, values if isinstance(values, list) else [values]))}"
    print(write_result("students", {"command": command, "rows": rows, "means": summary}))


def evaluated(args: argparse.Namespace, run_dir: Path, data_dir: str, folder: Path, how: list = ()) -> dict:
    """What evaluate_text2video.py says of a model, and its diversity."""
    from benchmarks.faithful.guidance import row
    from benchmarks.text2video.time_to_prompt import run_script

    if not (folder / "evaluation.json").is_file():
        flags = ["--checkpoint", run_dir, "--data_dir", data_dir, "--num_prompts", args.num_prompts, *how]
        run_script("evaluate_text2video.py", *flags, "--output_dir", folder)
    if not (folder / "diversity.json").is_file():
        found = diversity(run_dir, folder / "diversity", Path(data_dir), how, args.num_samples)
        (folder / "diversity.json").write_text(json.dumps(found), encoding="utf-8")
    told = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    return row(told) | json.loads((folder / "diversity.json").read_text(encoding="utf-8"))


# Diversity ------------------------------------------------------------------------------------------------------------

PROMPTS = 12  # half of them seen, half held out


def diversity(run_dir: Path, folder: Path, data_dir: Path, how: list, num_samples: int) -> dict[str, float]:
    """{"diversity of paths": ..., "... of sizes", "... of colours"}: mean distance of two videos of one prompt; of
    paths and sizes as a ratio to that of the data's clips, of colours, which a prompt decides, in 8-bit levels."""
    import numpy as np

    from benchmarks.text2video.time_to_prompt import run_script
    from utils.demo_data import shapes
    from utils.evaluation.benchmark import benchmark, demo_settings
    from utils.evaluation.judge import VALUES, wanted
    from utils.evaluation.samples import find_samples, read_samples

    demo = demo_settings(data_dir)
    chosen = [prompt for prompts in benchmark(PROMPTS // 2, demo["hard"]).values() for prompt in prompts]
    prompts = [prompt for prompt in chosen for _ in range(num_samples)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "prompts.txt").write_text("\n".join(prompts), encoding="utf-8")
    flags = ["--checkpoint", run_dir, "--prompts_file", folder / "prompts.txt", "--batch_size", 16, *how]
    run_script("generate_text2video.py", *flags, "--output_dir", folder / "videos")
    samples = find_samples(folder / "videos")
    read_samples(samples)
    drawn = {prompt: [vector(each.frames) for each in samples if each.prompt == prompt] for prompt in chosen}

    rng, of_data = np.random.default_rng(0), {}
    for prompt in chosen:
        clips = []
        for _ in range(num_samples):
            asked = {name: value or str(rng.choice(VALUES[name])) for name, value in wanted(prompt).items()}
            thing = shapes.place(asked, demo["num_frames"], demo["frame_size"], rng)
            frames = shapes.draw([thing], demo["num_frames"], demo["frame_size"])
            clips.append(vector(frames[:: len(frames) // len(samples[0].frames)][: len(samples[0].frames)]))
        of_data[prompt] = clips
    found = {}
    for kind in KINDS:
        own, data = (
            mean([apart([clip[kind] for clip in clips]) for clips in each.values()]) for each in (drawn, of_data)
        )
        found[f"diversity of {kind}"] = own if kind == "colours" or own is None else own / data
    return found


KINDS = ("paths", "sizes", "colours")


def vector(frames) -> dict:
    """{"paths": (T, 2) centres in shares of the frame, "sizes": (1,), "colours": (3,)}, NaN without an object."""
    import numpy as np

    from utils.evaluation.judge import find_object

    blobs = [find_object(frame) for frame in frames.astype(np.float32)]
    size = frames.shape[1]
    seen = [blob for blob in blobs if blob]
    if not seen:
        return {"paths": np.full((len(frames), 2), np.nan), "sizes": np.full(1, np.nan), "colours": np.full(3, np.nan)}
    path = np.array([blob.centre if blob else (np.nan, np.nan) for blob in blobs]) / size
    radius = np.array([np.median([blob.radius for blob in seen]) / size])
    return {"paths": path, "sizes": radius, "colours": np.mean([blob.rgb for blob in seen], axis=0)}


def apart(vectors: list) -> float | None:
    """Mean distance of two of them: Euclidean along the last axis, the mean over the others; None where nothing is."""
    import numpy as np

    pairs = [(a, b) for n, a in enumerate(vectors) for b in vectors[:n]]
    return mean([mean(np.linalg.norm(a - b, axis=-1).flat) for a, b in pairs])


def mean(values) -> float | None:
    """Of those that are numbers."""
    known = [float(value) for value in values if value is not None and value == value]
    return sum(known) / len(known) if known else None


if __name__ == "__main__":
    run(lambda: main(parse_args()))
