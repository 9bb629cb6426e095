"""HTML and CSS of the page: tables, notices, figures.

Everything that comes from outside is escaped here: file names, and captions too.
"""

import base64
import io
from collections.abc import Sequence
from html import escape

from PIL import Image

from vlcap.captioner import Caption

from .batch import Row

# Gradio's own variables, so that light and dark both fit.
CSS = """
.gradio-container { max-width: 1080px !important; margin: 0 auto !important }
footer .divider:last-of-type { display: none }
:focus-visible { outline: 3px solid var(--color-accent) !important; outline-offset: 2px }
.wrap > span.error, .wrap > .clear-status { display: none } /* Gradio's bare "Error": the message comes as a notice */
#stage { position: relative }
#word_map { position: absolute; inset: 0 0 auto; z-index: 2; pointer-events: none } /* photos can still be dropped */
#word_map, #word_map .html-container { padding: 0 !important }
#word_map { border: 1px solid var(--border-color-primary); border-radius: var(--block-radius); overflow: hidden;
  background: var(--background-fill-primary) }
#word_map figure { margin: 0; width: 100%; height: 278px } /* the photo's, without what is below it */
#word_map img { width: 100%; height: 100%; object-fit: contain }
#word_map figcaption { position: absolute; left: 0; top: 0; padding: 2px 8px; font-size: var(--text-sm);
  color: var(--body-text-color); background: var(--background-fill-primary);
  border-bottom-right-radius: var(--block-radius) }
#stage:has(#word_map) #photo [data-testid=block-label] { visibility: hidden }
#problem:not(:has(.problem)) { display: none }
#caption textarea { font-size: 1.3rem; line-height: 1.5 }
#caption textarea::placeholder { color: var(--body-text-color-subdued); opacity: 1 }
#words .wrap { gap: 4px }
#words label { padding: 2px 8px; border-radius: 999px; font-size: var(--text-md) }
#words label:has(:checked) { background: var(--color-accent-soft); border-color: var(--color-accent) }
#words label:has(:focus-visible) { outline: 3px solid var(--color-accent); outline-offset: 2px }
#words label input { position: absolute; opacity: 0; width: 1px; height: 1px }
#words label span { margin: 0 }
.problem { color: var(--error-text-color) }
#problem .problem { margin: 0; padding: 8px 12px; border: 1px solid var(--error-border-color); border-radius: 8px;
  background: var(--error-background-fill) }
#problem .problem, table.results td { overflow-wrap: anywhere }
#numbers label { height: 100%; display: flex; flex-direction: column; justify-content: space-between }
#examples { flex-wrap: wrap; gap: 8px }
#examples button { flex: 1 1 90px; min-width: 90px; flex-direction: column; padding: 6px }
#examples button img { width: 72px; height: 48px; max-width: none; object-fit: cover; border-radius: 4px; margin: 0 }

.budget .name { color: var(--block-title-text-color); font-size: var(--block-title-text-size) }
.budget .squeeze { display: flex; flex-wrap: wrap; align-items: center; gap: 10px; margin: 8px 0;
  color: var(--body-text-color) }
.budget .arrow { color: var(--color-accent); font-size: 1.4rem }
.grid { --size: 56px; display: inline-block; width: var(--size); height: var(--size); border-radius: 3px;
  vertical-align: middle; --line: var(--background-fill-primary);
  background-color: var(--body-text-color-subdued);
  background-image: linear-gradient(to right, var(--line) 1px, transparent 1px),
    linear-gradient(to bottom, var(--line) 1px, transparent 1px);
  background-size: calc(var(--size) / var(--side)) calc(var(--size) / var(--side)) }
.grid.tokens { background-color: var(--color-accent) }
.budget input { width: 100%; height: 24px; margin: 0; accent-color: var(--color-accent); cursor: pointer }
.budget .steps { display: flex; justify-content: space-between; padding: 0 2px; color: var(--body-text-color);
  font-variant-numeric: tabular-nums }

table.results { width: 100%; border: 0 !important; border-collapse: collapse }
table.results { color: var(--body-text-color); font-size: var(--text-md) }
table.results caption { text-align: left; padding: 4px 8px; color: var(--body-text-color-subdued) }
table.results :is(tr, th, td) { border: 0 !important }
table.results :is(th, td) { padding: 8px !important; text-align: left; vertical-align: top }
table.results tr { border-bottom: 1px solid var(--border-color-primary) !important }
table.results .number { white-space: nowrap; font-variant-numeric: tabular-nums }
table.results .grid { --size: 28px; margin-right: 6px }
table.results th[scope=row] { overflow-wrap: anywhere }
.bar { height: 10px; min-width: 3px; margin-top: 4px; border-radius: 5px; background: var(--color-accent) }
table.results .bars { width: 28% }
.tab-container button.selected { color: var(--body-text-color) !important } /* orange on white is too pale */
.gallery, .gallery .grid-wrap { min-height: 0 !important; height: auto !important }
.gallery .grid-container { grid-template-columns: repeat(auto-fill, minmax(140px, 1fr)) !important; height: auto }
.gallery:has(.empty) { display: none } /* nothing yet */
.gallery .thumbnail-lg { display: flex; flex-direction: column; height: 100%; aspect-ratio: auto }
.gallery .thumbnail-lg img { height: auto; aspect-ratio: 1 }
.gallery .caption-label { position: static; max-width: 100%; white-space: normal; text-align: left } /* not on it */
@media (max-width: 640px) {
  .gradio-container { padding-left: 8px !important; padding-right: 8px !important }
  table.results.budgets thead { position: absolute; clip-path: inset(50%); height: 1px; overflow: hidden }
  table.results.budgets tr { display: grid; grid-template-columns: auto 1fr auto; padding: 4px 0 }
  table.results.budgets :is(th, td) { padding: 4px 8px !important }
  table.results .bars { width: auto }
  table.results.budgets td.text { grid-column: 1 / -1; order: 2 }
  .budget .squeeze { gap: 6px }
  .budget .grid { --size: 44px }
  #examples button { flex-basis: 40% }
  .tab-container button { padding: 0 8px !important; font-size: var(--text-sm) }
}
"""


def notice(problem: str) -> str:
    """HTML: the problem with a photo, announced to screen readers too; "" without a problem."""
    return f'<p class="problem" role="alert">{escape(problem)}</p>' if problem else ""


def figure(image: Image.Image, name: str) -> str:
    """HTML: an image with its name, the file embedded."""
    file = io.BytesIO()
    image.save(file, "WEBP")
    data = base64.b64encode(file.getvalue()).decode()
    return (
        f'<figure><img src="data:image/webp;base64,{data}" alt="{escape(name)}">'
        f'<figcaption aria-hidden="true">{escape(name)}</figcaption></figure>'
    )


def budgets_table(captions: Sequence[Caption], gflops: dict[int, float], pending: int = 0) -> str:
    """HTML: one row per budget with caption, cost and time; `pending` rows are still to come."""
    most = max(gflops.values())
    rows = []
    for caption in captions:
        cost = gflops[caption.budget]
        rows.append(
            f'<tr><th scope="row" class="number"><span class="grid tokens" aria-hidden="true" '
            f'style="--side: {caption.budget}"></span>{caption.budget**2} tokens</th>'
            f'<td class="text">{escape(caption.text)}</td>'
            f'<td class="number bars">{cost:g} GFLOPs<div class="bar" aria-hidden="true" '
            f'style="width: {cost / most:.1%}"></div></td>'
            f'<td class="number">{caption.ms:.0f} ms</td></tr>'
        )
    rows += ['<tr><td colspan="4">...</td></tr>'] * pending
    return (
        '<table class="results budgets"><caption>The same photo at each budget. The bar shows the '
        'cost of the encoder.</caption><thead><tr><th scope="col">Tokens</th><th scope="col">Caption</th>'
        f'<th scope="col">Cost</th><th scope="col">Time</th></tr></thead><tbody>{"".join(rows)}</tbody></table>'
    )


def rows_table(rows: Sequence[Row]) -> str:
    """HTML: one row per photo of a batch, with its caption or its problem."""
    failed = sum(bool(row.problem) for row in rows)
    said = f"{len(rows) - failed} captioned" + (f", {failed} not: the reasons are below" if failed else "")
    lines = [
        f'<tr><th scope="row">{escape(row.name)}</th>'
        f"<td{' class=problem' if row.problem else ''}>{escape(row.problem or row.caption)}</td></tr>"
        for row in rows
    ]
    return (
        f'<table class="results"><caption>{said}</caption><thead><tr><th scope="col">Photo</th>'
        f'<th scope="col">Caption or problem</th></tr></thead><tbody>{"".join(lines)}</tbody></table>'
    )
