"""What training SVD needs on a GPU, by item, and which cards have it: a table for people."""

import argparse
import json
from pathlib import Path

from models.svd.ledger import IMG2VID_XT, memory_ledger, meta_unet, scope_counts


def memory_report(args: argparse.Namespace) -> str:
    """What training needs on a GPU, by item, and what fits: counted on the meta device from the U-Net's config."""
    file = Path(args.pretrained_model_name, "unet", "config.json")
    config = IMG2VID_XT
    if file.exists():
        config = {k: v for k, v in json.loads(file.read_text()).items() if not k.startswith("_")}
    optimizer = "adamw8bit" if args.optimizer == "adamw8bit" else "adamw"
    settings = {
        "num_frames": args.num_frames,
        "height": args.height,
        "width": args.width,
        "batch_size": args.train_batch_size,
        "lora_rank": args.lora_rank,
        "ema": args.ema_decay > 0,
        "config": config,
    }
    trained, frozen = scope_counts(meta_unet(config), args.trainable, args.lora_rank)
    ledger = memory_ledger(args.trainable, checkpointing=args.checkpointing, optimizer=optimizer, **settings)
    lines = [
        f"{args.num_frames} frames of {args.width}x{args.height}, batch {args.train_batch_size}, --trainable "
        f"{args.trainable}, --checkpointing {args.checkpointing}, --optimizer {optimizer}; predicted, bf16",
        f"parameters: {trained:,} learn, {frozen:,} are frozen",
    ]
    for name, size in complete(ledger).items():
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
        one = memory_ledger(trainable, checkpointing=checkpointing, optimizer=name, **settings)
        total = complete(one)["total"]
        fits = "".join(f"{'yes' if total <= card * 10**9 else 'no':>7}" for card in (12, 16, 24, 40, 80))
        lines.append(f"{f'{trainable}, {name}, checkpointing {checkpointing}':45} {total / 2**30:5.1f} GiB{fits}")
    return "\n".join(lines)


def complete(ledger: dict[str, int]) -> dict[str, int]:
    """The ledger with what that of the U-Net leaves out: the VAE in float32 and what CUDA takes for itself."""
    fixed = {"VAE": 97_742_847 * 4, "CUDA, fragmentation": 15 * 10**8}
    items = {name: size for name, size in ledger.items() if name != "total"} | fixed
    return items | {"total": sum(items.values())}
