"""The tokenizer: SentencePiece's ids, through Hugging Face, in both directions."""

import pytest

from tests.support import drawings
from vlcap.model.tokenizer import EOS, PAD, UNK, load_tokenizer, normalize_caption, train_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(drawings.captions(60), vocab_size=60)


@pytest.mark.parametrize("text", [*drawings.captions(2), "A  RED   square", "", "a blue circle?!"])
def test_there_and_back(tokenizer, text):
    ids = tokenizer(text)["input_ids"]
    assert ids[-1] == EOS
    if UNK not in ids:
        assert normalize_caption(tokenizer.decode(ids, skip_special_tokens=True)) == normalize_caption(text)


def test_saved_and_loaded_is_the_same(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    again = load_tokenizer(tmp_path)
    assert len(again) == len(tokenizer)
    for text in [*drawings.captions(8), "überraschung", "🙂"]:
        assert again(text)["input_ids"] == tokenizer(text)["input_ids"]


def test_ids_are_sentencepieces_own(tmp_path):
    import sentencepiece

    corpus = tmp_path / "captions.txt"
    corpus.write_text("\n".join(map(normalize_caption, drawings.captions(60))))
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus),
        model_prefix=str(tmp_path / "spiece"),
        vocab_size=60,
        model_type="unigram",
        normalization_rule_name="nmt_nfkc_cf",
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
    )
    processor = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "spiece.model"))
    tokenizer = train_tokenizer(drawings.captions(60), vocab_size=60)
    assert len(tokenizer) == processor.vocab_size()
    for text in [*drawings.captions(8), "A Red SQUARE", "purple zebra", "a  b", "naïve ①", ""]:
        assert tokenizer(text)["input_ids"] == [*processor.encode(text), EOS], text


def test_special_ids(tokenizer):
    assert tokenizer.convert_tokens_to_ids(["<pad>", "</s>", "<unk>"]) == [PAD, EOS, UNK]
    assert UNK in tokenizer("a 🙂")["input_ids"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A dog runs .", "a dog runs"),
        ("  Two men,\n talking.  ", "two men, talking"),
        ("a man 's hat , red .", "a man's hat, red"),
        ("What?", "what?"),
    ],
)
def test_normalize_caption(text, expected):
    assert normalize_caption(text) == expected


def test_case_is_kept_where_that_is_asked():
    assert normalize_caption("A Dog runs .", lowercase=False) == "A Dog runs"
    tokenizer = train_tokenizer([text.title() for text in drawings.captions(60)], vocab_size=60, lowercase=False)
    ids = tokenizer("A Red Square")["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "A Red Square" and UNK not in ids
