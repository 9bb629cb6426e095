"""Parts of the static page's JavaScript, run in headless Chromium and compared with what they follow."""

import base64
import io
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from tests.support.static_site import served
from vlcap.attention import words_of
from vlcap.captioner import BUNDLED
from vlcap.data.pixels import FILTERS, PixelConfig
from vlcap.engines.onnx import OnnxDecoding, OnnxEngine
from vlcap.export.site import FILTERS as KNOWN
from vlcap.export.site import PAGE, pieces_of
from vlcap.model.search import Search, find_captions
from vlcap.model.tokenizer import EOS, PAD, START, UNK

pytestmark = pytest.mark.slow

MARKS = {"pad": PAD, "eos": EOS, "unk": UNK, "start": START}
PIECES, LONGEST = 40, 12


@pytest.fixture(scope="module")
def tab(browser, tmp_path_factory):
    """An empty page beside the modules."""
    with served(PAGE) as server:
        tab = browser.new_page()
        tab.goto(f"{server.url}style.css")
        yield tab
        tab.close()


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


DECODED = "const bytes = text => Uint8Array.from(atob(text), letter => letter.charCodeAt(0));"
TEXT = "const text = array => btoa(Array.from(array, value => String.fromCharCode(value)).join(''));"


@pytest.mark.parametrize("name", KNOWN)
def test_resizing_equals_pillows(tab, name):
    random = np.random.default_rng(7)
    cases = []
    for old, new in (
        ((61, 47), (24, 24)),
        ((13, 50), (40, 9)),
        ((30, 30), (30, 12)),
        ((20, 33), (7, 33)),
        ((5, 3), (5, 3)),
    ):
        values = random.integers(0, 2, (old[1], old[0], 4), dtype=np.uint8) * 255  # black and white overshoot most
        values[::2] = random.integers(0, 256, values[::2].shape, dtype=np.uint8)
        cases.append((values, old, new))
    found = tab.evaluate(
        f"""async ([cases, name]) => {{
            {DECODED} {TEXT}
            const {{resize}} = await import('/resize.js');
            return cases.map(([rgba, old, size]) => {{
                const values = bytes(rgba);
                const rows = (top, count) => values.subarray(top * old[0] * 4, (top + count) * old[0] * 4);
                return text(resize(rows, old, size, name, 7));
            }});
        }}""",
        [[[encoded(values.tobytes()), old, new] for values, old, new in cases], name],
    )
    for (values, _, new), each in zip(cases, found, strict=True):
        meant = Image.fromarray(values[..., :3]).resize(new, FILTERS[name])
        assert base64.b64decode(each) == meant.tobytes()


@pytest.mark.parametrize(("mode", "kept"), [("squash", 1.0), ("center", 1.0), ("center", 0.875), ("squash", 0.9)])
def test_a_file_is_cut_as_in_python(tab, mode, kept):
    """From the file of a photo to what the encoder reads, equal to the bit for a format without loss."""
    config = PixelConfig(32, (0.5,) * 3, (0.5,) * 3, "bicubic", kept, mode)
    values = np.random.default_rng(3).integers(0, 256, (2, 45, 71, 3), dtype=np.uint8)
    for image in (Image.fromarray(values[0]), Image.fromarray(values[1]).transpose(Image.Transpose.ROTATE_90)):
        image.save(file := io.BytesIO(), "PNG")
        found = tab.evaluate(
            f"""async ([file, config]) => {{
                {DECODED} {TEXT}
                const {{cut, decode}} = await import('/photo.js');
                return text(cut(await decode(new Blob([bytes(file)])), config));
            }}""",
            [encoded(file.getvalue()), config.to_dict()],
        )
        assert base64.b64decode(found) == config.cut(image).tobytes()


class Table:
    """A decoder that reads its logits from a table by step and last piece: (T, V, V)."""

    candidates = OnnxDecoding.candidates
    random = np.random.default_rng(0)

    def __init__(self, table):
        self.table, self.steps, self.vocab_size = table, 0, PIECES

    def __len__(self):
        return 1

    def step(self, pieces):
        self.steps += 1
        return np.stack([self.table[self.steps - 1, piece] for piece in pieces[0]])[None]

    def fork(self, parents):
        """The scores depend on each beam's own last piece alone."""

    def keep(self, photos):
        """Only one photo is searched."""


SEARCHES = [
    Search(LONGEST),
    Search(LONGEST, repetition_penalty=1.4),
    Search(LONGEST, num_beams=4, repetition_penalty=1.4, length_penalty=0.7),
    Search(LONGEST, num_beams=3, min_new_tokens=5, length_penalty=2.0, early_stopping="never"),
    Search(LONGEST, num_beams=5, length_penalty=-1.0, early_stopping=True),
    Search(4, num_beams=2, length_penalty=0.0, repetition_penalty=0.8),
]


@pytest.mark.parametrize("search", SEARCHES, ids=lambda search: f"{search.num_beams}-{search.length_penalty}")
def test_the_search_is_pythons(tab, search):
    random = np.random.default_rng(11)
    tables = (random.normal(size=(6, LONGEST, PIECES, PIECES)) * 2).astype(np.float32)
    tables[..., EOS] += 2  # otherwise few captions would end before the limit
    found = tab.evaluate(
        f"""async ([content, count, search, marks, pieces]) => {{
            {DECODED}
            const {{findCaption}} = await import('/search.js');
            const tables = new Float32Array(bytes(content).buffer), size = tables.length / count;
            const all = [];
            for (let number = 0; number < count; number++) {{
                let step = 0;
                const table = tables.subarray(number * size, (number + 1) * size);
                const row = piece => table.subarray((step * pieces + piece) * pieces).subarray(0, pieces);
                all.push(await findCaption({{
                    step: async last => {{
                        const logits = new Float32Array(last.length * pieces);
                        last.forEach((piece, beam) => logits.set(row(piece), beam * pieces));
                        step++;
                        return logits;
                    }},
                    fork: () => {{}},
                }}, search, marks, pieces));
            }}
            return all.map(({{ids, logprobs}}) => ({{ids, logprobs}}));
        }}""",
        [encoded(tables.tobytes()), len(tables), asdict(search), MARKS, PIECES],
    )
    for table, each in zip(tables, found, strict=True):
        [meant] = find_captions(Table(table), search)
        assert tuple(each["ids"]) == meant.ids
        assert each["logprobs"] == pytest.approx(meant.logprobs, abs=1e-4)


def test_text_and_words_are_pythons(tab):
    engine = OnnxEngine(BUNDLED, threads=1)
    rows = [*np.random.default_rng(5).integers(0, 4000, (200, 9)).tolist(), [], [UNK], [5, UNK, 6], [PAD, 7, EOS]]
    pieces = pieces_of(engine)
    found = tab.evaluate(
        """async ([rows, pieces]) => {
            const {textOf, wordsOf} = await import('/tokenizer.js');
            const words = ids => wordsOf(ids, ids.map(() => -1), pieces);
            return rows.map(ids => [textOf(ids, pieces), words(ids).map(word => word.text)]);
        }""",
        [rows, pieces],
    )
    captioner = SimpleNamespace(engine=engine)
    assert found == [[engine.text(ids), [word for word, _ in words_of(captioner, ids)]] for ids in rows]
