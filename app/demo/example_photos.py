"""Example photos: scenes drawn here, so that no files have to be shipped."""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SIZE = (480, 360)
SCALE = 2  # drawn larger and reduced, for smooth edges


def draw_examples() -> dict[str, Image.Image]:
    """RGB pictures by name."""
    return {
        name: _finished(scene)
        for name, scene in {"Beach": _beach, "Sailing boat": _boat, "Red car": _car, "Skier": _skier}.items()
    }


def _finished(scene: Callable[[Image.Image, "_Pen"], None]) -> Image.Image:
    canvas = Image.new("RGB", (SIZE[0] * SCALE, SIZE[1] * SCALE))
    scene(canvas, _Pen(canvas))
    smooth = canvas.filter(ImageFilter.GaussianBlur(SCALE)).resize(SIZE, Image.Resampling.LANCZOS)
    grain = np.random.default_rng(0).normal(0, 5, (SIZE[1], SIZE[0], 1))
    return Image.fromarray((np.asarray(smooth) + grain).clip(0, 255).astype(np.uint8))


class _Pen:
    """Draws in coordinates of the finished picture."""

    def __init__(self, canvas: Image.Image):
        self.pen = ImageDraw.Draw(canvas)

    def _scaled(self, points: tuple) -> tuple:
        return tuple(value * SCALE for value in points)

    def fade(self, top: int, bottom: int, above: tuple, below: tuple) -> None:
        for y in range(top * SCALE, bottom * SCALE):
            part = (y / SCALE - top) / (bottom - top)
            colour = tuple(round(a + (b - a) * part) for a, b in zip(above, below, strict=True))
            self.pen.line((0, y, SIZE[0] * SCALE, y), fill=colour)

    def disc(self, x: float, y: float, radius: float, fill: tuple) -> None:
        self.pen.ellipse(self._scaled((x - radius, y - radius, x + radius, y + radius)), fill=fill)

    def shape(self, *points: float, fill: tuple) -> None:
        self.pen.polygon(self._scaled(points), fill=fill)

    def box(self, *corners: float, fill: tuple, radius: float = 0) -> None:
        self.pen.rounded_rectangle(self._scaled(corners), radius=radius * SCALE, fill=fill)

    def line(self, *points: float, fill: tuple, width: float) -> None:
        self.pen.line(self._scaled(points), fill=fill, width=round(width * SCALE), joint="curve")


def _beach(canvas: Image.Image, pen: _Pen) -> None:
    pen.fade(0, 170, (92, 158, 222), (196, 224, 240))
    pen.disc(390, 60, 30, (255, 240, 190))
    pen.fade(170, 250, (24, 104, 150), (96, 178, 190))
    for y in (196, 214, 238):
        pen.line(0, y, 160, y + 4, 320, y - 2, 480, y + 3, fill=(214, 236, 238), width=3)
    pen.fade(250, 360, (232, 212, 164), (206, 176, 122))
    pen.line(120, 320, 150, 160, fill=(236, 236, 230), width=6)
    pen.pen.pieslice(tuple(value * SCALE for value in (70, 120, 230, 250)), 186, 366, fill=(206, 58, 52))
    pen.pen.pieslice(tuple(value * SCALE for value in (122, 120, 178, 250)), 186, 366, fill=(244, 236, 220))
    pen.shape(190, 330, 330, 316, 350, 332, 205, 348, fill=(60, 120, 190))


def _boat(canvas: Image.Image, pen: _Pen) -> None:
    pen.fade(0, 210, (70, 130, 200), (206, 226, 240))
    for x, y, r in ((90, 70, 26), (120, 60, 34), (156, 72, 24), (370, 100, 22), (400, 92, 28)):
        pen.disc(x, y, r, (246, 248, 250))
    pen.fade(210, 360, (32, 92, 138), (18, 52, 92))
    pen.shape(0, 214, 120, 180, 220, 212, fill=(74, 104, 92))
    for y in range(224, 356, 18):
        pen.line(0, y, 120, y + 3, 240, y - 2, 360, y + 3, 480, y, fill=(70, 134, 176), width=2)
    pen.line(250, 70, 250, 262, fill=(90, 66, 44), width=5)
    pen.shape(244, 78, 244, 244, 160, 244, fill=(250, 250, 246))
    pen.shape(256, 92, 256, 244, 336, 244, fill=(234, 236, 238))
    pen.shape(150, 256, 350, 256, 316, 296, 186, 296, fill=(150, 46, 40))


def _car(canvas: Image.Image, pen: _Pen) -> None:
    pen.fade(0, 222, (140, 190, 230), (224, 236, 242))
    for x, height, shade in ((0, 120, 150), (90, 160, 132), (200, 110, 160), (300, 150, 140), (400, 126, 154)):
        pen.box(x, 220 - height, x + 92, 222, fill=(shade + 30, shade, shade - 20))
        for row in range(236 - height, 206, 28):
            for column in range(x + 12, x + 80, 26):
                pen.box(column, row, column + 14, row + 16, fill=(86, 110, 136))
    pen.box(0, 220, 480, 246, fill=(170, 168, 162))
    pen.fade(244, 360, (82, 84, 88), (60, 62, 66))
    for x in range(10, 480, 90):
        pen.box(x, 330, x + 50, 337, fill=(236, 232, 214))
    pen.shape(150, 240, 186, 196, 296, 196, 336, 240, fill=(178, 24, 30))
    pen.shape(166, 238, 192, 204, 236, 204, 236, 238, fill=(164, 204, 226))
    pen.shape(244, 238, 244, 204, 290, 204, 318, 238, fill=(164, 204, 226))
    pen.box(104, 236, 388, 290, fill=(204, 30, 36), radius=14)
    pen.box(372, 250, 388, 262, fill=(250, 240, 190))
    for x in (164, 328):
        pen.disc(x, 290, 28, (28, 28, 30))
        pen.disc(x, 290, 14, (170, 172, 176))


def _skier(canvas: Image.Image, pen: _Pen) -> None:
    pen.fade(0, 240, (48, 108, 190), (170, 206, 238))
    pen.box(0, 238, 480, 360, fill=(214, 226, 240))
    pen.shape(-40, 240, 90, 70, 210, 240, fill=(150, 170, 196))
    pen.shape(130, 240, 290, 40, 470, 240, fill=(170, 188, 210))
    pen.shape(250, 90, 290, 40, 334, 90, 300, 82, fill=(250, 252, 255))
    pen.shape(60, 110, 90, 70, 118, 110, 92, 102, fill=(250, 252, 255))
    pen.shape(0, 190, 480, 300, 480, 360, 0, 360, fill=(240, 245, 250))
    for x, y in ((40, 214), (400, 296), (446, 300)):
        for step in range(3):
            pen.shape(
                x,
                y - 70 + 18 * step,
                x - 14 - 5 * step,
                y - 36 + 18 * step,
                x + 14 + 5 * step,
                y - 36 + 18 * step,
                fill=(28, 84, 60),
            )
    pen.line(170, 262, 290, 300, fill=(30, 30, 36), width=6)
    pen.line(216, 272, 236, 236, 216, 210, fill=(24, 40, 90), width=16)
    pen.line(216, 214, 236, 170, fill=(226, 120, 20), width=26)
    pen.line(230, 184, 262, 206, fill=(226, 120, 20), width=11)
    pen.line(262, 196, 270, 296, fill=(60, 60, 66), width=3)
    pen.disc(244, 150, 15, (230, 186, 150))
    pen.pen.pieslice(tuple(value * SCALE for value in (228, 132, 260, 164)), 170, 370, fill=(180, 24, 40))
