"""README.md of an exported text-to-video model: what it is, what it learnt from, how good it is, how to use it."""

import json
from pathlib import Path

from utils.cli import UserError, printable, versions, without_secrets
from utils.lerobot.origin import said_of
from utils.runs.checkpoint import sha256

USAGE = """import torch
from diffusers import DiffusionPipeline
from diffusers.utils import export_to_video

folder = "FOLDER"  # where this file lies
pipeline = DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder, trust_remote_code=True)
frames = pipeline("PROMPT", generator=torch.Generator().manual_seed(0)).frames[0]
export_to_video(list(frames), "video.mp4", fps=8)"""


def model_card(model: dict, checkpoint: Path, licence: str | None, evaluation: Path | None = None) -> str:
    """The card of a model file. licence: of the weights. evaluation: an evaluation.json of this very file; by default
    the one in its run folder, if that is of it. Raises UserError for one that cannot be read, or of another model."""
    run_dir = checkpoint if checkpoint.is_dir() else checkpoint.parent
    file = checkpoint / "best_model.pth" if checkpoint.is_dir() else checkpoint
    settings = _settings(run_dir)
    base, data = settings.get("init_from_2d"), settings.get("data_dir")
    latents, origin = model.get("autoencoder"), said_of(model.get("origin", {}))
    kind = f"the latents of the autoencoder {_name(latents['name'])}" if latents else "pixels"
    head = ["library_name: diffusers", "pipeline_tag: text-to-video", f"license: {licence or 'other'}"]
    head += [f"base_model: {base}"] * (base is not None and not Path(base).is_absolute())
    terms = f"{licence}." if licence else "Not stated by who exported these weights: ask them."
    if base or model["text_encoder"]["name"] != "builtin":
        terms += f" The licence of {_name(base or model['text_encoder']['name'])} holds for what comes from it."
    terms += (
        " The rights in the clips of the training hold as well. The code is under the MIT licence, see its first line."
    )
    rows = "\n".join(f"| {name} | {value} |" for name, value in settings.items() if value is not None)
    return f"""---
{chr(10).join(head)}
---
# Text to video

{model["num_frames"]} frames of {model["width"]}x{model["height"]} from a sentence: a diffusion model of {kind}, text
encoder {_name(model["text_encoder"]["name"])}.

```python
{USAGE}
```

The code that trust_remote_code=True lets run is pipeline.py and, beside the weights, the file of the network.

## Data

{origin or (_name(data) if data else "Not known: the settings of the training were not beside the weights.")}

## Figures

Step {model["step"]}, validation loss {model["val_loss"]:.4f}.
{_figures(run_dir, file, evaluation)}
## Licence

{terms}

## Settings of the training

| setting | value |
|---|---|
{rows}

Exported with {", ".join(f"{name} {number}" for name, number in versions().items())}.
"""


def _settings(run_dir: Path) -> dict:
    """The flags of the training, of files and folders the names alone; {} if they are not there."""
    try:
        found = json.loads((run_dir / "args.json").read_text(encoding="utf-8"))
        return {name: _name(value) for name, value in without_secrets(found).items()}
    except (OSError, ValueError, AttributeError):
        return {}


def _name(value: object) -> object:
    """A folder of this machine by its name alone; hub names and everything else as they are."""
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def _figures(run_dir: Path, file: Path, evaluation: Path | None) -> str:
    """What evaluate_text2video.py found about this very file, as a table; "" if it did not look at it."""
    path = evaluation or run_dir / "evaluation" / "evaluation.json"
    if evaluation is None and not path.is_file():
        return ""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["settings"]["checkpoint_sha256"] != sha256(file):
            if evaluation is None:
                return ""
            raise UserError(f"--evaluation: {printable(path)} is of another model; evaluate this one")
        rows = [
            (f"{name} right, {group}", f"{each['share']:.1%}", "{:.1%} to {:.1%}".format(*each["interval"]))
            for group, scores in found.get("groups", {}).items()
            for name, each in scores.items()
        ]
        rows += [
            (f"{each['kind']}, {feature}", f"{each['value']:.4g}", f"{each['low']:.4g} to {each['high']:.4g}")
            for feature, distances in found["distances"].items()
            for each in distances.values()
        ]
        rows += [
            (
                f"{pair['generated']['kind']}, of the data {pair['real']['value']:.4g}",
                f"{pair['generated']['value']:.4g}",
                f"{pair['generated']['low']:.4g} to {pair['generated']['high']:.4g}",
            )
            for pair in found["motion"].values()
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"--evaluation: {printable(path)} cannot be read ({error!r}); evaluate again") from None
    lines = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    drawn = f"{found['num_videos']} videos against {found['num_real']} training clips"
    return f"\n{drawn}:\n\n| | | 95% interval |\n|---|---|---|\n{lines}\n"
