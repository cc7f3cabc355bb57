"""Metrics with their glossary, loggers, plots and the run report."""
