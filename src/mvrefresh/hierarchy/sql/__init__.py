"""The texts of the three views; `mvrefresh.hierarchy.source` fills in the host's names."""
