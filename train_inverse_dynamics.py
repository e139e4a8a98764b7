"""Train a small network that reads from a video which actions were taken, to label episodes and to judge them.

    python train_inverse_dynamics.py --data_dir DATASET --vectors action --output_dir ./checkpoints/inverse
    python generate_episodes.py --inverse_dynamics ./checkpoints/inverse ...

Data: clips with vectors per frame, a LeRobot dataset say, as for train_text2video.py. Result: a run folder whose
model/ holds the best weights as save_pretrained writes them, metrics.jsonl, loss.png, and actions.png: what it reads
from clips that it has not learnt from, against what was done.
"""

import argparse
from collections.abc import Iterator

from utils.arguments.data import add_data_args, data_args, frame_shape
from utils.arguments.training import (
    FREE_ON_RESUME,
    add_length_args,
    add_log_args,
    add_optimizer_args,
    add_run_args,
    check_run_args,
)
from utils.cli import Parser, UserError, integer, number
from utils.cli import run as run_script

# torch and what is built on it are imported in main(): --help and a misspelt flag answer at once.

FREE = FREE_ON_RESUME | {"num_epochs", "cache_mb", "data_dir", "num_validation_clips"}
MEASURED, BETWEEN = 512, 1e-3
REMEDIES = "a smaller --batch_size, fewer --num_frames, a smaller --frame_size, fewer --model_channels"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n", 1)[1])
    add_data_args(parser)
    parser.set_defaults(missing_caption="empty", short_clips="skip")
    group = parser.add_argument_group("network")
    group.add_argument("--vectors", metavar="NAME", default="action", help="which numbers are to be read")
    group.add_argument("--model_channels", type=integer(4, 1024, multiple_of=4), default=32, help="width")
    group.add_argument("--reach", type=integer(0, 16), default=2, help="pairs of frames before and behind that count")
    group = parser.add_argument_group("training")
    group.add_argument(
        "--disturb",
        type=number(0, 10),
        default=1.0,
        help="how much clips are blurred, brightened and made noisy, so that it can read what a model draws; 0: not",
    )
    add_length_args(group, batch_size=8, num_epochs=20, optimizer="muon")
    add_optimizer_args(
        group, learning_rate=2e-2, lr_scheduler="warmup_stable_decay", lr_warmup_steps=50, adam_beta2=0.99
    )
    parser.set_defaults(ema_decay=0.99)
    add_run_args(group, "./checkpoints/inverse_dynamics_<time>")
    group = parser.add_argument_group("logs")
    add_log_args(group, "inverse-dynamics")
    group.add_argument("--num_validation_clips", type=integer(1, 4096), default=64, help="held-out clips measured")
    parser.checks.append(check_args)
    return parser.parse_args(argv)


def check_args(args: argparse.Namespace) -> Iterator[str]:
    if not args.data_dir.is_dir():
        yield f"--data_dir: there is no folder {args.data_dir}"
    if args.buckets is not None or args.image_share:
        yield "--buckets: clips are all of one size here; leave it and --image_share out"
    yield from check_run_args(args, args.data_dir)


def main(args: argparse.Namespace) -> None:
    import numpy as np

    from models.robots.inverse_dynamics import InverseDynamics, action_loss, binary_loss
    from models.robots.seeing import disturbed
    from utils.conditions.known_clips import with_actions
    from utils.files import whole_files
    from utils.runs.model_file import cpu_tensors
    from utils.tensors import tensor_bytes
    from utils.training.optimizers import make_optimizer
    from utils.training.order import seed_step
    from utils.training.training_run import TrainingRun
    from video_dataset import TextVideoDataset

    run = TrainingRun(args, "inverse_dynamics", FREE, REMEDIES)

    # Data: clips with what was done in them.
    data = data_args(args) | {"max_bad_fraction": args.max_bad_fraction}
    parts = [TextVideoDataset(**data, split=split) for split in ("train", "val")]
    train_set, val_set = with_actions(parts, args.data_dir, args.vectors)
    run.check_clips("--data_dir", train_set.clips.digests() | val_set.clips.digests())
    if "about" not in run.state:
        fps = args.target_fps or float(np.median([info.fps for info, _ in train_set.clips.items]))
        run.state["about"] = {
            **train_set.measured()[args.vectors],
            "frame_size": list(frame_shape(args)),
            "fps": fps,
            "binary": is_binary(train_set, args.vectors),
        }
    samples = args.num_epochs * len(train_set)
    max_train_steps = args.max_train_steps or -(-samples // run.samples_per_step(args.batch_size))

    seed_step(args.seed)
    model = InverseDynamics(**run.state["about"], width=args.model_channels, reach=args.reach)
    if run.resumed:
        model.load_state_dict(run.resumed.tensors["model"])
    if args.compile:
        model.compile()
    run.say(
        f"{len(train_set)} training and {len(val_set)} validation clips, {max_train_steps} steps, run folder "
        f"{run.run_dir}; {sum(p.numel() for p in model.parameters()) / 1e6:.2f}M parameters read "
        f"{', '.join(model.config.names)}"
    )
    betas = args.adam_beta1, args.adam_beta2
    trained = run.prepare(
        model,
        make_optimizer(args.optimizer, model, args.learning_rate, betas, args.adam_weight_decay),
        train_set,
        args.batch_size,
        max_train_steps,
        lambda: {"model": cpu_tensors(model)},
    )
    run.state.setdefault("best_error", None)

    def validate() -> None:
        with run.averaged(), run.accelerator.autocast():
            numbers, pairs = measure(model, val_set, args)
            run.log({f"val/{name}": value for name, value in numbers.items()})
            if run.state["best_error"] is None or numbers["error"] < run.state["best_error"]:
                run.state["best_error"] = numbers["error"]
                if run.main_process:
                    with whole_files(run.run_dir / "model", tensor_bytes(model.state_dict())) as folder:
                        model.save_pretrained(folder)
                    draw_actions(run.run_dir / "actions.png", pairs, model.config.names)

    with run:
        if run.step and run.missed("validate", "val/error"):
            validate()  # a stop does not wait for it
        for batches in run.steps():
            for batch in batches:
                videos = disturbed(batch["video"].to(run.device, non_blocking=True), args.disturb)
                done = batch["conditions"][args.vectors].to(run.device)[:, :-1]
                with run.accelerator.autocast():
                    believed, log_std = trained(videos)
                present = batch["present"][args.vectors].to(run.device).float()
                if model.config.binary:
                    loss, error = binary_loss(believed, done, present, model.centre)
                else:
                    loss, error = action_loss(believed, log_std, (done - model.centre) / model.spread, present)
                run.backward(loss, mse=error)
            run.update()
            if run.due("validate"):
                validate()

    if run.main_process:
        height, width = frame_shape(args)
        print(
            f"done: {run.run_dir / 'model'} (error {run.state['best_error']:.3f} deviations on held-out clips of "
            f"{width}x{height}), {run.run_dir / 'actions.png'}"
        )


def is_binary(samples, name: str) -> bool:
    """Whether these numbers are 0 or 1 in all clips, or in MEASURED of them, but for what lies between two frames:
    whether a task is done, say."""
    import torch

    chosen = range(0, len(samples), -(-len(samples) // MEASURED))
    values = torch.cat([samples.read_conditions(0, n)[0][name].flatten() for n in chosen])
    off = (values - values.round()).abs()
    return bool((values > -BETWEEN).all() and (values < 1 + BETWEEN).all() and (off < BETWEEN).float().mean() > 0.9)


def measure(model, val_set, args: argparse.Namespace) -> tuple[dict[str, float], list[tuple]]:
    """({"error": mean absolute error in deviations, "error_<name>": in the units of the data, "known": how well what is
    believed of errors orders them, -1 to 1}, [(what was done (T-1, D), what is read)]) of held-out clips."""
    import numpy as np

    pairs, believed, errors, units = [], [], [], []
    for index in range(min(args.num_validation_clips, len(val_set))):
        sample = val_set[index]
        if not sample["present"][args.vectors]:
            continue
        found, spread = (each[0].cpu() for each in model.read(sample["video"][None].to(model.device)))
        done = sample["conditions"][args.vectors][:-1]
        pairs.append((done.numpy(), found.numpy()))
        units.append((found - done).abs().mean(0).numpy())
        errors.append(((found - done).abs() / model.spread.cpu()).mean(1).numpy())
        believed.append(spread.mean(1).numpy())
    if not pairs:
        raise UserError(f"--vectors: no validation clip has {args.vectors}")
    flat, told = np.concatenate(errors), np.concatenate(believed)
    ranks = [values.argsort().argsort() for values in (flat, told)]
    numbers = {"error": float(flat.mean()), "known": float(np.corrcoef(*ranks)[0, 1]) if len(flat) > 2 else 0.0}
    each = np.mean(units, axis=0)
    return numbers | {f"error_{name}": float(v) for name, v in zip(model.config.names, each, strict=True)}, pairs


def draw_actions(path, pairs: list[tuple], names: list[str]) -> None:
    """A plot of each number: what is read against what was done."""
    import matplotlib
    import numpy as np

    matplotlib.use("Agg")
    from matplotlib import pyplot

    from utils.logs.plots import save_figure

    done, read = (np.concatenate(column) for column in zip(*pairs, strict=True))
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    figure, axes = pyplot.subplots(rows, columns, figsize=(3 * columns, 3 * rows), squeeze=False)
    for n, axis in enumerate(axes.flat):
        axis.set_visible(n < len(names))
        if n < len(names):
            axis.scatter(done[:, n], read[:, n], s=2, alpha=0.4)
            ends = [min(done[:, n].min(), read[:, n].min()), max(done[:, n].max(), read[:, n].max())]
            axis.plot(ends, ends, color="grey", linewidth=1)
            axis.set(title=names[n], xlabel="done", ylabel="read")
    save_figure(figure, path)


if __name__ == "__main__":
    run_script(lambda: main(parse_args()))
