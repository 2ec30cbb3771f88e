"""Bulk data: a job of many items, the whole way, beside other ways to predict as many."""

CHUNK_ITEMS = 1000
"""Of a chunk, as this project cuts them by default; the other ways predict as many at a time."""
