"""Bulk data: a job of many items, the whole way, beside other ways to predict as many."""
