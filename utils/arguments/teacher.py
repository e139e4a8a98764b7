"""Settings that a student shares with its teacher: a run folder says how its model read its clips, and these become
defaults."""

import argparse
import json
import sys
from pathlib import Path

from utils.cli import Parser

# What of a run's args.json its student starts from: the clips and their size, the conditions, how it was trained.
SHARED = frozenset(
    "data_dir num_frames frame_size height width augment short_clips missing_caption val_fraction "  # noqa: SIM905
    "target_fps resize_mode "
    "buckets image_share frames_fps caption_encoding video_column caption_column trigger_word cameras max_samples "
    "latent_cache cached_windows fresh_share tasks maps vectors audio condition_dropout "
    "batch_size gradient_accumulation_steps max_grad_norm optimizer adam_beta1 adam_beta2 "
    "adam_weight_decay lr_scheduler lr_warmup_steps ema_decay".split()
)


def run_folder(text: str) -> Path:
    """An argparse type: a run folder, or the model file in it."""
    path = Path(text)
    return path.parent if path.is_file() else path


def settings_of(teacher: Path) -> dict[str, object]:
    """What a run's args.json says; nothing if there is none."""
    try:
        found = json.loads((teacher / "args.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    return found if isinstance(found, dict) else {}


def parse_like_teacher(parser: Parser, argv: list[str] | None = None) -> argparse.Namespace:
    """The parsed arguments: defaults, over them what the args.json in the folder of --teacher says, then the flags."""
    argv = sys.argv[1:] if argv is None else list(argv)
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--teacher", type=run_folder)
    teacher = finder.parse_known_args(argv)[0].teacher
    if teacher is not None:
        known = SHARED & {action.dest for action in parser._actions}
        parser.set_defaults(**{name: value for name, value in settings_of(teacher).items() if name in known})
    return parser.parse_args(argv)
