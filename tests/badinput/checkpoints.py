"""Checkpoints and models, K1 to K9: nothing is executed, and what does not fit is named."""

import json
import os
import pickle
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.badinput.place import Place, row
from utils.runs.checkpoint import MANIFEST, list_checkpoints

TOO_LONG = (1 << 31).to_bytes(8, "little")  # the length of a header of safetensors


class Hostile:
    """A pickle of it makes the file that it names when it is loaded."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def saved(place: Place, **changes) -> Path:
    """The tiny model file with other entries."""
    torch.save({**place.shared.model, **changes}, place.folder / "model.pth")
    return place.folder / "model.pth"


def with_weights(place: Place, change) -> Path:
    """The tiny model file with weights (name, tensor) -> change(name, tensor)."""
    weights = dict(change(name, tensor) for name, tensor in place.shared.model["unet"].items())
    return saved(place, unet=weights)


def generated(place: Place, model: Path):
    return place.generate("--checkpoint", model, "--prompts", "a red circle")


def copied(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    return to


@row("K1", "a hostile pickle, plain or in a zip, is refused and not executed")
def k1(place: Place) -> str:
    mark, model = place.folder / "mark", place.folder / "model.pth"
    hostile = {**place.shared.model, "extra": Hostile(mark)}
    pickled = (lambda: torch.save(hostile, model), lambda: model.write_bytes(pickle.dumps(Hostile(mark))))
    os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
    try:
        for write in pickled:
            write()
            said = generated(place, model).refused("--checkpoint", "model.pth")
            place.train("--init_from", model).refused("--init_from", "model.pth")
    finally:
        del os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"]
    assert not mark.exists(), "it was executed"
    return said + ", not executed"


@row("K2", "hostile files beside a checkpoint's own are not loaded on resume")
def k2(place: Place) -> str:
    copied(place.shared.run_dir, place.out)
    (checkpoint,) = list_checkpoints(place.out)
    for name in ("custom_checkpoint_0.pkl", "optimizer.bin", "random_states_0.pkl", "scheduler.bin"):
        (checkpoint / name).write_bytes(pickle.dumps(Hostile(place.folder / "mark")))
    place.train("--resume", "latest", "--max_train_steps", 2).done("resuming from", "done: ")
    assert not (place.folder / "mark").exists(), "it was executed"
    return "resumed, not executed"


@row("K3", "weights of another network are refused with the first differences")
def k3(place: Place) -> str:
    config = {**place.shared.model["unet_config"], "model_channels": 32}
    generated(place, saved(place, unet_config=config)).refused("--checkpoint", "size mismatch")
    outcome = place.train("--init_from", place.shared.run_dir, "--model_channels", 32)
    return outcome.refused("--init_from", "size mismatch", "give its settings again")


@row("K4", "missing names are refused, prefixes of torch.compile and DDP are understood")
def k4(place: Place) -> str:
    for prefix in ("_orig_mod.", "module.", "_orig_mod.module."):
        path = with_weights(place, lambda name, tensor, prefix=prefix: (prefix + name, tensor))
        place.generate("--checkpoint", path, "--prompts", "a red circle", "--overwrite").done("1 videos in")
    first = next(iter(place.shared.model["unet"]))
    return generated(place, with_weights(place, lambda name, t: (name.replace(first, "other"), t))).refused(first)


@row("K5", "safetensors that are cut, overwritten or promise a header of 2 GB are refused")
def k5(place: Place) -> str:
    damages = (
        lambda data: data[:20_000],
        lambda data: data[:8] + b"\xff" * 64 + data[72:],
        lambda data: TOO_LONG + data[8:],
    )
    for part in ("unet", "image_encoder"):
        for number, damaged in enumerate(damages):
            model = copied(place.shared.svd, place.folder / f"{part}{number}")
            (weights,) = (model / part).glob("*.safetensors")
            weights.write_bytes(damaged(weights.read_bytes()))
            said = place.animate(place.shared.picture, model=model).refused("--model_dir", model.name)
    return said


@row("K6", "a model file and a checkpoint of a later version are refused, with the way out")
def k6(place: Place) -> str:
    copied(place.shared.run_dir, place.out)
    (checkpoint,) = list_checkpoints(place.out)
    manifest = json.loads((checkpoint / MANIFEST).read_text())
    (checkpoint / MANIFEST).write_text(json.dumps({**manifest, "format": 99}))
    place.train("--resume", "latest", "--max_train_steps", 2).refused("--resume", "format 99", "update it")
    return generated(place, saved(place, format=99)).refused("--checkpoint", "format 99", "update it")


@row("K7", "text, an empty file and a folder given as a model are refused")
def k7(place: Place) -> str:
    path = place.folder / "model.pth"
    for content in (b"", b"text", b"PK\x03\x04 no zip"):
        path.write_bytes(content)
        generated(place, path).refused("--checkpoint", "model.pth")
    generated(place, saved(place, format="x")).refused("--checkpoint", "model.pth")
    return generated(place, place.data).refused("--checkpoint", "best_model.pth")


@row("K8", "a Stable Video Diffusion that is not there or lacks a file is refused with what is missing")
def k8(place: Place) -> str:
    place.animate(place.shared.picture, model="./outputs_missing").refused("--model_dir", "./outputs_missing")
    for number, lost in enumerate(("model_index.json", "vae", "unet/config.json")):
        model = copied(place.shared.svd, place.folder / f"svd{number}")
        shutil.rmtree(model / lost) if lost == "vae" else (model / lost).unlink()
        outcome = place.animate(place.shared.picture, model=model)
        said = outcome.refused("--model_dir", f"svd{number}", lost.split("/")[-1])
    for name, why in (
        ("svd_xt.ckpt", "pickle"),
        ("svd_xt.safetensors", "cannot be used"),
        ("lora.safetensors", "--lora"),
    ):
        save_file({"lora_unet.lora_down.weight": torch.zeros(99)}, place.folder / name)
        if name == "svd_xt.safetensors":
            os.truncate(place.folder / name, 99)
        place.animate(place.shared.picture, model=place.folder / name).refused("--model_dir", name, why)
    model = copied(place.shared.svd, place.folder / "svd")
    (model / "svd.json").write_text("{")
    place.animate(place.shared.picture, model=model).refused("--model_dir", "svd.json")
    return said


@row("K9", "weights that are not numbers are refused by name; another precision is converted with a note")
def k9(place: Place) -> str:
    first = next(iter(place.shared.model["unet"]))
    path = with_weights(place, lambda name, t: (name, torch.full_like(t, torch.nan) if name == first else t))
    generated(place, path).refused("--checkpoint", first)
    generated(place, with_weights(place, lambda name, t: (name, t.half()))).done("torch.float16 become float32")
    model = copied(place.shared.svd, place.folder / "svd")
    (weights,) = (model / "unet").glob("*.safetensors")
    tensors = {name: tensor.clone() for name, tensor in load_file(weights).items()}
    tensors["conv_in.weight"][0, 0, 0, 0] = torch.inf
    save_file(tensors, weights, {"format": "pt"})
    return place.animate(place.shared.picture, model=model).refused("--model_dir", "conv_in.weight")
