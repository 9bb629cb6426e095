"""Speed side by side: encoder, decoder, whole captions, folders, image sizes, each against its peers in one process.

    vlcap bench                    # all of it; `vlcap bench encoder` and so on for a part
    vlcap bench --quick            # a look, in a minute or two; --out FOLDER keeps bench.json and sizes.png

Weights are random: speed doesn't depend on them. What is compared runs in turn, round after round, and a ratio is the
median of the rounds' own ratios, so that a machine whose speed drifts does no harm. Limits are the machine's, measured
in the same process: the best rate of a large float32 matrix product, the best rate of reading memory.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from PIL import Image
from transformers import GPT2Config, VisionEncoderDecoderConfig, VisionEncoderDecoderModel, ViTConfig
from transformers.modeling_outputs import BaseModelOutput

from encoders import create_encoder
from encoders.cost import count_gflops

from ..captioner import BUNDLED, Captioner, build_model
from ..data.images import ImageError, find_images
from ..data.reading import read_batches
from ..export.onnx_export import check_packages, export_onnx
from ..model.decoding import find_captions
from ..model.encoder import Encoder
from ..model.quantize import Int8Linear, quantize, quantize_encoder
from ..model.search import Search
from ..model.tokenizer import load_tokenizer

BASE, VIT = "lookupvit_base_patch16_224", "vit_base_patch16_224"
PIECES = 20  # of every caption
EXACTLY: dict[str, Any] = {"min_new_tokens": PIECES, "max_new_tokens": PIECES}
VOCABULARY = 8000
SIZES = (224, 384, 512, 768, 1024)
Row = dict[str, Any]


def paired_times(functions: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each function in each round; they run in turn, after one uncounted run each."""
    for function in functions.values():
        function()
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - start)
    return times


def compared(times: dict[str, list[float]], against: str) -> list[Row]:
    """A row for each: its median milliseconds, and how many times faster than `against` it is, round by round."""
    return [
        {
            "what": name,
            "ms": 1000 * statistics.median(own),
            "times_faster": statistics.median(theirs / mine for theirs, mine in zip(times[against], own, strict=True)),
        }
        for name, own in times.items()
    ]


@cache
def matrix_peak() -> float:
    """Best GFLOP/s of a float32 matrix product."""
    a, b = torch.randn(2, 2048, 2048)
    return 2 * 2048**3 / min(paired_times({"": lambda: a @ b}, 8)[""]) / 1e9


@cache
def memory_bandwidth() -> float:
    """Best GB/s of reading float32 that no cache holds."""
    matrix, vector = torch.randn(16384, 4096), torch.randn(4096)
    functions = {"sum": lambda: matrix.sum(), "product": lambda: matrix @ vector}
    return matrix.nbytes / min(map(min, paired_times(functions, 8).values())) / 1e9


def bench_encoder(quick: bool = False) -> list[Row]:
    """LookupViT-B/16 at its budgets, in float32 and int8, and other encoders, against ViT-B/16, at batch 1 and 8."""
    budgets = (3, 5) if quick else (3, 5, 7, 10)
    ours = _encoder(BASE)
    small = _encoder(BASE)
    quantize_encoder(small)
    peers = {VIT: _encoder(VIT)}
    if not quick:
        peers |= {name: _encoder(name) for name in ("tokenlearner12_base_patch16_224", "vittm_base_patch16_224")}
    rows = []
    for batch in (8,) if quick else (1, 8):
        pixels = torch.randn(batch, 3, 224, 224)
        models: dict[str, tuple[Any, int | None]] = {name: (model, None) for name, model in peers.items()}
        models |= {f"LookupViT-B/16 {side}x{side}": (ours, side) for side in budgets}
        models |= {f"LookupViT-B/16 {side}x{side} int8": (small, side) for side in (3, 5)}
        functions = {name: partial(model.forward_tokens, pixels, budget=side) for name, (model, side) in models.items()}
        for row in compared(paired_times(functions, 2 if quick else 5), against=VIT):
            model, side = models[row["what"]]
            gflops = None if model is small else batch * count_gflops(model, side)
            rows.append(
                {
                    **row,
                    "batch": batch,
                    "against": VIT,
                    "gflops": gflops,
                    "of_limit": gflops and gflops / row["ms"] * 1000 / matrix_peak(),
                }
            )
    return rows


def bench_sizes(quick: bool = False) -> list[Row]:
    """LookupViT-B/16 5x5 against ViT-B/16 at growing image sizes, one image: time, and memory of activations."""
    rows = []
    ours = _encoder(BASE)
    for size in SIZES[:2] if quick else SIZES:
        pixels = torch.randn(1, 3, size, size)
        vit = _encoder(VIT, img_size=size)
        functions = {
            VIT: partial(vit.forward_tokens, pixels),
            "LookupViT-B/16 5x5": partial(ours.forward_tokens, pixels, budget=5),
        }
        memory = {name: activation_megabytes(function) for name, function in functions.items()}
        for row, model in zip(compared(paired_times(functions, 1 if quick else 3), VIT), (vit, ours), strict=True):
            name = row["what"]
            gflops = count_gflops(model, size=size)
            rows.append(
                {
                    **row,
                    "size": size,
                    "against": VIT,
                    "gflops": gflops,
                    "of_limit": gflops / row["ms"] * 1000 / matrix_peak(),
                    "activations_mb": memory[name],
                    "of_its_memory": memory[name] / memory[VIT],
                }
            )
    return rows


def bench_decoder(quick: bool = False) -> list[Row]:
    """A decoder of 6 layers, 512 wide, over 25 tokens: our decoding and Hugging Face's, greedy and by 4 beams."""
    whole = _captioner()
    small = _captioner()
    quantize(small)
    rows = []
    for batch, beams in ((1, 1), (1, 4)) if quick else ((1, 1), (1, 4), (16, 1), (16, 4)):
        tokens = torch.randn(batch, 25, 768)
        search = Search(**EXACTLY, num_beams=beams)
        functions: dict[str, Any] = {
            "generate": lambda tokens=tokens, beams=beams: whole.generate(
                encoder_outputs=BaseModelOutput(last_hidden_state=tokens), num_beams=beams, **EXACTLY
            ),
            "ours": partial(find_captions, whole, tokens, search),
            "ours int8": partial(find_captions, small, tokens, search),
        }
        for row in compared(paired_times(functions, 3 if quick else 5), against="generate"):
            read = weight_bytes(small if "int8" in row["what"] else whole)
            rows.append(
                {
                    **row,
                    "batch": batch,
                    "beams": beams,
                    "against": "generate",
                    "megabytes": read / 1e6,
                    "of_limit": of_reading(read, row["ms"]) if batch * beams == 1 else None,
                }
            )
    return rows


def bench_caption(quick: bool = False) -> list[Row]:
    """From pixels to a caption of 20 pieces by 4 beams, against ViT-B/16 with GPT-2 as Hugging Face's users run it."""
    whole, small, theirs = _captioner(), _captioner(), _vit_gpt2()
    quantize(small)
    search = Search(**EXACTLY, num_beams=4)
    name = "ViT-B/16 + GPT-2, generate"
    rows = []
    for batch in (1,) if quick else (1, 8):
        pixels = torch.randn(batch, 3, 224, 224)
        functions: dict[str, Any] = {name: partial(theirs.generate, pixel_values=pixels, num_beams=4, **EXACTLY)}
        for label, model in (("", whole), (" int8", small)):
            functions[f"LookupViT-B/16 5x5 + 6 x 512{label}"] = lambda pixels=pixels, model=model: find_captions(
                model, model.encoder(pixels, budget=5).last_hidden_state, search
            )
        rows += [
            {**row, "batch": batch, "against": name}
            for row in compared(paired_times(functions, 2 if quick else 5), against=name)
        ]
    return rows


def bench_folder(quick: bool = False) -> list[Row]:
    """A folder of JPEG photos to captions, in batches read ahead, against one by one."""
    model = _captioner()
    captioner = Captioner(model, tokenizer=None)
    search = Search(**EXACTLY, num_beams=4)
    count = 8 if quick else 64

    def write(pixels: torch.Tensor) -> None:
        find_captions(model, captioner.encode(pixels, 5), search)

    with TemporaryDirectory() as folder:
        for number in range(count):
            generator = torch.Generator().manual_seed(number)
            noise = torch.randint(256, (60, 80, 3), dtype=torch.uint8, generator=generator)
            Image.fromarray(noise.numpy()).resize((640, 480)).save(Path(folder) / f"{number:02}.jpg", quality=90)
        paths = find_images([folder]).images

        def one_by_one() -> None:
            for path in paths:
                write(captioner.read(path)[None])

        def refuse(error: ImageError) -> None:
            raise error

        def in_batches() -> None:
            for batch in read_batches(paths, captioner.read, size=16, report=refuse):
                write(torch.stack([pixels for _, pixels in batch]))

        functions = {"one by one": one_by_one, "batches of 16, read ahead": in_batches}
        rows = compared(paired_times(functions, 1 if quick else 2), against="one by one")
    return [{**row, "photos": count, "against": "one by one"} for row in rows]


def bench_startup(quick: bool = False) -> list[Row]:
    """From the shell to the caption of one photo, against a Python that imports the libraries: each to its line."""
    with TemporaryDirectory() as folder:
        photo = Path(folder) / "photo.jpg"
        Image.linear_gradient("L").convert("RGB").save(photo)
        imports = "import torch, transformers, timm"
        commands = {
            f"python -c '{imports}'": ["-c", f"{imports}; print(flush=True)"],
            "vlcap caption photo.jpg": ["-m", "app.cli", "caption", str(photo)],
        }

        def first_line(command: list[str]) -> None:
            with subprocess.Popen(
                [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            ) as process:
                assert process.stdout and process.stdout.readline()
                process.kill()

        functions = {name: partial(first_line, command) for name, command in commands.items()}
        against = next(iter(commands))
        return [
            {**row, "against": against} for row in compared(paired_times(functions, 2 if quick else 7), against=against)
        ]


def bench_onnx(quick: bool = False) -> list[Row]:
    """What `vlcap export` writes, run by ONNX Runtime, against the same peers in PyTorch.

    Raises:
        CaptionerError: The packages for it are missing.
    """
    check_packages()
    from ..export.onnx_captioner import OnnxCaptioner

    model, vit, gpt2 = _captioner(), _encoder(VIT), _vit_gpt2()
    model.generation_config.min_new_tokens = PIECES
    captioner = Captioner(model, load_tokenizer(BUNDLED))
    with TemporaryDirectory() as name:
        exported: dict[str, OnnxCaptioner] = {}
        for side in (5,) if quick else (3, 5):
            for label in ("", " int8"):
                folder = Path(name) / f"{side}{label}"
                export_onnx(captioner, folder, budget=side, int8=bool(label))
                exported[f"LookupViT-B/16 {side}x{side}{label}"] = OnnxCaptioner(folder)

    def versus(task: str, peer: str, theirs: Callable[[], Any], ours: Callable[[OnnxCaptioner], Any]) -> None:
        functions: dict[str, Any] = {peer: theirs, **{what: partial(ours, each) for what, each in exported.items()}}
        for row in compared(paired_times(functions, 2 if quick else 5), against=peer):
            limited = task == "greedy decoding" and "int8" not in row["what"]
            rows.append(
                {
                    **row,
                    "task": task,
                    "against": peer,
                    "of_limit": of_reading(weight_bytes(model), row["ms"]) if limited else None,
                }
            )

    rows: list[Row] = []
    for batch in (8, 1):
        pixels = torch.randint(256, (batch, 3, captioner.pixels.size, captioner.pixels.size), dtype=torch.uint8)
        floats = captioner.normalize(pixels)
        versus(
            f"encoder, batch {batch}",
            VIT,
            partial(vit.forward_tokens, floats),
            partial(OnnxCaptioner.encode, pixels=pixels.numpy()),
        )
    array = pixels.numpy()
    versus(
        "whole caption",
        "ViT-B/16 + GPT-2, generate",
        partial(gpt2.generate, pixel_values=floats, num_beams=4, **EXACTLY),
        lambda each: each.find(each.encode(array)),
    )
    tokens = BaseModelOutput(last_hidden_state=captioner.encode(pixels, 5))
    photos = {id(each): each.encode(array) for each in exported.values()}
    for each in exported.values():
        each.search = replace(each.search, num_beams=1)
    versus(
        "greedy decoding",
        "generate",
        lambda: model.generate(encoder_outputs=tokens, num_beams=1, **EXACTLY),
        lambda each: each.find(photos[id(each)]),
    )
    return rows


PARTS = {
    "startup": bench_startup,
    "encoder": bench_encoder,
    "decoder": bench_decoder,
    "caption": bench_caption,
    "folder": bench_folder,
    "sizes": bench_sizes,
    "onnx": bench_onnx,
}


@torch.inference_mode()
def run(part: str, quick: bool = False) -> list[Row]:
    """One part's rows."""
    torch.manual_seed(0)
    return PARTS[part](quick)


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    return {
        "cpu": torch.cpu.get_capabilities().get("cpu_name", ""),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "matrix_gflops": matrix_peak(),
        "memory_gb_per_s": memory_bandwidth(),
    }


def plot_sizes(rows: list[Row], path: Path) -> None:
    """Time and memory over the image's side, for `bench_sizes`' rows."""
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
    """Most memory that a call's own tensors take at once; weights and inputs were there before."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        function()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most / 1e6


def of_reading(read: int, ms: float) -> float:
    """The share of a caption's time that reading so many bytes for each piece takes: no search can read less."""
    return read / (memory_bandwidth() * 1e9) * PIECES / ms * 1000


def weight_bytes(model: VisionEncoderDecoderModel) -> int:
    """Bytes of a decoder's weights that each piece reads: all but the embeddings and the tokens' keys and values."""
    total = 0
    for name, module in model.decoder.named_modules():
        if name.endswith("crossattention.c_attn"):
            continue
        if isinstance(module, Int8Linear):
            total += module.nbytes
        elif not isinstance(module, torch.nn.Embedding):
            total += sum(weight.nbytes for weight in module.parameters(recurse=False))
    return total


def _encoder(name: str, **options: Any) -> torch.nn.Module:
    return create_encoder(name, num_classes=0, **options).eval()


def _captioner() -> VisionEncoderDecoderModel:
    return build_model(
        Encoder.create(BASE), vocab_size=VOCABULARY, width=512, layers=6, heads=8, max_length=PIECES + 1
    ).eval()


def _vit_gpt2() -> VisionEncoderDecoderModel:
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(ViTConfig(), GPT2Config(add_cross_attention=True))
    config.decoder_start_token_id = config.pad_token_id = config.eos_token_id = config.decoder.eos_token_id
    model = VisionEncoderDecoderModel(config=config).eval()
    model.generation_config.decoder_start_token_id = model.generation_config.eos_token_id = config.eos_token_id
    model.generation_config.pad_token_id = config.pad_token_id
    return model
