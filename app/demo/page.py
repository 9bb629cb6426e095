"""The page: the fields of layout.py, connected to the functions of handlers.py."""

import json
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import gradio as gr

from vlcap.captioner import Captioner

from .answers import by_name
from .handlers import EMPTY, Handlers
from .layout import lay_out
from .parts import refusal
from .uploads import KEPT

MAX_WAITING = 16  # further requests get "Queue is full"

# One model on a small machine: all requests for captions share one bounded queue.
LINE = {"concurrency_id": "model", "concurrency_limit": 1}
PRIVATE = {"api_visibility": "private"}
AT_ONCE = {"queue": False, **PRIVATE}  # requests that need no model skip the queue
UNFIT = "These are not values of the page's fields: reload the page."
BLANK = f"() => {json.dumps(list(EMPTY))}"  # JavaScript that empties caption, maps of blocks, and table
# JavaScript that shows another file in place of the photo that the browser cannot show, or none, while it is there: an
# answer comes late, and the visitor may have chosen another photo meanwhile.
REPLACE = """(told, photo) => {
  const found = told ? JSON.parse(told) : null;
  return found && photo?.path === found.of ? found.file : photo;
}"""
# JavaScript that keeps, for this tab, the name of the photo's file here and the settings; and that brings them back
# after a reload, if the file still exists. The photo itself is not kept. page.js presses the button for it.
SAVE = "(...values) => sessionStorage.setItem('vlcap', JSON.stringify(values))"
FORGET = "() => sessionStorage.removeItem('vlcap')"
RESTORE = """async (...values) => {
  const saved = JSON.parse(sessionStorage.getItem('vlcap'));
  if (!saved?.[0] || saved.length !== values.length) return values;
  const found = await fetch(saved[0].url, {method: 'HEAD'});
  return found.ok ? saved : values;
}"""


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
    for author in authors.values():
        author.warm_up()
    # Analytics are turned off by argument, to leave the user's environment alone.
    with Page(title="vlcap", analytics_enabled=False, delete_cache=(KEPT // 4, KEPT)) as page:
        fields = lay_out(authors)
        fields.advanced = [fields.beams, fields.length, fields.sampling, fields.temperature, fields.top_p]
        fields.asked = [fields.photo, fields.budget, fields.model, *fields.advanced]
        fields.of_sampling = [fields.temperature, fields.top_p, fields.again]
        fields.answer = [fields.replacement, fields.problem, fields.caption, fields.blocks, fields.table]
        handlers = Handlers(authors, fields.photo, fields.downloads)
        _connect_photo(fields, handlers)
        _connect_settings(fields, handlers)
        _connect_batch(fields, handlers)
        # For programs: one final answer instead of a growing caption.
        gr.Button(visible=False).click(
            handlers.ask,
            inputs=[fields.photo, fields.api_budget, fields.model],
            outputs=fields.api_answer,
            api_name="caption",
            **LINE,
        )
    return page.queue(max_size=MAX_WAITING, api_open=False)  # no way to a captioner but the queue


def _connect_photo(fields: SimpleNamespace, handlers: Handlers) -> None:
    """A new photo, an example, or what a reload brings back leads to a caption."""
    _keep(_answer_after([fields.photo.input], fields, handlers, new=True), fields)
    for button, path in fields.examples:
        chosen = button.click(lambda path=path: fields.photo.copy_of(path), outputs=fields.photo, **AT_ONCE)
        _keep(_answer_after(chosen, fields, handlers, new=True), fields)
        chosen.then(fn=None, js=_scroll_to("caption"))
    fields.replacement.change(fn=None, js=REPLACE, inputs=[fields.replacement, fields.photo], outputs=fields.photo)
    restored = fields.restore.click(fn=None, js=RESTORE, inputs=fields.asked, outputs=fields.asked)
    _answer_after(restored, fields, handlers, new=True)
    restored.then(
        handlers.change,
        inputs=[fields.model, fields.budget],
        outputs=[fields.budget, fields.description],
        **AT_ONCE,
    )


def _connect_settings(fields: SimpleNamespace, handlers: Handlers) -> None:
    """Another budget, model or setting leads to another caption of the same photo."""
    sliders = [fields.beams, fields.length, fields.temperature, fields.top_p]
    changes = [fields.budget.input, fields.sampling.input, *(slider.release for slider in sliders)]
    _keep(_answer_after(changes, fields, handlers), fields)
    _answer_after([fields.again.click], fields, handlers, anew=True)
    changed = fields.model.input(
        handlers.change,
        inputs=[fields.model, fields.budget],
        outputs=[fields.budget, fields.description],
        **AT_ONCE,
    )
    _keep(_answer_after(changed, fields, handlers), fields)
    fields.sampling.change(
        lambda on: [gr.update(visible=on)] * len(fields.of_sampling),
        inputs=fields.sampling,
        outputs=fields.of_sampling,
        show_progress="hidden",
        **AT_ONCE,
    )


def _answer_after(
    events: gr.events.Dependency | list,
    fields: SimpleNamespace,
    handlers: Handlers,
    new: bool = False,
    anew: bool = False,
) -> gr.events.Dependency:
    """After these events, the caption grows; then come its words and maps, and all budgets.

    Args:
        events: The events.
        fields: The fields of the page.
        handlers: The functions behind the events.
        new: Whether the photo is another one, so that nothing of the last one may stay if this one fails.
        anew: Whether captions that were written before are left aside.
    """
    arguments = {
        "fn": handlers.answer_anew if anew else handlers.answer,
        "inputs": fields.asked,
        "outputs": fields.answer,
        "show_progress": "minimal",
        "show_progress_on": fields.caption,
        **LINE,
        **PRIVATE,
    }
    if isinstance(events, list):  # always_last: a choice made while a caption is being written is not lost
        answered = gr.on(triggers=events, trigger_mode="always_last", **arguments)
    else:
        answered = events.then(**arguments)
    if new:
        answered.failure(fn=None, js=BLANK, outputs=fields.answer[2:])
    return answered


def _keep(answered: gr.events.Dependency, fields: SimpleNamespace) -> None:
    """What a reload needs is kept as soon as a photo has its caption."""
    answered.success(fn=None, js=SAVE, inputs=fields.asked)
    answered.failure(fn=None, js=FORGET)


def _connect_batch(fields: SimpleNamespace, handlers: Handlers) -> None:
    fields.caption_all.click(
        handlers.batch,
        inputs=[fields.files, fields.budget, fields.model, *fields.advanced],
        outputs=[fields.report, *fields.downloads],
        show_progress="minimal",
        show_progress_on=fields.report,
        **LINE,
        **PRIVATE,
    )


def _scroll_to(name: str) -> str:
    """JavaScript that scrolls an element into view, which a phone needs; if it is in view, nothing moves."""
    return f"() => document.querySelector('#{name}').scrollIntoView({{block: 'nearest'}})"
