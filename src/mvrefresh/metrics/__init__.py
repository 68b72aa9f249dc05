"""The record of what was done: `store` (the protocol and its values), `memory`, `postgres`."""
