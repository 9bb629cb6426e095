"""Byte-level vocabularies: the same pieces and texts as before they got our ids, words, and what is refused."""

import json
import shutil
import subprocess
from types import SimpleNamespace

import pytest
from tokenizers import Tokenizer

from tests.support.gpt2_folder import END, TEXTS, write_gpt2
from vlcap.attention import group_pieces
from vlcap.export.site import PAGE, pieces_of
from vlcap.model.byte_level import BYTES, ByteVocabulary, is_byte_level, piece_texts
from vlcap.model.pretrained_decoder import load_pretrained
from vlcap.model.tokenizer import EOS, PAD, UNK, TokenizerError, check_letters, load_tokenizer, one_line

HARD = [
    *TEXTS[:3],
    "A Dog's  life,   (in 2 parts)!?",
    " begins and ends with a space ",
    "🙂🏳️‍🌈 and 漢字, naïve",
    "two\nlines\tand a tab",
    "",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("gpt2")


@pytest.fixture(scope="module")
def original(folder):
    return write_gpt2(folder)[1]


@pytest.fixture(scope="module")
def tokenizer(original, folder):
    return load_pretrained(folder, max_length=24)[1]


@pytest.mark.parametrize("text", HARD)
def test_pieces_and_texts_are_the_original_ones(original, tokenizer, text):
    ids = tokenizer(text)["input_ids"]
    assert ids[-1] == EOS
    assert tokenizer.convert_ids_to_tokens(ids[:-1]) == original.tokenize(text)
    assert tokenizer.decode(ids, skip_special_tokens=True) == original.decode(original(text)["input_ids"]) == text


def test_special_pieces_have_our_ids(original, tokenizer):
    assert tokenizer.convert_ids_to_tokens([PAD, EOS, UNK]) == ["<pad>", END, "<unk>"]
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (PAD, EOS, UNK)
    assert len(tokenizer) == len(original) + 2 and is_byte_level(tokenizer.backend_tokenizer)


def test_saved_and_loaded_is_the_same(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    again = load_tokenizer(tmp_path)
    assert again.get_vocab() == tokenizer.get_vocab()
    plain = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))  # as ONNX Runtime's engine reads it
    for text in HARD:
        ids = tokenizer(text, truncation=True, max_length=12)["input_ids"]
        assert again(text, truncation=True, max_length=12)["input_ids"] == ids and len(ids) <= 12 and ids[-1] == EOS
        assert plain.decode(ids) == again.decode(ids, skip_special_tokens=True)


def test_files_that_a_tokenizer_names_are_not_opened(tokenizer, tmp_path):
    """Hugging Face's loader takes a text in the place of the pieces for the name of a file with them."""
    tokenizer.save_pretrained(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    (tmp_path / "elsewhere.json").write_text(json.dumps(content["model"]["vocab"]))
    content["model"] |= {"vocab": str(tmp_path / "elsewhere.json"), "merges": []}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(TokenizerError, match="tokenizer is damaged"):
        load_tokenizer(tmp_path)


def test_words_have_their_letters_back(tokenizer):
    """A letter of several bytes lies in several pieces, and an emoji in four."""
    text = "a café 🙂, 漢字 naïve"
    texts = piece_texts(tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"][:-1]))
    groups = group_pieces(texts)
    assert [word for word, _ in groups] == text.split()
    assert [place for _, places in groups for place in places] == [*range(len(texts))]
    assert piece_texts(["Ġ", "Ġ", "a", "ĊĊ", "Ã"]) == ["▁", "▁", "a", "▁", "\ufffd"] and piece_texts([]) == []


@pytest.mark.skipif(shutil.which("node") is None, reason="node runs the page's JavaScript; it is not installed")
def test_the_pages_javascript_reads_them_too(tokenizer):
    plain = tokenizer.backend_tokenizer
    pieces = pieces_of(SimpleNamespace(tokenizer=plain, settings={"vocab_size": len(tokenizer)}))
    texts = [*HARD, "two\n lines\r\n, and an emoji 🙂", "a \ufeff mark"]
    rows = [tokenizer(text)["input_ids"][:-1] for text in texts]
    rows.append(rows[5][:2])  # it ends within a letter
    program = f"""
        import {{textOf, wordsOf}} from {json.dumps((PAGE / "tokenizer.js").as_uri())};
        const pieces = {json.dumps(pieces)}, rows = {json.dumps(rows)};
        const words = ids => wordsOf(ids, ids.map(() => 0), pieces).map(word => word.text);
        console.log(JSON.stringify(rows.map(ids => [textOf(ids, pieces), words(ids)])));"""
    done = subprocess.run(
        ["node", "--input-type=module", "-"], input=program, capture_output=True, text=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    for ids, (text, words) in zip(rows, json.loads(done.stdout), strict=True):
        assert text == one_line(plain.decode(ids))
        assert words == [word for word, _ in group_pieces(piece_texts(tokenizer.convert_ids_to_tokens(ids)))]


def test_a_caption_is_one_line():
    assert one_line(" a dog\r\n\u2028 runs \n") == "a dog runs" and one_line("") == ""


def test_only_the_pieces_of_some_texts(folder, original):
    """They are cut as before; other texts can still be written."""
    whole = ByteVocabulary.read(folder)
    part = load_pretrained(folder, 24, TEXTS[:6])[1]
    assert 256 < len(part) < len(original) - 20
    for text in TEXTS[:6]:
        assert part.tokenize(text) == original.tokenize(text)
    for text in HARD:
        assert part.decode(part(text)["input_ids"], skip_special_tokens=True) == text
    assert len(whole.used_by([]).pieces) == 256 + 1 and not whole.used_by([]).merges


def test_the_older_files(folder, original, tmp_path):
    """vocab.json and merges.txt, which some of the family still have."""
    content = json.loads((folder / "tokenizer.json").read_text())
    (tmp_path / "vocab.json").write_text(json.dumps(content["model"]["vocab"] | {END: len(original) - 1}))
    merges = [" ".join(merge) for merge in content["model"]["merges"]]
    (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    whole, older = ByteVocabulary.read(folder), ByteVocabulary.read(tmp_path)
    assert (older.pieces, older.merges) == (whole.pieces, whole.merges)
    (tmp_path / "merges.txt").unlink()
    with pytest.raises(TokenizerError, match=r"no tokenizer.json in it, and merges.txt cannot be read"):
        ByteVocabulary.read(tmp_path)


def damaged(content: dict, how: str) -> None:
    model = content["model"]
    if how == "words":
        model["type"] = "WordLevel"
    elif how == "split":
        content["pre_tokenizer"] = {"type": "Split", "pattern": {"Regex": "(a+)+b"}, "behavior": "Isolated"}
    elif how == "normalizer":
        content["normalizer"] = {"type": "Lowercase"}
    elif how == "suffix":
        model["end_of_word_suffix"] = "</w>"
    elif how == "twice":
        model["vocab"]["a"] = model["vocab"]["b"]
    elif how == "bytes":
        del model["vocab"]["a"]
    elif how == "merge":
        model["merges"].append(["zq", "qz"])
    elif how == "no merges":
        del model["merges"]
    elif how == "odd merge":
        model["merges"].append([["a"], "b"])
    elif how == "odd id":
        model["vocab"]["a"] = -1
    elif how == "list":
        content["added_tokens"] = [3]
    elif how == "long":
        model["vocab"]["a" * 600] = 10_000


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("words", r"not the byte-level one of GPT-2 \(model WordLevel\)"),
        ("split", r"not the byte-level one of GPT-2 \(pre_tokenizer Split\)"),
        ("normalizer", r"not the byte-level one of GPT-2 \(normalizer Lowercase\)"),
        ("suffix", r"end_of_word_suffix </w>"),
        ("twice", "two pieces with the same id"),
        ("bytes", "lacks 1 of the 256 bytes"),
        ("merge", "merges 'zq' and 'qz'"),
        ("no merges", "tokenizer is damaged"),
        ("odd merge", "tokenizer is damaged"),
        ("odd id", "a piece 'a' with the id -1"),
        ("list", "tokenizer is damaged"),
        ("long", "a piece of 600 letters"),
    ],
)
def test_another_kind_is_refused_in_one_line(folder, original, tmp_path, how, said):
    content = json.loads((folder / "tokenizer.json").read_text())
    damaged(content, how)
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(TokenizerError, match=said) as error:
        ByteVocabulary.read(tmp_path)
    assert "\n" not in str(error.value)


def test_a_vocabulary_of_the_size_of_gpt2s_fits():
    """50,257 pieces of 6.4 letters on average, and as many merges."""
    pieces = {f"{number:05}{'x' * (number % 4)}": number for number in range(50_257)}
    merges = [[name[:3], name[3:]] for name in pieces]
    check_letters("tokenizer.json", {"model": {"vocab": pieces, "merges": merges}})


def test_every_byte_has_a_letter():
    assert sorted(BYTES.values()) == [*range(256)]
