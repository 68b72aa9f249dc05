"""Figures for Prometheus, read when it asks (extra `prometheus`).

Reading order: `collector` (what is shown), `tally` (what this process has done), `glance` (what the
database knows), `labels` (so that no host is flooded).
"""

from __future__ import annotations

from mvrefresh.prometheus.collector import MvrefreshCollector
from mvrefresh.prometheus.exposition import exposition

__all__ = ["MvrefreshCollector", "exposition"]
