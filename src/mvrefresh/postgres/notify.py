"""The channel on which a refresh is announced, at its commit."""

from __future__ import annotations

CHANNEL = "mvrefresh"
"""Payload, JSON: view label, n (refresh_no), t (content_token), p (token before), k (keys)."""
