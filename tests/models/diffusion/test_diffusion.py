"""The mathematics of training and sampling, against its definitions and against diffusers."""

import math

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from diffusers.training_utils import compute_density_for_timestep_sampling

from models.diffusion.noise_schedule import make_betas, noise_shift_for
from models.diffusion.sampling import SAMPLERS
from models.diffusion.text2video import PREDICTION_TYPES, TextToVideoDiffusion
from models.unet3d import UNet3D
from models.windows import over_frames
from tests.conftest import TINY_UNET
from utils.training.optimizers import learning_rate_schedule, make_optimizer


class Oracle(torch.nn.Module):
    """A network that knows the clip and answers what a perfect one would."""

    def __init__(self, clip, prediction_type):
        super().__init__()
        self.clip, self.prediction_type, self.diffusion = clip, prediction_type, None
        self.config = type("Config", (), {"in_channels": clip.shape[1]})

    def forward(self, noisy, timesteps, text_embeddings, mask):
        alpha, sigma = self.diffusion.alpha_sigma(timesteps, noisy)
        clip = self.clip.expand_as(noisy)
        return self.diffusion.target(clip, (noisy - alpha * clip) / sigma, timesteps)


class Answer(torch.nn.Module):
    """A network that answers whatever `answer` makes of its input."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, noisy, timesteps, text_embeddings, mask):
        return self.answer(noisy)


class Posterior(torch.nn.Module):
    """The exact denoiser of pixels that are independent and normal: the mean of the clean pixel given the noisy one."""

    def __init__(self, mean, deviation):
        super().__init__()
        self.mean, self.deviation, self.diffusion = mean, deviation, None
        self.config = type("Config", (), {"in_channels": 3})

    def forward(self, noisy, timesteps, text_embeddings, mask):
        alpha, sigma = self.diffusion.alpha_sigma(timesteps, noisy)
        gain = alpha * self.deviation**2 / (alpha**2 * self.deviation**2 + sigma**2)
        return self.mean + gain * (noisy - alpha * self.mean)


def oracle_diffusion(clip, prediction_type, **settings):
    oracle = Oracle(clip, prediction_type)
    diffusion = TextToVideoDiffusion(oracle, prediction_type=prediction_type, **settings)
    oracle.__dict__["diffusion"] = diffusion  # not a submodule: it would contain itself
    return diffusion


def test_schedule_is_the_cosine_of_nichol_and_dhariwal():
    alphas_cumprod = (1 - make_betas(1000).double()).cumprod(0)

    def f(t):
        return math.cos((t / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2

    expected = torch.tensor([f(t + 1) / f(0) for t in range(990)], dtype=torch.float64)  # before the clip at 0.999
    torch.testing.assert_close(alphas_cumprod[:990], expected, rtol=1e-4, atol=1e-6)
    assert make_betas(1000).max() <= 0.999


def test_schedule_equals_diffusers_squaredcos_cap_v2():
    expected = DDPMScheduler(1000, beta_schedule="squaredcos_cap_v2").betas
    torch.testing.assert_close(make_betas(1000), expected)


def test_noise_shift_grows_with_the_root_of_size_and_length():
    assert noise_shift_for(16, 64, 64, latents=False) == 2 and noise_shift_for(1, 64, 64, latents=True) == 1
    assert noise_shift_for(16, 64, 64, latents=True) == 4 and noise_shift_for(64, 64, 64, latents=True) == 8
    assert noise_shift_for(4, 16, 16, latents=True) == 1  # never less noise than the papers'


def test_noise_shift_multiplies_sigma():
    plain, shifted = ((1 - make_betas(1000, shift).double()).cumprod(0) for shift in (1.0, 2.0))
    sigma, shifted_sigma = ((1 / alphas - 1).sqrt()[:900] for alphas in (plain, shifted))
    torch.testing.assert_close(shifted_sigma, 2 * sigma, rtol=1e-3, atol=0)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_zero_terminal_snr_ends_in_pure_noise_and_every_sampler_starts_there(clip, sampler):
    diffusion = oracle_diffusion(clip[:1], "sample", zero_terminal_snr=True)
    assert diffusion.alphas_cumprod[-1] == 0 and diffusion.alphas_cumprod[0] > 0.99
    steps = 60 if sampler == "ddpm" else 12
    result = diffusion.sample(
        torch.zeros(1, 1, 4), num_frames=4, height=16, width=16, sampler=sampler, num_inference_steps=steps
    )
    torch.testing.assert_close(result, clip[:1], rtol=0, atol=2e-2)


def test_add_noise_matches_diffusers(tiny_diffusion, clip):
    noise, timesteps = torch.randn_like(clip), torch.tensor([3, 870])
    expected = DDPMScheduler(1000, beta_schedule="squaredcos_cap_v2").add_noise(clip, noise, timesteps)
    torch.testing.assert_close(tiny_diffusion.add_noise(clip, noise, timesteps), expected)


def test_velocity_matches_diffusers(clip):
    noise, timesteps = torch.randn_like(clip), torch.tensor([3, 870])
    expected = DDPMScheduler(1000, beta_schedule="squaredcos_cap_v2").get_velocity(clip, noise, timesteps)
    diffusion = TextToVideoDiffusion(torch.nn.Identity(), prediction_type="v_prediction")
    torch.testing.assert_close(diffusion.target(clip, noise, timesteps), expected)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_true_answer_recovers_the_clip(clip, prediction_type):
    diffusion = TextToVideoDiffusion(torch.nn.Identity(), prediction_type=prediction_type)
    noise, timesteps = torch.randn_like(clip), torch.tensor([3, 700])
    noisy = diffusion.add_noise(clip, noise, timesteps)
    recovered = diffusion.predict_clip(diffusion.target(clip, noise, timesteps), noisy, timesteps)
    torch.testing.assert_close(recovered, clip, rtol=0, atol=1e-4)


@pytest.mark.parametrize("weighting", ["none", "min_snr", "snr_plus_one"])
def test_loss_weights_weigh_the_clip_error_alike_for_every_prediction_type(clip, weighting):
    """The same error of the clip costs the same, however the network words its answer (but for "none")."""
    noise, timesteps = torch.randn_like(clip), torch.tensor([200, 600])
    costs = []
    for prediction_type in PREDICTION_TYPES:
        diffusion = TextToVideoDiffusion(
            torch.nn.Identity(), prediction_type=prediction_type, loss_weighting=weighting, snr_gamma=3.0
        )
        noisy = diffusion.add_noise(clip, noise, timesteps)
        alpha, sigma = diffusion.alpha_sigma(timesteps, clip)
        wrong = clip + 0.1
        answer = diffusion.target(wrong, (noisy - alpha * wrong) / sigma, timesteps)  # words the wrong clip
        errors = (answer - diffusion.target(clip, noise, timesteps)).square().flatten(1).mean(1)
        costs.append(diffusion.loss_weights(timesteps) * errors)
    snr = diffusion.alphas_cumprod[timesteps] / (1 - diffusion.alphas_cumprod[timesteps])
    if weighting == "none":
        expected = [snr, snr + 1, torch.ones(2)]
    else:
        expected = [(snr if weighting == "min_snr" else snr + 1).clamp(max=3.0)] * 3
    for cost, weight in zip(costs, expected, strict=True):
        torch.testing.assert_close(cost, 0.01 * weight, rtol=1e-3, atol=1e-7)


def test_plain_epsilon_loss_is_the_mean_squared_error(tiny_diffusion, clip, text):
    noise, timesteps = torch.randn_like(clip), torch.tensor([10, 500])
    loss = tiny_diffusion(clip, text, noise=noise, timesteps=timesteps)
    noise_pred = tiny_diffusion.unet(tiny_diffusion.add_noise(clip, noise, timesteps), timesteps, text)
    torch.testing.assert_close(loss, (noise_pred - noise).square().mean())


def test_micro_batches_add_up_to_the_gradient_of_the_batch(tiny_diffusion, clip, text):
    noise, timesteps = torch.randn_like(clip), torch.tensor([10, 500])
    tiny_diffusion(clip, text, noise=noise, timesteps=timesteps).backward()
    whole = [parameter.grad.clone() for parameter in tiny_diffusion.parameters()]
    tiny_diffusion.zero_grad()
    for i in range(2):
        one = slice(i, i + 1)
        (tiny_diffusion(clip[one], text[one], noise=noise[one], timesteps=timesteps[one]) / 2).backward()
    for parameter, gradient in zip(tiny_diffusion.parameters(), whole, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("sampling, logit_std", [("uniform", 1.0), ("logit_normal", 1.0), ("logit_normal", 1.7)])
def test_timesteps_are_drawn_as_diffusers_draws_them_and_spread_evenly_over_a_batch(sampling, logit_std):
    diffusion = TextToVideoDiffusion(torch.nn.Identity(), timestep_sampling=sampling, logit_std=logit_std)
    expected = (
        compute_density_for_timestep_sampling(sampling, 40_000, logit_mean=0.0, logit_std=logit_std).sort().values
    )
    batches = torch.stack([diffusion.draw_timesteps(8, torch.device("cpu")) for _ in range(5000)])
    assert batches.min() >= 0 and batches.max() < 1000
    drawn = (batches.flatten().sort().values + 0.5) / 1000
    assert (drawn - expected).abs().max() < 0.03  # all quantiles; those of the ends vary most
    # Of the eighths of the distribution each batch meets every one, or one twice and its neighbour never.
    eighths = torch.bucketize((batches + 0.5) / 1000, expected[5000::5000][:7].contiguous())
    assert (torch.stack([(eighths == i).sum(dim=1) for i in range(8)]) <= 2).all()


def test_text_is_dropped_in_training_at_its_rate_and_never_in_evaluation():
    diffusion = TextToVideoDiffusion(torch.nn.Identity(), text_dropout=0.1)
    captions = ["a red circle"] * 5000
    assert 400 < diffusion.drop_text(captions).count("") < 600
    assert diffusion.eval().drop_text(captions) == captions


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_recovers_the_clip_of_a_perfect_network(clip, sampler, prediction_type):
    diffusion = oracle_diffusion(clip[:1], prediction_type)
    text = torch.zeros(2, 1, 4)
    steps = 60 if sampler == "ddpm" else 12
    result = diffusion.sample(text, num_frames=4, height=16, width=16, sampler=sampler, num_inference_steps=steps)
    torch.testing.assert_close(result, clip[:1].expand(2, -1, -1, -1, -1), rtol=0, atol=2e-2)


@pytest.mark.parametrize("sampler, num_frames, overlap", [("dpmpp_sde", 10, None), ("ddim", 9, 1), ("euler", 4, 3)])
def test_windows_change_nothing_where_frames_do_not_see_each_other(sampler, num_frames, overlap):
    unet = Posterior(mean=0.2, deviation=0.3)
    diffusion = TextToVideoDiffusion(unet, prediction_type="sample")
    unet.__dict__["diffusion"] = diffusion
    seen, forward = [], unet.forward
    unet.forward = lambda noisy, *rest: (seen.append(noisy.shape[2]), forward(noisy, *rest))[1]
    settings = {"num_frames": num_frames, "height": 8, "width": 8, "sampler": sampler, "num_inference_steps": 6}

    def drawn(**windows):
        generators = [torch.Generator().manual_seed(i) for i in range(2)]
        return diffusion.sample(torch.zeros(2, 1, 4), generators=generators, **settings, **windows)

    expected = drawn()
    seen.clear()
    torch.testing.assert_close(drawn(window_frames=4, window_overlap=overlap), expected, rtol=0, atol=1e-5)
    assert set(seen) == {4}
    if num_frames > 4:
        for wrong in (0, 4):
            with pytest.raises(ValueError, match=f"window_overlap must be 1 to 3, not {wrong}"):
                drawn(window_frames=4, window_overlap=wrong)


def test_each_frame_is_the_mean_of_its_windows():
    x, starts = torch.zeros(1, 1, 10, 1, 1), iter((0.0, 1.0, 2.0, 3.0))
    found = over_frames(lambda part, place: torch.full_like(part, next(starts)), x, 4, 2).flatten()
    assert torch.equal(found[:2], torch.zeros(2)) and torch.equal(found[-2:], torch.full((2,), 3.0))
    torch.testing.assert_close(found[2:4], torch.tensor([1 / 3, 2 / 3]))  # half weight at an end, whole one beyond
    assert next(starts, None) is None


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_draws_from_the_distribution_of_the_data(sampler):
    unet = Posterior(mean=0.2, deviation=0.3)
    diffusion = TextToVideoDiffusion(unet, prediction_type="sample")
    unet.__dict__["diffusion"] = diffusion  # not a submodule: it would contain itself
    generators = [torch.Generator().manual_seed(i) for i in range(8)]
    settings = {"num_frames": 4, "height": 32, "width": 32, "sampler": sampler, "thresholding": "none"}
    steps = 200 if sampler in ("ddpm", "ddim", "euler") else 25  # first order needs more of them
    videos = diffusion.sample(torch.zeros(8, 1, 4), num_inference_steps=steps, generators=generators, **settings)
    assert abs(videos.mean() - 0.2) < 0.01
    assert abs(videos.std() - 0.3) < 0.01


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_keeps_to_the_timesteps_of_a_shorter_schedule(clip, sampler):
    diffusion = oracle_diffusion(clip[:1], "v_prediction", num_timesteps=40)
    text = torch.zeros(1, 1, 4)
    result = diffusion.sample(text, num_frames=4, height=16, width=16, sampler=sampler, num_inference_steps=40)
    torch.testing.assert_close(result, clip[:1], rtol=0, atol=2e-2)


def test_ddim_sampling_equals_a_plain_loop_over_diffusers(tiny_diffusion, text):
    """Our way through predict_clip and a "sample"-predicting scheduler is the textbook loop on epsilon."""
    scheduler = DDIMScheduler(
        1000,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="epsilon",
        timestep_spacing="trailing",
        clip_sample=True,
    )
    scheduler.set_timesteps(5)
    sample = torch.stack([torch.randn(3, 4, 16, 16, generator=torch.Generator().manual_seed(i)) for i in range(2)])
    with torch.no_grad():
        for timestep in scheduler.timesteps:
            noise_pred = tiny_diffusion.unet(sample, timestep.expand(2), text)
            sample = scheduler.step(noise_pred, timestep, sample, use_clipped_model_output=True).prev_sample
    ours = tiny_diffusion.sample(
        text,
        num_frames=4,
        height=16,
        width=16,
        sampler="ddim",
        num_inference_steps=5,
        generators=[torch.Generator().manual_seed(i) for i in range(2)],
    )
    torch.testing.assert_close(ours, sample.clamp(-1, 1), rtol=0, atol=1e-3)


@pytest.mark.parametrize("thresholding", ["static", "dynamic"])
def test_wrong_noise_at_the_last_timestep_cannot_blow_up_the_clip(clip, text, thresholding):
    """With the cosine schedule an error of epsilon counts 20,000-fold there: LTH14/mar#70 and many black videos."""
    diffusion = TextToVideoDiffusion(Answer(lambda noisy: 1.1 * noisy))
    wild = diffusion.denoise(clip, torch.tensor(999), text, None, thresholding="none")
    kept = diffusion.denoise(clip, torch.tensor(999), text, None, thresholding=thresholding)
    assert wild.abs().max() > 100
    assert kept.abs().max() <= 1


@pytest.mark.parametrize("sampler", ["ddpm", "dpmpp_sde", "dpmpp"])
def test_a_seed_is_the_same_video_in_any_batch(tiny_diffusion, text, sampler):
    def draw(indices):
        generators = [torch.Generator().manual_seed(7 + i) for i in indices]
        texts = text[indices]
        return tiny_diffusion.sample(
            texts, num_frames=4, height=16, width=16, num_inference_steps=4, sampler=sampler, generators=generators
        )

    both = draw([0, 1])
    torch.testing.assert_close(both[:1], draw([0]), rtol=0, atol=1e-4)
    torch.testing.assert_close(both[1:], draw([1]), rtol=0, atol=1e-4)
    assert not torch.allclose(both[0], both[1], atol=1e-2)


def test_negative_text_of_another_length_changes_nothing_but_its_meaning(tiny_diffusion, text):
    """Padding of the shorter text is masked: the same negative text, padded by hand, gives the same video."""
    negative = torch.randn(2, 2, 16)
    settings = {"num_frames": 2, "height": 16, "width": 16, "num_inference_steps": 2, "guidance_scale": 2.0}

    def draw(negative, mask):
        generators = [torch.Generator().manual_seed(i) for i in range(2)]
        return tiny_diffusion.sample(text, None, negative, mask, generators=generators, **settings)

    padded = torch.cat([negative, torch.randn(2, 3, 16)], dim=1)
    mask = torch.tensor([[True, True, False, False, False]] * 2)
    torch.testing.assert_close(draw(negative, None), draw(padded, mask), rtol=0, atol=1e-5)


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_impossible_numbers_of_steps_are_refused(tiny_diffusion, text, steps):
    with pytest.raises(ValueError, match="num_inference_steps must be 1 to 1000"):
        tiny_diffusion.sample(text, num_frames=2, height=16, width=16, num_inference_steps=steps)


def test_epsilon_with_zero_terminal_snr_is_refused():
    with pytest.raises(ValueError, match="zero_terminal_snr"):
        TextToVideoDiffusion(torch.nn.Identity(), zero_terminal_snr=True)


def test_one_clip_is_learnt_by_heart_and_comes_back():
    """Loss falls to near zero on one clip, and sampling returns that clip."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, 16), torch.linspace(-1, 1, 16), indexing="ij")
    frames = [
        torch.stack([torch.where((x - s) ** 2 + y**2 < 0.2, 0.8, -0.8), x * 0.5, y * 0.5]) for s in (-0.4, 0, 0.4)
    ]
    clip = torch.stack(frames, dim=1)[None]  # (1, 3, 3, 16, 16)
    unet = UNet3D(**TINY_UNET, patch_size=2)
    diffusion = TextToVideoDiffusion(unet, prediction_type="sample", loss_weighting="snr_plus_one", noise_shift=2.0)
    text = torch.zeros(4, 1, 16)
    optimizer = make_optimizer("muon", unet, 1e-2, betas=(0.9, 0.999), weight_decay=0)
    schedule = learning_rate_schedule("warmup_stable_decay", optimizer, 0, 70)
    losses = []
    for _ in range(70):
        loss = diffusion(clip.expand(4, -1, -1, -1, -1), text)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step(), schedule.step()
        losses.append(loss.item())
    diffusion.eval()
    result = diffusion.sample(text[:2], num_frames=3, height=16, width=16, num_inference_steps=10)
    assert sum(losses[-10:]) / 10 < 0.04 * losses[0]
    assert (result - clip).square().mean() < 0.015  # 24 dB of a range of 2
