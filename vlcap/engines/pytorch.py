"""The PyTorch engine: GPUs, bfloat16, int8 weights on CPUs, and every setting of Hugging Face's `generate`.

Our own search finds the captions that `generate` finds, from the same modules. It is faster for these reasons:
- Keys and values of the photo's tokens are projected once, and the beams of a photo share them.
- The beams share one cache of keys and values as well. A mask says which slots are the past of a beam. When beams fork
  or die, rows of the mask move, and the cache stays where it is.
- Photos whose search has ended leave the batch.
- Plain Python (vlcap/model/search.py) decides which beams go on. Tensor operations take longer for so few numbers.

Letters: B photos   G beams of each, 1 in the first step   L layers   K heads   d width of a head
    S slots of the cache: one, then G for each piece   M compressed tokens   T pieces   V pieces of the vocabulary
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from transformers import GPT2LMHeadModel, PreTrainedTokenizerBase, VisionEncoderDecoderModel
from transformers.modeling_outputs import BaseModelOutput

from ..errors import CaptionerError
from ..model.byte_level import is_byte_level, piece_texts
from ..model.decoding import decoder_step, keys_and_values
from ..model.search import Candidates, Search, Watch, Written
from ..model.tokenizer import EOS, PAD, START, one_line
from .interface import Attention, Facts


class TorchEngine:
    """Runs a captioning model with PyTorch.

    Args:
        model: Captioning model, as `build_model` makes it.
        tokenizer: Tokenizer of the decoder.
        trained_on: Names of the data sets that it was trained on; "" if they are not known.
    """

    kind = "pytorch"
    int8 = False
    lanes = 1  # a batch keeps the GPU, or all cores, busy

    def __init__(
        self, model: VisionEncoderDecoderModel, tokenizer: PreTrainedTokenizerBase | None, trained_on: str = ""
    ):
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.trained_on = trained_on
        self.pixels = model.encoder.pixels
        self.random = np.random.default_rng()  # of sampling

    def lane(self) -> TorchEngine:
        return self

    @property
    def facts(self) -> Facts:
        encoder = self.model.encoder
        return Facts(
            architecture=encoder.config.architecture,
            parameters=self._parameters,
            pixels=self.pixels,
            budgets=tuple(encoder.config.budgets),
            budget=encoder.budget,
            has_choice=encoder.has_choice,
            grid=encoder.grid_side(),
            gathers=encoder.gathers,
            longest=self.model.decoder.config.n_positions - 1,
            generation=self._generation(),
            trained_on=self.trained_on,
            frames=encoder.frames,
        )

    @cached_property
    def _parameters(self) -> int:
        return sum({id(each): each.numel() for each in self.model.state_dict(keep_vars=True).values()}.values())

    def _generation(self) -> dict[str, Any]:
        own = self.model.generation_config.to_diff_dict()
        return {name: value for name, value in own.items() if not name.endswith(("_token_id", "_version"))}

    def gflops(self, budget: int) -> float:
        return self.model.encoder.gflops(budget)

    def normalize(self, pixels: NDArray | torch.Tensor) -> torch.Tensor:
        """uint8 pixels as for `encode` -> normalized pixels, of the encoder's type and on its device."""
        return self.model.encoder.normalize(torch.as_tensor(pixels).to(self.model.device)).to(self.model.dtype)

    @torch.inference_mode()
    def encode(self, pixels: NDArray | torch.Tensor, budget: int) -> torch.Tensor:
        return self.model.encoder(self.normalize(pixels), budget=budget).last_hidden_state

    def join(self, tokens: torch.Tensor, frames: int) -> torch.Tensor:
        return tokens.unflatten(0, (-1, frames)).flatten(1, 2)  # (B, F * M, D)

    def search(self, **changes: Any) -> Search | None:
        config, decoder = self.model.generation_config, self.model.decoder
        usual = (
            isinstance(decoder, GPT2LMHeadModel)
            and decoder.config.scale_attn_weights
            and not decoder.config.scale_attn_by_inverse_layer_idx
            and not decoder.config.reorder_and_upcast_attn
            and (config.decoder_start_token_id, config.eos_token_id, config.pad_token_id) == (START, EOS, PAD)
        )
        settings = self._generation() | changes
        return Search.of(settings, decoder.config.n_positions, decoder.config.vocab_size) if usual else None

    @torch.inference_mode()
    def start(self, tokens: torch.Tensor, search: Search) -> TorchDecoding:
        return TorchDecoding(self, tokens, slots=1 + (search.max_new_tokens - 1) * search.num_beams)

    @torch.inference_mode()
    def generate(self, tokens: torch.Tensor, watch: Watch | None, **generation: Any) -> list[Written]:
        # Hugging Face's streamers refuse beams. A stopping criterion sees every step of every search, best beam first.
        def look(ids: torch.Tensor, scores: Any, **unused: Any) -> torch.Tensor:
            stop = watch is not None and watch(ids[0].tolist())
            return torch.full((len(ids),), stop, dtype=torch.bool, device=ids.device)

        if watch is not None:
            generation["stopping_criteria"] = [look]
        # Wrapped anew each time: beam search expands its input in place.
        outputs = BaseModelOutput(last_hidden_state=tokens)
        found = self.model.generate(encoder_outputs=outputs, **generation)
        states = tokens.repeat_interleave(len(found) // len(tokens), dim=0)
        logprobs = self._read(states, found[:, :-1]).logits.float().log_softmax(-1)
        chosen = logprobs.gather(-1, found[:, 1:, None])[..., 0].tolist()  # (B, T)
        lengths = [ids.index(EOS, 1) if EOS in ids[1:] else len(ids) - 1 for ids in found.tolist()]
        return [
            Written(tuple(ids), tuple(each[:length]))
            for ids, each, length in zip(found.tolist(), chosen, lengths, strict=True)
        ]

    def _read(self, tokens: torch.Tensor, pieces: torch.Tensor, **asked: Any) -> Any:
        """The decoder's outputs for finished captions (B, T), read once as in training."""
        return self.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=tokens),
            decoder_input_ids=pieces,
            decoder_attention_mask=torch.ones_like(pieces),
            **asked,
        )

    @torch.inference_mode()
    def attention(self, pixels: NDArray | torch.Tensor, budget: int, pieces: Sequence[int]) -> Attention:
        encoder, decoder = self.model.encoder, self.model.decoder
        if not encoder.gathers:
            raise CaptionerError(f"its encoder, {encoder.config.architecture}, does not gather: it has no maps to show")
        tokens, gathered = encoder.forward_maps(self.normalize(pixels), budget)
        grid = (encoder.grid_side(pixels.shape[-2]), encoder.grid_side(pixels.shape[-1]))
        read = torch.zeros(0, tokens.shape[1])
        if pieces:
            fused = decoder.config._attn_implementation
            decoder.set_attn_implementation("eager")  # a fused kernel never stores the weights
            try:
                ids = torch.tensor([[START, *pieces[:-1]]], device=tokens.device)
                found = self._read(tokens, ids, output_attentions=True).cross_attentions  # one (1, K, T, M) per layer
            finally:
                decoder.set_attn_implementation(fused)
            read = torch.stack(found).mean(dim=(0, 2))[0]  # row t chose piece t
        return Attention(gathered[0].mean(dim=1).float().cpu().numpy(), read.float().cpu().numpy(), grid)

    def text(self, ids: Sequence[int]) -> str:
        assert self.tokenizer is not None  # for the type checker: only benchmarks have none, and they read no text
        return one_line(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def pieces(self, ids: Sequence[int]) -> list[str]:
        assert self.tokenizer is not None
        names = self.tokenizer.convert_ids_to_tokens(list(ids))
        return piece_texts(names) if is_byte_level(self.tokenizer.backend_tokenizer) else names


class TorchDecoding:
    """The state of decoding: keys and values of the compressed tokens and of all pieces written so far.

    Args:
        engine: The engine.
        tokens: Compressed tokens, (B, M, D of the encoder).
        slots: Number of slots that the cache needs at most.
    """

    def __init__(self, engine: TorchEngine, tokens: torch.Tensor, slots: int):
        model = engine.model
        self.decoder, self.random = model.decoder, engine.random
        if hasattr(model, "enc_to_dec_proj"):
            tokens = model.enc_to_dec_proj(tokens)
        self.photo = keys_and_values(self.decoder, tokens)  # (L, 2, B, K, M, d)
        self.cache = tokens.new_empty(*self.photo.shape[:4], slots, self.photo.shape[-1])  # (L, 2, B, K, S, d)
        # (B, 1, G, S), -inf for a slot that is not a beam's past; None while there is one beam
        self.mask: torch.Tensor | None = None
        self.used = self.steps = 0

    def __len__(self) -> int:
        return self.photo.shape[2]

    @torch.inference_mode()
    def step(self, pieces: list[list[int]]) -> torch.Tensor:
        written = torch.tensor(pieces, device=self.cache.device)
        start, stop = self.used, self.used + written.shape[1]
        mask = None if self.mask is None else self.mask[..., :stop]

        def attend_written(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            keys, values = self.cache[layer]
            keys[:, :, start:stop], values[:, :, start:stop] = k, v
            return F.scaled_dot_product_attention(q, keys[:, :, :stop], values[:, :, :stop], attn_mask=mask)

        def attend_photo(layer: int, q: torch.Tensor) -> torch.Tensor:
            return F.scaled_dot_product_attention(q, *self.photo[layer])

        position = self.decoder.transformer.wpe.weight[self.steps]
        x = decoder_step(self.decoder, written, position, attend_written, attend_photo)
        self.used, self.steps = stop, self.steps + 1
        return self.decoder.lm_head(x).float()

    @torch.inference_mode()
    def candidates(
        self,
        logits: torch.Tensor,
        written: list[list[tuple[int, ...]]],
        scores: list[list[float]],
        search: Search,
    ) -> list[Candidates]:
        rows = [ids for beams in written for ids in beams]  # B * G
        logprobs = logits.log_softmax(dim=-1).flatten(1)  # (B, G * V)
        if search.num_beams == 1:
            adjusted = search.adjust(logits.flatten(0, 1).clone(), rows)  # (B, V)
            if search.do_sample:
                drawn = [search.draw(row, self.random) for row in adjusted.cpu().numpy()]
                places = torch.tensor(drawn, device=logits.device)[:, None]
            else:
                places = adjusted.argmax(dim=-1, keepdim=True)
            values = torch.zeros_like(places)
        else:
            adjusted = search.adjust(logprobs.view(len(rows), -1).clone(), rows).view_as(logits)
            adjusted = adjusted + torch.tensor(scores, device=logits.device)[..., None]
            values, places = adjusted.flatten(1).topk(2 * search.num_beams)
        chosen = logprobs.gather(1, places)
        return [Candidates(*each) for each in zip(values.tolist(), places.tolist(), chosen.tolist(), strict=True)]

    @torch.inference_mode()
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

    @torch.inference_mode()
    def keep(self, photos: list[int]) -> None:
        chosen = torch.tensor(photos, dtype=torch.long, device=self.cache.device)
        self.cache, self.photo = self.cache.index_select(2, chosen), self.photo.index_select(2, chosen)
        if self.mask is not None:
            self.mask = self.mask.index_select(0, chosen)


def fastest_dtype(device: str | None = None) -> torch.dtype:
    """bfloat16 if the device multiplies matrices in it, otherwise float32: emulated bfloat16 is far slower.

    Args:
        device: The device; None for a GPU if there is one, otherwise the CPU.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if torch.device(device).type == "cpu":
        able = torch.cpu.get_capabilities()
        return torch.bfloat16 if able.get("avx512_bf16") or able.get("amx_bf16") else torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
