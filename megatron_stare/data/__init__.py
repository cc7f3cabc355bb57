"""Prompt sets with a resumable cursor, and packing into micro-batches."""
