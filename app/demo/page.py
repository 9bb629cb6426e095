"""The page: its layout, and which answer of answers.py goes where."""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder
from PIL import Image

from vlcap.attention import overlay
from vlcap.batch import MAX_PHOTOS, write_csv
from vlcap.captioner import Caption, Captioner

from .answers import Author, Seen, by_name
from .example_photos import draw_examples
from .parts import Choice, Photo, Photos, refusal
from .pictures import budgets_table, rows_table

MAX_WAITING = 16  # who comes later is told that the queue is full
KEPT = 24 * 3600  # seconds that an uploaded photo is kept at most
SESSION = 3600  # seconds that a session's maps are kept

INTRODUCTION = """\
# Photo captions from few tokens
Drop a photo. A [LookupViT](https://arxiv.org/abs/2407.12753) encoder compresses it into a few tokens, and a small text
decoder writes the caption from these alone. Few are enough: choose how few.
"""

# The model is one and the machine is small: whoever asks it waits in one line, which is bounded.
LINE = {"concurrency_id": "model", "concurrency_limit": 1}


def build(captioners: Captioner | Sequence[Captioner]) -> gr.Blocks:
    """The page and its API, not yet served, for one captioner or for several to choose from."""
    authors = by_name([captioners] if isinstance(captioners, Captioner) else captioners)
    first = next(iter(authors.values()))
    longest = max(author.longest for author in authors.values())
    drawn = draw_examples()
    # Analytics are off by argument, so that the environment stays the user's.
    with gr.Blocks(title="vlcap", analytics_enabled=False, delete_cache=(3600, KEPT)) as page:
        gr.Markdown(INTRODUCTION)
        with gr.Row(equal_height=False):
            with gr.Column():
                photo = Photo(
                    label="Photo", height=320, buttons=["fullscreen"], sources=["upload", "webcam", "clipboard"])
                with gr.Row(elem_id="examples"):
                    examples = [gr.Button(name, icon=_saved(image), size="sm") for name, image in drawn.items()]
            with gr.Column():
                model = gr.Dropdown(list(authors), label="Model", visible=len(authors) > 1)
                budget = Choice(**_budgets(first), value=first.default_budget, label="Tokens the decoder reads")
                text = gr.Textbox(label="Caption", lines=2, interactive=False, elem_id="caption")
                with gr.Row():
                    tokens, cost, ms = (
                        gr.Number(label=label, placeholder="-", interactive=False, min_width=90)
                        for label in ("Tokens", "Encoder GFLOPs", "Milliseconds")
                    )
                with gr.Accordion("Advanced", open=False):
                    beams = gr.Slider(1, 8, value=_own(first, "num_beams", 1), step=1, label="Beams")
                    length = gr.Slider(1, longest, value=first.longest, step=1, label="Longest caption, in pieces")
                    sampling = gr.Checkbox(label="Sample: another caption each time, without beams")
                    temperature = gr.Slider(0.1, 2, value=0.8, step=0.1, label="Temperature of sampling")
                    top_p = gr.Slider(0.05, 1, value=0.95, step=0.05, label="Top p of sampling")
                    again = gr.Button("Caption again", size="sm")
        description = gr.Markdown(first.description)
        with gr.Tab("All budgets"):
            compare = gr.Button("Compare all budgets", variant="primary")
            table = gr.HTML(label="Budgets")
        with gr.Tab("What it looked at"):
            gr.Markdown("Bright is where most was looked at. A map says where numbers came from, not why.")
            with gr.Row():
                with gr.Column():
                    word = Choice(
                        choices=[], label="Words of the caption", info="Choose one to see what lay behind it.")
                    word_map = gr.Image(
                        label="What lay behind the word", interactive=False, buttons=["fullscreen"],
                        elem_id="word_map")
                blocks = gr.Gallery(
                    label="What each block of the encoder gathered from", height="auto", buttons=[],
                    interactive=False, object_fit="contain", elem_classes="gallery")
        with gr.Tab("Many photos"):
            files = Photos(
                label=f"Photos, or zip archives of them; {MAX_PHOTOS} at a time", file_count="multiple",
                file_types=["image", ".zip"])
            with gr.Row():
                caption_all = gr.Button("Caption all", variant="primary")
                download = gr.DownloadButton("Download CSV", interactive=False)
            report = gr.HTML(label="Captions of all photos")
            gallery = gr.Gallery(
                label="Photos with captions", height="auto", buttons=[], interactive=False, object_fit="contain",
                elem_classes="gallery")
        kept_caption, kept_seen = gr.State(time_to_live=SESSION), gr.State(time_to_live=SESSION)

        def grow(photo: Image.Image | None, budget: int | None, model: str, *advanced: Any) -> Iterator[tuple]:
            if photo is None:
                yield "", None, None, None, None
                return
            author = authors[model]
            for found in author.stream(photo, budget, author.settings(*advanced)):
                yield *_shown(author, found), found

        def ask(photo: Image.Image | None, budget: int | None, model: str) -> tuple:
            if photo is None:
                raise refusal("A photo is needed.")
            author = authors[model]
            return _shown(author, author.caption(photo, budget, {}))

        def all_budgets(photo: Image.Image | None, model: str, *advanced: Any) -> Iterator[str]:
            if photo is None:
                raise refusal("Choose a photo first.")
            author, found = authors[model], []
            for side in author.budgets:
                found.append(author.caption(photo, side, author.settings(*advanced)))
                yield budgets_table(found, author.gflops, pending=len(author.budgets) - len(found))

        def look(photo: Image.Image | None, model: str, caption: Caption | None) -> tuple:
            author = authors[model]
            if photo is None or caption is None or not author.has_maps:
                return None, [], gr.update(choices=[], value=None), None
            seen = author.look(photo, caption)
            pictures = [
                (overlay(seen.photo, block), f"Block {number}") for number, block in enumerate(seen.looks.blocks, 1)]
            words = [(name, place) for place, name in enumerate(seen.looks.words)]
            chosen = 0 if words else None
            return seen, pictures, gr.update(choices=words, value=chosen), look_at(seen, chosen)

        def look_at(seen: Seen | None, word: int | None) -> Image.Image | None:
            if seen is None or word is None:
                return None
            if not 0 <= word < len(seen.looks.words):
                raise refusal("The caption has no such word.")
            return overlay(seen.photo, seen.looks.maps[word])

        def batch(
                files: list[tuple[str, Path]], budget: int | None, model: str, *advanced: Any,
                progress: gr.Progress = gr.Progress(),  # noqa: B008  (Gradio finds it by this default)
        ) -> tuple:
            if not files:
                raise refusal("Choose photos or a zip archive first.")
            author, rows = authors[model], []
            for row, total in author.batch(files, budget, author.settings(*advanced)):
                rows.append(row)
                progress((len(rows), total), desc="Captioning", unit="photos")
            pictures = [(row.thumbnail, row.caption) for row in rows if not row.problem]
            with open(Path(_folder(), "captions.csv"), "w", newline="", encoding="utf-8-sig") as file:
                write_csv(rows, file)
            return rows_table(rows), pictures, gr.update(value=file.name, interactive=True)

        def change(model: str, budget: int | None) -> tuple:
            author = authors[model]
            side = budget if budget in author.budgets else author.default_budget
            return gr.update(**_budgets(author), value=side), author.description, ""

        advanced = [beams, length, sampling, temperature, top_p]
        live = [text, tokens, cost, ms, kept_caption]
        seen_outputs = [kept_seen, blocks, word, word_map]
        private = {"api_visibility": "private"}

        def captioned_after(events: gr.events.Dependency | list, **options: Any) -> None:
            """The caption grows after these events, then comes what lay behind it."""
            arguments = {"fn": grow, "inputs": [photo, budget, model, *advanced], "outputs": live, **LINE, **private}
            arguments |= {"show_progress": "minimal", "show_progress_on": text}
            if isinstance(events, list):  # always_last: else a choice made while a caption is under way would be lost
                grown = gr.on(triggers=events, trigger_mode="always_last", **arguments)
            else:
                grown = events.then(**arguments)
            grown.success(
                fn=look, inputs=[photo, model, kept_caption], outputs=seen_outputs, show_progress="hidden", **LINE,
                **private)
            # What stands beside a photo that can't be read must not be the last one's.
            grown.failure(fn=None, js=f"() => {BLANK}", outputs=[text, tokens, cost, ms, table])

        captioned_after([photo.input, budget.input, again.click, sampling.input, beams.release, length.release])
        for button, image in zip(examples, drawn.values(), strict=True):
            captioned_after(button.click(lambda image=image: image, outputs=photo, **private))
        captioned_after(model.input(change, inputs=[model, budget], outputs=[budget, description, table], **private))
        photo.input(fn=None, js="() => ''", outputs=table)
        compare.click(all_budgets, inputs=[photo, model, *advanced], outputs=table, show_progress="minimal", **LINE,
                      **private)
        word.input(look_at, inputs=[kept_seen, word], outputs=word_map, show_progress="hidden", **private)
        caption_all.click(batch, inputs=[files, budget, model, *advanced], outputs=[report, gallery, download],
                          show_progress_on=report, **LINE, **private)
        # Programs ask here, and get one answer instead of a growing one.
        gr.Button(visible=False).click(
            ask, inputs=[photo, budget, model], outputs=[text, tokens, cost, ms], api_name="caption", **LINE)
        page.load(fn=None, js=f"() => {BLANK}", outputs=[text, tokens, cost, ms, table])  # Gradio would show 0
    return page.queue(max_size=MAX_WAITING)


BLANK = "['', null, null, null, '']"


def _shown(author: Author, caption: Caption) -> tuple[str, int, float, int]:
    return caption.text, caption.budget**2, author.gflops[caption.budget], round(caption.ms)


def _budgets(author: Author) -> dict[str, Any]:
    """What `Choice` offers for a model."""
    encoder = author.captioner.model.encoder.model
    patches = f"The photo has {(author.captioner.pixels.size // encoder.patch_size) ** 2} patches. " if hasattr(
        encoder, "patch_size") else ""
    choices = [(str(side**2), side) for side in author.budgets]
    return {"choices": choices, "info": f"{patches}Fewer tokens are cheaper, more keep more of it."}


def _own(author: Author, name: str, default: Any) -> Any:
    return author.captioner.generation().get(name, default)


def _folder() -> str:
    """A new folder among Gradio's temporary files, which end with the demo."""
    Path(get_upload_folder()).mkdir(parents=True, exist_ok=True)
    return tempfile.mkdtemp(dir=get_upload_folder())


def _saved(image: Image.Image) -> str:
    icon = image.copy()
    icon.thumbnail((144, 108))
    path = Path(_folder(), "example.png")
    icon.save(path)
    return str(path)
