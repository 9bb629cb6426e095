"""Finds a captioner folder, or a decoder's, on the disk or on the Hugging Face hub."""

from collections.abc import Sequence
from pathlib import Path

from ..files.writing import digest_file

FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "README.md",
    "budget_auto.json",
)
DECODER_FILES = (
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)


def find_folder(name: str, wanted: Sequence[str] = FILES) -> Path:
    """The folder of this name, or a download of some files from the Hugging Face hub's repository of this name.

    Args:
        name: Folder or hub id.
        wanted: Names of the files to download.

    Raises:
        OSError, ValueError: There is neither; these are Hugging Face's errors.
    """
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(name, allow_patterns=list(wanted)))


def digests_of(folder: Path) -> dict[str, str]:
    """The files of a captioner folder, each with the start of its SHA-256: what tells captioners apart."""
    return {name: digest_file(folder / name)[:16] for name in FILES if (folder / name).is_file()}
