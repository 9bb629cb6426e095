"""Whole captions of the captioners that people run, each against LookupViT-B/16 5x5. `vlcap bench peers`

Each peer has the shape of a published captioner, with random weights, and runs in Hugging Face's `generate` with the
settings of its authors. It is compared with ours in PyTorch and in ONNX Runtime, with as many beams. All captions have
`peers.PIECES` pieces, because the end of a caption is forbidden before (min_new_tokens) and reached then
(max_new_tokens).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from encoders.cost import count_gflops_of

from ..captioner import BUNDLED
from ..engines.pytorch import TorchEngine
from ..model.search import Search
from ..model.tokenizer import load_tokenizer
from . import peers
from .onnx_runtime import caption, export_all
from .timing import Row, compared, paired_times

OURS = "LookupViT-B/16 5x5 + 6 x 512"
SIDE = 224  # of our photos, in pixels


@dataclass(frozen=True)
class Peer:
    """A third-party captioner.

    Attributes:
        name: Its name, and the side of its photos in pixels.
        build: Makes it, with random weights.
        beams: Beams of its search.
        inputs: Number of photos -> what `generate` is given.
    """

    name: str
    build: Callable[[], PreTrainedModel]
    beams: int
    inputs: Callable[[int], dict[str, torch.Tensor]]


def _photos(side: int, batch: int) -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.randn(batch, 3, side, side)}


def _photos_and_prompt(batch: int) -> dict[str, torch.Tensor]:
    """One tile per photo, and a prompt of the usual length around its tokens."""
    prompt = torch.full((batch, peers.SMOLVLM_TOKENS + peers.SMOLVLM_PROMPT), 100)
    prompt[:, 4 : 4 + peers.SMOLVLM_TOKENS] = peers.SMOLVLM_IMAGE
    pixels = torch.randn(batch, 1, 3, 512, 512)
    return {"pixel_values": pixels, "input_ids": prompt, "attention_mask": torch.ones_like(prompt)}


PEERS = (
    # nlpconnect/vit-gpt2-image-captioning: 4 beams, as on its card
    Peer("vit-gpt2, 224 px", peers.vit_gpt2, beams=4, inputs=partial(_photos, 224)),
    # Salesforce/blip-image-captioning-base: 3 beams, as in arXiv 2201.12086's code
    Peer("BLIP-base, 384 px", peers.blip, beams=3, inputs=partial(_photos, 384)),
    # microsoft/git-base-coco: 4 beams, as in arXiv 2205.14100
    Peer("GIT-base, 224 px", peers.git, beams=4, inputs=partial(_photos, 224)),
    # HuggingFaceTB/SmolVLM-256M-Instruct: greedy, as on its card. It cuts large photos into up to 17 tiles; here one.
    Peer("SmolVLM-256M, one tile of 512 px", peers.smolvlm, beams=1, inputs=_photos_and_prompt),
)


def bench_captioners(quick: bool = False) -> list[Row]:
    """Captions of 20 pieces, batch 1, against each peer in float32, with as many beams."""
    ours = peers.captioner()
    [pixels] = _photos(SIDE, 1).values()
    exported = export_all(TorchEngine(ours, load_tokenizer(BUNDLED)), sides=[5])
    photo = np.random.default_rng(0).integers(256, size=(1, 3, SIDE, SIDE), dtype=np.uint8)
    rows: list[Row] = []
    for peer in PEERS:
        theirs = partial(peer.build().generate, **peer.inputs(1), num_beams=peer.beams, **peers.EXACTLY)
        search = Search(**peers.EXACTLY, num_beams=peer.beams)
        functions: dict[str, Callable[[], Any]] = {
            peer.name: theirs,
            OURS: partial(_caption, ours, pixels, search),
        }
        for graphs, label in zip(exported.values(), ("", " int8"), strict=True):
            functions[f"{OURS}, ONNX{label}"] = partial(caption, photo, graphs, peer.beams)
        gflops = {name: count_gflops_of(functions[name]) for name in (peer.name, OURS)}
        for row in compared(paired_times(functions, 2 if quick else 7), against=peer.name):
            own = gflops.get(row["what"], gflops[OURS])
            row |= {"beams": peer.beams, "against": peer.name, "gflops": own}
            rows.append({**row, "of_flop_ratio": row["times_faster"] * own / gflops[peer.name]})
    return rows


def _caption(model: Any, pixels: torch.Tensor, search: Search) -> Any:
    return peers.decode(model, model.encoder(pixels, budget=5).last_hidden_state, search)
