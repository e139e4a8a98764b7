"""What does a training step of the presets need, in pixels and in latents: multiplications and memory, counted.

    python -m benchmarks.latents.presets

Counted on the meta device from configurations, as `train_text2video.py --dry_run` does: no weights, no GPU. Result:
results/presets.json.
"""

import argparse

from utils.cli import Parser, run

# What is counted: the preset, and flags over it.
ROWS = {
    "pixels, 16x64x64": ("base", []),
    "pixels, 16x256x256": ("base", ["--frame_size", "256"]),
    "pixels, 64x512x512": ("base", ["--frame_size", "512", "--num_frames", "64"]),
    "latent256, 16x256x256": ("latent256", []),
    "latent512, 64x512x512": ("latent512", []),
    "latent512 without --temporal_window": ("latent512", ["--temporal_window", "64"]),
    "latent512, --patch_size 1": ("latent512", ["--patch_size", "1"]),
    "sd15, 16x512x512": ("sd15", []),
    "sd15, 16x256x256": ("sd15", ["--frame_size", "256"]),
    "sd15, --network motion": ("sd15", ["--network", "motion"]),
}
BATCHES = [1, 2, 4, 8]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n", 1)[1])
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS), help="what is counted")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    from tqdm.auto import tqdm

    from benchmarks.measure import write_result

    rows = {name: count(*ROWS[name]) for name in tqdm(args.rows, desc="counting", unit="row")}
    for name, of in rows.items():
        for how, found in of["needs"].items():
            print(f"{name}, {how}: {found['tflop_per_clip']} TFLOP a clip, {found['gib']} GiB")
    result = {"command": "python -m benchmarks.latents.presets", "rows": rows}
    print(write_result("presets", result))


def count(preset: str, flags: list[str]) -> dict:
    """What the network sees, and {"batch N, checkpoints or not": TFLOP of a clip and GiB of a step}."""
    import train_text2video
    from utils.runs.memory_report import clip_shape, ledgers, meta_unet

    args = train_text2video.parse_args(["--preset", preset, "--dry_run", *flags])
    unet, width, _ = meta_unet(args)
    clip, _ = clip_shape(args)
    needs = {}
    for (batch, checkpointing), found in ledgers(unet, clip, width, BATCHES, args).items():
        how = f"batch {batch}, {'' if checkpointing else 'no '}checkpoints"
        needs[how] = {
            "tflop_per_clip": round(found["flops"] / batch / 1e12, 2),
            "gib": round(found["total"] / 2**30, 2),
        }
    parameters = sum(parameter.numel() for parameter in unet.parameters())
    return {"network_sees": list(clip), "parameters": parameters, "needs": needs}


if __name__ == "__main__":
    run(lambda: main(parse_args()))
