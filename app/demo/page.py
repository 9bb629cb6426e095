"""The page: the fields of layout.py, connected to the functions of handlers.py."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import gradio as gr

from vlcap.captioner import Captioner

from .answers import by_name
from .handlers import Handlers
from .layout import lay_out
from .parts import refusal
from .uploads import KEPT

MAX_WAITING = 16  # further requests get "Queue is full"

# One model on a small machine: all requests for captions share one bounded queue.
LINE = {"concurrency_id": "model", "concurrency_limit": 1}
PRIVATE = {"api_visibility": "private"}
AT_ONCE = {"queue": False, **PRIVATE}  # requests that need no model skip the queue
UNFIT = "These are not values of the page's fields: reload the page."
BLANK = "() => ['', null, null, null, '']"  # JavaScript that empties text, tokens, cost, ms and table


class Page(gr.Blocks):
    """A page whose log holds nothing of what a request sent: Gradio would print all of one that does not fit."""

    def get_block_name(self) -> str:
        return "blocks"

    async def preprocess_data(self, block_fn: Any, *arguments: Any, **keywords: Any) -> list[Any]:
        if block_fn.fn is None:  # an event of the browser alone
            raise refusal(UNFIT)
        try:
            values = await super().preprocess_data(block_fn, *arguments, **keywords)
        except gr.Error as error:
            if not error.print_exception:  # one of ours
                raise
            raise refusal(f"{error.message}"[:300]) from None
        except Exception:
            raise refusal(UNFIT) from None
        for field, value in zip(block_fn.inputs, values, strict=True):
            if value is None and isinstance(field, (gr.Slider, gr.Dropdown)):
                raise refusal(UNFIT)
        return values


def build(captioners: Captioner | Sequence[Captioner]) -> gr.Blocks:
    """Builds the page and its API, without serving them, for one captioner or several to choose from."""
    authors = by_name([captioners] if isinstance(captioners, Captioner) else captioners)
    # Analytics are turned off by argument, to leave the user's environment alone.
    with Page(title="vlcap", analytics_enabled=False, delete_cache=(KEPT // 4, KEPT)) as page:
        fields = lay_out(authors)
        fields.advanced = [fields.beams, fields.length, fields.sampling, fields.temperature, fields.top_p]
        fields.figures = [fields.text, fields.tokens, fields.cost, fields.ms]
        handlers = Handlers(authors, fields.photo, fields.download)
        _connect_captions(fields, handlers)
        _connect_tabs(fields, handlers)
        # For programs: one final answer instead of a growing caption.
        gr.Button(visible=False).click(
            handlers.ask,
            inputs=[fields.photo, fields.api_budget, fields.model],
            outputs=fields.figures,
            api_name="caption",
            **LINE,
        )
        page.load(fn=None, js=BLANK, outputs=[*fields.figures, fields.table])  # Gradio would show 0
    return page.queue(max_size=MAX_WAITING, api_open=False)  # no way to a captioner but the queue


def _connect_captions(fields: SimpleNamespace, handlers: Handlers) -> None:
    """A new photo, budget, model or setting leads to a new caption."""
    changes = [fields.photo.input, fields.budget.input, fields.again.click, fields.sampling.input]
    _caption_after([*changes, fields.beams.release, fields.length.release], fields, handlers)
    for button, image in fields.examples:
        chosen = button.click(lambda image=image: (image, ""), outputs=[fields.photo, fields.table], **AT_ONCE)
        chosen.then(fn=None, js=_scroll_to("photo_and_caption"))
        _caption_after(chosen, fields, handlers)
    changed = fields.model.input(
        handlers.change,
        inputs=[fields.model, fields.budget],
        outputs=[fields.budget, fields.description, fields.table],
        **AT_ONCE,
    )
    _caption_after(changed, fields, handlers)
    fields.photo.input(fn=None, js="() => ''", outputs=fields.table)


def _caption_after(events: gr.events.Dependency | list, fields: SimpleNamespace, handlers: Handlers) -> None:
    """After these events, the caption grows; then its maps follow."""
    arguments = {
        "fn": handlers.grow,
        "inputs": [fields.photo, fields.budget, fields.model, *fields.advanced],
        "outputs": [fields.photo, fields.problem, *fields.figures, fields.kept_caption],
        "show_progress": "minimal",
        "show_progress_on": fields.text,
        **LINE,
        **PRIVATE,
    }
    if isinstance(events, list):  # always_last: a choice made while a caption is being written is not lost
        grown = gr.on(triggers=events, trigger_mode="always_last", **arguments)
    else:
        grown = events.then(**arguments)
    grown.success(
        fn=handlers.look,
        inputs=[fields.photo, fields.model, fields.kept_caption],
        outputs=[fields.kept_seen, fields.blocks, fields.word, fields.word_map],
        show_progress="hidden",
        **LINE,
        **PRIVATE,
    )
    # Next to a photo that can't be captioned, the previous photo's results must not stay.
    grown.failure(fn=None, js=BLANK, outputs=[*fields.figures, fields.table])


def _connect_tabs(fields: SimpleNamespace, handlers: Handlers) -> None:
    """Clicks on a word, on "Compare all budgets" and on "Caption all"."""
    fields.compare.click(
        handlers.all_budgets,
        inputs=[fields.photo, fields.model, *fields.advanced],
        outputs=fields.table,
        show_progress="minimal",
        **LINE,
        **PRIVATE,
    )
    fields.word.input(fn=None, js=_scroll_to("stage"))
    fields.word.input(
        handlers.look_at,
        inputs=[fields.kept_seen, fields.word],
        outputs=fields.word_map,
        show_progress="hidden",
        **AT_ONCE,
    )
    fields.caption_all.click(
        handlers.batch,
        inputs=[fields.files, fields.budget, fields.model, *fields.advanced],
        outputs=[fields.report, fields.gallery, fields.download],
        show_progress_on=fields.report,
        **LINE,
        **PRIVATE,
    )


def _scroll_to(name: str) -> str:
    """JavaScript that scrolls an element into view, which a phone needs; if it is in view, nothing moves."""
    return f"() => document.querySelector('#{name}').scrollIntoView({{block: 'nearest'}})"
