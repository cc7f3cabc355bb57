"""Verifiers of responses, each run where it can be killed."""
