"""Self-critical training: captions are sampled and those better than their siblings made likelier.

S. Rennie et al., arXiv 1612.00563, with the leave-one-out baseline of arXiv 2003.09971: a sample's reward is compared
with the mean of the photo's other samples. The reward is CIDEr-D over pieces, end of sentence scored too: without it
captions learn to break off ("a man on a").
"""

from collections.abc import Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F
from transformers.modeling_outputs import BaseModelOutput

from vlcap.model.tokenizer import EOS, PAD

from .cider import CiderD
from .loop import Loss


def self_critical_loss(
    model: nn.Module,
    sampler: nn.Module,
    tokens: torch.Tensor,
    images: Sequence[int],
    reward: CiderD,
    samples: int,
    longest: int = 20,
) -> Loss:
    """Policy gradient of the reward of sampled captions; its value says nothing, its gradient all.

    Args:
        model: What is differentiated, perhaps wrapped for distribution.
        sampler: The same, unwrapped.
        tokens: Encoder tokens (B, M, D).
        images: The photos' numbers in the reward's corpus.
        reward: CIDEr-D over pieces.
        samples: Captions per photo, at least 2.
        longest: Pieces after which a sample is cut off, which costs it the reward of its end.
    """
    sampler.eval()  # sampled and differentiated without dropout: one policy, not two
    with torch.no_grad():
        ids = sampler.generate(  # (B * samples, 1 + L), the start first
            encoder_outputs=BaseModelOutput(last_hidden_state=tokens.clone()),
            do_sample=True,
            top_k=0,
            num_beams=1,
            num_return_sequences=samples,
            repetition_penalty=1.0,  # whatever it is served with: the policy is what the logits say
            max_new_tokens=min(longest, sampler.generation_config.max_new_tokens),
        )
    targets = ids[:, 1:]
    ended = (targets == EOS).cumsum(dim=1)
    mask = ended - (targets == EOS).long() == 0  # up to and with the end
    rewards = torch.tensor(
        [
            reward.score(images[row // samples], caption[keep].tolist())
            for row, (caption, keep) in enumerate(zip(targets, mask, strict=True))
        ]
    ).view(-1, samples)
    baseline = (rewards.sum(dim=1, keepdim=True) - rewards) / (samples - 1)
    advantage = (rewards - baseline).view(-1, 1).to(tokens.device)

    states = BaseModelOutput(last_hidden_state=tokens.repeat_interleave(samples, dim=0))
    read = ids[:, :-1]
    logits = model(
        encoder_outputs=states, decoder_input_ids=read, decoder_attention_mask=torch.ones_like(read)
    ).logits.float()
    log_probability = -F.cross_entropy(logits.transpose(1, 2), targets.masked_fill(~mask, PAD), reduction="none")
    return Loss(-(advantage * log_probability * mask).sum() / mask.sum(), count=int(mask.sum()))
