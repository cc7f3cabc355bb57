"""Environments that a policy acts in, turn by turn, in processes that can be killed."""
