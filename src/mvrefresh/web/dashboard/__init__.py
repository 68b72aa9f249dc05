"""The dashboard: one page for whoever runs a fleet of views.

Reading order: `figures` (what the page shows, out of the database), `page` (the page and its
policy), `router`; then the page itself, `dashboard.html`, `dashboard.css`, `dashboard.js`.
"""
