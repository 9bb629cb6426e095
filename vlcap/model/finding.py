"""Finds a captioner folder, or a decoder's, on the disk or on the Hugging Face hub."""

from collections.abc import Sequence
from pathlib import Path

from ..errors import reason
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
        name: Folder, or hub id, with @REVISION after it for another than the newest.
        wanted: Names of the files to download.

    Raises:
        OSError: There is neither. The message has Hugging Face's reason.
    """
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download

    identifier, _, revision = name.partition("@")
    try:
        return Path(snapshot_download(identifier, revision=revision or None, allow_patterns=list(wanted)))
    except (OSError, ValueError) as error:  # no such name, no such repository, no network
        raise OSError(f"there is no such folder, and not on the Hugging Face hub either: {reason(error)}") from error


def digests_of(folder: Path) -> dict[str, str]:
    """The files of a captioner folder, each with the start of its SHA-256: what tells captioners apart."""
    return {name: digest_file(folder / name)[:16] for name in FILES if (folder / name).is_file()}
