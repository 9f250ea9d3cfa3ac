"""The hub, through huggingface_hub: folders of one commit down, folders up, and a cache whose bytes are checked.

A file of the cache is a link to ``../../blobs/<etag>``, and an etag is a hash: sha256 of files in large file storage,
git's sha1 of the others. Fresh and small files are hashed here; a loader hashes large ones while it reads them, with
what `expected_hashes` gives. Tries and timeouts are the library's.
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
