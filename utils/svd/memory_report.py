"""What training SVD needs on a GPU, by item, and which cards have it: a table for people."""

import argparse
import json
from functools import cache
from pathlib import Path

from models.svd.ledger import IMG2VID_XT, activation_bytes, meta_unet, scope_counts, static_bytes


def memory_report(args: argparse.Namespace) -> str:
    """What training needs on a GPU, by item, and what fits: counted on the meta device from the U-Net's config."""
    file = Path(args.pretrained_model_name, "unet", "config.json")
    config = IMG2VID_XT
    if file.exists():
        config = {k: v for k, v in json.loads(file.read_text()).items() if not k.startswith("_")}
    optimizer = "adamw8bit" if args.optimizer == "adamw8bit" else "adamw"
    clip = {
        "num_frames": args.num_frames,
        "height": args.height,
        "width": args.width,
        "batch_size": args.train_batch_size,
    }
    unet = meta_unet(config)

    @cache  # a second or more each
    def activations(trainable: str, checkpointing: str) -> dict[str, int]:
        return activation_bytes(trainable, **clip, checkpointing=checkpointing, config=config)

    def ledger(trainable: str, optimizer: str, checkpointing: str) -> dict[str, int]:
        weights = static_bytes(unet, trainable, optimizer, args.ema_decay > 0, args.lora_rank)
        return complete(weights | activations(trainable, checkpointing))

    trained, frozen = scope_counts(unet, args.trainable, args.lora_rank)
    lines = [
        f"{args.num_frames} frames of {args.width}x{args.height}, batch {args.train_batch_size}, --trainable "
        f"{args.trainable}, --checkpointing {args.checkpointing}, --optimizer {optimizer}; predicted, bf16",
        f"parameters: {trained:,} learn, {frozen:,} are frozen",
    ]
    for name, size in ledger(args.trainable, optimizer, args.checkpointing).items():
        lines.append(f"  {name.replace('level', 'activations, level'):22} {size / 2**30:6.2f} GiB")
    lines += ["", "with                                              total  12 GB  16 GB  24 GB  40 GB  80 GB"]
    choices = (
        (args.trainable, optimizer, args.checkpointing),
        ("temporal", "adamw", "full"),
        ("temporal", "adamw8bit", "full"),
        ("temporal", "adamw", "diffusers"),
        ("temporal", "adamw", "none"),
        ("temporal_attn", "adamw8bit", "full"),
        ("lora", "adamw", "full"),
        ("all", "adamw8bit", "full"),
    )
    for trainable, name, checkpointing in dict.fromkeys(choices):
        total = ledger(trainable, name, checkpointing)["total"]
        fits = "".join(f"{'yes' if total <= card * 10**9 else 'no':>7}" for card in (12, 16, 24, 40, 80))
        lines.append(f"{f'{trainable}, {name}, checkpointing {checkpointing}':45} {total / 2**30:5.1f} GiB{fits}")
    return "\n".join(lines)


def complete(ledger: dict[str, int]) -> dict[str, int]:
    """The ledger with what that of the U-Net leaves out: the VAE in float32 and what CUDA takes for itself."""
    fixed = {"VAE": 97_742_847 * 4, "CUDA, fragmentation": 15 * 10**8}
    items = ledger | fixed
    return items | {"total": sum(items.values())}
