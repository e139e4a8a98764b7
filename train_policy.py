"""Train a small policy that imitates episodes of a robot from their pixels; generated episodes may join the real ones.

    python train_policy.py --data_dir DATASET --output_dir ./checkpoints/policy
    python train_policy.py --data_dir DATASET --generated ./generated_episodes --output_dir ./checkpoints/policy_more
    python rollout_world_model.py --policy ./checkpoints/policy ...

Data: LeRobot datasets, or clips with vectors per frame, as for train_inverse_dynamics.py; captions are the tasks.
Result: a run folder whose model/ holds the weights as save_pretrained writes them, metrics.jsonl and loss.png. It is a
measure of data, the same network whatever it learns from, and no rival to the policies of lerobot.
"""

import argparse
import statistics
from collections.abc import Iterator
from pathlib import Path

from utils.arguments.data import add_data_args, data_args, frame_shape
from utils.arguments.training import (
    FREE_ON_RESUME,
    add_length_args,
    add_log_args,
    add_optimizer_args,
    add_run_args,
    check_run_args,
)
from utils.cli import Parser, UserError, integer, number, printable
from utils.cli import run as run_script

# torch and what is built on it are imported in main(): --help and a misspelt flag answer at once.

FREE = FREE_ON_RESUME | {"num_epochs", "cache_mb", "data_dir", "generated", "num_validation_clips"}
OTHER_RATE = 0.01
REMEDIES = "a smaller --batch_size, fewer --num_frames, a smaller --frame_size, fewer --model_channels"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n", 1)[1])
    add_data_args(parser)
    parser.set_defaults(missing_caption="empty", short_clips="skip", augment=True)
    group = parser.add_argument_group("generated episodes")
    group.add_argument("--generated", type=Path, metavar="DIR", help="of generate_episodes.py, beside --data_dir")
    group.add_argument(
        "--generated_share", type=number(0, 1, above=True), default=0.5, help="of the clips that are learnt from"
    )
    group = parser.add_argument_group("policy")
    group.add_argument("--vectors", metavar="NAME", default="action", help="which numbers are to be imitated")
    group.add_argument("--chunk", type=integer(1, 256), default=8, help="actions that follow from a frame")
    group.add_argument("--model_channels", type=integer(4, 1024, multiple_of=4), default=32, help="width")
    group.add_argument("--shift", type=integer(0, 64), default=0, help="px that clips are moved by, at most")
    group = parser.add_argument_group("training")
    add_length_args(group, batch_size=16, num_epochs=100, optimizer="muon")
    add_optimizer_args(
        group, learning_rate=2e-2, lr_scheduler="warmup_stable_decay", lr_warmup_steps=50, adam_beta2=0.99
    )
    parser.set_defaults(ema_decay=0.99)
    add_run_args(group, "./checkpoints/policy_<time>")
    group = parser.add_argument_group("logs")
    add_log_args(group, "policy")
    group.add_argument("--num_validation_clips", type=integer(1, 4096), default=32, help="held-out clips measured")
    parser.checks.append(check_args)
    return parser.parse_args(argv)


def check_args(args: argparse.Namespace) -> Iterator[str]:
    for flag, folder in (("data_dir", args.data_dir), ("generated", args.generated)):
        if folder is not None and not folder.is_dir():
            yield f"--{flag}: there is no folder {folder}"
    if args.buckets is not None or args.image_share:
        yield "--buckets: clips are all of one size here; leave it and --image_share out"
    if args.chunk > args.num_frames:
        yield f"--chunk: got {args.chunk}, at most the {args.num_frames} frames of a clip (--num_frames)"
    yield from check_run_args(args, args.data_dir)


def main(args: argparse.Namespace) -> None:
    import numpy as np
    import torch

    from models.robots.policy import Policy, imitation_loss, shifted
    from utils.conditions.known_clips import with_actions
    from utils.files import whole_files
    from utils.robots.joined import JoinedClips
    from utils.runs.model_file import cpu_tensors
    from utils.tensors import tensor_bytes
    from utils.training.optimizers import make_optimizer
    from utils.training.order import seed_step
    from utils.training.training_run import TrainingRun
    from video_dataset import TextVideoDataset

    run = TrainingRun(args, "policy", FREE, REMEDIES)

    # Data: clips with what was done in them, real ones and perhaps generated ones.
    data = data_args(args) | {"max_bad_fraction": args.max_bad_fraction}
    parts = [TextVideoDataset(**data, split=split) for split in ("train", "val")]
    train_set, val_set = with_actions(parts, args.data_dir, args.vectors)
    digests, captions = train_set.clips.digests() | val_set.clips.digests(), train_set.clips.captions()
    samples = train_set
    if args.generated is not None:
        new = TextVideoDataset(**{**data, "data_dir": args.generated}, split="all")
        (generated,) = with_actions([new], args.generated, args.vectors)
        check_alike(args, train_set, generated)
        digests |= {f"generated/{name}": digest for name, digest in generated.clips.digests().items()}
        captions = captions + generated.clips.captions()
        samples = JoinedClips((train_set, 1 - args.generated_share), (generated, args.generated_share))
    run.check_clips("--data_dir", digests)
    if "about" not in run.state:
        fps = args.target_fps or rate_of(train_set)
        measured = train_set.measured()[args.vectors]
        about = {"tasks": sorted(set(captions)), "frame_size": list(frame_shape(args)), "fps": fps, "chunk": args.chunk}
        run.state["about"] = {**measured, **about}
    places = {task: n for n, task in enumerate(run.state["about"]["tasks"])}
    held_out = [n for n in range(min(args.num_validation_clips, len(val_set))) if val_set[n]["text"] in places]
    if not held_out:
        raise UserError("--val_fraction: no held-out clip has a task that is learnt; change it, or add episodes")
    max_train_steps = args.max_train_steps or -(
        -args.num_epochs * len(samples) // run.samples_per_step(args.batch_size)
    )

    seed_step(args.seed)
    model = Policy(**run.state["about"], width=args.model_channels)
    if run.resumed:
        model.load_state_dict(run.resumed.tensors["model"])
    if args.compile:
        model.compile()
    kinds = f"{len(train_set)} real" + (f" and {len(generated)} generated" if args.generated is not None else "")
    run.say(
        f"{kinds} training and {len(val_set)} validation clips, {len(places)} tasks, {max_train_steps} steps, "
        f"run folder {run.run_dir}; {sum(p.numel() for p in model.parameters()) / 1e6:.2f}M parameters"
    )
    betas = args.adam_beta1, args.adam_beta2
    trained = run.prepare(
        model,
        make_optimizer(args.optimizer, model, args.learning_rate, betas, args.adam_weight_decay),
        samples,
        args.batch_size,
        max_train_steps,
        lambda: {"model": cpu_tensors(model)},
    )

    def loss_of(network, batch: dict, most: int) -> torch.Tensor:
        clips = shifted(batch["video"].to(run.device, non_blocking=True), most)
        done = (batch["conditions"][args.vectors].to(run.device) - model.centre) / model.spread
        tasks = torch.tensor([places[text] for text in batch["text"]], device=run.device)
        present = batch["present"][args.vectors].to(run.device).float()
        with run.accelerator.autocast():
            return imitation_loss(network, clips, done, tasks, present)

    def validate() -> None:
        with run.averaged(), torch.no_grad():
            samples = (torch.utils.data.default_collate([val_set[n]]) for n in held_out)
            losses = [loss_of(model, sample, 0).item() for sample in samples]
            run.state["error"] = float(np.mean(losses))
            run.log({"val/error": run.state["error"]})
            if run.main_process:
                with whole_files(run.run_dir / "model", tensor_bytes(model.state_dict())) as folder:
                    model.save_pretrained(folder)

    with run:
        if run.step and run.missed("validate", "val/error"):
            validate()  # a stop does not wait for it
        for batches in run.steps():
            for batch in batches:
                run.backward(loss_of(trained, batch, args.shift))
            run.update()
            if run.due("validate"):
                validate()

    if run.main_process:
        off = f"squared error {run.state['error']:.3f} on held-out clips, 1 is the data's own"
        print(f"done: {run.run_dir / 'model'} ({off}), {run.run_dir / 'loss.png'}")


def check_alike(args: argparse.Namespace, real, generated) -> None:
    """Raises UserError for generated clips with other actions than the real ones, or of another rate: what a number
    means, and when, is the same in both."""
    ours, theirs = (each.conditions.names[args.vectors] for each in (real, generated))
    where = f"--generated: {printable(args.generated)}"
    if ours != theirs:
        raise UserError(f"{where} has {', '.join(theirs)} as {args.vectors}; --data_dir has {', '.join(ours)}")
    ours, theirs = rate_of(real), rate_of(generated)
    if args.target_fps is None and abs(ours - theirs) > OTHER_RATE * ours:
        raise UserError(f"{where} has {theirs:g} frames a second, --data_dir {ours:g}; --target_fps reads both alike")


def rate_of(samples) -> float:
    """Frames a second of the clips; the middle one's."""
    return statistics.median(info.fps for info, _ in samples.clips.items)


if __name__ == "__main__":
    run_script(lambda: main(parse_args()))
