"""The texts of the refresh function and its log; `mvrefresh.usage.function` fills in the names."""
