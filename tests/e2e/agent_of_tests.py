"""An agent of a user's own, on HTTP alone: two turns, paid by the length of the last."""

import httpx


def talk(base_url: str, api_key: str, row: dict[str, str]) -> float:
    """Asks, and asks again."""
    url, headers = f"{base_url}/chat/completions", {"Authorization": f"Bearer {api_key}"}
    messages = [{"role": "user", "content": row["prompt"]}]
    said = ""
    with httpx.Client(headers=headers, timeout=300) as client:
        for reply in ("Again.", ""):
            answer = client.post(url, json={"model": "policy", "messages": messages})
            answer.raise_for_status()
            message = answer.json()["choices"][0]["message"]
            said = message["content"]
            messages += [message, {"role": "user", "content": reply}]
    return float(len(said) % 2 == 0)
