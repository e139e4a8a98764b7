"""Features of clips: what they see, that a clip's are its own, and models from local folders."""

import shutil
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchmetrics.functional.multimodal import clip_score as reference_clip_score
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPVisionModelWithProjection

from models.metrics.distances import frechet_distance, kernel_distance
from models.metrics.video_features import (
    CLIPFeatures,
    I3DFeatures,
    Random3DFeatures,
    VAEFeatures,
    as_video,
    pick_frames,
)
from models.text_encoder import train_tokenizer
from tests.clips import panning_clip
from utils.cli import UserError
from utils.evaluation.video_metrics import clip_score, fvd, load_features
from utils.video.frames import to_uint8

PROMPTS = ["a red circle moving right", "a blue square", "the green triangle goes up slowly"]
TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


def clips(count: int, seed: int) -> list[np.ndarray]:
    """Textures that move to the left, each at its own speed."""
    speeds = np.random.default_rng(seed).uniform(0.05, 0.3, count)
    return [panning_clip(speed, 8, 8, 32, 40, seed=seed + n) for n, speed in enumerate(speeds)]


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory) -> Path:
    """A tiny random CLIP with a tokenizer, of the real classes."""
    folder = tmp_path_factory.mktemp("clip")
    tokenizer = train_tokenizer(PROMPTS, max_length=12)
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    text = {"vocab_size": len(tokenizer), "max_position_embeddings": 12, "projection_dim": 16, **ids, **TOWER}
    vision = {"image_size": 32, "patch_size": 8, "projection_dim": 16, **TOWER}
    torch.manual_seed(1)  # these pictures and prompts then lie on one side
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)  # its own scale is so small that every picture looks the same
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def vae_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("vae")
    torch.manual_seed(0)
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 3, "up_block_types": ["UpDecoderBlock2D"] * 3}
    AutoencoderKL(block_out_channels=[32, 32, 32], **blocks).save_pretrained(folder)
    return folder


class TinyI3D(nn.Module):
    """Takes what the real one takes, and answers with 400 numbers."""

    def forward(self, x: Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False) -> Tensor:
        if not (rescale and resize and return_features):
            return torch.zeros(len(x), 400, 7)
        pooled = nn.functional.adaptive_avg_pool3d(x / 255 * 2 - 1, [4, 5, 5]).flatten(1)  # (B, 300)
        return torch.cat([pooled, pooled[:, :100].square()], dim=1)


@pytest.fixture(scope="module")
def i3d_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("i3d") / "i3d_torchscript.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(TinyI3D()).save(str(path))
    return path


def extractor(name: str, clip_folder: Path, vae_folder: Path, **options):
    return load_features(name, {"clip": clip_folder, "vae": vae_folder}.get(name), **options)


# Helpers


def test_frames_are_picked_evenly():
    assert pick_frames(16, 4) == [0, 5, 10, 15] and pick_frames(3, 8) == [0, 1, 2] and pick_frames(1, 8) == [0]


def test_as_video_is_the_inverse_of_to_uint8():
    (clip,) = clips(1, 0)
    assert as_video(clip).shape == (3, 8, 32, 40) and as_video(clip[None])[0].equal(as_video(clip))
    assert np.array_equal(to_uint8(as_video(clip)), clip)
    assert as_video(np.full((1, 2, 2, 3), 255, np.uint8)).unique().tolist() == [1]
    with pytest.raises(ValueError, match="uint8"):
        as_video(clip.astype(np.float32))


# What they see


@pytest.mark.parametrize("name", ["random3d", "flow"])
def test_the_distance_grows_with_noise_blur_and_shuffled_frames(name):
    extract, rng = load_features(name), np.random.default_rng(0)
    sharp, real = clips(16, 0), extract(clips(16, 1000), 8)
    noised = {s: [(c + rng.normal(0, s, c.shape)).clip(0, 255).astype(np.uint8) for c in sharp] for s in (20, 50)}
    blurred = {s: [np.stack([cv2.GaussianBlur(frame, (0, 0), s) for frame in c]) for c in sharp] for s in (2, 6)}
    shuffled = [c[rng.permutation(len(c))] for c in sharp]
    still = [np.repeat(c[:1], len(c), axis=0) for c in sharp]
    distances = {
        what: kernel_distance(extract(made, 8), real, 100)
        for what, made in {
            "same": sharp, "noise": noised[20], "more noise": noised[50], "blur": blurred[2], "more blur": blurred[6],
            "shuffled": shuffled, "still": still,
        }.items()
    }  # fmt: skip
    value = {what: distance.value for what, distance in distances.items()}
    assert distances["same"].low < 0 < distances["same"].high
    assert value["same"] < value["noise"] < value["more noise"]
    assert value["same"] < value["blur"] < value["more blur"]
    for what in ("more noise", "more blur", "shuffled", "still"):
        assert distances[what].low > max(0, value["same"]), what


def test_clip_and_vae_features_do_not_see_the_order_of_frames_but_what_is_in_them(clip_folder, vae_folder):
    (clip,), dark = clips(1, 0), clips(1, 0)[0] // 2
    for name in ("clip", "vae"):
        own, turned, other = extractor(name, clip_folder, vae_folder)([clip, clip[::-1], dark], 8)
        torch.testing.assert_close(own, turned, atol=1e-4, rtol=1e-4)
        assert (own - other).norm() > 0.02 * own.norm()


# A clip's features are its own


@pytest.mark.parametrize("name, dim", [("random3d", 448), ("flow", 49), ("clip", 16), ("vae", 128)])
def test_features_do_not_depend_on_the_batch(name, dim, clip_folder, vae_folder):
    made = clips(5, 0)
    made.insert(3, panning_clip(0.1, 6, 8, 48, 32))  # of another shape
    alone, together = (extractor(name, clip_folder, vae_folder, batch_size=size)(made, 8) for size in (1, 4))
    assert alone.shape == (6, dim) and alone.dtype == torch.float32
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(alone, extractor(name, clip_folder, vae_folder)(iter(made), 8), atol=1e-5, rtol=1e-4)
    assert len(torch.unique(alone, dim=0)) == 6


def test_random_features_are_the_same_everywhere():
    first, again, other = Random3DFeatures(), Random3DFeatures(), Random3DFeatures(seed=1)
    video = as_video(panning_clip(0.1, 4, 8, 16, 16)[None])
    assert first(video).equal(again(video)) and not torch.allclose(first(video), other(video))
    assert not list(first.parameters()) and not first.state_dict()
    # From NumPy 2.4 and PyTorch 2.13 on x86-64: another machine must get the same numbers.
    expected = torch.tensor([0.3237, 0.3884, 0.7384, 0.7245])
    torch.testing.assert_close(first(video)[0, ::112], expected, atol=2e-4, rtol=0)


def test_half_of_the_first_random_filters_answer_to_change_alone():
    still = as_video(np.repeat(panning_clip(0, 1, 8, 32, 32), 5, axis=0)[None])
    features = Random3DFeatures()(still)[0]
    assert features[:32:2].max() < 0.01 < features[1:32:2].max()  # means of the first layer


def test_videos_that_are_none_are_named():
    for bad in (torch.zeros(3, 4, 8, 8), torch.zeros(1, 1, 4, 8, 8), torch.zeros(1, 3, 4, 8, 8, dtype=torch.uint8)):
        with pytest.raises(ValueError, match=r"float \(B, 3, T, H, W\)"):
            Random3DFeatures()(bad)


# Models in local folders


def test_clip_features_are_those_of_its_image_processor(clip_folder):
    model = CLIPVisionModelWithProjection.from_pretrained(clip_folder)
    (clip,) = clips(1, 0)
    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    large = np.where(cv2.resize(clip[0], (90, 70)) > 128, 255, 0).astype(np.uint8)  # edges at which bicubic overshoots
    pixels = processor(images=[large], return_tensors="pt").pixel_values
    expected = nn.functional.normalize(model(pixel_values=pixels).image_embeds, dim=-1) * 4
    features = CLIPFeatures(model)(as_video(large[None, None]))
    torch.testing.assert_close(features, expected, atol=1e-3, rtol=0)


def test_clip_score_is_that_of_torchmetrics(clip_folder):
    made = [panning_clip(0.1, 5, 8, 32, 32, seed=seed) for seed in range(3)]
    scores = clip_score(made, PROMPTS, clip_folder)
    assert scores.shape == (3,) and len(set(scores.round(3))) == 3

    class Reference(CLIPModel):  # transformers 5 wraps what torchmetrics 1.9 takes for a tensor
        def get_image_features(self, *args):
            return super().get_image_features(*args).pooler_output

        def get_text_features(self, *args):
            return super().get_text_features(*args).pooler_output

    tokenizer = train_tokenizer(PROMPTS, max_length=12)
    pictures = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})

    def processor(text=None, images=None, **options):
        return tokenizer(text, **options) if text else pictures(images=images, return_tensors="pt")

    model = Reference.from_pretrained(clip_folder).eval()
    for clip, prompt, score in zip(made, PROMPTS, scores, strict=True):
        frames = [torch.from_numpy(frame).permute(2, 0, 1) for frame in clip]
        each = [reference_clip_score(f, prompt, lambda: (model, processor)).item() for f in frames]
        assert score == pytest.approx(np.mean(each), abs=0.02)


def test_a_clip_that_opposes_its_prompt_scores_nothing(clip_folder, tmp_path):
    shutil.copytree(clip_folder, tmp_path, dirs_exist_ok=True)
    weights = load_file(clip_folder / "model.safetensors")
    weights["visual_projection.weight"] *= -1
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert clip_score(clips(3, 0), PROMPTS, clip_folder).min() > 1
    assert clip_score(clips(3, 0), PROMPTS, tmp_path).tolist() == [0, 0, 0]


def test_clip_score_needs_a_prompt_per_clip(clip_folder):
    with pytest.raises(ValueError, match="2 clips for 3 prompts"):
        clip_score(clips(2, 0), PROMPTS, clip_folder)


def test_vae_features_are_moments_of_its_latents(vae_folder):
    vae = AutoencoderKL.from_pretrained(vae_folder)
    video = as_video(clips(1, 0)[0])[None, :, :2, :, :32]
    features = VAEFeatures(vae, grid=1)(video)[0]
    with torch.no_grad():
        latents = vae.encode(video[0].transpose(0, 1)).latent_dist.mode() * vae.config.scaling_factor
    torch.testing.assert_close(features[:4], latents.mean(dim=(0, 2, 3)), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(features[4:], latents.std(dim=(0, 2, 3), correction=0), atol=1e-4, rtol=1e-3)


def test_clips_that_a_vae_cannot_take_are_named(vae_folder):
    with pytest.raises(UserError, match="--features vae: the VAE needs multiples of 4, at least 16.*got 30x32"):
        load_features("vae", vae_folder)([panning_clip(0.1, 2, 8, 32, 30)], 8)


def test_an_unknown_name_and_a_missing_folder_are_errors_of_one_line(tmp_path, clip_folder, vae_folder):
    with pytest.raises(UserError, match="--features: got i3d, must be one of random3d, flow, clip, vae"):
        load_features("i3d")
    for name in ("clip", "vae"):
        with pytest.raises(UserError, match=f"--features_dir: --features {name} needs a local folder with config.json"):
            load_features(name)
        with pytest.raises(UserError, match="--features_dir: .*nowhere.*should hold config.json"):
            load_features(name, tmp_path / "nowhere")
        with pytest.raises(UserError, match="--features_dir: .*should hold config.json"):
            load_features(name, tmp_path)
    with pytest.raises(UserError, match="--clip_dir: .*should hold"):
        clip_score(clips(1, 0), PROMPTS[:1], vae_folder)
    with pytest.raises(UserError, match="--features_dir: .*should hold"):
        load_features("vae", clip_folder)


def test_a_folder_without_some_of_the_weights_is_refused(clip_folder, tmp_path):
    weights = load_file(clip_folder / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text((clip_folder / "config.json").read_text())
    with pytest.raises(UserError, match="--features_dir: .* [(]it lacks visual_projection.weight[)]; it should hold"):
        load_features("clip", tmp_path)


def test_a_clip_folder_without_its_tokenizer_is_refused(clip_folder, tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((clip_folder / name).read_bytes())
    with pytest.raises(UserError, match="--clip_dir: .*tokenizer"):
        clip_score(clips(1, 0), PROMPTS[:1], tmp_path)


# FVD


def test_fvd_is_the_frechet_distance_of_what_the_network_answers(i3d_file):
    generated, real = ([panning_clip(0.1, 10, 8, 20, 20, seed=s + n) for n in range(6)] for s in (0, 50))
    result = fvd(generated, real, i3d_file, batch_size=4)
    sets = [TinyI3D()(as_video(np.stack(made)) * 127.5 + 127.5, True, True, True) for made in (generated, real)]
    assert result.kind == "FVD"
    assert result.value == pytest.approx(frechet_distance(*sets).value, rel=1e-4)


def test_fvd_refuses_what_is_not_its_network_and_clips_that_are_too_short(i3d_file, tmp_path):
    made = [panning_clip(0.1, 10, 8, 20, 20, seed=n) for n in range(4)]
    with pytest.raises(UserError, match="--fvd_weights: there is no file .*i3d_torchscript.pt"):
        fvd(made, made, tmp_path / "missing.pt")
    (tmp_path / "other.pt").write_bytes(b"weights")
    with pytest.raises(UserError, match="--fvd_weights: .*other.pt is no TorchScript file"):
        fvd(made, made, tmp_path / "other.pt")
    with pytest.raises(UserError, match="--fvd_weights: I3D needs clips of at least 10 frames, got 9"):
        fvd([clip[:9] for clip in made], made, i3d_file)
    with pytest.raises(UserError, match="FVD: generated: .*at least 4"):
        fvd(made[:3], made, i3d_file)
    video = as_video(np.stack(made))
    with pytest.raises(ValueError, match="must answer with"):
        I3DFeatures(AnswersWrongly())(video)
    with pytest.raises(ValueError, match="the I3D module failed"):
        I3DFeatures(nn.Linear(2, 2))(video)


class AnswersWrongly(nn.Module):
    def forward(self, x, rescale, resize, return_features):
        return x.mean(dim=(2, 3, 4))
