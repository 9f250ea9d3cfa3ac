"""The hub, through huggingface_hub: folders of one commit down, folders up, and a cache whose bytes are checked.

A file of the cache is a link to ``../../blobs/<etag>``, and an etag is a hash: sha256 of files in large file storage,
git's sha1 of the others. Fresh and small files are hashed here; a loader hashes large ones while it reads them, with
what `expected_hashes` gives. Waiting has an end: see ``patience``.
"""

from __future__ import annotations

from vedcore.hub.cache import Damage, expected_hashes, repair, verify
from vedcore.hub.fetching import fetch_folder
from vedcore.hub.names import parse_repo
from vedcore.hub.pushing import push_folder

__all__ = ["Damage", "expected_hashes", "fetch_folder", "parse_repo", "push_folder", "repair", "verify"]
