"""Finds a captioner folder, on the disk or on the Hugging Face hub."""

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


def find_folder(name: str) -> Path:
    """The folder of this name, or a download of `FILES` from the Hugging Face hub's repository of this name.

    Raises:
        OSError, ValueError: There is neither; these are Hugging Face's errors.
    """
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(name, allow_patterns=list(FILES)))


def digests_of(folder: Path) -> dict[str, str]:
    """The files of a captioner folder, each with the start of its SHA-256: what tells captioners apart."""
    return {name: digest_file(folder / name)[:16] for name in FILES if (folder / name).is_file()}
