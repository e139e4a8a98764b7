"""Stable Diffusion in one file, under the names that Stability AI gave its tensors."""

import json
import os

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from tests.latents.test_image_model import arguments, noise, pictures, untrained, video
from tests.svd.original_layout import VAE, _replaced, original_name
from utils.cli import UserError
from utils.pretrained.image_file import NOTE, unpacked
from utils.pretrained.image_model import adopted


@pytest.fixture(scope="module")
def file(pipelines, tmp_path_factory):
    """The tensors of a tiny Stable Diffusion 1 as one file, beside some that no pipeline has."""
    pipeline = StableDiffusionPipeline.from_pretrained(pipelines["v1"], safety_checker=None)
    tensors = {"model_ema.decay": torch.ones(())}
    for name, tensor in pipeline.unet.state_dict().items():
        tensors[original_name("unet", name, pipeline)] = tensor
    for name, tensor in pipeline.vae.state_dict().items():
        old = f"first_stage_model.{_replaced(name, VAE)}"
        square = ".attn_1." in old and tensor.ndim == 2  # a convolution of one pixel there
        tensors[old] = tensor[:, :, None, None] if square else tensor
    for name, tensor in pipeline.text_encoder.state_dict().items():
        name = name if name.startswith("text_model.") else f"text_model.{name}"
        tensors[f"cond_stage_model.transformer.{name}"] = tensor
    file = tmp_path_factory.mktemp("file") / "dreams.safetensors"
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, file)
    return file


def test_it_is_the_pipeline_to_the_bit_and_unpacked_once(file, pipelines, data, capsys):
    config = ("--init_from_2d_config", str(pipelines["v1"]))
    args = adopted(arguments(file, data, *config))
    folder = file.with_name("dreams-unpacked")
    assert args.init_from_2d == args.vae == args.text_encoder == str(folder)
    for part, kind in (("unet", UNet2DConditionModel), ("vae", AutoencoderKL)):
        own, theirs = (kind.from_pretrained(place / part).state_dict() for place in (folder, pipelines["v1"]))
        assert own.keys() == theirs.keys() and all(torch.equal(own[name], theirs[name]) for name in own)
    own, theirs = (load_file(place / "text_encoder/model.safetensors") for place in (folder, pipelines["v1"]))
    assert own.keys() == theirs.keys() and all(torch.equal(own[name], theirs[name]) for name in own)
    assert "unpacking" in capsys.readouterr().out
    found = video(untrained(file, data, *config), "ddim", 3, 6.0)
    expected = pictures(pipelines["v1"], "ddim", noise(3), 6.0).clamp(-1, 1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    assert "unpacking" not in capsys.readouterr().out
    os.utime(file, ns=(0, 0))  # another file of that name
    adopted(arguments(file, data, *config))
    assert "unpacking" in capsys.readouterr().out and json.loads((folder / NOTE).read_text())["changed"] == 0


def test_floats_of_8_bits_are_unpacked_to_the_numbers_that_they_are(file, pipelines, tmp_path):
    stored = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in load_file(file).items()}
    save_file(stored, tmp_path / "eight.safetensors")
    folder = unpacked(tmp_path / "eight.safetensors", str(pipelines["v1"]))
    own, theirs = (UNet2DConditionModel.from_pretrained(place / "unet") for place in (folder, pipelines["v1"]))
    for name, tensor in own.state_dict().items():
        assert torch.equal(tensor.float(), theirs.state_dict()[name].to(torch.float8_e4m3fn).float())


def test_what_cannot_be_unpacked_is_refused_in_one_line(file, pipelines, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    config = str(pipelines["v1"])

    def refused(path, config) -> str:
        with pytest.raises(UserError) as error:
            unpacked(path, config)
        return str(error.value)

    (tmp_path / "old.ckpt").write_bytes(b"")
    assert "may be a pickle" in refused(tmp_path / "old.ckpt", config)
    (tmp_path / "half.safetensors").write_bytes(file.read_bytes()[:5000])
    assert "damaged or no safetensors file" in refused(tmp_path / "half.safetensors", config)
    tensors = load_file(file)
    xl = tensors | {"conditioner.embedders.1.model.transformer.resblocks.9.mlp.c_proj.bias": torch.zeros(1)}
    save_file(xl, tmp_path / "xl.safetensors")
    assert "is no whole Stable Diffusion 1 or 2 (it looks like 'xl_base')" in refused(
        tmp_path / "xl.safetensors", config
    )
    save_file(tensors | {"scaled_fp8": torch.zeros(1)}, tmp_path / "scaled.safetensors")
    assert "of few bits, with scales beside them (scaled_fp8)" in refused(tmp_path / "scaled.safetensors", config)
    save_file({"lora_unet.weight": torch.zeros(1)}, tmp_path / "lora.safetensors")
    assert "is no whole Stable Diffusion 1 or 2" in refused(tmp_path / "lora.safetensors", config)
    save_file(
        {name: each for name, each in tensors.items() if "mid.block_1" not in name}, tmp_path / "part.safetensors"
    )
    assert "does not fit" in refused(tmp_path / "part.safetensors", config)
    tensors["model.diffusion_model.out.0.bias"][0] = torch.nan
    save_file(tensors, tmp_path / "nan.safetensors")
    assert "values that are not numbers" in refused(tmp_path / "nan.safetensors", config)
    assert "--init_from_2d_config: stable-diffusion-v1-5/stable-diffusion-v1-5 is not on" in refused(file, None)
    assert not list(tmp_path.glob("*-unpacked"))
