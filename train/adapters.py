"""Which weights of a pretrained decoder learn: all, or cross-attention alone, or cross-attention and LoRA adapters.

LoRA: E. Hu et al., arXiv 2106.09685. peft adds the adapters to the layers of self-attention and of the MLPs, and merges
them into the weights when a captioner folder is written. So only a run's checkpoints know of them.
"""

import copy

import torch.nn as nn
from transformers import GPT2LMHeadModel, VisionEncoderDecoderModel

from .run_folder import TrainingError

ADAPTED = r"transformer\.h\.\d+\.(attn\.(c_attn|c_proj)|mlp\.(c_fc|c_proj))"
NEW = ("crossattention", "ln_cross_attn")  # layers that a pretrained decoder did not have


def freeze_decoder(decoder: GPT2LMHeadModel, lora_rank: int = 0) -> None:
    """Freezes all of a decoder but its cross-attention, in place.

    Args:
        decoder: The decoder.
        lora_rank: Rank of the LoRA adapters, which are scaled by 2; 0 for none.

    Raises:
        TrainingError: peft, which adds the adapters, is not installed.
    """
    decoder.requires_grad_(False)
    if lora_rank:
        try:
            from peft import LoraConfig, inject_adapter_in_model
        except ImportError:
            raise TrainingError("lora_rank needs the package peft: pip install 'vlcap[lora]'") from None
        settings = LoraConfig(r=lora_rank, lora_alpha=2 * lora_rank, target_modules=ADAPTED, fan_in_fan_out=True)
        inject_adapter_in_model(settings, decoder)
    for name, weight in decoder.named_parameters():
        if any(part in name for part in NEW):
            weight.requires_grad_(True)


def merged(model: VisionEncoderDecoderModel) -> VisionEncoderDecoderModel:
    """A copy of the model with its adapters merged into the weights; the encoder is shared. Without any, itself."""
    if not _adapted(model):
        return model
    plain = copy.deepcopy(model, {id(model.encoder): model.encoder})
    for name, layer in _adapted(plain):
        layer.merge()
        plain.set_submodule(name, layer.get_base_layer())
    del plain.decoder.peft_config  # otherwise Hugging Face would look for adapters to save
    return plain


def _adapted(model: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(name, module) for name, module in model.named_modules() if hasattr(module, "base_layer")]
