"""Score a text-to-video model: does it do what the prompt says, is it like the data, is it a copy of the data?

    python evaluate_text2video.py --checkpoint checkpoints/demo --data_dir demo_video_data
    python evaluate_text2video.py --videos other_program/videos --data_dir demo_video_data
    python evaluate_text2video.py --compare run_a/evaluation/evaluation.json run_b/evaluation/evaluation.json

On the demo dataset the benchmark's fixed prompts are drawn with fixed seeds, and classical computer vision judges every
video: colour, shape, direction, speed, size, coherence, for combinations that training showed and that it never showed.
On any data: distances to the clips of --data_dir, motion, and the nearest training clip of each video. Nothing is
downloaded. Result: evaluation.json, report.html and the videos in --output_dir.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from utils.arguments.sampling import add_sampling_args
from utils.cli import Parser, UserError, choice, integer, number, output_problems, run, versions

# torch and what is built on it are imported where they are used: --help and a misspelt flag answer at once.

# As utils/task_scores/tasks.py has them.
TASKS = (
    "first_frame",
    "continuation",
    "first_last",
    "in_between",
    "inpainting",
    "depth",
    "vectors",
    "audio",
    "recolour",
)
MOST_FAITHFUL = 200  # clips of the data that are compressed and judged, of which one in a hundred is at the limit


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n", 1)[1])
    group = parser.add_argument_group("what")
    group.add_argument("--checkpoint", type=Path, help="best_model.pth, or the run folder: draw videos with it")
    group.add_argument("--videos", type=Path, help="or a folder of videos that are there, with prompts (.txt or .json)")
    group.add_argument("--compare", type=Path, nargs="+", default=[], help="or rank runs by their evaluation.json")
    group.add_argument("--data_dir", type=Path, default=Path("demo_video_data"), help="the data of the training")
    group.add_argument(
        "--num_prompts", type=integer(1, 100_000), default=48, help="videos per group (demo: seen and held out)"
    )
    group.add_argument("--seed", type=integer(0, 2**63 - 2**32), default=0, help="video i is drawn with seed + i")
    group.add_argument(
        "--task",
        type=choice(*TASKS),
        nargs="+",
        default=[],
        help="on the demo dataset: conditions and edits, beside baselines: " + ", ".join(TASKS),
    )
    group.add_argument("--text_encoder", help="where the frozen text encoder lies, if not where the training found it")

    group = parser.add_argument_group("against the data")
    group.add_argument(
        "--features",
        nargs="+",
        type=choice("random3d", "flow", "clip", "vae"),
        default=["random3d", "flow"],
        help="distances on fixed random 3-D convolutions, optical flow, or a local CLIP or VAE",
    )
    group.add_argument("--clip_dir", type=Path, help="folder of a CLIP model: for --features clip, and for CLIP score")
    group.add_argument("--vae_dir", type=Path, help="folder of a VAE, for --features vae")
    group.add_argument(
        "--fvd_weights", type=Path, help="i3d_torchscript.pt, for FVD; a program that is run, so know where it is from"
    )
    group.add_argument(
        "--num_real", type=integer(2, 10**6), default=512, help="training clips for distances and motion"
    )
    group.add_argument("--target_fps", type=number(0.01, 1000), help="of --videos; default: every frame of the data")

    add_sampling_args(parser)
    group = parser.add_argument_group("output")
    group.add_argument("--output_dir", type=Path, help="default: evaluation in the run folder, or ./evaluation")
    group.add_argument("--overwrite", action="store_true", help="draw again what is there already")
    group.add_argument("--debug", action="store_true", help="show tracebacks")
    # What utils.drawing.generator.Generator also reads.
    parser.set_defaults(negative_prompt="", fps=8, save_gif=False, save_frames=False, visualize=False)
    parser.checks.append(check_args)
    return parser.parse_args(argv)


def check_args(args: argparse.Namespace) -> Iterator[str]:
    if sum(map(bool, (args.checkpoint, args.videos, args.compare))) != 1:
        yield "--checkpoint: give one of --checkpoint, --videos and --compare"
    if args.task and args.checkpoint is None:
        yield "--task: needs --checkpoint, for it draws videos"
    if args.task and not (args.data_dir / "dataset.json").is_file():
        yield f"--task: measures on the demo dataset, and {args.data_dir} is none; `python video_dataset.py` writes it"
    for flag in ("checkpoint", "fvd_weights", "clip_dir", "vae_dir"):
        path = getattr(args, flag)
        if path is not None and not path.exists():
            yield f"--{flag}: there is no {path}"
    for path in args.compare:
        if not path.is_file():
            yield f"--compare: there is no file {path}; it should be an evaluation.json that this program wrote"
    if args.videos is not None and not args.videos.is_dir():
        yield f"--videos: there is no folder {args.videos}"
    if not args.compare and not args.data_dir.is_dir():
        yield f"--data_dir: there is no folder {args.data_dir}; `python video_dataset.py` writes ./demo_video_data"
    for name in ("clip", "vae"):
        if name in args.features and getattr(args, f"{name}_dir") is None:
            yield f"--features: {name} needs --{name}_dir, the folder of a model on this machine"
    if args.output_dir is not None:
        yield from output_problems(args.output_dir, args.data_dir)


def main(args: argparse.Namespace) -> None:
    if args.compare:
        from utils.evaluation.comparison import compare_runs

        print(compare_runs(args.compare))
        return

    if args.task:
        evaluate_tasks(args)
        return

    from utils.evaluation.benchmark import demo_settings, faithfulness, judge_samples, likeness
    from utils.evaluation.report import write_report
    from utils.evaluation.samples import find_samples, read_samples, reading_of
    from utils.evaluation.scores import CORE, confusion, score_groups, score_table

    # Videos with their prompts: drawn with the model, or made by another program.
    demo = demo_settings(args.data_dir)
    if args.checkpoint is not None:
        samples, about = draw_samples(args, demo)
    else:
        args.output_dir = args.output_dir or Path("evaluation")
        samples, about = find_samples(args.videos), {"videos": str(args.videos)}
    read_samples(samples)
    result = about | {"data_dir": str(args.data_dir), "versions": versions()}

    # The prompts, where it is known what they mean.
    if demo is not None:
        rows = judge_samples(samples)
        result["groups"] = score_groups(rows)
        every = [row for group in rows.values() for row in group]
        result["confusion"] = {name: confusion(every, name) for name in (*CORE, "speed", "size")}
        print(score_table(result["groups"]))

    # The data: distances, motion, copies; of the demo's also outlines and backgrounds.
    reading = about.get("reading") or reading_of(samples[0], args.target_fps)
    training = training_clips(args, reading)
    result |= against_data(args, samples, training)
    if demo is not None:
        verdicts = [verdict for _, verdict in every]
        result["like"] = likeness(verdicts, true_clips(args, samples, demo, reading), args.fps)
        result["faithful"] = faithfulness(verdicts, training.spread(min(args.num_real, MOST_FAITHFUL)), args.fps)
    print_data(result)

    args.output_dir.mkdir(parents=True, exist_ok=True)
    page = write_report(args.output_dir, result, samples)
    print(f"{args.output_dir / 'evaluation.json'}, and for looking at: {page}")


def evaluate_tasks(args: argparse.Namespace) -> None:
    """Conditions and edits: tasks.json with a table of each task, and a contact sheet each, in --output_dir."""
    from accelerate import PartialState

    from utils.drawing.generator import Generator
    from utils.evaluation.benchmark import demo_settings
    from utils.task_scores.evaluate import TaskScores
    from utils.task_scores.report import task_table, write_tasks
    from utils.video.contact_sheet import contact_sheet
    from utils.video.encode import write_image
    from video_dataset import TextVideoDataset

    run_dir = args.checkpoint if args.checkpoint.is_dir() else args.checkpoint.parent
    args.output_dir = args.output_dir or run_dir / "evaluation"
    generator = Generator(args, args.checkpoint, PartialState(cpu=args.device == "cpu").device)
    demo, found = demo_settings(args.data_dir), {}
    scores = TaskScores(generator, args.num_prompts, demo, TextVideoDataset)
    for task in args.task:
        found[task], rows = scores.evaluate(task)
        print(task_table(task, found[task]))
        labels, clips = zip(*rows, strict=True)
        write_image(args.output_dir / f"{task}.png", contact_sheet(clips, labels))
    about = {**generator.about, "settings": generator.settings, "num_prompts": args.num_prompts}
    print(write_tasks(args.output_dir / "tasks.json", about, found))


def draw_samples(args: argparse.Namespace, demo: dict | None) -> tuple[list, dict]:
    """(samples, what is known of the model): videos of the benchmark's prompts, or of captions of validation clips."""
    from accelerate import PartialState

    from utils.drawing.generator import Generator
    from utils.evaluation.benchmark import benchmark
    from utils.evaluation.samples import Sample
    from video_dataset import TextVideoDataset

    run_dir = args.checkpoint if args.checkpoint.is_dir() else args.checkpoint.parent
    args.output_dir = args.output_dir or run_dir / "evaluation"
    settings = argparse.Namespace(**vars(args) | {"output_dir": args.output_dir / "videos"})
    generator = Generator(settings, args.checkpoint, PartialState(cpu=args.device == "cpu").device)
    if demo is not None:
        groups = benchmark(args.num_prompts, demo["hard"])
    else:
        captions = TextVideoDataset(args.data_dir, **generator.reading, augment=False, split="val").captions()
        groups = {"validation captions": list(dict.fromkeys(captions))[: args.num_prompts]}
    jobs = generator.plan(groups)
    generator.draw_missing(jobs, args.overwrite)
    samples = [Sample(generator.path(job, ".mp4"), job.prompt, job.group, f"seed {job.seed}") for job in jobs]
    return samples, {**generator.about, "settings": generator.settings, "reading": generator.reading}


def training_clips(args: argparse.Namespace, reading: dict):
    """The training clips of --data_dir, read as the model or the samples say."""
    from utils.evaluation.samples import TrainingClips
    from video_dataset import TextVideoDataset

    return TrainingClips(TextVideoDataset(args.data_dir, **reading, augment=False, split="train"))


def against_data(args: argparse.Namespace, samples: list, training) -> dict:
    """Distances, motion and nearest training clips of the samples, against training clips."""
    from models.metrics.distances import MIN_CLIPS, frechet_distance, kernel_distance, mean_interval
    from utils.evaluation.memorisation import nearest_training_clips
    from utils.evaluation.motion_statistics import compare_motion, motion_statistics
    from utils.evaluation.video_metrics import clip_score, fvd, load_features

    real, clips = training.spread(args.num_real), [sample.frames for sample in samples]
    found = {"data": training.dataset.fingerprint(), "num_videos": len(clips), "num_real": len(real), "distances": {}}

    if min(len(clips), len(real)) < MIN_CLIPS:
        print(f"{len(clips)} videos and {len(real)} training clips: distances need at least {MIN_CLIPS} of each")
        args.features, args.fvd_weights = [], None
    folders = {"clip": (args.clip_dir, "--clip_dir"), "vae": (args.vae_dir, "--vae_dir")}
    for name in args.features:
        extract = load_features(name, *folders.get(name, ()))
        own, theirs = extract(clips, training.fps), extract(real, training.fps)
        found["distances"][name] = {"kernel": kernel_distance(own, theirs), "frechet": frechet_distance(own, theirs)}
    if args.fvd_weights is not None:
        found["distances"]["I3D"] = {"FVD": fvd(clips, real, args.fvd_weights)}
    if args.clip_dir is not None:
        scores = clip_score(clips, [sample.prompt for sample in samples], args.clip_dir)
        found["clip_score"] = mean_interval(scores, "CLIP score")

    found["motion"] = compare_motion(motion_statistics(clips, training.fps), motion_statistics(real, training.fps))
    try:
        neighbours = nearest_training_clips(clips, training)
    except ValueError as error:
        raise UserError(f"--data_dir: {error}; it needs clips that differ") from None
    found["copies"] = {"suspected": neighbours.suspected_share, "closer": neighbours.closer_share}
    for sample, index, distance, ratio in zip(
        samples, neighbours.nearest, neighbours.distance, neighbours.ratio, strict=True
    ):
        sample.nearest = {"clip": str(training.path(int(index))), "distance": float(distance), "ratio": float(ratio)}
    return found


def true_clips(args: argparse.Namespace, samples: list, demo: dict, reading: dict) -> list:
    """A clip that shows what the prompt of a sample says, for each of them, read as training reads it."""
    from tempfile import TemporaryDirectory

    from utils.task_scores.truth import make_truths
    from utils.video.frames import to_uint8
    from video_dataset import TextVideoDataset

    with TemporaryDirectory() as folder:
        prompts = [sample.prompt for sample in samples]
        truths = make_truths(prompts, Path(folder), demo, TextVideoDataset, reading, [])
    return [to_uint8(truth.video) for truth in truths]


def print_data(found: dict) -> None:
    """The findings of against_data, for the terminal."""
    from utils.evaluation.benchmark import LIKE

    print(f"against {found['num_real']} training clips, each number with its 95 % interval:")
    for feature, distances in found["distances"].items():
        for distance in distances.values():
            print(f"  {distance.kind}, {feature}: {distance}")
    if "clip_score" in found:
        print(f"  CLIP score: {found['clip_score']}")
    for comparison in found["motion"].values():
        verdict = "differs" if comparison.differ else "no difference to be seen"
        print(f"  {comparison.generated.kind}: {comparison.generated}, of the data {comparison.real}: {verdict}")
    for share in found["copies"].values():
        print(f"  {share.kind}: {share}")
    for name, each in found.get("like", {}).items():
        ratio = f"{each['ratio']:.2f} times the data's ({each['mean']:.3g}, {each['mean_of_data']:.3g})"
        warning = "" if each["like"] else "  WARNING: not as in the data"
        print(f"  {LIKE[name]}: {ratio}{warning}")
    for name, each in found.get("faithful", {}).items():
        medians = f"{each['median']:.3g}, of the data {each['median_of_data']:.3g}"
        print(f"  {each['share'].kind}: {each['share']}; median {name} {medians}")


if __name__ == "__main__":
    run(lambda: main(parse_args()))
