"""One step of a GPT-2 decoder: the only place that knows the order of a decoder block.

PyTorch's engine and the ONNX export run it. They differ in how they attend: each gives its own two functions.

Letters: B photos   G beams of each   D width   K heads   d = D / K   M compressed tokens   V pieces of the vocabulary
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from transformers import GPT2LMHeadModel

from encoders.cross_attention import merge_heads

# Called with a layer's number and the queries, keys and values of its new pieces, (B, K, G, d); keeps the keys and
# values, and returns what the queries gather from all pieces written so far, (B, K, G, d).
AttendWritten = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
# Called with a layer's number and queries (B, K, G, d); returns what they gather from the photo's tokens, (B, K, G, d).
AttendPhoto = Callable[[int, torch.Tensor], torch.Tensor]


def split_heads(x: torch.Tensor, parts: int, num_heads: int) -> torch.Tensor:
    """(B, T, parts * D) -> (parts, B, K, T, d)."""
    batch, length, width = x.shape
    return x.view(batch, length, parts, num_heads, width // parts // num_heads).permute(2, 0, 3, 1, 4)


def decoder_step(
    decoder: GPT2LMHeadModel,
    pieces: torch.Tensor,
    position: torch.Tensor,
    attend_written: AttendWritten,
    attend_photo: AttendPhoto,
) -> torch.Tensor:
    """One step of a GPT-2 decoder with cross-attention: pieces (B, G) -> normed states (B, G, D) for its head.

    Args:
        decoder: The decoder. Its modules are called as they are, whatever they have been replaced by.
        pieces: The last piece of each beam, (B, G).
        position: Embedding of their position, (D,).
        attend_written: Attention over the pieces written so far.
        attend_photo: Attention over the photo's tokens.
    """
    transformer, heads = decoder.transformer, decoder.config.n_head
    gelu_new = decoder.config.activation_function == "gelu_new"  # eight operations there, one here
    x = transformer.wte(pieces) + position  # (B, G, D)
    for layer, block in enumerate(transformer.h):
        q, k, v = split_heads(block.attn.c_attn(block.ln_1(x)), 3, heads)  # (B, K, G, d)
        x = x + block.attn.c_proj(merge_heads(attend_written(layer, q, k, v)))
        [q] = split_heads(block.crossattention.q_attn(block.ln_cross_attn(x)), 1, heads)
        x = x + block.crossattention.c_proj(merge_heads(attend_photo(layer, q)))
        act = partial(F.gelu, approximate="tanh") if gelu_new else block.mlp.act
        x = x + block.mlp.c_proj(act(block.mlp.c_fc(block.ln_2(x))))
    return transformer.ln_f(x)


def keys_and_values(decoder: GPT2LMHeadModel, tokens: torch.Tensor) -> torch.Tensor:
    """Compressed tokens (B, M, D) -> what each layer's cross-attention reads of them, (L, 2, B, K, M, d)."""
    blocks, heads = decoder.transformer.h, decoder.config.n_head
    return torch.stack([split_heads(block.crossattention.c_attn(tokens), 2, heads) for block in blocks])
