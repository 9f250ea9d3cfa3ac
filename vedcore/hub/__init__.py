"""The hub, through huggingface_hub: folders of one commit are fetched, folders are pushed, cached files are verified.

A cached file is a link to ``../../blobs/<etag>``. The etag is a hash: sha256 for files in large file storage, git's
sha1 for the others. New and small files are hashed here. Large cached files are hashed by the loader while it reads
them, and compared with `expected_hashes`. Retries and timeouts are huggingface_hub's.
"""

from __future__ import annotations

from vedcore.hub.cache import Damage, expected_hashes, repair, verify
from vedcore.hub.fetching import FetchOptions, fetch_folder, from_hub
from vedcore.hub.names import check_subfolder, is_hub_name, masked, parse_repo
from vedcore.hub.pushing import push_folder

__all__ = [
    "Damage",
    "FetchOptions",
    "check_subfolder",
    "expected_hashes",
    "fetch_folder",
    "from_hub",
    "is_hub_name",
    "masked",
    "parse_repo",
    "push_folder",
    "repair",
    "verify",
]
