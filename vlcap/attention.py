"""What the model looked at: gather attention per block, and per word what of the photo lay behind it.

The paper's Figures 1 (a) and 6 show the first, as `vlcap attention PHOTO -o maps.png` does; `vlcap demo` shows both. A
word's map is the decoder's cross-attention
when it chose the word, carried from the compressed tokens to the photo's own grid by the encoder's gather attention:

    cross-attention (words, M) @ gather attention (M, N) -> (words, N) -> (words, h, w)

A map says where numbers came from, not why a word was chosen.

Letters: L blocks   M compressed tokens   N = h * w lookup tokens, the photo's grid   T pieces   W words
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from PIL import Image
from transformers.modeling_outputs import BaseModelOutput

from .captioner import Captioner, CaptionerError
from .data.images import PixelConfig
from .model.tokenizer import PAD, START, UNK, WORD_MARK

SHOWN_SIDE = 512  # long side of an overlay in pixels: the maps are coarse, and a browser loads one for each block
OPACITY = 0.6


@dataclass(frozen=True)
class Looks:
    """Where one photo's caption came from.

    Attributes:
        blocks: (L, h, w) float32, each block's gather attention, averaged over heads and compressed tokens; sums to 1.
        words: The caption's words, in order.
        maps: (W, h, w) float32, a map for each word; sums to 1.
    """

    blocks: np.ndarray
    words: list[str]
    maps: np.ndarray


def has_maps(captioner: Captioner) -> bool:
    """Whether the captioner's encoder has gather attention to show."""
    return captioner.model.encoder.gathers


def look(captioner: Captioner, pixels: torch.Tensor, ids: Sequence[int], budget: int | None = None) -> Looks:
    """What lay behind one photo's caption.

    Args:
        captioner: Its author.
        pixels: uint8 (1, 3, S, S), as `captioner.preprocess` gives them.
        ids: The caption's pieces, `Caption.ids`.
        budget: Side of the compressed grid that it was written from; None for the captioner's own.

    Raises:
        CaptionerError: The encoder keeps no gather attention.
    """
    tokens, gathered, grid = gather_attention(captioner, pixels, budget)
    words, rows = word_attention(captioner, tokens, ids)
    # All blocks add to the compressed tokens that the decoder reads, so their mean carries the words.
    maps = rows @ gathered.mean(dim=0)  # (W, N)
    shape = (-1, *grid)
    return Looks(gathered.mean(dim=1).reshape(shape).numpy(), words, maps.reshape(shape).numpy())


@torch.inference_mode()
def gather_attention(
    captioner: Captioner,
    pixels: torch.Tensor,
    budget: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor, tuple[int, int]]:
    """The compressed tokens (1, M, D), every block's gather attention (L, M, N) averaged over heads, and (h, w).

    Raises:
        CaptionerError: The encoder keeps no gather attention.
    """
    if not has_maps(captioner):
        raise CaptionerError(f"{captioner.name}'s encoder does not gather: there are no maps to show")
    encoder = captioner.model.encoder
    tokens, attention = encoder.forward_maps(captioner.normalize(pixels), budget)
    height, width = pixels.shape[-2:]
    return tokens, attention[0].mean(dim=1).float().cpu(), (encoder.grid_side(height), encoder.grid_side(width))


@torch.inference_mode()
def word_attention(
    captioner: Captioner,
    tokens: torch.Tensor,
    ids: Sequence[int],
) -> tuple[list[str], torch.Tensor]:
    """The caption's words and, for each, the mean cross-attention (W, M) when its pieces were chosen.

    Heads and layers are averaged too. The finished caption is read once more, as in training: the weights are those
    of its decoding, whatever search found it.

    Args:
        captioner: Its author.
        tokens: Compressed tokens (1, M, D).
        ids: The caption's pieces.
    """
    pieces = [piece for piece in ids if piece not in (PAD, START)]
    names = captioner.tokenizer.convert_ids_to_tokens(pieces)
    # An unknown piece has no text in the caption either.
    words = group_pieces(["" if piece == UNK else name for piece, name in zip(pieces, names, strict=True)])
    if not words:
        return [], torch.zeros(0, tokens.shape[1])
    decoder = captioner.model.decoder
    fused = decoder.config._attn_implementation
    decoder.set_attn_implementation("eager")  # a fused kernel never holds the weights
    read = torch.tensor([[START, *pieces[:-1]]], device=tokens.device)
    try:
        found = captioner.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=tokens),
            decoder_input_ids=read,
            decoder_attention_mask=torch.ones_like(read),
            output_attentions=True,
        ).cross_attentions  # a (1, heads, T, M) for each layer
    finally:
        decoder.set_attn_implementation(fused)
    rows = torch.stack(found).mean(dim=(0, 2))[0].float().cpu()  # (T, M); row t chose piece t
    return [word for word, _ in words], torch.stack([rows[places].mean(dim=0) for _, places in words])


def group_pieces(pieces: Sequence[str]) -> list[tuple[str, list[int]]]:
    """SentencePiece's pieces -> words, each with the places of its pieces: a leading mark begins a word."""
    words: list[tuple[str, list[int]]] = []
    for place, piece in enumerate(pieces):
        if piece.startswith(WORD_MARK) or not words:
            words.append((piece.removeprefix(WORD_MARK), [place]))
        else:
            text, places = words[-1]
            words[-1] = text + piece, [*places, place]
    return [(text, places) for text, places in words if text]


def seen(photo: Image.Image, pixels: PixelConfig) -> Image.Image:
    """The part of a photo that the encoder sees, in the photo's own proportions; at most `SHOWN_SIDE` pixels long."""
    width, height = photo.size
    if pixels.crop_mode == "border":  # there may be more than the photo: as the encoder gets it
        tensor = pixels.eval_transform()(photo)
        return Image.fromarray(tensor.permute(1, 2, 0).numpy()).resize((SHOWN_SIDE, SHOWN_SIDE))
    kept = pixels.size / int(pixels.size / pixels.crop_pct)
    if pixels.crop_mode == "squash":
        across, down = width * kept, height * kept
    else:
        across = down = min(width, height) * kept
    left, top = (width - across) / 2, (height - down) / 2
    part = photo.crop((round(left), round(top), round(left + across), round(top + down)))
    part.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    return part


def overlay(photo: Image.Image, attention: np.ndarray) -> Image.Image:
    """A heat map over a photo: dark where nothing was looked at, bright where most was.

    Args:
        photo: RGB, what the map covers: `seen`.
        attention: (h, w), of any scale.

    Returns:
        RGB, of the photo's size.
    """
    low, high = float(attention.min()), float(attention.max())
    # Nearly even attention must not be blown up to peaks: the scale covers at least half of the highest value.
    scaled = (attention - low) / max(high - low, high / 2, 1e-12)
    smooth = Image.fromarray(scaled.astype(np.float32)).resize(photo.size, Image.Resampling.BICUBIC)
    heat = colormaps["inferno"](np.clip(np.asarray(smooth), 0, 1))[..., :3] * 255
    # Grey below, so that colour means attention alone.
    grey = np.asarray(photo.convert("L"), dtype=np.float32)[..., None]
    return Image.fromarray((grey * (1 - OPACITY) + heat * OPACITY).round().astype(np.uint8))


def draw_maps(
    captioner: Captioner,
    photo: Image.Image,
    budgets: Sequence[int | None] = (None,),
    each_token: bool = False,
) -> Figure:
    """Every block's gather attention over a photo, as the paper's Figure 6: a row per budget, a column per block.

    Args:
        captioner: Whose encoder looks.
        photo: RGB.
        budgets: Sides of the compressed grid; None for the captioner's own.
        each_token: A row per compressed token, in place of one for their mean.

    Raises:
        CaptionerError: The encoder keeps no gather attention.
        ValueError: A budget that doesn't fit the grid.
    """
    shown, pixels = seen(photo, captioner.pixels), captioner.preprocess([photo])
    rows: list[tuple[str, np.ndarray]] = []  # what to call it, (L, h, w)
    for budget in budgets:
        _, gathered, grid = gather_attention(captioner, pixels, budget)  # (L, M, N)
        side = budget or captioner.default_budget
        maps = gathered.unflatten(-1, grid).numpy()
        if each_token:
            rows += [(f"{m // side + 1}, {m % side + 1} of {side} x {side}", maps[:, m]) for m in range(side * side)]
        else:
            rows.append((f"{side} x {side} tokens", maps.mean(axis=1)))
    columns, tall = 1 + len(rows[0][1]), shown.height / shown.width
    figure = Figure(figsize=(1.8 * columns, (1.8 * tall + 0.1) * len(rows) + 0.3), layout="constrained")
    places = figure.subplots(len(rows), columns, squeeze=False)
    for number, (name, maps) in enumerate(rows):
        for place, picture in zip(places[number], [shown, *(overlay(shown, each) for each in maps)], strict=True):
            place.imshow(picture)
            place.set(xticks=[], yticks=[])
        places[number, 0].set_ylabel(name, fontsize=9)
    for block, place in enumerate(places[0, 1:], start=1):
        place.set_title(f"block {block}", fontsize=9)
    return figure
