"""A small decoder of the GPT-2 family in a folder, as transformers writes it: random weights, its own vocabulary."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from tests.support import drawings

END = "<|endoftext|>"
TEXTS = [*drawings.captions(40), "Two men, talking. What? It's 3 o'clock!", "a café, naïve", "Ein Mädchen läuft"]


def write_gpt2(
    folder: Path,
    specials: tuple[str, ...] = (END,),
    begin: str = "",
    named: dict[str, str] | None = None,
    **config: Any,
) -> tuple[GPT2LMHeadModel, Any]:
    """Writes the folder. Returns the model and its own tokenizer.

    Args:
        folder: The folder.
        specials: Special pieces, whose ids follow the others'. The first one ends a text.
        begin: The special piece that begins a text; "" for the one that ends it.
        named: Other special pieces by what they are for, such as pad_token.
        config: Settings of `GPT2Config`; the size of the vocabulary fits the tokenizer if it is left out.
    """
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    )
    backend.add_special_tokens([*specials])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=specials[0], **named or {})
    end, start = tokenizer.convert_tokens_to_ids([specials[0], begin or specials[0]])
    usual = {"vocab_size": len(tokenizer), "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 24}
    usual |= {"bos_token_id": start, "eos_token_id": end}
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(**usual | config)).eval()
    for name, weight in model.named_parameters():  # initial weights hardly tell one text from another
        weight.data.mul_(8 if "ln_" not in name else 1).add_(0.1 * torch.randn_like(weight))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model, tokenizer
