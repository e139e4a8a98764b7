"""Objective and conditioning of SVD: against their definitions, diffusers' scheduler and the pipeline itself."""

import math

import numpy as np
import PIL.Image
import pytest
import torch
from diffusers import StableVideoDiffusionPipeline

from models.svd.conditioning import (
    Conditioning,
    draw_noise_aug,
    drop_image,
    encode_first_frames,
    encode_latents,
    image_embeddings,
    make_conditioning,
)
from models.svd.memory import use_one_token_attention
from models.svd.objective import denoise, draw_sigmas, eps_hat, preconditioning, predict, svd_loss, v_target
from tests.tiny_svd import tiny_svd_pipeline


@pytest.fixture(scope="module")
def pipeline():
    """Not to be changed by a test; those that change weights build their own."""
    return tiny_svd_pipeline()


@pytest.fixture
def scheduler(pipeline):
    scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config)
    scheduler.set_timesteps(25)
    return scheduler


def picture(seed=0, height=64, width=96):
    """A random image with structure at all scales."""
    rng = np.random.default_rng(seed)
    image = sum(
        np.kron(rng.normal(size=(height // s, width // s, 3)), np.ones((s, s, 1))) * s**0.5 for s in (1, 2, 4, 8)
    )
    return PIL.Image.fromarray(np.clip(128 + 20 * image, 0, 255).astype(np.uint8))


def to_frame(image):
    """(3, H, W) in [-1, 1], as a dataset gives it."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 127.5 - 1


def random_batch(pipeline, batch_size=2, num_frames=4, side=8):
    """Latents, all arguments of make_conditioning with its draws given, sigmas and noise."""
    frames = torch.rand(batch_size, 3, 8 * side, 8 * side) * 2 - 1
    conditioning = {
        "first_frames": frames,
        "image_embeddings": image_embeddings(pipeline.image_encoder, pipeline.feature_extractor, frames),
        "fps": torch.arange(batch_size) + 7,
        "motion_bucket_ids": 60 * torch.arange(batch_size) + 20,
        "noise_aug": draw_noise_aug(batch_size),
        "noise": torch.randn_like(frames),
        "dropped": torch.zeros(batch_size, dtype=torch.bool),
    }
    latents = torch.randn(batch_size, num_frames, 4, side, side)
    return latents, conditioning, draw_sigmas(batch_size), torch.randn_like(latents)


class Answer(torch.nn.Module):
    """A network that gives the same answer to everything."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, *args, **kwargs):
        return (self.answer,)


def loss_of_answer(answer, latents, sigmas, noise, kind="edm"):
    B, _, C, H, W = latents.shape
    nothing = Conditioning(torch.zeros(B, C, H, W), torch.zeros(B, 1, 32), torch.zeros(B, 3))
    return svd_loss(Answer(answer), latents, nothing, sigmas, noise, kind)


# Objective


def test_true_output_is_the_clean_clip_and_the_true_noise():
    sigmas = torch.tensor([0.002, 0.05, 1, 40, 700], dtype=torch.float64)
    latents, noise = torch.randn(2, 5, 3, 4, 4, 4, dtype=torch.float64)
    noisy = latents + sigmas.reshape(-1, 1, 1, 1, 1) * noise
    output = v_target(latents, noise, sigmas)
    torch.testing.assert_close(denoise(output, noisy, sigmas), latents, rtol=0, atol=1e-10)
    torch.testing.assert_close(eps_hat(output, noisy, sigmas), noise, rtol=0, atol=1e-10)


def test_predicted_noise_is_what_the_denoised_clip_leaves():
    sigmas = torch.tensor([0.002, 1, 700], dtype=torch.float64)
    noisy, output = torch.randn(2, 3, 3, 4, 4, 4, dtype=torch.float64)
    expected = (noisy - denoise(output, noisy, sigmas)) / sigmas.reshape(-1, 1, 1, 1, 1)
    torch.testing.assert_close(eps_hat(output, noisy, sigmas), expected, rtol=1e-10, atol=1e-10)


def test_losses_are_the_weighted_errors_of_the_denoised_clip():
    sigmas = torch.tensor([0.01, 1, 100], dtype=torch.float64)
    latents, noise, output = torch.randn(3, 3, 3, 4, 4, 4, dtype=torch.float64)
    noisy = latents + sigmas.reshape(-1, 1, 1, 1, 1) * noise
    clip_errors = (denoise(output, noisy, sigmas) - latents).square().mean((1, 2, 3, 4))
    edm = (output - v_target(latents, noise, sigmas)).square().mean((1, 2, 3, 4))
    eps = (eps_hat(output, noisy, sigmas) - noise).square().mean((1, 2, 3, 4))
    torch.testing.assert_close(edm, clip_errors * (1 + sigmas**2) / sigmas**2, rtol=1e-10, atol=0)
    torch.testing.assert_close(eps, clip_errors / sigmas**2, rtol=1e-10, atol=0)
    torch.testing.assert_close(eps, edm / (1 + sigmas**2), rtol=1e-10, atol=0)

    for kind, expected in (("edm", edm), ("eps", eps)):
        losses, logged = loss_of_answer(output, latents, sigmas, noise, kind)
        torch.testing.assert_close(losses, expected.float(), rtol=1e-4, atol=0)
        torch.testing.assert_close(logged["edm"], edm.float(), rtol=1e-4, atol=0)
        torch.testing.assert_close(logged["eps"], eps.float(), rtol=1e-4, atol=0)
        assert torch.equal(logged["sigma"], sigmas.float())


def test_denoised_clip_is_the_schedulers_at_every_step(scheduler):
    scheduler.is_scale_input_called = True
    for i, timestep in enumerate(scheduler.timesteps):
        sigma = scheduler.sigmas[i]
        noisy, output = torch.randn(2, 1, 4, 4, 8, 8)
        noisy = noisy * (sigma**2 + 1).sqrt()
        expected = scheduler.step(output, timestep, noisy).pred_original_sample
        torch.testing.assert_close(denoise(output, noisy, sigma[None]), expected, rtol=1e-5, atol=1e-5)


def test_input_scale_and_timestep_are_the_schedulers_at_every_step(scheduler):
    for i, timestep in enumerate(scheduler.timesteps):
        noisy = torch.randn(1, 4, 4, 8, 8)
        scheduler._step_index = i
        scale = preconditioning(scheduler.sigmas[i])
        torch.testing.assert_close(scale.c_in * noisy, scheduler.scale_model_input(noisy, timestep))
        torch.testing.assert_close(scale.c_noise, timestep, rtol=0, atol=1e-6)


def test_network_that_answers_with_the_noise_ruins_the_clip_and_has_a_high_loss(scheduler):
    """The mistake that a falling loss would hide: mse(network output, noise)."""
    scheduler.is_scale_input_called = True
    for i, timestep in enumerate(scheduler.timesteps):
        sigma = scheduler.sigmas[i : i + 1]
        latents, noise = torch.randn(2, 1, 4, 4, 8, 8)
        noisy = latents + sigma * noise
        right = scheduler.step(v_target(latents, noise, sigma), timestep, noisy).pred_original_sample
        scheduler._step_index = i
        naive = scheduler.step(noise, timestep, noisy).pred_original_sample
        assert (right - latents).square().mean().sqrt() < 1e-5
        if sigma > 3:
            assert (naive - latents).square().mean().sqrt() > 1
            assert loss_of_answer(noise, latents, sigma, noise)[0] > 1
        assert loss_of_answer(v_target(latents, noise, sigma), latents, sigma, noise)[0] < 1e-10


def test_losses_are_float32_whatever_the_network_computes_in():
    latents, noise, output = torch.randn(3, 3, 3, 4, 4, 4)
    sigmas = torch.tensor([0.05, 2.0, 50.0])
    half, _ = loss_of_answer(output.bfloat16(), latents.half(), sigmas, noise)
    full, _ = loss_of_answer(output.bfloat16().float(), latents.half().float(), sigmas, noise)
    assert half.dtype == torch.float32 and torch.equal(half, full)


def test_unknown_loss_is_named():
    latents = torch.zeros(3, 3, 4, 4, 4)
    with pytest.raises(ValueError, match="edm, eps, not 'l2'"):
        loss_of_answer(latents, latents, torch.ones(3), latents, "l2")


@pytest.mark.parametrize("kind", ["edm", "eps"])
def test_batch_of_two_is_two_batches_of_one(pipeline, kind):
    latents, arguments, sigmas, noise = random_batch(pipeline)
    arguments["dropped"][0] = True

    def run(clips):
        conditioning = make_conditioning(pipeline.vae, **{name: value[clips] for name, value in arguments.items()})
        with torch.no_grad():
            losses, _ = svd_loss(pipeline.unet, latents[clips], conditioning, sigmas[clips], noise[clips], kind)
        return losses, *conditioning

    both, first, second = run(slice(2)), run(slice(1)), run(slice(1, 2))
    for together, *apart in zip(both, first, second, strict=True):
        torch.testing.assert_close(together, torch.cat(apart), rtol=1e-4, atol=1e-5)


# Noise levels


def test_sigmas_are_log_normal():
    logs = draw_sigmas(200_000).log()
    assert logs.dtype == torch.float32
    assert abs(logs.mean() - 0.7) < 0.02 and abs(logs.std() - 1.6) < 0.02
    assert abs((logs > math.log(80)).float().mean() - 0.0107) < 0.001  # the tail is there
    other = draw_sigmas(200_000, p_mean=-1.2, p_std=1.2).log()
    assert abs(other.mean() + 1.2) < 0.02 and abs(other.std() - 1.2) < 0.02


def test_sigmas_follow_from_the_seed():
    first = draw_sigmas(3, generator=torch.Generator().manual_seed(1))
    assert torch.equal(first, draw_sigmas(3, generator=torch.Generator().manual_seed(1)))
    torch.manual_seed(5)
    second = draw_sigmas(3)
    torch.manual_seed(5)
    assert torch.equal(second, draw_sigmas(3)) and not torch.equal(first, second)


def test_strata_share_the_distribution_evenly():
    """Each of the equally likely parts of the distribution is hit once, anywhere inside it."""
    positions = []
    for _ in range(500):
        sigmas = torch.cat([draw_sigmas(3, stratum=(k, 4)) for k in range(4)])
        uniform = torch.special.ndtr((sigmas.log() - 0.7) / 1.6) * 12
        assert uniform.floor().tolist() == list(range(12))
        positions.append(uniform.frac())
    positions = torch.cat(positions)
    assert abs(positions.mean() - 0.5) < 0.02 and abs(positions.std() - 12**-0.5) < 0.02


def test_stratum_outside_its_window_is_named():
    with pytest.raises(ValueError, match="stratum"):
        draw_sigmas(1, stratum=(4, 4))


def test_noise_on_the_first_frame_is_log_normal():
    logs = draw_noise_aug(100_000).log()
    assert abs(logs.mean() + 3) < 0.01 and abs(logs.std() - 0.5) < 0.01


# Conditioning


def test_network_sees_in_training_what_the_pipeline_shows_it(pipeline, monkeypatch):
    """The whole first call of the U-Net in a guided pipeline call, both halves, for the same random numbers."""
    calls = []

    def record(*args, **kwargs):
        calls.append((args, kwargs))
        return type(pipeline.unet).forward(pipeline.unet, *args, **kwargs)

    monkeypatch.setattr(pipeline.unet, "forward", record)
    image, size = picture(), {"height": 64, "width": 96}
    pipeline(image, **size, num_inference_steps=1, fps=9, motion_bucket_id=80, noise_aug_strength=0.3,
             output_type="latent", generator=torch.Generator().manual_seed(3))  # fmt: skip

    generator = torch.Generator().manual_seed(3)  # the pipeline draws the noise of the image, then that of the clip
    frame = to_frame(image)[None]
    shown = make_conditioning(
        pipeline.vae,
        frame,
        image_embeddings(pipeline.image_encoder, pipeline.feature_extractor, frame),
        fps=torch.tensor([9]),
        motion_bucket_ids=torch.tensor([80]),
        noise_aug=torch.tensor([0.3]),
        noise=torch.randn(frame.shape, generator=generator),
        dropped=torch.tensor([False]),
    )
    hidden = drop_image(shown, torch.tensor([True]))
    both = Conditioning(*(torch.cat(halves) for halves in zip(hidden, shown, strict=True)))
    noisy = torch.randn(1, 8, 4, 8, 12, generator=generator) * pipeline.scheduler.init_noise_sigma
    with torch.no_grad():
        predict(pipeline.unet, noisy.expand(2, -1, -1, -1, -1), torch.tensor([700.0, 700.0]), both)

    (sample, timestep), conditions = calls[0]
    (our_sample, our_timestep, our_context), our_conditions = calls[1]
    assert not hidden.image_latents.any() and shown.image_latents.any()
    torch.testing.assert_close(our_sample, sample, rtol=0, atol=1e-5)
    torch.testing.assert_close(our_timestep, timestep.expand(2), rtol=0, atol=1e-6)
    torch.testing.assert_close(our_context, conditions["encoder_hidden_states"], rtol=0, atol=1e-6)
    torch.testing.assert_close(our_conditions["added_time_ids"], conditions["added_time_ids"], rtol=0, atol=1e-6)
    assert conditions["added_time_ids"][0].tolist() == pytest.approx([8, 80, 0.3])  # one frame per second less


@pytest.mark.parametrize("size", [(64, 96), (320, 512), (232, 296)])
def test_image_embeddings_are_the_pipelines(pipeline, size):
    images = [picture(seed, *size) for seed in (0, 1)]
    frames = torch.stack([to_frame(image) for image in images])
    ours = image_embeddings(pipeline.image_encoder, pipeline.feature_extractor, frames)
    with torch.no_grad():
        expected = pipeline._encode_image(images, "cpu", 1, False)
    assert ours.shape == (2, 1, 32) and not torch.equal(ours[0], ours[1])
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)


def test_latents_are_what_the_pipeline_decodes(pipeline):
    clip = torch.rand(2, 3, 3, 32, 32) * 2 - 1
    latents = encode_latents(pipeline.vae, clip)
    assert latents.shape == (2, 3, 4, 4, 4)
    with torch.no_grad():
        modes = pipeline.vae.encode(clip.flatten(0, 1)).latent_dist.mode()
        expected = torch.stack([pipeline.vae.decode(m, num_frames=3).sample for m in modes.split(3)])
        decoded = torch.stack([pipeline.decode_latents(part[None], 3)[0].transpose(0, 1) for part in latents])
    torch.testing.assert_close(decoded, expected, rtol=0, atol=1e-5)


def test_chunks_of_the_encoder_change_nothing(pipeline):
    clip = torch.rand(1, 5, 3, 32, 32) * 2 - 1
    whole = encode_latents(pipeline.vae, clip, chunk=5)
    torch.testing.assert_close(encode_latents(pipeline.vae, clip, chunk=2), whole, rtol=0, atol=1e-6)


def test_vae_that_overflows_in_half_precision_is_used_in_full():
    vae = tiny_svd_pipeline().vae.half()
    frames = torch.rand(1, 2, 3, 32, 32) * 2 - 1
    assert encode_latents(vae, frames).dtype == torch.float32 and vae.dtype == torch.float32
    vae.half()
    with torch.autocast("cpu", torch.bfloat16):
        latents = encode_first_frames(vae, frames[:, 0], torch.ones(1), torch.zeros_like(frames[:, 0]))
    assert torch.equal(latents, vae.float().encode(frames[:, 0]).latent_dist.mode())
    vae.half().register_to_config(force_upcast=False)
    encode_latents(vae, frames)
    assert vae.dtype == torch.float16


def test_image_is_dropped_as_latent_and_as_embedding_at_once_and_the_ids_stay(pipeline):
    _, arguments, _, _ = random_batch(pipeline, batch_size=3)
    kept = make_conditioning(pipeline.vae, **arguments)
    arguments["dropped"] = torch.tensor([False, True, False])
    dropped = make_conditioning(pipeline.vae, **arguments)
    for name in ("image_latents", "image_embeddings"):
        assert not getattr(dropped, name)[1].any()
        assert torch.equal(getattr(dropped, name)[[0, 2]], getattr(kept, name)[[0, 2]])
    assert torch.equal(dropped.time_ids, kept.time_ids) and not kept.image_latents.requires_grad


@pytest.mark.parametrize("dropout", [0.0, 0.25, 1.0])
def test_share_of_dropped_images_is_the_dropout(pipeline, dropout):
    _, arguments, _, _ = random_batch(pipeline, batch_size=400, side=1)
    for drawn in ("dropped", "noise", "noise_aug"):
        arguments[drawn] = None
    conditioning = make_conditioning(pipeline.vae, **arguments, dropout=dropout)
    without = ~conditioning.image_embeddings.flatten(1).any(dim=1)
    assert torch.equal(without, ~conditioning.image_latents.flatten(1).any(dim=1))
    assert abs(without.float().mean() - dropout) < 0.07
    assert conditioning.time_ids[:, 2].unique().numel() == 400  # each clip has its own noise


def test_conditioning_follows_from_the_seed(pipeline):
    _, arguments, _, _ = random_batch(pipeline)
    for drawn in ("dropped", "noise", "noise_aug"):
        arguments[drawn] = None
    first, again, other = (
        make_conditioning(pipeline.vae, **arguments, generator=torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.image_latents, other.image_latents)


# The whole


def test_pipeline_survives_a_folder(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path)
    loaded = StableVideoDiffusionPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    call = {"height": 64, "width": 96, "num_inference_steps": 2, "output_type": "pt"}
    frames, again = (
        p(picture(), **call, generator=torch.Generator().manual_seed(0)).frames for p in (pipeline, loaded)
    )
    assert frames.shape == (1, 8, 3, 64, 96)
    torch.testing.assert_close(again, frames, rtol=0, atol=1e-5)


def moving_blob(num_frames=8, side=8):
    """Latents (1, T, 4, H, W) of unit variance: a bump that travels, in four channels of different sign and width."""
    t, y, x = torch.meshgrid(torch.arange(num_frames), torch.arange(side), torch.arange(side), indexing="ij")
    distance = (x - 1 - 0.75 * t).square() + (y - 5 + 0.4 * t).square()
    channels = [sign * torch.exp(-distance / width) for sign, width in ((1, 2), (-1, 4), (1, 8), (-1, 3))]
    clip = torch.stack(channels, dim=1)
    return ((clip - clip.mean()) / clip.std())[None]


def psnr(clip, target):
    peak = target.max() - target.min()
    return 10 * math.log10(peak.square() / (clip - target).square().mean())


@pytest.mark.slow
def test_overfitted_network_regenerates_its_clip_through_the_pipeline():
    """Training and sampling speak of the same thing, end to end: a mistake in either that the loss does not show would
    show here. The mean frame is the score of the best motionless clip."""
    pipeline = tiny_svd_pipeline()
    image, target = picture(height=64, width=64), moving_blob()
    frame = to_frame(image)[None].expand(2, -1, -1, -1)
    latents = target.expand(2, -1, -1, -1, -1)
    embeddings = image_embeddings(pipeline.image_encoder, pipeline.feature_extractor, frame)
    fps, motion_bucket_ids = torch.full((2,), 7), torch.full((2,), 127)
    use_one_token_attention(pipeline.unet)
    optimizer = torch.optim.AdamW(pipeline.unet.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 330)
    for _ in range(330):
        conditioning = make_conditioning(pipeline.vae, frame, embeddings, fps, motion_bucket_ids)
        losses, _ = svd_loss(pipeline.unet, latents, conditioning, draw_sigmas(2), torch.randn(latents.shape))
        losses.mean().backward()
        torch.nn.utils.clip_grad_norm_(pipeline.unet.parameters(), 1.0)
        optimizer.step(), optimizer.zero_grad(), schedule.step()

    generator = torch.Generator().manual_seed(1)
    clip = pipeline(image, height=64, width=64, output_type="latent", generator=generator).frames
    assert psnr(target.mean(dim=1, keepdim=True), target) < 21 and psnr(clip, target) > 27.5
