"""Self-critical training: samples captions and raises the probability of those that score above the photo's others.

S. Rennie et al., arXiv 1612.00563, with the leave-one-out baseline of arXiv 2003.09971: a sample's reward is compared
with the mean of the photo's other samples. The reward is CIDEr-D over pieces, including the end of sentence: without
it, the model learns to break captions off ("a man on a").
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
    """Policy-gradient loss for the reward of sampled captions. Only its gradient is meaningful, not its value.

    Args:
        model: The model to differentiate, possibly wrapped for distribution.
        sampler: The same model, unwrapped.
        tokens: Encoder tokens (B, M, D).
        images: Number of each photo in the reward's corpus.
        reward: Reward of a caption: CIDEr-D over pieces.
        samples: Captions per photo, at least 2.
        longest: Maximum length of a sample in pieces; a sample that is cut off gets no reward for its end.
    """
    sampler.eval()  # no dropout in sampling nor in the gradient: one policy, not two
    with torch.no_grad():
        ids = sampler.generate(  # (B * samples, 1 + L), starting with START
            encoder_outputs=BaseModelOutput(last_hidden_state=tokens.clone()),
            do_sample=True,
            top_k=0,
            num_beams=1,
            num_return_sequences=samples,
            repetition_penalty=1.0,  # whatever the captioner is served with: the policy is the plain logits
            max_new_tokens=min(longest, sampler.generation_config.max_new_tokens),
        )
    targets = ids[:, 1:]
    ended = (targets == EOS).cumsum(dim=1)
    mask = ended - (targets == EOS).long() == 0  # up to and including the end
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
