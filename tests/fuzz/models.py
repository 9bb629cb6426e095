"""Model folders: configs that ask for much memory or for other models, weights that do not fit, pickles.

Captioners of photos and of clips, encoders, pretrained decoders of the GPT-2 family, and captioners with the vocabulary
of such a decoder.
"""

import json
import os
import random
import struct
from functools import cache
from pathlib import Path

import torch
from PIL import Image

from tests.support.gpt2_folder import write_gpt2
from vlcap.captioner import Captioner
from vlcap.model.build import build_model
from vlcap.model.encoder import Encoder
from vlcap.model.pretrained_decoder import load_pretrained
from vlcap.model.tokenizer import train_tokenizer
from vlcap.publishing.folder import save_files

from . import mutate

SIZES = (0, -1, 3, 10**4, 10**6, 10**9, 10**12, 2**63)
HOSTILE = {
    "auto_map": {"AutoConfig": "code.Config", "AutoModel": "code.Model"},
    "attn_implementation": "someone/kernel",
    "_attn_implementation": "someone/kernel",
    "quantization_config": {"quant_method": "gptq"},
    "torch_dtype": "float8",
    "architectures": ["Evil"],
    "custom_generate": "someone/code",
    "is_local": False,
    "dtype": "int3",
}
ARGUMENTS = {
    "pretrained": True,
    "checkpoint_path": "/etc/passwd",
    "pretrained_cfg": {"file": "weights.bin"},
    "cache_dir": "/",
    "features_only": True,
    "img_size": 10**6,
    "patch_size": 0,
    "depth": 10**8,
    "embed_dim": 10**9,
    "num_heads": 0,
    "num_classes": 10**9,
    "global_pool": "map",
    "nonsense": 1,
    "base": "local-dir:/etc",
    "trunk": "hf-hub:someone/model",
    "trunk_args": {"pretrained": True},
    "depths": [10**9],
    "frames": 10**6,
    "tubelet": 0,
    "time_budget": 10**9,
}
ARCHITECTURES = (
    "hf-hub:someone/model",
    "local-dir:/etc",
    "vit_tiny_patch16_224",
    "resnet18",
    "vit_giant_patch14_224",
    "timm_pool",
    "timm_lookup",
    "",
)


@cache
def seed() -> dict[str, dict[str, bytes]]:
    """The files of small models, by their kind."""
    import tempfile

    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity(logging.CRITICAL)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    texts = [f"a {color} {thing}" for color in ("red", "green", "blue") for thing in ("dog", "cat", "house")]
    tokenizer = train_tokenizer(texts, vocab_size=40)
    encoder = Encoder.create("lookupvit_test_patch8_48", depth=1)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        encoder.save_pretrained(Path(folder, "encoder"))
        model = build_model(encoder, len(tokenizer), width=16, layers=1, heads=2, max_length=6)
        save_files(model, tokenizer, Path(folder, "captioner"))
        write_gpt2(Path(folder, "decoder"), n_embd=16, n_layer=1, n_positions=6)
        decoder, pieces = load_pretrained(Path(folder, "decoder"), max_length=6)
        model = build_model(encoder, len(pieces), width=16, layers=1, heads=2, max_length=6)
        model.decoder.load_state_dict(decoder.state_dict())
        save_files(model, pieces, Path(folder, "byte captioner"))
        clips = Encoder.create("lookupvivit_test_patch8x2_48", depth=1, frames=4)
        save_files(
            build_model(clips, len(tokenizer), width=16, layers=1, heads=2, max_length=6),
            tokenizer,
            Path(folder, "clip captioner"),
        )
        for kind in ("encoder", "captioner", "decoder", "byte captioner", "clip captioner"):
            found[kind] = {path.name: path.read_bytes() for path in Path(folder, kind).iterdir()}
    return found


def _config(rng: random.Random, data: bytes) -> bytes:
    values = json.loads(data)
    if rng.random() < 0.3:
        return mutate.json_text(rng, values)
    parts = [part for part in (values, values.get("encoder"), values.get("decoder")) if isinstance(part, dict)]
    for _ in range(rng.choice((1, 1, 2))):
        part = rng.choice(parts)
        match rng.randrange(5):
            case 0:
                part |= dict([rng.choice([*HOSTILE.items()])])
            case 1 if "model_args" in part:
                part["model_args"] = part["model_args"] | dict([rng.choice([*ARGUMENTS.items()])])
            case 2 if "architecture" in part:
                part["architecture"] = rng.choice(ARCHITECTURES)
            case _:
                numbers = [name for name, value in part.items() if isinstance(value, int | float)] or ["n_layer"]
                part[rng.choice(numbers)] = rng.choice(SIZES)
    return json.dumps(values).encode()


def _weights(rng: random.Random, data: bytes) -> bytes:
    """A safetensors file: the length of the header in 8 bytes, the header, the numbers."""
    length = struct.unpack("<Q", data[:8])[0]
    header, numbers = json.loads(data[8 : 8 + length]), data[8 + length :]
    match rng.randrange(8):
        case 0:
            return mutate.bytes_of(rng, data)
        case 1:
            return struct.pack("<Q", rng.choice((0, 1, length - 1, length + 1, 2**31, 2**63, 2**64 - 1))) + data[8:]
        case 2:
            numbers = bytes(rng.choice((b"\xff", b"\x7f", b"\0"))) * len(numbers)
        case 3:
            numbers = numbers[: rng.randrange(len(numbers))]
        case 4:
            header = mutate.json_of(rng, header)
        case 5:
            name = rng.choice([name for name in header if name != "__metadata__"])
            shape = header[name]["shape"]
            header[name]["shape"] = rng.choice(([10**12], [], [0], [1, *shape], [-1], shape[::-1]))
        case 6:
            name = rng.choice([name for name in header if name != "__metadata__"])
            header[name]["dtype"] = rng.choice(("I32", "F16", "F64", "BOOL", "F4"))
        case _:
            name = rng.choice([name for name in header if name != "__metadata__"])
            header[rng.choice(("x", name + ".", "../../x"))] = header.pop(name)
    text = json.dumps(header).encode("utf-8", errors="surrogatepass")
    return struct.pack("<Q", len(text)) + text + numbers


def make(rng: random.Random, folder: Path, kind: str = "captioner") -> Path:
    files = dict(seed()[kind])
    for _ in range(rng.choice((1, 1, 1, 2))):
        name = rng.choice(sorted(files))  # there is always one: there are more files than turns
        match rng.randrange(12):
            case 0:
                del files[name]
            case 1:
                files["pytorch_model.bin"] = b"cos\nsystem\n(S'touch owned'\ntR."
                files.pop("model.safetensors", None)
            case 2:
                files[name] = mutate.bytes_of(rng, files[name])
            case 3:
                other = rng.choice(("README.md", "adapter_config.json", "special_tokens_map.json", "added_tokens.json"))
                files[other] = mutate.json_text(
                    rng, {"base_model_name_or_path": "someone/x", "eos_token": "</s>", "</s>": 1}
                )
            case 4 | 5 if "model.safetensors" in files:
                files["model.safetensors"] = _weights(rng, seed()[kind]["model.safetensors"])
            case 6 if "tokenizer.json" in files:
                part = rng.choice(("tokenizer.json", "tokenizer_config.json"))
                files[part] = mutate.json_text(rng, json.loads(seed()[kind][part]))
            case 7 if "generation_config.json" in files:
                files["generation_config.json"] = _config(rng, seed()[kind]["generation_config.json"])
            case _ if "config.json" in files:
                files["config.json"] = _config(rng, seed()[kind]["config.json"])
        if not files:
            break
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def read(folder: Path, engine: str = "pytorch") -> None:
    captioner = Captioner.from_pretrained(folder, engine=engine, device="cpu")
    [caption] = captioner.caption([Image.new("RGB", (50, 40), "red")])
    assert isinstance(caption, str)


def read_by_onnx(folder: Path) -> None:
    """The same, exported first: whatever PyTorch accepts, ONNX Runtime has to caption with, or to refuse."""
    os.environ["VLCAP_CACHE"] = str(folder.parent / "cache")
    read(folder, engine="onnx")


def make_encoder(rng: random.Random, folder: Path) -> Path:
    return make(rng, folder, kind="encoder")


def make_decoder(rng: random.Random, folder: Path) -> Path:
    return make(rng, folder, kind="decoder")


def make_byte_captioner(rng: random.Random, folder: Path) -> Path:
    return make(rng, folder, kind="byte captioner")


def make_clip_captioner(rng: random.Random, folder: Path) -> Path:
    return make(rng, folder, kind="clip captioner")


def read_decoder(folder: Path) -> None:
    decoder, tokenizer = load_pretrained(folder, max_length=6)
    ids = torch.tensor([tokenizer("a red dog 🙂", truncation=True, max_length=6)["input_ids"]])
    with torch.inference_mode():
        decoder.eval()(ids)


def read_encoder(folder: Path) -> None:
    encoder = Encoder.load(folder).eval()
    size = encoder.pixels.size
    with torch.inference_mode():
        encoder(encoder.pixels.normalize(torch.zeros(1, 3, size, size, dtype=torch.uint8)))
