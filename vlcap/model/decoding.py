"""Decoding: a GPT-2 decoder's weights, run piece by piece by greedy or beam search, and nothing besides.

Finds what Hugging Face's `generate` finds, from the same modules. What it saves, at each piece:
- Keys and values of the photo's tokens are projected once, and a photo's beams share them.
- Beams share one cache of keys and values, too. Which of its slots are a beam's own past is a mask: when beams fork or
  die, rows of the mask move, and the cache stays where it is.
- Photos whose search has ended leave the batch.
- Which beams go on is decided in plain Python (search.py): for a few numbers, tensor operations take longer.

Letters: B photos   G beams of each, 1 in the first step   R = B * G rows   D width   K heads   d = D / K
    M compressed tokens   S slots of the cache, those in use: one, then G for each piece   V pieces of the vocabulary
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from transformers import GPT2LMHeadModel, VisionEncoderDecoderModel

from .search import Search
from .tokenizer import EOS, PAD, START

Watch = Callable[[Sequence[int]], bool]  # is shown the leading caption's pieces after each step; True ends the search
COMPACT_AT = 0.75  # the batch is packed anew when so few of its photos are still searched: packing copies the cache


def search_for(model: VisionEncoderDecoderModel, **changes: Any) -> Search | None:
    """A captioner's own generation settings with changes; None where more is asked for than is done here."""
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
    """The captions' pieces, start and end included, for compressed tokens (B, M, D)."""
    hypotheses: list[Any] = [search.start() for _ in tokens]
    state = DecoderState(model, tokens, slots=1 + (search.max_new_tokens - 1) * search.num_beams)
    active = hypotheses
    beams = 1  # until the first piece is written, all beams are one
    while active:
        pieces = [ids[-1] for photo in active for ids in photo.running[:beams]]
        logits = state.step(torch.tensor(pieces, device=tokens.device).view(len(active), beams)).float()  # (B, G, V)
        history: list[list[tuple[int, ...]]] = [[ids for ids in photo.running[:beams]] for photo in active]
        if search.num_beams == 1:
            best = _adjusted(logits, history, search).argmax(dim=-1, keepdim=True)  # (B, 1, 1)
            found: Any = [((0.0,), tuple(place)) for [place] in best.tolist()]
        else:
            scores = _adjusted(logits.log_softmax(dim=-1), history, search)
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


def _adjusted(scores: torch.Tensor, history: list[list[tuple[int, ...]]], search: Search) -> torch.Tensor:
    """Scores (B, G, V): of pieces already written made smaller, as CTRL does (arXiv 1909.05858); no end too soon."""
    if search.repetition_penalty != 1.0:
        written = torch.tensor(history, device=scores.device)  # (B, G, T)
        before = scores.gather(-1, written)
        after = torch.where(before < 0, before * search.repetition_penalty, before / search.repetition_penalty)
        scores = scores.scatter(-1, written, after)
    if len(history[0][0]) <= search.min_new_tokens:  # the start isn't new
        scores = scores.index_fill(-1, torch.tensor(EOS, device=scores.device), float("-inf"))
    return scores


def split_heads(x: torch.Tensor, parts: int, num_heads: int) -> torch.Tensor:
    """(B, T, parts * D) -> (parts, B, K, T, d)."""
    batch, length, width = x.shape
    return x.view(batch, length, parts, num_heads, width // parts // num_heads).permute(2, 0, 3, 1, 4)


class DecoderState:
    """The decoder amid its captions: keys and values of the tokens and of all that was written.

    Args:
        model: Encoder and decoder; its modules are called as they are, whatever they have been replaced by.
        tokens: Compressed tokens (B, M, D of the encoder).
        slots: Most that will be written, in slots.
    """

    def __init__(self, model: VisionEncoderDecoderModel, tokens: torch.Tensor, slots: int):
        self.decoder = model.decoder
        self.blocks = model.decoder.transformer.h
        self.heads = model.decoder.config.n_head
        self.act = self.blocks[0].mlp.act
        if model.decoder.config.activation_function == "gelu_new":  # spelt out in eight operations there
            self.act = partial(F.gelu, approximate="tanh")
        if hasattr(model, "enc_to_dec_proj"):
            tokens = model.enc_to_dec_proj(tokens)
        size = (len(self.blocks), 2, len(tokens), self.heads, slots, tokens.shape[-1] // self.heads)
        self.cache = tokens.new_empty(size)  # (L, 2, B, K, S, d)
        crossed = [split_heads(block.crossattention.c_attn(tokens), 2, self.heads) for block in self.blocks]
        self.crossed = torch.stack(crossed)  # (L, 2, B, K, M, d)
        # (B, 1, G, S), -inf where a slot is no past of a beam; None while there is one beam
        self.mask: torch.Tensor | None = None
        self.used = self.steps = 0

    def step(self, pieces: torch.Tensor) -> torch.Tensor:
        """Writes a piece for each beam, (B, G), and gives the logits of what may follow, (B, G, V)."""
        batch, beams = pieces.shape
        start, stop = self.used, self.used + beams
        transformer = self.decoder.transformer
        x = (transformer.wte(pieces) + transformer.wpe.weight[self.steps]).flatten(0, 1)  # (R, D)
        mask = None if self.mask is None else self.mask[..., :stop]
        for block, cache, crossed in zip(self.blocks, self.cache, self.crossed, strict=True):
            (keys, values), (token_keys, token_values) = cache, crossed
            q, k, v = split_heads(block.attn.c_attn(block.ln_1(x)).unflatten(0, (batch, beams)), 3, self.heads)
            keys[:, :, start:stop], values[:, :, start:stop] = k, v
            read = F.scaled_dot_product_attention(q, keys[:, :, :stop], values[:, :, :stop], attn_mask=mask)
            x = x + block.attn.c_proj(read.transpose(1, 2).reshape(x.shape))
            crossing = block.crossattention.q_attn(block.ln_cross_attn(x)).unflatten(0, (batch, beams))
            [q] = split_heads(crossing, 1, self.heads)
            read = F.scaled_dot_product_attention(q, token_keys, token_values)
            x = x + block.crossattention.c_proj(read.transpose(1, 2).reshape(x.shape))
            x = x + block.mlp.c_proj(self.act(block.mlp.c_fc(block.ln_2(x))))
        self.used, self.steps = stop, self.steps + 1
        return self.decoder.lm_head(transformer.ln_f(x)).unflatten(0, (batch, beams))

    def fork(self, parents: list[list[int]]) -> None:
        """After a step: beam g of photo b goes on from beam parents[b][g]; its next slot is its own."""
        chosen = torch.tensor(parents, device=self.cache.device)  # (B, G)
        batch, beams = chosen.shape
        if self.mask is None:  # one slot, the start, which is every beam's past
            self.mask = self.cache.new_full((batch, 1, beams, self.cache.shape[4]), float("-inf"))
            self.mask[..., 0] = 0
        else:
            self.mask = self.mask.take_along_dim(chosen[:, None, :, None], dim=2)
        stop = min(self.used + beams, self.mask.shape[-1])
        self.mask[..., self.used : stop].diagonal(dim1=-2, dim2=-1).zero_()

    def keep(self, photos: list[int]) -> None:
        """Only these photos go on."""
        chosen = torch.tensor(photos, dtype=torch.long, device=self.cache.device)
        self.cache, self.crossed = self.cache.index_select(2, chosen), self.crossed.index_select(2, chosen)
        if self.mask is not None:
            self.mask = self.mask.index_select(0, chosen)
