"""A folder of the tests of plugins, to install into."""

from __future__ import annotations

from tests.plugins.test_plugins import site as site
