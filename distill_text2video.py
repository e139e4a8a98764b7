"""Distill a trained text-to-video model: a student that draws in a few steps what its teacher draws in many.

    python distill_text2video.py --teacher ./checkpoints/demo --num_inference_steps 4

Data, conditions and optimizer are the teacher's, and steps are half as many, unless flags say otherwise. Result: a run
folder like that of train_text2video.py, whose best_model.pth says in how many steps it draws; generate_text2video.py
takes them from it.
"""

import argparse
from collections.abc import Iterator

from utils.arguments.conditions import add_condition_args, check_condition_args
from utils.arguments.data import add_data_args, data_args, frame_shape, seen_as
from utils.arguments.sampling import add_interval_arg, check_interval
from utils.arguments.teacher import parse_like_teacher, run_folder, settings_of
from utils.arguments.text2video import add_benchmark_args, add_cache_args
from utils.arguments.training import (
    FREE_ON_RESUME,
    add_length_args,
    add_log_args,
    add_optimizer_args,
    add_run_args,
    check_run_args,
)
from utils.cli import Parser, UserError, choice, integer, number
from utils.cli import run as run_script
from utils.runs.new_model import latent_samples

# torch and what is built on it are imported in main(): --help and a misspelt flag answer at once.

FREE = FREE_ON_RESUME | {"num_epochs", "cache_mb", "data_dir", "teacher", "evaluate_every", "evaluate_prompts"}
TEACHER_STEPS = 8  # at least; of more a student of one step learns more slowly, see docs/real-time.md
# Of the teacher's learning rate, by method: what follows its own drawing is led astray by long steps.
RATES = {"consistency": 1.0, "distribution": 0.25}
REMEDIES = (
    "a smaller --batch_size (with --gradient_accumulation_steps for the same effect), --gradient_checkpointing, "
    "--mixed_precision bf16, --method consistency"
)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n", 1)[1])
    group = parser.add_argument_group("teacher and student")
    group.add_argument("--teacher", type=run_folder, required=True, help="run folder of train_text2video.py")
    group.add_argument("--num_inference_steps", type=integer(1, 1000), default=4, help="of the student")
    group.add_argument(
        "--method",
        type=choice("consistency", "distribution"),
        default="consistency",
        help="the student agrees with itself along the teacher's path, or its clips are where the teacher's are",
    )
    group.add_argument(
        "--teacher_steps", type=integer(1, 1000), help="of its path; default: 8, or as many as the student has"
    )
    group.add_argument(
        "--trainable",
        type=choice("all", "lora"),
        default="all",
        help="lora: adapters beside the teacher's weights learn, and lie in lora/ for diffusers' pipelines too",
    )
    group.add_argument("--lora_rank", type=integer(1, 1024), default=64, help="width of these adapters")
    group.add_argument("--guidance_scale", type=number(0), help="to be folded in; default: the teacher's")
    add_interval_arg(group, None, "default: the teacher's")
    group.add_argument("--text_encoder", help="where the frozen one lies, if not where the teacher found it")
    group.add_argument("--vae", help="where the frozen autoencoder lies, if not where the teacher found it")
    add_data_args(parser)
    add_cache_args(parser.add_argument_group("latents"))
    add_condition_args(parser)
    add_training_args(parser)
    add_benchmark_args(parser)
    parser.checks.append(check_args)
    args = parse_like_teacher(parser, argv)
    args.learning_rate = args.learning_rate or RATES[args.method] * settings_of(args.teacher).get("learning_rate", 1e-4)
    args.teacher_steps = args.teacher_steps or -(-TEACHER_STEPS // args.num_inference_steps) * args.num_inference_steps
    return args


def add_training_args(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("training")
    add_length_args(group, batch_size=4, num_epochs=None, optimizer="adamw")
    add_optimizer_args(
        group, learning_rate=None, lr_scheduler="warmup_stable_decay", lr_warmup_steps=20, adam_beta2=0.99
    )
    group.add_argument(
        "--gradient_checkpointing", action="store_true", help="recompute activations: less memory, a third more time"
    )
    add_run_args(group, "./checkpoints/distilled_<time>")
    add_log_args(parser.add_argument_group("logs"), "text2video")


def check_args(args: argparse.Namespace) -> Iterator[str]:
    yield from check_interval(args.guidance_interval)
    if not (args.teacher / "best_model.pth").is_file():
        yield f"--teacher: there is no {args.teacher / 'best_model.pth'}; give a run folder of train_text2video.py"
        return
    if args.teacher_steps and args.teacher_steps % args.num_inference_steps:
        multiple = f"a multiple of --num_inference_steps, {args.num_inference_steps}"
        yield f"--teacher_steps: got {args.teacher_steps}, must be {multiple}"
    if not args.data_dir.is_dir():
        yield f"--data_dir: there is no folder {args.data_dir}; it is where the teacher's clips lay"
    elif args.evaluate_every and not (args.data_dir / "dataset.json").is_file():
        yield f"--evaluate_every: judges the demo dataset alone, and {args.data_dir} is another one; leave it out"
    else:
        yield from check_condition_args(args)
    yield from check_run_args(args, args.data_dir)


def main(args: argparse.Namespace) -> None:
    from models.conditions import settings_of as conditions_of
    from models.diffusion.captioned import CaptionedDiffusion
    from models.diffusion.distillation import Distillation
    from utils.drawing.training_samples import draw_samples
    from utils.evaluation.benchmark import benchmark_accuracy
    from utils.latents.latent_clips import as_clips
    from utils.pretrained.autoencoder import unpack_autoencoder
    from utils.runs.checkpoint import sha256
    from utils.runs.conditions import given_of, make_conditions
    from utils.runs.model_file import cpu_tensors, load_model, unpack_model
    from utils.training.optimizers import make_optimizer
    from utils.training.order import seed_step
    from utils.training.training_run import TrainingRun
    from video_dataset import TextVideoDataset

    run = TrainingRun(args, "distilled", FREE, REMEDIES)
    accelerator, say = run.accelerator, run.say

    # Teacher: the model as it is, with its text encoder and autoencoder, which are the student's too.
    stored = load_model(args.teacher, "--teacher")
    if "distilled" in stored:
        raise UserError(
            f"--teacher: {args.teacher} is a student itself; give its teacher, {stored['distilled']['teacher']}"
        )
    digest = run.state.setdefault("teacher_sha256", sha256(args.teacher / "best_model.pth"))
    if digest != sha256(args.teacher / "best_model.pth"):
        raise UserError("--teacher: it has changed since this run began; begin a new one")
    autoencoder = unpack_autoencoder(stored.get("autoencoder"), args.vae, "--teacher")
    teacher = CaptionedDiffusion(*unpack_model(stored, args.text_encoder, flag="--teacher"), autoencoder)
    guidance_scale = stored["guidance_scale"] if args.guidance_scale is None else args.guidance_scale
    interval = args.guidance_interval or stored.get("guidance_interval", [0.0, 1.0])

    # Data: clips (B, 3, T, H, W) in [-1, 1] with captions, as the teacher saw them.
    multiple = teacher.diffusion.unet.size_multiple * (autoencoder.layout.space if autoencoder else 1)
    data = data_args(args, multiple) | {"max_bad_fraction": args.max_bad_fraction}
    train_set, val_set = (TextVideoDataset(**data, split=split) for split in ("train", "val"))
    train_set.may_mirror = args.vectors is None
    run.check_clips("--data_dir", train_set.digests() | val_set.digests())
    max_train_steps = args.max_train_steps or max(1, stored["step"] // 2)
    if args.num_epochs and not args.max_train_steps:
        max_train_steps = -(-args.num_epochs * len(train_set) // run.samples_per_step(args.batch_size))
    samples = [train_set, val_set]
    if autoencoder is not None and args.latent_cache is not None:
        samples = latent_samples(args, accelerator, autoencoder, stored["autoencoder"]["sha256"], *samples)
    conditions = conditions_of(teacher.diffusion.unet)
    if conditions.names:
        run.state.setdefault("conditions", conditions.plain())
        _, samples = make_conditions(args, autoencoder, run.state, [train_set, val_set], samples)

    # Student: begins as its teacher.
    seed_step(args.seed)
    try:
        steps = {"num_inference_steps": args.num_inference_steps, "teacher_steps": args.teacher_steps}
        guided = {"guidance_scale": guidance_scale, "guidance_interval": tuple(interval)}
        rank = args.lora_rank if args.trainable == "lora" else 0
        model = Distillation(teacher, args.method, **steps, **guided, lora_rank=rank)
    except ValueError as error:
        raise UserError(f"--num_inference_steps, --teacher_steps: {error}") from None
    modules = {"student": model.student} | ({} if model.drawn is None else {"drawn": model.drawn})
    for name, module in modules.items():
        if args.gradient_checkpointing:
            module.enable_gradient_checkpointing()
        if args.compile:
            module.compile()
        if run.resumed:
            module.load_state_dict(run.resumed.tensors[name])
    say(
        f"{args.method}: {args.num_inference_steps} steps for guidance {guidance_scale:g} of {args.teacher}; "
        f"{len(train_set)} training clips, {max_train_steps} steps, run folder {run.run_dir}"
    )

    def weights() -> dict[str, dict]:
        return {name: cpu_tensors(module) for name, module in modules.items()}

    betas = (args.adam_beta1, args.adam_beta2)
    optimizer = make_optimizer(args.optimizer, model, args.learning_rate, betas, args.adam_weight_decay)
    trained = run.prepare(model, optimizer, samples[0], args.batch_size, max_train_steps, weights)
    student = model.learnt()
    how = {"sampler": "ddim", "num_inference_steps": args.num_inference_steps}

    def validate() -> None:
        with run.averaged(), accelerator.autocast():
            run.log({"val/loss": validation_loss(model, samples[1], args.batch_size, args.seed)})
            save_student(run, args, student, stored, guided)

    with run:
        if run.step and run.missed("validate", "val/loss"):
            validate()  # a stop does not wait for it
        for batches in run.steps():
            for batch in batches:
                with accelerator.autocast():
                    known = given_of(batch, conditions, autoencoder, run.device, args.condition_dropout)
                    losses = trained(as_clips(batch, autoencoder, run.device), batch["text"], known)
                    run.backward(sum(losses.values()), **(losses if len(losses) > 1 else {}))
            run.update()
            if run.due("validate"):
                validate()
            if run.due("sample"):
                with run.averaged(), accelerator.autocast():
                    draw_samples(run, args, student, val_set, samples[1], None, how)
            if args.evaluate_every and run.due("evaluate"):
                with run.averaged(), accelerator.autocast():
                    run.log(benchmark_accuracy(args, student, how))

    if run.main_process:
        drawn = f"drawn in {args.num_inference_steps} steps"
        print(f"done: {run.run_dir / 'best_model.pth'}, {drawn}, {run.run_dir / 'loss.png'}")


def validation_loss(model, val_set, batch_size: int, seed: int, max_clips: int = 64) -> float:
    """Mean disagreement of the student with itself along the teacher's path (the loss of "consistency"), over up to
    max_clips validation clips at places spread over the whole path. Noise and places are the same every time."""
    import torch
    from torch.utils.data import default_collate

    from utils.latents.latent_clips import as_clips
    from utils.runs.conditions import fixed_conditions

    teacher, device = model.teacher, model.diffusion.alphas_cumprod.device
    count = min(len(val_set), max_clips)
    places = ((torch.arange(count) + 0.5) / count)[torch.randperm(count, generator=torch.Generator().manual_seed(seed))]
    of_a_shape = [[i for i in clips if i < count] for clips, _ in val_set.groups()]
    total, done = 0.0, 0
    with torch.no_grad():
        for batch in (clips[n : n + batch_size] for clips in of_a_shape for n in range(0, len(clips), batch_size)):
            samples = default_collate([val_set[i] for i in batch])
            clips = as_clips(samples, teacher.autoencoder, device)
            noise = torch.randn(clips.shape, generator=torch.Generator().manual_seed(seed + done)).to(device)
            known = fixed_conditions(samples, teacher, seed + done)
            where = places[done : done + len(batch)].to(device)
            total += model.consistency(clips, model.encoded(samples["text"]), known, noise, where).item() * len(batch)
            done += len(batch)
    return total / count


def save_student(run, args: argparse.Namespace, student, stored: dict, folded: dict) -> None:
    """best_model.pth and lora/ with the averaged weights of now. All processes gather them, the main one writes."""
    from models.adapters.low_rank import low_rank_of
    from utils.runs.adapters import save_low_rank
    from utils.runs.model_file import cpu_tensors, pack_model, save_model

    height, width = frame_shape(args)
    about = {
        "step": run.step,
        "num_frames": args.num_frames,
        "height": height,
        "width": width,
        "guidance_scale": 1.0,
        "guidance_interval": [0.0, 1.0],
        "sampler": "ddim",
        "num_inference_steps": args.num_inference_steps,
        "data": seen_as(args),
        "distilled": {
            "teacher": str(args.teacher),
            "teacher_sha256": run.state["teacher_sha256"],
            "method": args.method,
            **folded,
        },
    }
    packed = pack_model(student.diffusion, student.text_encoder, stored.get("autoencoder"), **about)
    low_rank = low_rank_of(cpu_tensors(student.diffusion.unet)) if args.trainable == "lora" else {}
    if run.main_process:
        save_model(run.run_dir / "best_model.pth", packed)
        save_low_rank(run.run_dir, low_rank)


if __name__ == "__main__":
    run_script(lambda: main(parse_args()))
