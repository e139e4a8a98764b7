"""Export a text-to-video model as a folder that diffusers loads by itself, for those who do not have this repository.

    python export_text2video.py --checkpoint checkpoints/demo --output_dir exported/demo

The folder holds the weights as safetensors, the code of the network and of the pipeline, and README.md, a model card:

    pipeline = DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder, trust_remote_code=True)
    frames = pipeline("a red circle moving right", generator=torch.Generator().manual_seed(0)).frames[0]

The same prompt and seed give the frames of generate_text2video.py. A frozen text encoder or autoencoder is copied too.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from utils.cli import Parser, output_problems, run, utf8_text

# torch and what is built on it are imported in main(): --help and a misspelt flag answer at once.


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n", 1)[1])
    group = parser.add_argument_group("what")
    group.add_argument("--checkpoint", type=Path, required=True, help="best_model.pth, or the run folder")
    group.add_argument("--text_encoder", help="where the frozen text encoder lies, if not where the training found it")
    group.add_argument("--vae", help="where the frozen autoencoder lies, if not where the training found it")

    group = parser.add_argument_group("output")
    group.add_argument("--output_dir", type=Path, help="a new folder; default: pipeline in the run folder")
    group.add_argument("--license", type=utf8_text, help="of the weights, for the model card, such as cc-by-4.0")
    group.add_argument("--evaluation", type=Path, help="evaluation.json of this model; default: in the run folder")
    group.add_argument("--overwrite", action="store_true", help="replace an older export")
    group.add_argument("--debug", action="store_true", help="show tracebacks")
    parser.checks.append(check_args)
    return parser.parse_args(argv)


def check_args(args: argparse.Namespace) -> Iterator[str]:
    if not args.checkpoint.exists():
        yield f"--checkpoint: there is no {args.checkpoint}"
    if args.evaluation is not None and not args.evaluation.is_file():
        yield f"--evaluation: there is no file {args.evaluation}; evaluate_text2video.py writes it"
    run_dir = args.checkpoint if args.checkpoint.is_dir() else args.checkpoint.parent
    args.output_dir = args.output_dir or run_dir / "pipeline"
    yield from output_problems(args.output_dir)
    if args.output_dir.is_dir() and any(args.output_dir.iterdir()):
        if not is_export(args.output_dir):
            yield f"--output_dir: {args.output_dir} holds other files; choose a new folder"
        elif not args.overwrite:
            yield f"--output_dir: {args.output_dir} holds an export already; --overwrite replaces it"


def is_export(folder: Path) -> bool:
    """Whether a folder is one that this script wrote, which alone it may replace."""
    try:
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
        return index["_class_name"] == ["pipeline", "TextToVideoPipeline"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def main(args: argparse.Namespace) -> None:
    from models.conditions import settings_of
    from models.diffusion.captioned import CaptionedDiffusion
    from utils.export.model_card import model_card
    from utils.export.pipeline_folder import save_pipeline
    from utils.files import size, whole_folder, write_text
    from utils.pretrained.autoencoder import unpack_autoencoder
    from utils.runs.model_file import load_model, unpack_model
    from utils.tensors import tensor_bytes

    stored = load_model(args.checkpoint)
    autoencoder = unpack_autoencoder(stored.get("autoencoder"), args.vae)
    model = CaptionedDiffusion(*unpack_model(stored, args.text_encoder), autoencoder)
    if names := settings_of(model.diffusion.unet).names:
        print(f"note: the pipeline draws from text alone; what the model knows of {', '.join(names)} stays here")
        del model.diffusion.unet.conditions  # without a condition its layers add nothing
    defaults = {name: stored[name] for name in ("num_frames", "height", "width", "guidance_scale")}
    defaults["guidance_interval"] = stored.get("guidance_interval", [0.0, 1.0])
    defaults["num_inference_steps"] = stored.get("num_inference_steps", min(25, model.diffusion.num_timesteps))
    defaults["sampler"] = stored.get("sampler", "dpmpp_sde")

    needed = tensor_bytes(model.state_dict())
    with whole_folder(args.output_dir, needed) as folder:
        save_pipeline(model, folder, defaults)
        write_text(folder / "README.md", model_card(stored, args.checkpoint, args.license, args.evaluation))
    print(f"{args.output_dir} ({size(needed)}): DiffusionPipeline.from_pretrained loads it, see its README.md")


if __name__ == "__main__":
    run(lambda: main(parse_args()))
