"""Ways to make a network faster, each a context that changes a CaptionedDiffusion while it is open."""

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn

from models.diffusion.captioned import CaptionedDiffusion
from models.layers import Attention


def ways(model: CaptionedDiffusion) -> dict[str, Callable]:
    """Name -> what opens such a context."""
    compiled = torch.compile(model.diffusion.unet)  # nothing yet: that happens in its first call
    return {
        "plain": nullcontext,
        "guidance in two calls": partial(in_two_calls, model),
        "text projected once": partial(text_projected_once, model),
        "deep levels every 2nd step": partial(deep_levels_kept, model, 2),
        "deep levels every 3rd step": partial(deep_levels_kept, model, 3),
        "linear layers in int8": partial(another_unet, model, in_int8(model.diffusion.unet)),
        "bfloat16": partial(in_bfloat16, model, model.diffusion.unet),
        "compiled": partial(another_unet, model, compiled),
        "compiled, bfloat16": partial(in_bfloat16, model, compiled),
    }


@contextmanager
def instead(owner, name: str, value) -> Iterator[None]:
    """An attribute has another value for a while."""
    before = owner.__dict__.get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        delattr(owner, name) if before is None else setattr(owner, name, before)


@contextmanager
def another_unet(model: CaptionedDiffusion, unet: nn.Module) -> Iterator[None]:
    own, model.diffusion.unet = model.diffusion.unet, unet
    try:
        yield
    finally:
        model.diffusion.unet = own


def in_two_calls(model: CaptionedDiffusion):
    """The guided and the unguided half of a batch one after the other: half the memory."""
    unet = model.diffusion.unet
    forward = unet.forward

    def in_halves(sample: Tensor, timesteps: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        if len(sample) % 2:
            return forward(sample, timesteps, context, mask)
        masks = (None, None) if mask is None else mask.chunk(2)
        parts = zip(sample.chunk(2), timesteps.chunk(2), context.chunk(2), masks, strict=True)
        return torch.cat([forward(*part) for part in parts])

    return instead(unet, "forward", in_halves)


@contextmanager
def text_projected_once(model: CaptionedDiffusion) -> Iterator[None]:
    """Keys and values of the text, which are the same in every step, are computed in the first."""
    with ExitStack() as stack:
        for name, module in model.diffusion.unet.named_modules():
            if isinstance(module, Attention) and name.endswith("attn2"):
                for layer in (module.to_k, module.to_v):
                    stack.enter_context(instead(layer, "forward", kept_while_equal(layer.forward)))
        yield


def kept_while_equal(forward):
    """The last result again, as long as the input is the same tensor's memory."""
    last = {}

    def answer(x: Tensor) -> Tensor:
        if last.get("input") is None or not torch.equal(last["input"], x):
            last.update(input=x, output=forward(x))
        return last["output"]

    return answer


@contextmanager
def deep_levels_kept(model: CaptionedDiffusion, every: int) -> Iterator[None]:
    """All but the first level is computed in one step of `every`, and its features serve the next ones (DeepCache, Ma
    et al. 2023, arXiv:2312.00858); a step whose batch is of another size computes it anyway."""
    unet = model.diffusion.unet
    blocks = [*unet.down_blocks[1:], unet.mid_block, *unet.up_blocks[:-1]]
    samplers = [unet.down_blocks[0].downsamplers, *(block.downsamplers for block in unet.down_blocks[1:])]
    samplers += [block.upsamplers for block in unet.up_blocks[:-1]]
    state, forward = {"step": 0, "last": None, "shape": None, "reuse": False, "computed": 0}, unet.forward

    def counted(sample: Tensor, timesteps: Tensor, *rest) -> Tensor:
        goes_on = state["shape"] == sample.shape and timesteps[0] < state["last"]
        state["step"] = state["step"] + 1 if goes_on else 0
        state.update(last=timesteps[0], shape=sample.shape, reuse=state["step"] % every > 0)
        state["computed"] += not state["reuse"]
        return forward(sample, timesteps, *rest)

    with ExitStack() as stack:
        stack.enter_context(instead(unet, "forward", counted))
        for block in blocks:
            stack.enter_context(instead(block, "run", Remembered(block.run, state)))
        for sampler in (each[0] for each in samplers if each is not None):
            stack.enter_context(instead(sampler, "forward", Remembered(sampler.forward, state)))
        yield


class Remembered:
    """The results of the calls of the last computed step, given again in their order in the steps that reuse them."""

    def __init__(self, forward, state: dict):
        self.forward, self.state = forward, state
        self.results, self.of_step, self.given = [], None, 0

    def __call__(self, *args) -> Tensor:
        if self.state["reuse"]:
            self.given += 1
            return self.results[(self.given - 1) % len(self.results)]
        if self.of_step != self.state["computed"]:
            self.results, self.of_step, self.given = [], self.state["computed"], 0
        self.results.append(self.forward(*args))
        return self.results[-1]


def in_int8(unet: nn.Module) -> nn.Module:
    """Weights of the linear layers as 8-bit integers, their inputs rounded as they come; convolutions stay."""
    return torch.ao.quantization.quantize_dynamic(copy.deepcopy(unet), {nn.Linear}, dtype=torch.qint8)


@contextmanager
def in_bfloat16(model: CaptionedDiffusion, unet: nn.Module) -> Iterator[None]:
    with another_unet(model, unet), torch.autocast(next(unet.parameters()).device.type, torch.bfloat16):
        yield
