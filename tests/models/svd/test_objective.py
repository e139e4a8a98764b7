"""The objective of SVD: against its definition and diffusers' scheduler."""

import math

import pytest
import torch
from diffusers import StableVideoDiffusionPipeline

from models.svd.conditioning import (
    image_embeddings,
    make_conditioning,
)
from models.svd.memory import use_one_token_attention
from models.svd.objective import denoise, draw_sigmas, eps_hat, preconditioning, svd_loss, v_target
from tests.models.svd.examples import loss_of_answer, moving_blob, picture, psnr, random_batch, to_frame
from tests.tiny_svd import tiny_svd_pipeline
from utils.training.optimizers import make_optimizer


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


@pytest.mark.slow
def test_overfitted_network_regenerates_its_clip_through_the_pipeline():
    """Training and sampling speak of the same thing, end to end: a mistake in either that the loss does not show would
    show here. The mean frame is the score of the best motionless clip."""
    pipeline = tiny_svd_pipeline()
    image, target = picture(height=64, width=64), moving_blob()
    frame = to_frame(image)[None].expand(4, -1, -1, -1)
    latents = target.expand(4, -1, -1, -1, -1)
    embeddings = image_embeddings(pipeline.image_encoder, pipeline.feature_extractor, frame)
    fps, motion_bucket_ids = torch.full((4,), 7), torch.full((4,), 127)
    use_one_token_attention(pipeline.unet)
    # Muon, because it needs a quarter of the steps that AdamW does.
    optimizer = make_optimizer("muon", pipeline.unet, 1e-2, betas=(0.9, 0.999), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 80)
    for _ in range(80):
        conditioning = make_conditioning(pipeline.vae, frame, embeddings, fps, motion_bucket_ids)
        losses, _ = svd_loss(pipeline.unet, latents, conditioning, draw_sigmas(4), torch.randn(latents.shape))
        losses.mean().backward()
        torch.nn.utils.clip_grad_norm_(pipeline.unet.parameters(), 1.0)
        optimizer.step(), optimizer.zero_grad(), schedule.step()

    generator = torch.Generator().manual_seed(1)
    clip = pipeline(image, height=64, width=64, output_type="latent", generator=generator).frames
    assert psnr(target.mean(dim=1, keepdim=True), target) < 21 and psnr(clip, target) > 25
