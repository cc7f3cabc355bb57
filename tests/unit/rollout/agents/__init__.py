"""Agents on an engine that says what it is told to."""
