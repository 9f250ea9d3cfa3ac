"""Upload of a folder to the hub, as one commit."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from vedcore.errors import CheckpointUnsafeError, HubError
from vedcore.hub.cache import etag_of
from vedcore.hub.failures import with_hub_errors
from vedcore.hub.names import check_repo, check_revision, masked

__all__ = ["push_folder"]


def push_folder(
    folder: str | os.PathLike[str],
    repo: str,
    *,
    revision: str | None = None,
    private: bool | None = None,
    commit_message: str = "Upload model",
    create_pr: bool = False,
    token: str | bool | None = None,
) -> str:
    """Upload a folder's files as one commit; a repo that does not exist is created.

    Args:
        folder: its regular files are uploaded, but for those whose names start with a dot.
        repo: ``org/name``.
        revision: the branch; None is ``main``.
        private: whether a repo that is created is private; None is its owner's default.
        commit_message: the title of the commit.
        create_pr: open a pull request instead of changing the branch.
        token: as huggingface_hub takes it; None is ``HF_TOKEN`` or the login's.

    Returns:
        The address of the commit, or of the pull request.

    Raises:
        HubError: no right to write, no answer, nothing to upload.
        CheckpointUnsafeError: a link in the folder, which would publish a file outside the folder.
    """
    token = masked(token)
    check_repo(repo)
    if revision is not None:
        check_revision(revision)
    try:
        entries = sorted(path for path in Path(folder).iterdir() if path.is_file() and not path.name.startswith("."))
    except OSError as error:
        entries, reason = [], (error.strerror or str(error)).lower()
    else:
        reason = "no files in it"
    for path in entries:
        if path.is_symlink() and etag_of(path) is None:
            raise CheckpointUnsafeError("a link", path=path, hint="replace it with a copy of the file")
    if not entries:
        raise HubError(reason, path=folder, hint="name the folder that save_pretrained wrote")
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(token=token)
    with_hub_errors(partial(api.create_repo, repo, private=private, exist_ok=True), repo)
    additions = [CommitOperationAdd(path.name, path) for path in entries]
    # not upload_folder, which makes several commits where there are many files
    commit = with_hub_errors(
        partial(
            api.create_commit, repo, additions, commit_message=commit_message, revision=revision, create_pr=create_pr
        ),
        repo,
        revision or "main",
    )
    return str(commit.pr_url or commit.commit_url)
