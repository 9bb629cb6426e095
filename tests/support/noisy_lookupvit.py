"""A small LookupViT without weights of zero or one, so that its output depends on every weight."""

import timm
import torch

import encoders  # noqa: F401  (registers the architectures)

NAME = "lookupvit_test_patch8_48"


def create(noise, **options):
    torch.manual_seed(0)
    model = timm.create_model(NAME, num_classes=5, **options)
    for weight in model.parameters():
        weight.data.add_(torch.randn_like(weight) * noise)
    return model.eval()
