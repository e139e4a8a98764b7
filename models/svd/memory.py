"""What of Stable Video Diffusion is trained, and how it fits into memory without changing the result.

Which parameters a scope trains, checkpointing of all large blocks, and the exact shortcut for attention to one token.
"""

import re
from functools import partial

import torch
from diffusers.models.attention import TemporalBasicTransformerBlock
from diffusers.models.attention_processor import AttnProcessor2_0
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

SCOPES = ("temporal", "temporal_attn", "all", "lora")

# "time" alone would also match the time embeddings of the image model.
TEMPORAL = re.compile(r"temporal_transformer_blocks|temporal_res_block|time_mixer|time_pos_embed")
TEMPORAL_ATTENTION = re.compile(r"temporal_transformer_blocks")
# SVD's context is one token, and a softmax over one key is 1 whatever the query and the key say: queries, keys and the
# norm before the queries have a gradient of zero. Adam would blow the rounding errors of that zero up to full steps.
UNTRAINABLE = re.compile(r"attn2\.(to_q|to_k)\.|transformer_blocks\.\d+\.norm2\.")
LORA_TARGETS = re.compile(
    r".*temporal_transformer_blocks\.\d+\.(attn1\.(to_q|to_k|to_v|to_out\.0)|attn2\.(to_v|to_out\.0))"
)


# Scopes


def trainable_names(unet: nn.Module, scope: str) -> list[str]:
    """Names of the parameters that a scope trains, never those that cannot learn (UNTRAINABLE).

    "temporal": all that SVD adds to an image model: transformers and convolutions over time, their mixing with the
    image model, frame positions. "temporal_attn": the transformers over time alone. "all": everything. "lora": none,
    adapters are added instead, see lora_target_modules. Raises ValueError for another scope.
    """
    if scope not in SCOPES:
        raise ValueError(f"the scope must be one of {', '.join(SCOPES)}, not {scope!r}")
    if scope == "lora":
        return []
    pattern = {"temporal": TEMPORAL, "temporal_attn": TEMPORAL_ATTENTION, "all": re.compile("")}[scope]
    names = (name for name, _ in unet.named_parameters())
    return [name for name in names if pattern.search(name) and not UNTRAINABLE.search(name)]


def lora_target_modules(unet: nn.Module) -> list[str]:
    """Names of the linear layers that get a low-rank adapter (Hu et al. 2021, arXiv:2106.09685), for peft's LoraConfig:
    the projections of attention over time, without the queries and keys that cannot learn."""
    return [name for name, _ in unet.named_modules() if LORA_TARGETS.fullmatch(name)]


def set_trainable(unet: nn.Module, scope: str, frozen_dtype: torch.dtype | None = None) -> list[nn.Parameter]:
    """Freeze all but the scope and return what is trained, in the order of the names.

    The trained parameters become float32: added to a bfloat16 weight, a usual update is rounded away. The frozen ones
    are cast to frozen_dtype if given; the forward pass then needs autocast. Raises ValueError for an unknown scope.
    """
    trained = set(trainable_names(unet, scope))
    for name, parameter in unet.named_parameters():
        parameter.requires_grad_(name in trained)
        dtype = torch.float32 if name in trained else frozen_dtype
        if dtype is not None:
            parameter.data = parameter.data.to(dtype)
    return [parameter for parameter in unet.parameters() if parameter.requires_grad]


def cast(module: nn.Module, dtype: torch.dtype) -> None:
    """Cast a module in place, by torch's own method: diffusers' warns of layers to be kept in float32 without any."""
    nn.Module.to(module, dtype)


# Checkpointing and the shortcut


def enable_full_checkpointing(unet: nn.Module) -> None:
    """Recompute residual blocks and transformer blocks in the backward pass instead of keeping their activations.

    diffusers' own switch leaves out the transformers over time, which hold most of what is left. Gradients do not
    change; without gradients nothing does. Affects this instance alone, nothing of it is saved, and
    disable_full_checkpointing undoes it.
    """
    disable_full_checkpointing(unet)
    unet.enable_gradient_checkpointing()
    for block in _temporal_blocks(unet):
        block.forward = partial(_checkpointed, block.forward)


def disable_full_checkpointing(unet: nn.Module) -> None:
    """Keep all activations again."""
    unet.disable_gradient_checkpointing()
    for block in _temporal_blocks(unet):
        block.__dict__.pop("forward", None)


def _temporal_blocks(unet: nn.Module) -> list[nn.Module]:
    return [module for module in unet.modules() if isinstance(module, TemporalBasicTransformerBlock)]


def _checkpointed(forward, *args, **kwargs):
    if torch.is_grad_enabled():
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)
    return forward(*args, **kwargs)


class OneTokenAttention:
    """Attention to a single token, exactly: whatever the queries are, the answer is to_out(to_v(token)).

    A diffusers attention processor. hidden_states: (N, L, C), encoder_hidden_states: (N, 1, D); returns (N, 1, C), to
    be broadcast over L. Raises ValueError for a longer context.
    """

    def __call__(self, attn, hidden_states: Tensor, encoder_hidden_states: Tensor, attention_mask=None) -> Tensor:
        if encoder_hidden_states.shape[1] != 1:
            raise ValueError(f"the context has {encoder_hidden_states.shape[1]} tokens, the shortcut needs one")
        return attn.to_out[0](attn.to_v(encoder_hidden_states))


def use_one_token_attention(unet: nn.Module, enabled: bool = True) -> None:
    """Compute every cross-attention by OneTokenAttention, or with enabled=False as diffusers does. Same outputs."""
    for name, module in unet.named_modules():
        if name.endswith(".attn2"):
            module.set_processor(OneTokenAttention() if enabled else AttnProcessor2_0())
