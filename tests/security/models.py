"""Hostile models and checkpoints: files that make a folder "mark" when what they hold is executed."""

import contextlib
import json
import os
import pickle
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from tests.badinput.checkpoints import Hostile
from tests.badinput.place import TRAIN, Outcome, Place
from utils.runs.checkpoint import list_checkpoints


class Attacks:
    """Tries one hostile file after the other. executed: those that a script executed, or that it did not get past."""

    def __init__(self, mark: Path):
        self.mark, self.kinds, self.executed = mark, 0, []

    def try_one(self, kind: str, careless: Callable, careful: Callable[[], Outcome]) -> None:
        """careful: the script that must not execute the file; careless: what does, or it would not be hostile."""
        self.kinds += 1
        outcome = careful()
        if self.mark.exists():
            self.executed.append(kind)
            os.rmdir(self.mark)
        elif outcome.status not in (0, 2) or "Traceback" in outcome.err:
            self.executed.append(f"{kind}: status {outcome.status}, {outcome.err[-300:]}")
        with contextlib.suppress(Exception):
            careless()
        assert self.mark.exists(), f"{kind}: this is not hostile"
        os.rmdir(self.mark)


def attack(place: Place) -> Attacks:
    """Every way in that is known here, by the script that a user would give the file to."""
    shared, folder, attacks = place.shared, place.folder, Attacks(place.folder / "mark")
    hostile = Hostile(attacks.mark)
    generate = partial(place.generate, "--prompts", "a red circle", "--checkpoint")
    train = partial(place.run, "train_text2video", "--data_dir", shared.data, *TRAIN)

    path = folder / "zip.pth"
    torch.save({**shared.model, "extra": hostile}, path)
    attacks.try_one("an object in a model file", partial(load, path), partial(generate, path))

    path = folder / "plain.pth"
    path.write_bytes(pickle.dumps(hostile))
    attacks.try_one("a pickle named like a model file", partial(unpickle, path), partial(generate, path))

    path = folder / "old.pth"
    torch.save({**shared.model, "extra": hostile}, path, _use_new_zipfile_serialization=False)
    initial = partial(train, "--output_dir", place.out, "--init_from", path)
    attacks.try_one("a model file of torch's old format", partial(load, path), initial)

    path = folder / "weights.pth"
    torch.save({**shared.model, "unet": {**shared.model["unet"], "conv_in.weight": hostile}}, path)
    argv = ("--checkpoint", path, "--data_dir", shared.data, "--output_dir", place.out)
    evaluate = partial(place.run, "evaluate_text2video", *argv)
    attacks.try_one("an object in the place of a weight", partial(load, path), evaluate)

    shutil.copytree(shared.run_dir, folder / "run")
    (checkpoint,) = list_checkpoints(folder / "run")
    for name in ("custom_checkpoint_0.pkl", "optimizer.bin", "random_states_0.pkl", "scheduler.bin"):
        (checkpoint / name).write_bytes(pickle.dumps(hostile))
    resume = partial(train, "--max_train_steps", 2, "--resume", folder / "run")
    attacks.try_one("accelerate's pickles in a checkpoint", partial(unpickle, checkpoint / "optimizer.bin"), resume)

    svd = shutil.copytree(shared.svd, folder / "svd_pickles")
    for part, stem in {"unet": "diffusion_pytorch", "vae": "diffusion_pytorch", "image_encoder": "pytorch"}.items():
        next((svd / part).glob("*.safetensors")).unlink()
        torch.save({"conv_in.weight": hostile}, svd / part / f"{stem}_model.bin")
    careless = partial(load, svd / "unet" / "diffusion_pytorch_model.bin")
    attacks.try_one("SVD's weights as pickles", careless, partial(place.animate, shared.picture, model=svd))

    svd = shutil.copytree(shared.svd, folder / "svd_code")
    index = json.loads((svd / "model_index.json").read_text())
    (svd / "model_index.json").write_text(json.dumps({**index, "unet": ["hostile_unet", "Unet"]}))
    write_code(svd / "unet" / "hostile_unet.py", attacks.mark, "Unet")
    careless = partial(load_svd_with_code, svd)
    attacks.try_one("SVD with code of its own", careless, partial(place.animate, shared.picture, model=svd))

    lora = folder / "lora"
    lora.mkdir()
    (lora / "trained.json").write_text(json.dumps({"lora": {"rank": 4, "alpha": 4}, "trainable": "lora"}))
    (lora / "trained.safetensors").write_bytes(pickle.dumps(hostile))
    careless = partial(unpickle, lora / "trained.safetensors")
    attacks.try_one("a pickle named like an adapter", careless, partial(place.animate, shared.picture, "--lora", lora))

    encoder = write_text_encoder(place, folder / "encoder_pickle")
    (encoder / "model.safetensors").unlink()
    torch.save({"embeddings": hostile}, encoder / "pytorch_model.bin")
    careless = partial(load, encoder / "pytorch_model.bin")
    careful = partial(train, "--output_dir", place.out, "--text_encoder", encoder)
    attacks.try_one("a text encoder as a pickle", careless, careful)

    encoder = write_text_encoder(place, folder / "encoder_code")
    config = {"model_type": "hostile", "auto_map": {"AutoConfig": "hostile_encoder.Encoder"}}
    (encoder / "config.json").write_text(json.dumps(config))
    write_code(encoder / "hostile_encoder.py", attacks.mark, "Encoder")
    careful = partial(train, "--output_dir", place.out, "--text_encoder", encoder, stdin="y\n" * 9)
    attacks.try_one("a text encoder with code of its own", partial(load_encoder_with_code, encoder), careful)
    return attacks


def write_code(path: Path, mark: Path, name: str) -> None:
    path.write_text(f"import os\nos.mkdir({str(mark)!r})\nclass {name}:\n    pass\n")


def write_text_encoder(place: Place, folder: Path) -> Path:
    """A folder with all the files of a text encoder."""
    from models.text_encoder import builtin_text_encoder, load_tokenizer

    encoder = builtin_text_encoder(load_tokenizer(place.shared.model["text_encoder"]["tokenizer"]), dim=32)
    encoder.model.save_pretrained(folder)
    encoder.tokenizer.save_pretrained(folder)
    return folder


# What careless programs do.


def load(path: Path) -> None:
    torch.load(path, weights_only=False)


def unpickle(path: Path) -> None:
    pickle.loads(path.read_bytes())


def load_svd_with_code(folder: Path) -> None:
    from diffusers import StableVideoDiffusionPipeline

    StableVideoDiffusionPipeline.from_pretrained(folder, trust_remote_code=True)


def load_encoder_with_code(folder: Path) -> None:
    from transformers import AutoConfig

    AutoConfig.from_pretrained(folder, trust_remote_code=True)
