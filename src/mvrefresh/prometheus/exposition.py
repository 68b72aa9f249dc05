"""The page that Prometheus reads, for a host's own route."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.exposition import choose_encoder

if TYPE_CHECKING:
    from prometheus_client.registry import Collector


def exposition(registry: Collector, accept: str = "") -> tuple[bytes, str]:
    """What a route `/metrics` answers.

    It may take as long as the collector's `timeout`: in an asynchronous host call it on a thread.

    Args:
        registry: The host's.
        accept: The request's header `Accept`; OpenMetrics where it asks for that.

    Returns:
        The body, and its content type.
    """
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type
