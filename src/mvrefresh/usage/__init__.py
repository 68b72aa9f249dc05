"""Usage analytics: `source` (events, hourly and daily roll-ups, window), `function`, `refresh`."""
