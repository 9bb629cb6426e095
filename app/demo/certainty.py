"""How sure a captioner was of its caption: the probability of each piece, and of each word."""

import math
from collections.abc import Sequence

import torch
from transformers.modeling_outputs import BaseModelOutput

from vlcap.attention import words_of
from vlcap.captioner import Caption, Captioner
from vlcap.model.tokenizer import EOS, START


@torch.inference_mode()
def logprobs_of(captioner: Captioner, pixels: torch.Tensor, caption: Caption) -> tuple[float, ...]:
    """Log-probability of each piece of a caption, and of its end: the caption is read once more, as in training.

    Args:
        captioner: Captioner that wrote the caption.
        pixels: Pixels of the photo, uint8 (1, 3, S, S), from `captioner.preprocess`.
        caption: The caption.
    """
    tokens = captioner.encode(pixels, caption.budget)
    longest = captioner.model.decoder.config.max_position_embeddings
    pieces = torch.tensor([[*caption.ids, EOS]], device=tokens.device)[:, :longest]
    read = torch.cat([torch.full_like(pieces[:, :1], START), pieces[:, :-1]], dim=1)
    logits = captioner.model(
        encoder_outputs=BaseModelOutput(last_hidden_state=tokens),
        decoder_input_ids=read,
        decoder_attention_mask=torch.ones_like(read),
    ).logits  # (1, T, V)
    found = logits.float().log_softmax(dim=-1).gather(-1, pieces[..., None])
    return tuple(found[0, :, 0].tolist())


def words_with_probability(
    captioner: Captioner, ids: Sequence[int], logprobs: Sequence[float]
) -> list[tuple[str, float]]:
    """The words of a caption, each with its probability: the product of its pieces'."""
    return [
        (word, math.exp(sum(logprobs[place] for place in places if place < len(logprobs))))
        for word, places in words_of(captioner, ids)
    ]
