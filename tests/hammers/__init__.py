"""Long runs that try to break the promises of a fleet; short seeded ones are among the tests.

    python -m tests.hammers [--pg 18] [--seconds 30]

`fleet`: many processes with the same service, some of them killed, suspended, restarted; `crowd`:
many threads of many processes that call `force()` at once. Each prints what it found, and fails
where a promise was broken.
"""
