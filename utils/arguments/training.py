"""The flags that all trainers have: optimizer, run folder, logs. No torch: flags are read before it is imported."""

import argparse
from collections.abc import Iterator
from pathlib import Path

from utils.cli import choice, integer, number, output_problems

TRACKERS = {"wandb": ["wandb"], "tensorboard": ["tensorboard"], "all": ["wandb", "tensorboard"], "none": []}
# Settings that may differ when a run is resumed: they change how it runs or what it logs, not what it computes.
FREE_ON_RESUME = {
    *("max_train_steps", "num_workers", "compile", "gradient_checkpointing", "report_to", "wandb_project"),
    *("log_every", "validate_every", "sample_every", "checkpoint_every", "checkpoints_total_limit"),
    "max_bad_fraction",
}


def add_length_args(group, *, batch_size: int, num_epochs: int | None, optimizer: str) -> None:
    group.add_argument(
        "--batch_size",
        "--train_batch_size",
        type=integer(1),
        default=batch_size,
        help="clips per process and micro-batch",
    )
    group.add_argument(
        "--num_epochs",
        "--num_train_epochs",
        type=integer(1),
        default=num_epochs,
        help="passes over the training clips",
    )
    group.add_argument(
        "--max_train_steps", type=integer(1), default=None, help="optimizer steps; overrides --num_epochs"
    )
    group.add_argument(
        "--optimizer",
        type=choice("adamw", "muon"),
        default=optimizer,
        help="muon: for the weight matrices, AdamW for the rest",
    )


def add_optimizer_args(
    group, *, learning_rate: float | None, lr_scheduler: str, lr_warmup_steps: int, adam_beta2: float
) -> None:
    group.add_argument(
        "--gradient_accumulation_steps", type=integer(1), default=1, help="micro-batches per optimizer step"
    )
    group.add_argument("--learning_rate", type=number(0, above=True), default=learning_rate, help="peak learning rate")
    group.add_argument(
        "--lr_scheduler",
        type=choice("cosine", "linear", "constant", "constant_with_warmup", "warmup_stable_decay"),
        default=lr_scheduler,
        help="after the warm-up; the last is constant, then linear to zero over the second half",
    )
    group.add_argument(
        "--lr_warmup_steps", type=integer(0), default=lr_warmup_steps, help="linear warm-up, at most a tenth of the run"
    )
    group.add_argument("--adam_beta1", type=number(0, 0.999999), default=0.9, help="AdamW")
    group.add_argument("--adam_beta2", type=number(0, 0.999999), default=adam_beta2, help="AdamW")
    group.add_argument("--adam_weight_decay", type=number(0), default=0.01, help="AdamW")
    group.add_argument(
        "--max_grad_norm", type=number(0, above=True), default=1.0, help="gradients are clipped to this norm"
    )
    group.add_argument(
        "--ema_decay",
        type=number(0, 0.999999),
        default=0.999,
        help="moving average of the weights, used for samples and for the model that is left; 0 turns it off",
    )
    group.add_argument(
        "--mixed_precision",
        type=choice("auto", "no", "fp16", "bf16"),
        default="auto",
        help="auto: bf16 where the hardware computes it",
    )
    group.add_argument("--compile", action="store_true", help="torch.compile the network")


def add_run_args(group, default_dir: str) -> None:
    group.add_argument(
        "--num_workers", "--dataloader_num_workers", type=integer(0, 256), default=2, help="processes that read clips"
    )
    group.add_argument(
        "--max_bad_fraction",
        type=number(0, 1),
        default=0.05,
        help="share of the clips that may become unreadable during the run; others take their places",
    )
    group.add_argument("--seed", type=integer(0, 2**32 - 1), default=0, help="of everything random")
    group.add_argument("--output_dir", type=Path, default=None, help=f"run folder; default {default_dir}")
    group.add_argument(
        "--resume",
        "--resume_from_checkpoint",
        default=None,
        help="latest: continue the run in --output_dir, or the newest; auto: the same, or start a new one; or a path",
    )
    group.add_argument("--allow_dataset_change", action="store_true", help="resume although the clips have changed")
    group.add_argument("--debug", action="store_true", help="show tracebacks")


def add_log_args(group, project: str) -> None:
    group.add_argument("--log_every", type=integer(1), default=10, help="steps between rows of metrics.jsonl")
    group.add_argument("--validate_every", type=integer(1), default=500, help="steps between validation losses")
    group.add_argument("--sample_every", type=integer(1), default=500, help="steps between sample videos")
    group.add_argument(
        "--checkpoint_every", "--checkpointing_steps", type=integer(1), default=500, help="steps between checkpoints"
    )
    group.add_argument("--checkpoints_total_limit", type=integer(2), default=2, help="checkpoints kept")
    group.add_argument("--report_to", type=choice(*TRACKERS), default="wandb", help="besides metrics.jsonl")
    group.add_argument(
        "--no_wandb", dest="report_to", action="store_const", const="none", help="the same as --report_to none"
    )
    group.add_argument("--wandb_project", default=project, help="project name in wandb")


def check_run_args(args: argparse.Namespace, data_dir: Path) -> Iterator[str]:
    """What is wrong with --resume and --output_dir, a line each."""
    if args.resume not in (None, "latest", "auto"):
        if not Path(args.resume).exists():
            folders = (Path(args.resume).parent, args.output_dir or Path("checkpoints"))
            there = [str(path) for folder in folders for path in sorted(folder.glob("checkpoint-*")) if path.is_dir()]
            there = f"there are {', '.join(there)}" if there else "give a run folder, a checkpoint in it"
            yield f"--resume: there is no {args.resume}; {there}, latest or auto"
        elif args.output_dir is not None and args.output_dir.resolve() not in Path(args.resume, "x").resolve().parents:
            yield "--resume: lies outside --output_dir; leave --output_dir out, or start a new run"
    if args.output_dir is not None:
        yield from output_problems(args.output_dir, data_dir)
