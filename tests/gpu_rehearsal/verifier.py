"""A verifier to whom no two responses are the same, so that every group has advantages."""


def share_of_letters(response: str, answer: str) -> float:
    """How much of a response is letters, in [0, 1]."""
    return sum(character.isalpha() for character in response) / max(len(response), 1)
