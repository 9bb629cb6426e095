"""What the page shows beside its form fields: tables in HTML, and the page's style.

All that came from outside is escaped here: names of files, and captions too.
"""

from collections.abc import Sequence
from html import escape

from vlcap.batch import Row
from vlcap.captioner import Caption

# Gradio's own variables, so that light and dark both fit.
CSS = """
.gradio-container { max-width: 1080px !important; margin: 0 auto !important }
#caption textarea { font-size: 1.3rem; line-height: 1.5 }
#examples { flex-wrap: wrap; gap: 8px }
#examples button { flex: 1 1 90px; min-width: 90px; flex-direction: column; padding: 6px }
#examples button img { width: 72px; height: 48px; max-width: none; object-fit: cover; border-radius: 4px; margin: 0 }
table.results { width: 100%; border: 0 !important; border-collapse: collapse }
table.results { color: var(--body-text-color); font-size: var(--text-md) }
table.results caption { text-align: left; padding: 4px 8px; color: var(--body-text-color-subdued) }
table.results :is(tr, th, td) { border: 0 !important }
table.results :is(th, td) { padding: 8px !important; text-align: left; vertical-align: top; overflow-wrap: anywhere }
table.results tr { border-bottom: 1px solid var(--border-color-primary) !important }
table.results .number { white-space: nowrap; font-variant-numeric: tabular-nums }
table.results td.problem { color: var(--error-text-color) }
.bar { height: 10px; min-width: 3px; margin-top: 4px; border-radius: 5px; background: var(--color-accent) }
table.results .bars { width: 28% }
.gallery .grid-container { grid-template-columns: repeat(auto-fill, minmax(140px, 1fr)) !important; height: auto }
.wrap > span.error, .wrap > .clear-status { display: none } /* bare words: the message itself comes as a notice */
:focus-visible { outline: 3px solid var(--color-accent) !important; outline-offset: 2px }
@media (max-width: 640px) {
  .gradio-container { padding-left: 8px !important; padding-right: 8px !important }
  table.results.budgets thead { position: absolute; clip-path: inset(50%); height: 1px; overflow: hidden }
  table.results.budgets tr { display: grid; grid-template-columns: auto 1fr auto; padding: 4px 0 }
  table.results.budgets :is(th, td) { padding: 4px 8px !important }
  table.results .bars { width: auto }
  table.results.budgets td.text { grid-column: 1 / -1; order: 2 }
  #examples button { flex-basis: 40% }
  .tab-container button { padding: 0 8px !important; font-size: var(--text-sm) }
}
"""


def budgets_table(captions: Sequence[Caption], gflops: dict[int, float], pending: int = 0) -> str:
    """HTML: a row per budget with its caption, cost and a bar of that cost; `pending` rows are still to come."""
    most = max(gflops.values())
    rows = []
    for caption in captions:
        cost = gflops[caption.budget]
        rows.append(
            f'<tr><th scope="row" class="number">{caption.budget**2} tokens</th>'
            f'<td class="text">{escape(caption.text)}</td>'
            f'<td class="number bars">{cost:g} GFLOPs<div class="bar" aria-hidden="true" '
            f'style="width: {cost / most:.1%}"></div></td>'
            f'<td class="number">{caption.ms:.0f} ms</td></tr>'
        )
    rows += ['<tr><td colspan="4">...</td></tr>'] * pending
    return (
        '<table class="results budgets"><caption>The same photo, fewer tokens first. The bar is the cost of the '
        'encoder.</caption><thead><tr><th scope="col">Read</th><th scope="col">Caption</th>'
        f'<th scope="col">Cost</th><th scope="col">Time</th></tr></thead><tbody>{"".join(rows)}</tbody></table>'
    )


def rows_table(rows: Sequence[Row]) -> str:
    """HTML: a batch's photos with captions, or with what was wrong with them."""
    failed = sum(bool(row.problem) for row in rows)
    said = f"{len(rows) - failed} captioned" + (f", {failed} not: see why below" if failed else "")
    lines = [
        f'<tr><th scope="row">{escape(row.name)}</th>'
        f'<td{" class=problem" if row.problem else ""}>{escape(row.problem or row.caption)}</td></tr>'
        for row in rows
    ]
    return (
        f'<table class="results"><caption>{said}</caption><thead><tr><th scope="col">Photo</th>'
        f'<th scope="col">Caption, or problem</th></tr></thead><tbody>{"".join(lines)}</tbody></table>'
    )
