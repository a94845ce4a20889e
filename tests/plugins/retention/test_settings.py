"""The table ``[plugins.retention]``."""

from __future__ import annotations

import pytest

from hl7core_plugins.retention import RetentionSettings


@pytest.mark.parametrize(("text", "size"), [(0, 0), (5000, 5000), ("20GB", 20 * 10**9), ("1 GiB", 1 << 30)])
def test_max_disk_is_a_number_or_has_a_unit(text, size):
    assert RetentionSettings(max_disk=text).max_disk == size


@pytest.mark.parametrize("text", [-1, "-5GB", "much", "20 bananas"])
def test_a_max_disk_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match="max_disk"):
        RetentionSettings(max_disk=text)


@pytest.mark.parametrize(("key", "good", "bad"), [("cleanup_interval_hours", (1, 24, 168), (0, 169, 1.5))])
def test_the_interval_has_bounds(key, good, bad):
    for value in good:
        RetentionSettings(**{key: value})
    for value in bad:
        with pytest.raises(ValueError, match=key):
            RetentionSettings(**{key: value})
