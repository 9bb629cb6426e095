"""HTML of the page: the caption, the tables, notices, maps. page.css is its look, page.js what it does.

Everything that comes from outside is escaped here: file names, and captions too.
"""

import base64
import io
import math
from collections.abc import Sequence
from difflib import SequenceMatcher
from html import escape

import numpy as np
from PIL import Image

from vlcap.attention import Looks, heat, overlay
from vlcap.captioner import Caption

from .answers import Answer, Author
from .batch import Row

HEAT = 112  # pixels of a map's long side: it is coarse, and the browser smooths it
UNSURE = 30  # % of the accent color behind a word of probability 0
NO_MAP = '<figure class="map" hidden><img alt=""><figcaption></figcaption></figure>'  # page.js fills it
NO_CAPTION = (
    '<p class="said none" role="group" aria-label="Caption">Choose a photo first.</p>'
    '<p class="facts quiet">Its caption, and what each number of tokens makes of it, will stand here.</p>'
)


def notice(problem: str) -> str:
    """HTML: the problem with a photo, announced to screen readers too; "" without a problem."""
    return f'<p class="problem" role="alert">{escape(problem)}</p>' if problem else ""


def growing(caption: Caption, author: Author) -> str:
    """HTML of a caption that is being written."""
    return f'{_said(escape(caption.text))}<p class="facts">{_cost(caption.budget, author)}</p>'


def caption_card(answer: Answer, author: Author) -> str:
    """HTML of a finished caption: its words, each shaded by its probability and with its map, and its figures."""
    found, looks = answer.caption, answer.looks
    words = [_word(*each, answer, author) for each in enumerate(answer.words)]
    hint = "Shaded words are less sure"
    hint += "." if looks is None else "; point at a word to see which part of the photo it came from."
    sure = f"It is {math.exp(answer.score):.0%} sure of this one on average. "
    return (
        f"{_said(' '.join(words), answer.box)}"
        f'<p class="facts">{_cost(found.budget, author)} · {found.ms:.0f} ms</p>'
        f'<p class="doubt quiet"><b>It may be wrong.</b> {escape(author.judged)} {sure}{hint}</p>'
    )


def _said(words: str, box: tuple[float, float, float, float] = (0, 0, 1, 1)) -> str:
    return f'<p class="said" role="group" aria-label="Caption" data-box="{_numbers(box)}">{words}</p>'


def _numbers(box: Sequence[float]) -> str:
    return " ".join(f"{side:.4f}" for side in box)


def _cost(side: int, author: Author) -> str:
    return f"{side**2} tokens · {author.gflops[side]:g} GFLOPs"


def _word(place: int, word: tuple[str, float], answer: Answer, author: Author) -> str:
    text, probability = word
    shade = f'style="--doubt: {UNSURE * (1 - probability):.0f}%"'
    if answer.looks is None:
        return f'<span class="word" {shade}>{escape(text)}</span>'
    name = escape(f"{text}: {probability:.0%} sure")
    return (
        f'<button type="button" class="word look" aria-pressed="false" tabindex="{0 if place == 0 else -1}" {shade} '
        f'data-name="{name}" data-alt="{escape(f"Where this word came from: {text}")}" '
        f'data-heat="{_heat(answer.looks.maps[place])}">{escape(text)}</button>'
    )


def _heat(attention: np.ndarray) -> str:
    height, width = attention.shape
    scale = HEAT / max(height, width)
    return _embedded(heat(attention, (round(width * scale), round(height * scale))))


def _embedded(image: Image.Image, quality: int = 80) -> str:
    file = io.BytesIO()
    image.save(file, "WEBP", quality=quality)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"


def block_maps(looks: Looks | None, photo: Image.Image | None, box: Sequence[float] = (0, 0, 1, 1)) -> str:
    """HTML: a small map for each block of the encoder. Chosen, it covers the photo. `photo` is what the encoder saw."""
    if looks is None or photo is None:
        return '<p class="quiet">Choose a photo first.</p>'
    small = photo.copy()
    small.thumbnail((220, 220))
    buttons = [
        f'<button type="button" class="look" aria-pressed="false" data-name="Block {number}" '
        f'data-alt="What block {number} gathered from" data-heat="{_heat(each)}">'
        f'<img src="{_embedded(overlay(small, each))}" alt="">Block {number}</button>'
        for number, each in enumerate(looks.blocks, 1)
    ]
    return f'<div class="blocks" data-box="{_numbers(box)}">{"".join(buttons)}</div>'


def budgets_table(found: dict[int, Caption], author: Author, chosen: int, times: dict[int, float] | None = None) -> str:
    """HTML: one row for each budget with caption and cost; budgets that are not in `found` are still to come.

    Args:
        found: Captions by budget.
        author: The captioner that wrote them.
        chosen: The budget of the caption above the table.
        times: Milliseconds of one pass of the encoder by budget; empty if they differ by noise alone; None if they are
            not known yet.
    """
    most, marked, rows = max(author.gflops.values()), _marked(found), []
    for side in author.budgets:
        cost = author.gflops[side]
        time = f"<br>{times[side]:.0f} ms" if times else ""
        rows.append(
            f'<tr{" aria-current=true" if side == chosen else ""}><th scope="row" class="number"><span '
            f'class="grid tokens" aria-hidden="true" style="--side: {side}"></span>{side**2} tokens</th>'
            f'<td class="text">{marked.get(side, "...")}</td>'
            f'<td class="number bars">{cost:g} GFLOPs{time}<div class="bar" aria-hidden="true" '
            f'style="width: {cost / most:.1%}"></div></td></tr>'
        )
    return (
        f'<table class="results budgets"><caption>{_remark(found, author, times)}</caption><thead><tr>'
        '<th scope="col">Tokens</th><th scope="col">Caption</th><th scope="col">Encoder</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _remark(found: dict[int, Caption], author: Author, times: dict[int, float] | None) -> str:
    if len(author.budgets) == 1:
        return "This captioner has one number of tokens."
    said = "The same photo from fewer and more tokens. Words that differ are underlined."
    if len(found) == len(author.budgets) and len({caption.text for caption in found.values()}) == 1:
        said = "The same photo from fewer and more tokens: the caption is the same."
    if times:
        said += " ms: one pass of the encoder."
    elif times is not None:
        said += " The encoder's time is the same for all, within noise."
    return said


def _marked(found: dict[int, Caption]) -> dict[int, str]:
    """HTML of each caption. Words that another one lacks at that place are marked."""
    words = {side: caption.text.split() for side, caption in found.items()}
    marked = {}
    for side, own in words.items():
        shared = set(range(len(own)))
        for other in words.values():
            blocks = SequenceMatcher(None, own, other, autojunk=False).get_matching_blocks()
            shared &= {place for block in blocks for place in range(block.a, block.a + block.size)}
        marked[side] = " ".join(
            escape(word) if place in shared else f"<mark>{escape(word)}</mark>" for place, word in enumerate(own)
        )
    return marked


def rows_table(rows: Sequence[Row], total: int) -> str:
    """HTML: one row per photo of a batch, with its caption or its problem. `total` rows will come."""
    failed = sum(bool(row.problem) for row in rows)
    said = f"{len(rows) - failed} captioned" + (f", {failed} not: the reasons are below" if failed else "")
    said += f", {total - len(rows)} to come" if total > len(rows) else ""
    heads = "".join(
        f'<th scope="col"><button type="button">{name}</button></th>' for name in ("Photo", "Caption", "How sure")
    )
    return (
        f'<table class="results batch"><caption>{said}</caption><thead><tr><th scope="col"></th>{heads}</tr></thead>'
        f"<tbody>{''.join(map(_row, rows))}</tbody></table>"
    )


def _row(row: Row) -> str:
    picture = f'<img src="{_embedded(row.thumbnail, 60)}" alt="">' if row.thumbnail else ""
    text = escape(row.problem or row.caption)
    sure = "" if row.score is None else f"{math.exp(row.score):.0%}"
    key = -1 if row.score is None else round(1000 * math.exp(row.score))
    return (
        f'<tr><td data-key="">{picture}</td><th scope="row" data-key="{escape(row.name)}">{escape(row.name)}</th>'
        f'<td{" class=problem" if row.problem else ""} data-key="{text}">{text}</td>'
        f'<td class="number" data-key="{key}">{sure}</td></tr>'
    )
