"""Speed side by side: encoder, decoder, whole captions, folders, image sizes, each against its peers in one process.

    vlcap bench                    # all parts but onnx, peers, gpu and train; `vlcap bench encoder`: one part
    vlcap bench --quick            # fewer rounds, in a minute or two; --out FOLDER keeps bench.json and sizes.png

The functions of a comparison run in turn, round after round (timing.py), and a ratio is the median of the ratios of the
rounds. Limits are those of the machine, measured in the same process: the best rate of a large float32 matrix product
and the best rate of reading memory (machine.py).
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers.modeling_outputs import BaseModelOutput

from encoders.cost import count_gflops

from ..model.quantize import quantize, quantize_encoder
from ..model.search import Search
from . import machine, peers
from .captioners import bench_captioners
from .commands import bench_demo, bench_folder, bench_startup
from .gpu import bench_gpu
from .onnx_runtime import bench_onnx, bench_threads
from .timing import Row, compared, paired_times

SIZES = (224, 384, 512, 768, 1024)


def bench_encoder(quick: bool = False) -> list[Row]:
    """LookupViT-B/16 at its budgets, in float32 and int8, and other encoders, against ViT-B/16, at batch 1 and 8."""
    budgets = (3, 5) if quick else (3, 5, 7, 10)
    ours = peers.encoder(peers.BASE)
    small = peers.encoder(peers.BASE)
    quantize_encoder(small)
    others = {peers.VIT: peers.encoder(peers.VIT)}
    if not quick:
        others |= {name: peers.encoder(name) for name in ("tokenlearner12_base_patch16_224", "vittm_base_patch16_224")}
    rows = []
    for batch in (8,) if quick else (1, 8):
        pixels = torch.randn(batch, 3, 224, 224)
        models: dict[str, tuple[Any, int | None]] = {name: (model, None) for name, model in others.items()}
        models |= {f"LookupViT-B/16 {side}x{side}": (ours, side) for side in budgets}
        models |= {f"LookupViT-B/16 {side}x{side} int8": (small, side) for side in (3, 5)}
        functions = {name: partial(model.forward_tokens, pixels, budget=side) for name, (model, side) in models.items()}
        for row in compared(paired_times(functions, 2 if quick else 5), against=peers.VIT):
            model, side = models[row["what"]]
            gflops = None if model is small else batch * count_gflops(model, side)
            rows.append(
                {
                    **row,
                    "batch": batch,
                    "against": peers.VIT,
                    "gflops": gflops,
                    "of_limit": gflops and gflops / row["ms"] * 1000 / machine.matrix_peak(),
                }
            )
    return rows


def bench_sizes(quick: bool = False) -> list[Row]:
    """LookupViT-B/16 5x5 against ViT-B/16 at growing image sizes, one image: time, and memory of activations."""
    rows = []
    ours = peers.encoder(peers.BASE)
    for size in SIZES[:2] if quick else SIZES:
        pixels = torch.randn(1, 3, size, size)
        vit = peers.encoder(peers.VIT, img_size=size)
        functions = {
            peers.VIT: partial(vit.forward_tokens, pixels),
            "LookupViT-B/16 5x5": partial(ours.forward_tokens, pixels, budget=5),
        }
        memory = {name: activation_megabytes(function) for name, function in functions.items()}
        found = compared(paired_times(functions, 1 if quick else 3), against=peers.VIT)
        for row, model in zip(found, (vit, ours), strict=True):
            name = row["what"]
            gflops = count_gflops(model, size=size)
            rows.append(
                {
                    **row,
                    "size": size,
                    "against": peers.VIT,
                    "gflops": gflops,
                    "of_limit": gflops / row["ms"] * 1000 / machine.matrix_peak(),
                    "activations_mb": memory[name],
                    "of_its_memory": memory[name] / memory[peers.VIT],
                }
            )
    return rows


def bench_decoder(quick: bool = False) -> list[Row]:
    """A decoder of 6 layers, 512 wide, over 25 tokens: our decoding against Hugging Face's, greedy and with 4 beams."""
    whole = peers.captioner()
    small = peers.captioner()
    quantize(small)
    rows = []
    for batch, beams in ((1, 1), (1, 4)) if quick else ((1, 1), (1, 4), (16, 1), (16, 4)):
        tokens = torch.randn(batch, 25, 768)
        search = Search(**peers.EXACTLY, num_beams=beams)
        functions: dict[str, Any] = {
            "generate": lambda tokens=tokens, beams=beams: whole.generate(
                encoder_outputs=BaseModelOutput(last_hidden_state=tokens), num_beams=beams, **peers.EXACTLY
            ),
            "ours": partial(peers.decode, whole, tokens, search),
            "ours int8": partial(peers.decode, small, tokens, search),
        }
        for row in compared(paired_times(functions, 3 if quick else 5), against="generate"):
            read = peers.weight_bytes(small if "int8" in row["what"] else whole)
            rows.append(
                {
                    **row,
                    "batch": batch,
                    "beams": beams,
                    "against": "generate",
                    "megabytes": read / 1e6,
                    "of_limit": peers.of_reading(read, row["ms"]) if batch * beams == 1 else None,
                }
            )
    return rows


def bench_caption(quick: bool = False) -> list[Row]:
    """From pixels to a caption of 20 pieces with 4 beams, against ViT-B/16 with GPT-2 in Hugging Face's `generate`."""
    whole, small, theirs = peers.captioner(), peers.captioner(), peers.vit_gpt2()
    quantize(small)
    search = Search(**peers.EXACTLY, num_beams=4)
    name = "ViT-B/16 + GPT-2, generate"
    rows = []
    for batch in (1,) if quick else (1, 8):
        pixels = torch.randn(batch, 3, 224, 224)
        functions: dict[str, Any] = {name: partial(theirs.generate, pixel_values=pixels, num_beams=4, **peers.EXACTLY)}
        for label, model in (("", whole), (" int8", small)):
            functions[f"LookupViT-B/16 5x5 + 6 x 512{label}"] = lambda pixels=pixels, model=model: peers.decode(
                model, model.encoder(pixels, budget=5).last_hidden_state, search
            )
        rows += [
            {**row, "batch": batch, "against": name}
            for row in compared(paired_times(functions, 2 if quick else 5), against=name)
        ]
    return rows


PARTS = {
    "startup": bench_startup,
    "encoder": bench_encoder,
    "decoder": bench_decoder,
    "caption": bench_caption,
    "peers": bench_captioners,
    "folder": bench_folder,
    "demo": bench_demo,
    "sizes": bench_sizes,
    "threads": bench_threads,
    "onnx": bench_onnx,
    "gpu": bench_gpu,
}


@torch.inference_mode()
def run(part: str, quick: bool = False) -> list[Row]:
    """Rows of one part."""
    torch.manual_seed(0)
    return PARTS[part](quick)


def plot_sizes(rows: list[Row], path: Path) -> None:
    """Plots time and memory over the side of the image, from the rows of `bench_sizes`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, key, label in zip(
        figure.subplots(1, 2), ("ms", "activations_mb"), ("ms per image", "activations, MB"), strict=True
    ):
        for name in dict.fromkeys(row["what"] for row in rows):
            own = [row for row in rows if row["what"] == name]
            axes.plot([row["size"] for row in own], [row[key] for row in own], marker="o", label=name)
        axes.set(xlabel="side of the image, pixels", ylabel=label, yscale="log")
        axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def activation_megabytes(function: Callable[[], Any]) -> float:
    """Largest memory that the tensors of a call take at once, without weights and inputs."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        function()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most / 1e6
