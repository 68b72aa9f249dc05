"""Routers for a host's FastAPI application. Needs the extra `fastapi`."""
