"""Stable Video Diffusion in one file, as Stability AI publishes it, instead of a folder of diffusers."""

import hashlib
import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from models.svd.memory import cast
from tests.svd.original_layout import original_tensors, save_original, svd_like_pipeline
from tests.svd.running import FRAMES, infer, train
from tests.tiny_svd import TINY_VAE
from utils.cli import UserError
from utils.svd.finetuned import load_finetuned
from utils.svd.pipeline import load_pipeline
from utils.svd.single_file import build_parts, original_names

# SHA-256 of the sorted names that DiffSynth-Studio 1.x (diffsynth/models/svd_*.py) reads from svd_xt.safetensors.
NAMES_OF_SVD_XT = "c8814b942dcc89b25b2f2c9f0896304b1a74bdc75f676b25aa8eb0be1d60c0c6"
VIT_H = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 16}
SVD_VAE = TINY_VAE | {"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "sample_size": 768}


@pytest.fixture(scope="module")
def svd(tmp_path_factory):
    """svd.safetensors, one file of a tiny SVD, and folder/, the same as a pipeline."""
    place = tmp_path_factory.mktemp("original")
    pipeline = svd_like_pipeline()
    pipeline.save_pretrained(place / "folder")
    save_original(pipeline, place / "svd.safetensors")
    return place


def drawn(pipeline):
    """The frames that a pipeline draws of a grey picture."""
    settings = {"height": 64, "width": 64, "num_frames": FRAMES, "num_inference_steps": 2}
    pipeline.set_progress_bar_config(disable=True)
    picture = Image.linear_gradient("L").resize((64, 64)).convert("RGB")
    return pipeline(picture, generator=torch.Generator().manual_seed(0), output_type="pt", **settings).frames


def assert_same(a, b):
    """The same weights, which draw the same frames; in memory of their own, for its alignment decides the last bits."""
    for pipeline in (a, b):
        for part in (pipeline.unet, pipeline.vae, pipeline.image_encoder):
            part.load_state_dict({name: tensor.clone() for name, tensor in part.state_dict().items()}, assign=True)
    assert torch.equal(drawn(a), drawn(b))


def test_every_weight_of_full_size_svd_is_found_under_its_published_name():
    with init_empty_weights():
        parts = {
            "unet": UNetSpatioTemporalConditionModel(),  # whose defaults are SVD's
            "vae": AutoencoderKLTemporalDecoder(**SVD_VAE),
            "image_encoder": CLIPVisionModelWithProjection(
                CLIPVisionConfig(**VIT_H, patch_size=14, projection_dim=1024)
            ),
        }
        tensors = original_tensors(SimpleNamespace(**parts))
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        names = original_names(shapes)
        built = build_parts(names, shapes)
    assert hashlib.sha256("\n".join(sorted(set(names.values()))).encode()).hexdigest() == NAMES_OF_SVD_XT
    wanted = {f"{p}.{n}": t.shape for p, module in parts.items() for n, t in module.state_dict().items()}
    assert names.keys() == wanted.keys()
    assert wanted == {f"{p}.{n}": t.shape for p, module in built.items() for n, t in module.state_dict().items()}
    for part in ("unet", "image_encoder"):  # what no shape tells
        for setting in ("num_attention_heads", "addition_time_embed_dim", "num_frames", "image_size", "patch_size"):
            one, other = (getattr(module[part].config, setting, None) for module in (parts, built))
            assert one == other or list(one) == list(other)


def test_one_file_draws_the_frames_of_the_folder(svd, tmp_path):
    folder, file = load_pipeline(str(svd / "folder")), load_pipeline(str(svd / "svd.safetensors"))
    assert_same(folder, file)
    assert not any(part.training for part in (file.unet, file.vae, file.image_encoder))
    file.save_pretrained(tmp_path / "saved")
    assert_same(folder, load_pipeline(str(tmp_path / "saved")))


def test_one_file_keeps_its_precision_and_is_found_in_a_folder_that_is_no_pipeline(tmp_path):
    pipeline = svd_like_pipeline()
    for part in (pipeline.unet, pipeline.vae, pipeline.image_encoder):
        cast(part, torch.float16)
    save_original(pipeline, tmp_path / "svd_xt_1_1.safetensors")
    save_file({"x": torch.zeros(1)}, tmp_path / "upscaler.safetensors")
    loaded = load_pipeline(str(tmp_path))
    for part in ("unet", "vae", "image_encoder"):
        tensors = getattr(loaded, part).state_dict()
        assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
        assert all(torch.equal(tensor, getattr(pipeline, part).state_dict()[name]) for name, tensor in tensors.items())
    assert load_pipeline(str(tmp_path), dtype=torch.float32).vae.dtype == torch.float32


def test_the_variant_whose_decoder_sees_one_frame_at_a_time(tmp_path, picture):
    pipeline = svd_like_pipeline()
    pipeline.vae = AutoencoderKL(**TINY_VAE, up_block_types=["UpDecoderBlock2D"] * 4).eval()
    save_original(pipeline, tmp_path / "svd_image_decoder.safetensors")
    loaded = load_pipeline(str(tmp_path / "svd_image_decoder.safetensors"))
    assert_same(pipeline, loaded)
    size = ("--width", 64, "--height", 64, "--num_frames", FRAMES, "--output_video", tmp_path / "a.mp4")
    infer("--model_dir", tmp_path, "--input_image", picture, "--merge", tmp_path / "merged", *size)
    assert_same(pipeline, load_pipeline(str(tmp_path / "merged")))


def test_a_file_that_keeps_its_encoder_beside_the_decoder_alone(svd, tmp_path):
    """As ComfyUI saves it: there quant_conv, a convolution of one pixel, is part of the layer before it."""
    tensors = load_file(svd / "svd.safetensors")
    encoder = "conditioner.embedders.3.encoder"
    quant, last = (f"{encoder}.{name}" for name in ("quant_conv", "encoder.conv_out"))
    matrix = tensors[f"{quant}.weight"][:, :, 0, 0]
    tensors[f"{last}.weight"] = torch.einsum("oi,ichw->ochw", matrix, tensors[f"{last}.weight"])
    tensors[f"{last}.bias"] = matrix @ tensors[f"{last}.bias"] + tensors[f"{quant}.bias"]
    beside = {name.replace(encoder, "first_stage_model"): t for name, t in tensors.items() if "quant_conv" not in name}
    save_file(beside, tmp_path / "merged.safetensors")
    whole, merged = (load_pipeline(str(file)) for file in (svd / "svd.safetensors", tmp_path / "merged.safetensors"))
    clip = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    ours, wanted = (pipeline.vae.encode(clip).latent_dist.parameters for pipeline in (merged, whole))
    assert torch.allclose(ours, wanted, atol=1e-5) and wanted.std() > 0.01
    assert torch.allclose(drawn(merged), drawn(whole), atol=1e-4)
    save_file(load_file(svd / "svd.safetensors") | beside, tmp_path / "both.safetensors")  # as Stability AI has it
    assert_same(whole, load_pipeline(str(tmp_path / "both.safetensors")))


EIGHT_BITS = torch.float8_e4m3fn


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_floats_of_8_bits_are_computed_with_in_16(svd, tmp_path, kind):
    files = (
        ["svd.safetensors"]
        if kind == "file"
        else [str(f.relative_to(svd / "folder")) for f in svd.rglob("*del.safetensors")]
    )
    shutil.copytree(svd / "folder" if kind == "folder" else svd, tmp_path / "svd", ignore=lambda *_: ["folder"])
    for file in files:
        tensors = load_file(tmp_path / "svd" / file)
        save_file({name: t.to(EIGHT_BITS) for name, t in tensors.items()}, tmp_path / "svd" / file, {"format": "pt"})
    loaded = load_pipeline(str(tmp_path / "svd"))
    for part in ("unet", "vae", "image_encoder"):
        wanted = getattr(load_pipeline(str(svd / "svd.safetensors")), part).state_dict()
        for name, tensor in getattr(loaded, part).state_dict().items():
            assert tensor.dtype == torch.float16 and torch.equal(tensor, wanted[name].to(EIGHT_BITS).to(torch.float16))


@pytest.mark.parametrize("name", ["scaled_fp8", "model.diffusion_model.out.2.scale_weight", "a.weight_scale"])
def test_weights_that_need_their_scales_are_refused(svd, tmp_path, name):
    save_file(load_file(svd / "svd.safetensors") | {name: torch.ones(1)}, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=f"of few bits, with scales beside them .{name}.; take a file of 16"):
        load_pipeline(str(tmp_path / "x.safetensors"))


def test_what_is_trained_on_one_file_finds_its_base_again(svd, dataset, tmp_path):
    base = svd / "svd.safetensors"
    flags = ("--save_trainable_only", "--trainable", "lora", "--lora_rank", 2, "--max_train_steps", 1, "--no_cache")
    train(base, dataset, tmp_path / "run", *flags)
    assert json.loads((tmp_path / "run" / "svd.json").read_text())["base_model"] == str(base)
    alone, about = load_finetuned(str(tmp_path / "run"), None, None, None, torch.float32)
    added, _ = load_finetuned(str(base), None, None, tmp_path / "run", torch.float32)
    before, after, other = (p.unet.state_dict() for p in (load_pipeline(str(base)), alone, added))
    assert about["num_frames"] == FRAMES and all(torch.equal(after[name], other[name]) for name in after)
    assert any(not torch.equal(after[name], before[name]) for name in after)


def without(start: str):
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if not name.startswith(start)}


LTX = {"model.diffusion_model.transformer_blocks.0.attn1.to_q.weight": torch.zeros(4, 4)}
LORA = {"lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": torch.zeros(4, 4)}
FIRST_CONDITIONS = "model.diffusion_model.label_emb.0.0.weight"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (without("first_stage_model."), "lacks the decoder .first_stage_model"),
        (without("conditioner."), "lacks the encoder .*, the image encoder"),
        (lambda tensors: {n: t for n, t in tensors.items() if "time_" not in n}, "lacks a U-Net with layers over time"),
        (lambda _: LTX, "lacks a U-Net with layers over time .*, the decoder .*, the encoder .*, the image encoder"),
        (lambda _: LORA, "a LoRA is for infer_svd.py --lora"),
        (without("model.diffusion_model.input_blocks.1.0.in_layers.2.weight"), "conv1"),
        (without("model.diffusion_model.out.0"), "conv_norm_out"),
        (lambda tensors: tensors | {FIRST_CONDITIONS: torch.zeros(256, 80)}, "conditions in 80 channels.*SV3D"),
    ],
)
def test_a_file_of_another_model_or_without_a_part_is_refused_in_one_line(svd, tmp_path, changed, said):
    save_file(changed(load_file(svd / "svd.safetensors")), tmp_path / "x.safetensors")
    with pytest.raises(
        UserError, match=f"--model_dir: .*x.safetensors cannot be used .*{said}.*svd_xt.safetensors"
    ) as e:
        load_pipeline(str(tmp_path / "x.safetensors"), flag="--model_dir")
    assert "\n" not in str(e.value)


def test_what_is_no_such_file_is_refused_with_the_way_out(svd, tmp_path):
    whole = (svd / "svd.safetensors").read_bytes()
    for name, content, said in (
        ("cut.safetensors", whole[:-1000], "cut.safetensors cannot be used"),
        ("text.txt", b"x" * 99, "text.txt cannot be used"),
        ("svd.ckpt", b"x", "svd.ckpt may be a pickle, which can run code.*svd_xt.safetensors"),
        ("gone.safetensors", None, "there is no file .*gone.safetensors"),
    ):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"--pretrained_model_name: .*{said}"):
            load_pipeline(str(tmp_path / name))
    for name in ("svd", "svd_xt"):
        (tmp_path / f"{name}.safetensors").write_bytes(whole)
    with pytest.raises(UserError, match="holds svd.safetensors, svd_xt.safetensors; name one"):
        load_pipeline(str(tmp_path))
