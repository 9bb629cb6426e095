"""Uploads captioners to the Hugging Face hub. `Captioner.push_to_hub` is the way in."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import RemoteEntryNotFoundError

from ..errors import CaptionerError, reason
from .card import CARD, About, is_ours, make_card
from .folder import Published, copy_rule, save_files


def push(
    captioner: Published,
    repo_id: str,
    private: bool | None = None,
    token: str | bool | None = None,
    commit_message: str = "Upload captioner",
    dtype: torch.dtype | None = None,
    license: str | None = None,
    metrics: Sequence[str | Path] = (),
) -> str:
    """Uploads a captioner and its card in one commit. A card in the repository that a person wrote stays.

    Args:
        captioner: The captioner.
        repo_id: Its ID on the hub. The repository is made if it does not exist.
        private: Whether a new repository is private; None for the default of its owner.
        token: Token of the hub; None for the one of `hf auth login` or $HF_TOKEN.
        commit_message: Message of the commit.
        dtype: As for `vlcap.publishing.folder.save`, and so are the others.
        license: License of the weights.
        metrics: Files of scores.

    Returns:
        The address of the commit.

    Raises:
        CaptionerError: As for `save`; or the hub refuses, or cannot be reached.
    """
    model, tokenizer = captioner.model, captioner.tokenizer
    card = make_card(captioner.facts, About(repo_id, captioner.folder, license, metrics))
    api = HfApi(token=token, library_name="vlcap")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        save_files(model, tokenizer, folder, dtype)
        copy_rule(captioner.folder, folder)
        (folder / CARD).write_text(card, encoding="utf-8")
        try:
            repository = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
            names = sorted(path.name for path in folder.iterdir())
            if _has_a_persons_card(api, repository):
                names.remove(CARD)
            operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=folder / name) for name in names]
            return api.create_commit(repository, operations=operations, commit_message=commit_message).commit_url
        except Exception as error:  # the hub's client raises its own errors and those of its HTTP library
            raise CaptionerError(f"{repo_id}: not uploaded: {reason(error)}") from error


def _has_a_persons_card(api: HfApi, repository: str) -> bool:
    """Whether the repository has a README.md that is not one of ours."""
    try:
        path = Path(api.hf_hub_download(repository, CARD))
    except RemoteEntryNotFoundError:
        return False
    return not is_ours(path.read_text(encoding="utf-8", errors="replace"))
