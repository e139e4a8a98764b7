"""Secrets of the environment and of the command line: none may end up in the files of a run, or in wandb's."""

import os
from unittest import mock

from tests.badinput.place import TRAIN, TRAIN_SVD, Place, run_script

ENVIRONMENT = {
    "WANDB_API_KEY": "5ecre7" + "0a" * 17,
    "HF_TOKEN": "hf_" + "Secret" * 6,
    "AWS_SECRET_ACCESS_KEY": "aws5ecre7aws5ecre7",
    "OPENAI_API_KEY": "sk-5ecre75ecre7",
}
TYPED = "hf_" + "Typed" * 7  # real ones have 34 letters and digits


def secrets_kept(place: Place) -> list[str]:
    """ "secret in file" for two runs that wandb logs offline."""
    shared, found = place.shared, []
    svd = ("--pretrained_model_name", shared.svd, "--dataset_dir", shared.frames, "--num_inference_steps", 1)
    runs = {
        "train_text2video": ("--data_dir", shared.data, *TRAIN, "--text_encoder_revision", TYPED),
        "train_svd": (*svd, *TRAIN_SVD, "--cache_dir", place.folder / TYPED),
    }
    with mock.patch.dict(os.environ, ENVIRONMENT | {"WANDB_MODE": "offline"}):
        for script, argv in runs.items():
            run_dir = place.folder / script
            run_script(script, (*argv, "--report_to", "wandb", "--output_dir", run_dir)).done()
            files = [path for path in run_dir.rglob("*") if path.is_file()]
            assert any(path.suffix == ".wandb" for path in files), "wandb has kept no log"
            for name, secret in {**ENVIRONMENT, "a token that was typed": TYPED}.items():
                holders = [path for path in files if secret.encode() in path.read_bytes()]
                found += [f"{name} in {path.relative_to(place.folder)}" for path in holders]
    return found
