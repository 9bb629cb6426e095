"""Counting costs leaves an encoder as it was."""

import pytest

import encoders
from encoders.cost import count_gflops
from encoders.errors import EncoderError


@pytest.mark.parametrize("budget", [2, 99])
def test_counting_leaves_the_modes_of_all_parts(budget):
    encoder = encoders.create_encoder("lookupvit_test_patch8_48").train()
    encoder.patch_embed.eval()  # a frozen part
    before = [module.training for module in encoder.modules()]
    if budget == 99:
        with pytest.raises(EncoderError):
            count_gflops(encoder, budget)
    else:
        assert count_gflops(encoder, budget) > 0
    assert [module.training for module in encoder.modules()] == before and True in before and False in before
