"""Attention maps: the encoder's gather attention per block, and for each word the part of the photo it came from.

`vlcap attention PHOTO -o maps.png` draws the first, as in the paper's Figures 1 (a) and 6; `vlcap demo` shows both. A
word's map is the decoder's cross-attention at the step that chose the word, carried from the compressed tokens to the
grid of the photo by the encoder's gather attention:

    cross-attention (words, M) @ gather attention (M, N) -> (words, N) -> (words, h, w)

A map shows where numbers came from, not why a word was chosen.

Legend of shapes
    L: blocks   M: compressed tokens   N = h * w: lookup tokens, the grid of the photo   T: pieces   W: words
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from .captioner import Captioner
from .data.pixels import PixelConfig
from .model.tokenizer import PAD, START, UNK, WORD_MARK

SHOWN_SIDE = 512  # long side of an overlay in pixels: the maps are coarse, and a browser loads one per block
OPACITY = 0.6


@dataclass(frozen=True)
class Looks:
    """The attention maps of one photo's caption.

    Attributes:
        blocks: Gather attention of each block (L, h, w), float32, averaged over heads and compressed tokens; each map
            sums to 1.
        words: Words of the caption, in order.
        maps: One map per word (W, h, w), float32; each sums to 1.
    """

    blocks: np.ndarray
    words: list[str]
    maps: np.ndarray


def look(captioner: Captioner, pixels: NDArray, ids: Sequence[int], budget: int | None = None) -> Looks:
    """Computes the attention maps of one photo's caption.

    Args:
        captioner: Captioner that wrote the caption.
        pixels: Pixels, uint8 (1, 3, S, S), from `captioner.preprocess`.
        ids: Pieces of the caption, `Caption.ids`.
        budget: Side of the compressed grid that the caption was written from; None for the captioner's own.

    Raises:
        CaptionerError: The encoder has no gather attention.
    """
    pieces = [piece for piece in ids if piece not in (PAD, START)]
    side = captioner.default_budget if budget is None else budget
    found = captioner.engine.attention(pixels, side, pieces)
    words = words_of(captioner, pieces)
    rows = [found.read[places].mean(axis=0) for _, places in words]  # of each word, (M,)
    # All blocks add to the compressed tokens that the decoder reads, so a word's map uses their mean.
    maps = np.stack(rows) @ found.gathered.mean(axis=0) if rows else np.zeros((0, found.gathered.shape[-1]))  # (W, N)
    shape = (-1, *found.grid)
    blocks = found.gathered.mean(axis=1).reshape(shape)
    return Looks(blocks, [word for word, _ in words], maps.reshape(shape))


def words_of(captioner: Captioner, pieces: Sequence[int]) -> list[tuple[str, list[int]]]:
    """The words of a caption, each with the positions of its pieces."""
    names = captioner.engine.pieces(pieces)
    # An unknown piece has no text in the caption either.
    return group_pieces(["" if piece == UNK else name for piece, name in zip(pieces, names, strict=True)])


def group_pieces(pieces: Sequence[str]) -> list[tuple[str, list[int]]]:
    """SentencePiece pieces -> words, each with the positions of its pieces; a leading mark starts a word."""
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
    if pixels.crop_mode == "border":  # it may see a border around the photo: show the encoder's own input
        return Image.fromarray(pixels.cut(photo).transpose(1, 2, 0)).resize((SHOWN_SIDE, SHOWN_SIDE))
    left, top, right, bottom = seen_box(photo.size, pixels)
    part = photo.crop((round(left * width), round(top * height), round(right * width), round(bottom * height)))
    part.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    return part


def seen_box(size: tuple[int, int], pixels: PixelConfig) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of what the encoder sees of a photo of this width and height.

    All are parts of the photo's width or height: (0, 0, 1, 1) is the whole photo. Where the encoder sees a border
    around it, they lie outside of 0 to 1.
    """
    width, height = size
    kept = pixels.size / int(pixels.size / pixels.crop_pct)
    if pixels.crop_mode == "squash":
        across, down = width * kept, height * kept
    else:
        across = down = (max if pixels.crop_mode == "border" else min)(width, height) * kept
    left, top = (1 - across / width) / 2, (1 - down / height) / 2
    return left, top, 1 - left, 1 - top


def overlay(photo: Image.Image, attention: np.ndarray) -> Image.Image:
    """Draws a heat map over a photo: dark for little attention, bright for much.

    Args:
        photo: RGB photo that the map covers, from `seen`.
        attention: Attention (h, w), on any scale.

    Returns:
        An RGB image of the photo's size.
    """
    colors = np.asarray(heat(attention, photo.size), dtype=np.float32)
    # The photo is drawn in gray, so that color means attention alone.
    grey = np.asarray(photo.convert("L"), dtype=np.float32)[..., None]
    return Image.fromarray((grey * (1 - OPACITY) + colors * OPACITY).round().astype(np.uint8))


def heat(attention: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """Attention (h, w), on any scale, as an RGB image of this width and height: dark for little, bright for much."""
    low, high = float(attention.min()), float(attention.max())
    # Nearly even attention must not look like peaks: the scale covers at least half of the highest value.
    scaled = (attention - low) / max(high - low, high / 2, 1e-12)
    smooth = Image.fromarray(scaled.astype(np.float32)).resize(size, Image.Resampling.BICUBIC)
    colors = colormaps["inferno"](np.clip(np.asarray(smooth), 0, 1))[..., :3] * 255
    return Image.fromarray(colors.round().astype(np.uint8))


def draw_maps(
    captioner: Captioner,
    photo: Image.Image,
    budgets: Sequence[int | None] = (None,),
    each_token: bool = False,
) -> Figure:
    """Every block's gather attention over a photo, as the paper's Figure 6: a row per budget, a column per block.

    Args:
        captioner: Captioner whose encoder is shown.
        photo: RGB photo.
        budgets: Sides of the compressed grid; None for the captioner's own.
        each_token: Whether to draw one row per compressed token instead of one for their mean.

    Raises:
        CaptionerError: The encoder has no gather attention.
        EncoderError: A budget does not fit the grid.
    """
    shown, pixels = seen(photo, captioner.pixels), captioner.preprocess([photo])
    rows: list[tuple[str, np.ndarray]] = []  # label, maps (L, h, w)
    for budget in budgets:
        side = captioner.default_budget if budget is None else budget
        found = captioner.engine.attention(pixels, side, [])
        maps = found.gathered.reshape(*found.gathered.shape[:2], *found.grid)  # (L, M, h, w)
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
