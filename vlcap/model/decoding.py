"""Decoding: runs a GPT-2 decoder piece by piece, under greedy or beam search.

It finds the captions that Hugging Face's `generate` finds, from the same modules. It is faster for these reasons:
- Keys and values of the photo's tokens are projected once, and the beams of a photo share them.
- The beams share one cache of keys and values as well. A mask says which slots are the past of a beam. When beams fork
  or die, rows of the mask move, and the cache stays where it is.
- Photos whose search has ended leave the batch.
- Plain Python (search.py) decides which beams go on. Tensor operations take longer for so few numbers.

`decoder_step` is the only place that knows the order of a decoder block; the ONNX export uses it as well.

Letters: B photos   G beams of each, 1 in the first step   D width   K heads   d = D / K   T pieces written before
    M compressed tokens   S slots of the cache in use: one, then G for each piece   V pieces of the vocabulary
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from transformers import GPT2LMHeadModel, VisionEncoderDecoderModel

from encoders.cross_attention import merge_heads

from .search import Search
from .tokenizer import EOS, PAD, START

# Called after each step with the pieces of the leading caption. Returning True ends the search.
Watch = Callable[[Sequence[int]], bool]
# Called with a layer's number and its new keys and values, (B, K, G, d); returns those of the whole past and the new.
Extend = Callable[[int, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
COMPACT_AT = 0.75  # share of photos still searched at which the batch is compacted, which copies the cache


def search_for(model: VisionEncoderDecoderModel, **changes: Any) -> Search | None:
    """A captioner's generation settings, with changes. None if they ask for more than this file can do."""
    config, decoder = model.generation_config, model.decoder
    own = {name: value for name, value in config.to_diff_dict().items() if not name.endswith(("_token_id", "_version"))}
    settings = {
        name: value
        for name, value in {**own, **changes}.items()
        if value is not None and (name, value) not in _DEFAULTS
    }
    plain = (
        isinstance(decoder, GPT2LMHeadModel)
        and decoder.config.scale_attn_weights
        and not decoder.config.scale_attn_by_inverse_layer_idx
        and not decoder.config.reorder_and_upcast_attn
        and (config.decoder_start_token_id, config.eos_token_id, config.pad_token_id) == (START, EOS, PAD)
        and settings.keys() <= Search.__dataclass_fields__.keys()
        and 1 <= settings.get("max_new_tokens", 0) < decoder.config.n_positions + 1
        and isinstance(settings.get("num_beams", 1), int)
        and 1 <= settings.get("num_beams", 1) <= decoder.config.vocab_size // 2
        and isinstance(settings.get("repetition_penalty", 1.0), float)
        and settings.get("repetition_penalty", 1.0) > 0
    )
    return Search(**settings) if plain else None


_DEFAULTS = [("do_sample", False), ("num_return_sequences", 1), ("use_cache", True)]


@torch.inference_mode()
def find_captions(
    model: VisionEncoderDecoderModel,
    tokens: torch.Tensor,
    search: Search,
    watch: Watch | None = None,
) -> list[tuple[int, ...]]:
    """Compressed tokens (B, M, D) -> the pieces of their captions, start and end included."""
    hypotheses: list[Any] = [search.start() for _ in tokens]
    state = DecoderState(model, tokens, slots=1 + (search.max_new_tokens - 1) * search.num_beams)
    active = hypotheses
    beams = 1  # all beams are the same until the first piece is written
    while active:
        pieces = [ids[-1] for photo in active for ids in photo.running[:beams]]
        logits = state.step(torch.tensor(pieces, device=tokens.device).view(len(active), beams)).float()  # (B, G, V)
        written = [ids for photo in active for ids in photo.running[:beams]]  # B * G rows
        if search.num_beams == 1:
            best = search.adjust(logits.flatten(0, 1), written).argmax(dim=-1, keepdim=True)  # (B, 1)
            found: Any = [((0.0,), place) for place in best.tolist()]
        else:
            scores = search.adjust(logits.log_softmax(dim=-1).flatten(0, 1), written).view_as(logits)
            scores = scores + torch.tensor([photo.scores[:beams] for photo in active], device=scores.device)[..., None]
            values, places = scores.flatten(1).topk(2 * search.num_beams)
            found = zip(values.tolist(), places.tolist(), strict=True)
        for photo, (values, places) in zip(active, found, strict=True):
            photo.advance(values, places, vocab_size=logits.shape[-1])
        if watch is not None and watch(active[0].leader):
            break
        beams = search.num_beams
        going = [i for i, photo in enumerate(active) if not photo.done]
        if len(going) <= COMPACT_AT * len(active):
            state.keep(going)
            active = [active[i] for i in going]
        if beams > 1 and active:
            state.fork([photo.parents for photo in active])
    return [photo.best for photo in hypotheses]


def split_heads(x: torch.Tensor, parts: int, num_heads: int) -> torch.Tensor:
    """(B, T, parts * D) -> (parts, B, K, T, d)."""
    batch, length, width = x.shape
    return x.view(batch, length, parts, num_heads, width // parts // num_heads).permute(2, 0, 3, 1, 4)


def decoder_step(
    decoder: GPT2LMHeadModel,
    pieces: torch.Tensor,
    step: int,
    photo: torch.Tensor,
    extend: Extend,
    act: Callable[[torch.Tensor], torch.Tensor],
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """One step of a GPT-2 decoder with cross-attention: pieces (B, G) -> normed states (B, G, D) for its head.

    Args:
        decoder: The decoder. Its modules are called as they are, whatever they have been replaced by.
        pieces: The last piece of each beam, (B, G).
        step: Number of pieces written before these.
        photo: Keys and values of the compressed tokens for each layer, (L, 2, B, K, M, d).
        extend: Function that keeps the new keys and values of a layer.
        act: Activation of the MLP.
        mask: Added to the attention over written pieces, (B, 1, G, S): -inf for a slot that is not a beam's past.
    """
    transformer, heads = decoder.transformer, decoder.config.n_head
    x = transformer.wte(pieces) + transformer.wpe.weight[step]  # (B, G, D)
    for number, (block, (token_keys, token_values)) in enumerate(zip(transformer.h, photo, strict=True)):
        q, k, v = split_heads(block.attn.c_attn(block.ln_1(x)), 3, heads)  # (B, K, G, d)
        keys, values = extend(number, k, v)
        x = x + block.attn.c_proj(merge_heads(F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)))
        [q] = split_heads(block.crossattention.q_attn(block.ln_cross_attn(x)), 1, heads)
        x = x + block.crossattention.c_proj(merge_heads(F.scaled_dot_product_attention(q, token_keys, token_values)))
        x = x + block.mlp.c_proj(act(block.mlp.c_fc(block.ln_2(x))))
    return transformer.ln_f(x)


class DecoderState:
    """The state of decoding: keys and values of the compressed tokens and of all pieces written so far.

    Args:
        model: Encoder and decoder.
        tokens: Compressed tokens, (B, M, D of the encoder).
        slots: Number of slots that the cache needs at most.
    """

    def __init__(self, model: VisionEncoderDecoderModel, tokens: torch.Tensor, slots: int):
        self.decoder = model.decoder
        blocks, heads = model.decoder.transformer.h, model.decoder.config.n_head
        self.act = blocks[0].mlp.act
        if model.decoder.config.activation_function == "gelu_new":  # eight operations there, one here
            self.act = partial(F.gelu, approximate="tanh")
        if hasattr(model, "enc_to_dec_proj"):
            tokens = model.enc_to_dec_proj(tokens)
        size = (len(blocks), 2, len(tokens), heads, slots, tokens.shape[-1] // heads)
        self.cache = tokens.new_empty(size)  # (L, 2, B, K, S, d)
        self.photo = torch.stack([split_heads(block.crossattention.c_attn(tokens), 2, heads) for block in blocks])
        # (B, 1, G, S), -inf for a slot that is not a beam's past; None while there is one beam
        self.mask: torch.Tensor | None = None
        self.used = self.steps = 0

    def step(self, pieces: torch.Tensor) -> torch.Tensor:
        """Writes one piece for each beam, (B, G). Returns the logits of the next pieces, (B, G, V)."""
        start, stop = self.used, self.used + pieces.shape[1]

        def extend(layer: int, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            keys, values = self.cache[layer]
            keys[:, :, start:stop], values[:, :, start:stop] = k, v
            return keys[:, :, :stop], values[:, :, :stop]

        mask = None if self.mask is None else self.mask[..., :stop]
        x = decoder_step(self.decoder, pieces, self.steps, self.photo, extend, self.act, mask)
        self.used, self.steps = stop, self.steps + 1
        return self.decoder.lm_head(x)

    def fork(self, parents: list[list[int]]) -> None:
        """To be called after a step: beam g of photo b goes on from beam parents[b][g], and gets a slot of its own."""
        chosen = torch.tensor(parents, device=self.cache.device)  # (B, G)
        batch, beams = chosen.shape
        if self.mask is None:  # one slot, the start, which is the past of every beam
            self.mask = self.cache.new_full((batch, 1, beams, self.cache.shape[4]), float("-inf"))
            self.mask[..., 0] = 0
        else:
            self.mask = self.mask.take_along_dim(chosen[:, None, :, None], dim=2)
        stop = min(self.used + beams, self.mask.shape[-1])
        self.mask[..., self.used : stop].diagonal(dim1=-2, dim2=-1).zero_()

    def keep(self, photos: list[int]) -> None:
        """Drops all photos but these."""
        chosen = torch.tensor(photos, dtype=torch.long, device=self.cache.device)
        self.cache, self.photo = self.cache.index_select(2, chosen), self.photo.index_select(2, chosen)
        if self.mask is not None:
            self.mask = self.mask.index_select(0, chosen)
