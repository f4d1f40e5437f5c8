# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""What looks at each live document of the sampler: probes first, alerts after them, for they are about probes too."""

from __future__ import annotations

from typing import Callable, List

from ._alert_watcher import AlertWatcher
from ._layout import Layout
from ._monitor_settings import MonitorSettings
from ._probe_watcher import ProbeWatcher
from ._sampler import Watcher


def watchers(layout: Layout, settings: MonitorSettings, say: Callable[[str], None]) -> List[Watcher]:
    """Return the watchers of a host, running."""
    return [ProbeWatcher(layout, settings, say), AlertWatcher(layout, settings, say)]
