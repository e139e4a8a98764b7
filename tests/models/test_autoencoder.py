"""VideoAutoencoder: each class of diffusers gives what it gives by itself, in one form and within a memory limit."""

import pytest
import torch
from diffusers import VQModel
from torch import Tensor, nn

from models.autoencoder import LIVE_ACTIVATIONS, VideoAutoencoder, layout_of, statistics_of
from tests.tiny_autoencoders import TINY_AUTOENCODERS, tiny_autoencoder

# kind: (sides to a latent's, {frames: latent frames, None if it takes no such clip}, frames of a clip that it takes)
EXPECTED = {
    "AutoencoderKL": (4, {1: 1, 2: 2, 7: 7}, 5),
    "AutoencoderTiny": (4, {1: 1, 2: 2, 7: 7}, 5),
    "AutoencoderDC": (4, {1: 1, 2: 2, 7: 7}, 5),
    "AutoencoderKLTemporalDecoder": (4, {1: 1, 2: 2, 7: 7}, 5),
    "AutoencoderKLLTXVideo": (8, {1: 1, 4: None, 5: 2, 8: None, 9: 3}, 9),
    "AutoencoderKLWan": (8, {1: 1, 4: None, 5: 2, 8: None, 9: 3}, 9),
    "AutoencoderKLCogVideoX": (8, {1: 1, 4: None, 5: None, 8: 2, 9: 3, 16: 4, 17: 5}, 9),
    "PatchAutoencoder": (8, {1: 1, 2: None, 4: 1, 6: None, 8: 2, 16: 4}, 8),
}
KINDS = sorted(EXPECTED)


def clip(kind: str, height: int = 32, width: int = 48, batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(batch, 3, EXPECTED[kind][2], height, width, generator=generator) * 2 - 1


def by_itself(kind: str, vae: nn.Module, videos: Tensor) -> tuple[Tensor, Tensor]:
    """(latents, frames) as one calls the class, clip by clip."""
    if EXPECTED[kind][0] == 4:
        found = [vae.encode(video.transpose(0, 1)) for video in videos]
        latents = [each.latent_dist.mode() if hasattr(each, "latent_dist") else each[0] for each in found]
        more = {"num_frames": videos.shape[2]} if kind == "AutoencoderKLTemporalDecoder" else {}
        frames = [vae.decode(each, **more).sample.transpose(0, 1) for each in latents]
        return torch.stack([each.transpose(0, 1) for each in latents]), torch.stack(frames)
    latents = torch.cat([vae.encode(video[None]).latent_dist.mode() for video in videos])
    return latents, torch.cat([vae.decode(each[None]).sample for each in latents])


def test_one_of_each_class_is_tested():
    assert set(EXPECTED) == set(TINY_AUTOENCODERS)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_latents_and_frames_are_those_of_the_class(kind):
    vae, videos = tiny_autoencoder(kind), clip(kind)
    model = VideoAutoencoder(vae)
    latents, frames = by_itself(kind, vae, videos)
    mean, std = (each.reshape(-1, 1, 1, 1) for each in statistics_of(vae))
    encoded = model.encode(videos)
    assert encoded.shape == (2, *model.latent_shape(*videos.shape[2:])) == latents.shape
    assert torch.allclose(encoded * std + mean, latents, atol=1e-5)
    decoded = model.decode(encoded)
    assert decoded.shape == videos.shape and decoded.abs().max() <= 1
    assert torch.allclose(decoded, frames.clamp(-1, 1), atol=1e-5)
    assert torch.equal(model.encode(videos), encoded)  # nothing is drawn


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_every_number_of_frames_goes_through_or_is_refused(kind):
    space, counts, _ = EXPECTED[kind]
    vae = tiny_autoencoder(kind)
    model = VideoAutoencoder(vae)
    for count, latent_frames in counts.items():
        video = torch.zeros(1, 3, count, 2 * space, 2 * space)
        if latent_frames is None:
            with pytest.raises(ValueError, match=rf"^{count} frames: the autoencoder takes \d+ or \d+$"):
                model.encode(video)
            continue
        latents = model.encode(video)
        assert latents.shape == (1, model.channels, latent_frames, 2, 2), count
        assert model.decode(latents, count).shape == video.shape, count


@pytest.mark.parametrize("kind", KINDS)
def test_sides_that_do_not_divide_are_refused(kind):
    model, (space, _, frames) = VideoAutoencoder(tiny_autoencoder(kind)), EXPECTED[kind]
    with pytest.raises(ValueError, match=f"frames of {3 * space}x{space + 2}: .* sides that divide by {space}"):
        model.latent_shape(frames, space + 2, 3 * space)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_measured_latents_have_mean_0_and_deviation_1_and_decode_to_the_same(kind):
    model, videos = VideoAutoencoder(tiny_autoencoder(kind)), clip(kind, batch=3)
    before = model.decode(model.encode(videos))
    model.measure(model.encode_raw(videos))
    latents = model.encode(videos)
    values = latents.transpose(0, 1).flatten(1)
    assert torch.allclose(values.mean(1), torch.zeros(model.channels), atol=1e-4)
    assert torch.allclose(values.std(1), torch.ones(model.channels), atol=1e-2)
    assert torch.allclose(model.decode(latents), before, atol=1e-4)


def test_a_channel_that_says_nothing_is_named():
    vae = tiny_autoencoder("AutoencoderTiny")
    with torch.no_grad():
        last = vae.encoder.layers[-1]
        last.weight[2], last.bias[2] = 0, 0
    with pytest.raises(ValueError, match="channel 2 of the autoencoder's latents is the same in all clips"):
        VideoAutoencoder(vae).measure(VideoAutoencoder(vae).encode_raw(clip("AutoencoderTiny")))


# Memory ---------------------------------------------------------------------------------------------------------------


def decoded_sizes(model: VideoAutoencoder, monkeypatch) -> list[tuple[int, ...]]:
    """Shapes that its decoder is given, as they come."""
    shapes, decode = [], model.vae.decode

    def noted(latents: Tensor, **more):
        shapes.append(tuple(latents.shape))
        return decode(latents, **more)

    monkeypatch.setattr(model.vae, "decode", noted)
    return shapes


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_frames_are_decoded_a_few_at_a_time_and_then_in_tiles(kind, monkeypatch):
    vae, (space, _, frames) = tiny_autoencoder(kind), EXPECTED[kind]
    whole = VideoAutoencoder(vae)
    frames = 5 if frames == 9 and kind != "AutoencoderKLCogVideoX" else frames
    latents = torch.randn(1, *whole.latent_shape(frames, 20 * space, 18 * space), generator=torch.manual_seed(0))
    expected = whole.decode(latents)
    a_frame = whole.largest_activation * LIVE_ACTIVATIONS * 4 * 20 * 18 * space**2
    by_frame = whole.layout.by_frame

    limited = VideoAutoencoder(vae, memory_limit=int(a_frame * (2.5 if by_frame else 1.01 * frames)))
    shapes = decoded_sizes(limited, monkeypatch)
    decoded = limited.decode(latents)
    if by_frame:
        assert [shape[0] for shape in shapes] == [2, 2, 1]
    else:
        assert shapes == [tuple(latents.shape)]
    if kind != "AutoencoderKLTemporalDecoder":  # which sees neighbours that are in another group no more
        assert torch.allclose(decoded, expected, atol=1e-5)

    tiled = VideoAutoencoder(vae, memory_limit=int(a_frame * (1 if by_frame else frames) / 4))
    shapes = decoded_sizes(tiled, monkeypatch)
    decoded = tiled.decode(latents)
    assert len(shapes) > 1 and decoded.shape == expected.shape
    for shape in shapes:
        assert max(shape[-2:]) * space * max(shape[-2:]) * space <= 20 * 18 * space**2 / 4 * 1.01 + 16**2 * space**2
    assert decoded.isfinite().all()


@torch.no_grad()
def test_tiles_of_a_local_decoder_leave_no_seam():
    """A decoder whose pixels depend on few latents decodes to the same in tiles, away from where they overlap too."""
    vae = tiny_autoencoder("AutoencoderTiny")
    whole = VideoAutoencoder(vae)
    latents = torch.randn(1, 4, 1, 64, 64, generator=torch.manual_seed(0))
    limit = int(whole.largest_activation * LIVE_ACTIVATIONS * 4 * 256 * 256 / 3)
    difference = (VideoAutoencoder(vae, memory_limit=limit).decode(latents) - whole.decode(latents)).abs()
    assert difference.max() < 0.1 and difference.mean() < 2e-3


@pytest.mark.parametrize("kind", ["AutoencoderKL", "AutoencoderTiny", "AutoencoderDC", "AutoencoderKLTemporalDecoder"])
@torch.no_grad()
def test_what_decoding_takes_is_what_was_predicted(kind):
    """The peak of all that is allocated while a frame is decoded, as torch's profiler sees it."""
    model = VideoAutoencoder(tiny_autoencoder(kind))
    latents = torch.zeros(1, 4 if kind != "AutoencoderDC" else 8, 1, 48, 48)
    predicted = model.largest_activation * LIVE_ACTIVATIONS * 4 * 192**2
    assert peak_bytes(lambda: model.decode(latents)) <= 1.1 * predicted


def peak_bytes(function) -> int:
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, record_shapes=False) as profiled:
        function()
    events = sorted(
        (event.start_ns(), event.nbytes())
        for event in profiled.profiler.kineto_results.events()
        if event.name() == "[memory]"
    )
    total = peak = 0
    for _, size in events:
        total += size
        peak = max(peak, total)
    return peak


# Precision and what is refused ----------------------------------------------------------------------------------------


def test_it_stays_in_eval_mode_beside_what_trains():
    model = nn.Sequential(VideoAutoencoder(tiny_autoencoder("AutoencoderKL"))).train()
    assert not any(module.training for module in model[0].vae.modules())


@torch.no_grad()
def test_encoding_is_never_autocast_nor_decoding_of_one_that_asks_for_its_own_precision():
    """What lies in a cache is what training would encode, whatever its precision."""
    videos, seen = clip("AutoencoderKL"), {}
    for kind, force_upcast in (("AutoencoderKL", True), ("AutoencoderTiny", False)):
        model = VideoAutoencoder(tiny_autoencoder(kind))
        for part in ("encoder", "decoder"):
            conv = next(module for module in getattr(model.vae, part).modules() if isinstance(module, nn.Conv2d))
            types = seen.setdefault((kind, part), set())
            conv.register_forward_hook(lambda module, inputs, output, types=types: types.add(output.dtype))
        with torch.autocast("cpu", torch.bfloat16):
            latents = model.encode(videos)
            assert latents.dtype == model.decode(latents).dtype == torch.float32
        assert bool(model.vae.config.force_upcast) == force_upcast
    whole, half = {torch.float32}, {torch.bfloat16}
    assert seen == {
        ("AutoencoderKL", "encoder"): whole,
        ("AutoencoderKL", "decoder"): whole,
        ("AutoencoderTiny", "encoder"): whole,
        ("AutoencoderTiny", "decoder"): half,
    }


def test_another_class_and_other_channels_are_refused():
    other = VQModel(block_out_channels=(32,))
    with pytest.raises(ValueError, match="VQModel is none of AutoencoderKL, "):
        layout_of(other)
    grey = tiny_autoencoder("AutoencoderKL")
    grey.register_to_config(in_channels=1)
    with pytest.raises(ValueError, match="it takes 1 channels, and a frame has 3"):
        layout_of(grey)
    with pytest.raises(ValueError, match="3 means and 4 deviations for 4 channels"):
        VideoAutoencoder(tiny_autoencoder("AutoencoderKL"), torch.zeros(3), torch.ones(4))
