"""Tiers of a cache, and the four of them together.

Reading order: `tier` (what a tier is), `memory` (L1: process memory), `flight` (one load for many
callers), `tiered` (read-through, backfill, tags).
"""
