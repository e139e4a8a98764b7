"""Students are taught what their papers say: steps of DDIM, consistent along the teacher's path, or distributions."""

import copy

import pytest
import torch
from torch import nn

from models.diffusion.captioned import CaptionedDiffusion
from models.diffusion.distillation import CLEAN, Distillation
from models.diffusion.text2video import TextToVideoDiffusion

SHAPE = {"num_frames": 4, "height": 16, "width": 16}


@pytest.fixture
def teacher(tiny_unet, text_encoder):
    diffusion = TextToVideoDiffusion(tiny_unet, prediction_type="sample", noise_shift=3.0)
    return CaptionedDiffusion(diffusion, text_encoder).eval()


class Knows(nn.Module):
    """A network that always guesses the same clip."""

    def __init__(self, clip, unet):
        super().__init__()
        self.clip, self.config = nn.Parameter(clip.clone()), unet.config

    def forward(self, noisy, timesteps, context, mask=None):
        return self.clip.expand(len(noisy), -1, -1, -1, -1)


def knowing(teacher, clip) -> CaptionedDiffusion:
    diffusion = TextToVideoDiffusion(Knows(clip, teacher.diffusion.unet), **teacher.diffusion.settings)
    return CaptionedDiffusion(diffusion, teacher.text_encoder)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_the_steps_of_the_student_are_those_that_sampling_takes(teacher, steps):
    model = Distillation(teacher, num_inference_steps=steps, teacher_steps=8).eval()
    texts = model.encoded(["a red circle"])
    noisy = torch.randn(1, 3, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    for number in range(steps, 0, -1):
        here, there = (torch.tensor([n * 1000 // steps - 1]) for n in (number, number - 1))
        guess = model._guess(model.student, noisy, here, texts, {}).clamp(-1, 1)
        noisy = model._moved(noisy, guess, here, there)
    assert there.item() == CLEAN
    drawn = model.learnt().sample(["a red circle"], [3], **SHAPE, sampler="ddim", num_inference_steps=steps)
    torch.testing.assert_close(noisy, drawn, rtol=0, atol=1e-4)


def test_a_guess_between_two_times_is_the_one_that_leads_from_one_to_the_other(teacher, clip):
    model, noise = Distillation(teacher, num_inference_steps=2, teacher_steps=8), torch.randn_like(clip)
    here, there = torch.tensor([999, 624]), torch.tensor([499, CLEAN])
    noisy = model._noised(clip, noise, here)
    arrived = model._moved(noisy, clip, here, there)
    torch.testing.assert_close(arrived, model._noised(clip, noise, there), rtol=0, atol=2e-3)  # at 999 nearly all noise
    torch.testing.assert_close(model._clip_between(noisy, arrived, here, there), clip, rtol=0, atol=2e-3)


def test_who_knows_the_clip_agrees_with_himself_and_nobody_else_does(teacher, clip):
    knows = Distillation(knowing(teacher, clip[:1]), num_inference_steps=2, teacher_steps=8)
    texts, places = knows.encoded(["a"] * 8), (torch.arange(8) + 0.5) / 8
    clips = clip[:1].expand(8, -1, -1, -1, -1)
    assert knows.consistency(clips, texts, {}, torch.randn_like(clips), places) < 1e-6
    knows.student.clip.data += 0.1  # but at the end of each step, where the teacher's word counts alone
    assert knows.consistency(clips, texts, {}, torch.randn_like(clips), places) > 1e-3


def test_the_aim_at_the_last_of_the_teachers_steps_is_the_teachers_own_guess(teacher, clip):
    """There the student's step ends where the teacher's does, so they guess the same clip."""
    model = Distillation(teacher, num_inference_steps=2, teacher_steps=8)
    noise, texts = torch.randn_like(clip), model.encoded(["a", "b"])
    places = torch.tensor([0.0, 0.5])  # the first of the teacher's four steps in each of the student's
    here = torch.tensor([124, 624])
    noisy = model._noised(clip, noise, here)
    right = model._taught(noisy, here, texts, {})
    for parameter in model.student.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    own = model._guess(model.student, noisy, here, texts, {})
    expected = model._weighed(own - right, here)
    assert expected > 1e-3
    torch.testing.assert_close(model.consistency(clip, texts, {}, noise, places), expected, rtol=1e-3, atol=1e-5)


def test_guidance_is_folded_in_where_it_acts(teacher, clip):
    how = {"num_inference_steps": 2, "teacher_steps": 8, "guidance_scale": 3.0, "guidance_interval": (0.5, 1.0)}
    model, times = Distillation(teacher, **how), torch.tensor([700, 200])
    noisy, texts = torch.randn_like(clip), model.encoded(["a red circle", "a blue square"])
    taught = model._taught(noisy, times, texts, {})
    empty = teacher.text_encoder.encode(["", ""])
    for n, scale in enumerate((3.0, 1.0)):
        with_text = teacher.diffusion.unet(noisy[n : n + 1], times[n : n + 1], texts[0][n : n + 1], texts[1][n : n + 1])
        without = teacher.diffusion.unet(noisy[n : n + 1], times[n : n + 1], empty[0][n : n + 1], empty[1][n : n + 1])
        expected = (without + scale * (with_text - without)).clamp(-1, 1)
        torch.testing.assert_close(taught[n : n + 1], expected, rtol=0, atol=1e-5)


def test_distributions_that_match_leave_the_student_alone(teacher, clip):
    """Before anything is learnt the network of what is drawn is the teacher: nothing is to be gained."""
    model = Distillation(teacher, "distribution", num_inference_steps=2, teacher_steps=8).train()
    losses = model(clip, ["a red circle", "a blue square"])
    assert losses["distribution"] < 1e-10 and losses["drawn"] > 0
    losses["distribution"].backward()
    assert all(p.grad is None or p.grad.abs().max() < 1e-6 for p in model.student.parameters())


def test_the_student_moves_to_the_teacher_and_away_from_what_is_drawn(teacher, clip):
    """The gradient is (what is drawn - the teacher) over the distance to the teacher, as in eq. 8 of the paper."""
    model = Distillation(knowing(teacher, clip[:1]), "distribution", num_inference_steps=1, teacher_steps=8)
    model.student.clip.data = torch.full_like(clip[:1], 0.5)
    model.drawn.clip.data = torch.full_like(clip[:1], 0.4)
    model(clip, ["a", "b"])["distribution"].backward()
    real = clip[:1].clamp(-1, 1)
    expected = (0.4 - real) / (0.5 - real).abs().mean() / real.numel()
    torch.testing.assert_close(model.student.clip.grad, expected, rtol=1e-4, atol=1e-9)
    assert model.drawn.clip.grad is None  # it does not follow


def test_the_network_of_what_is_drawn_learns_it_and_the_student_does_not_follow(teacher, clip):
    model = Distillation(knowing(teacher, clip[:1]), "distribution", num_inference_steps=1, teacher_steps=8)
    model.drawn.clip.data = model.drawn.clip.data + 0.3
    model(clip, ["a", "b"])["drawn"].backward()
    assert model.student.clip.grad is None and (model.drawn.clip.grad > 0).all()


def test_the_teacher_stays_as_it_is(teacher, clip):
    before = copy.deepcopy(teacher.state_dict())
    model = Distillation(teacher, num_inference_steps=2, teacher_steps=8).train()
    assert model.student.training and not model.teacher.training
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        sum(model(clip, ["a", "b"]).values()).backward()
        optimizer.step()
    assert all(torch.equal(before[name], value) for name, value in model.teacher.state_dict().items())
    changed = model.student.state_dict()
    assert any(not torch.equal(changed[name], before[f"diffusion.unet.{name}"]) for name in changed)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"method": "magic"}, "method must be one of"),
        ({"num_inference_steps": 3}, "num_inference_steps must divide 1000"),
        ({"num_inference_steps": 4, "teacher_steps": 50}, "teacher_steps must be a multiple of 4"),
        ({"num_inference_steps": 4, "teacher_steps": 24}, "divides 1000"),
    ],
)
def test_steps_that_do_not_divide_are_refused(teacher, how, said):
    with pytest.raises(ValueError, match=said):
        Distillation(teacher, **how)
