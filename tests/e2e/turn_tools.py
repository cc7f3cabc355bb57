"""A tool and a verifier of a user's own."""


def add(a: int, b: int) -> int:
    """Adds."""
    return a + b


def is_even(response: str, answer: str) -> float:
    """Whether a response has an even number of characters: every other one has."""
    return float(len(response) % 2 == 0)


def run(code: str) -> str:
    """Runs nothing.

    Args:
        code: of a program
    """
    return code
