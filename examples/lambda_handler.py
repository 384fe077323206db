"""An AWS Lambda function that uses a process pool: the compat module, for hosts without semaphores.

On Lambda ``concurrent.futures.ProcessPoolExecutor()`` raises ``OSError: [Errno 38] Function not implemented``, because
the system has no semaphores. With the one changed import the pool runs there too, in worker processes that need none.

    python examples/lambda_handler.py     # calls the handler with a sample event

Deploy ``handler`` as the entry point: it needs this file and the package ``unirun``, nothing else.
"""

import base64
import hashlib
import json
from typing import Any

from unirun import last_decision
from unirun.compat.concurrent import futures

#: Rounds of PBKDF2 when the event does not say: some 20 ms for each item.
ROUNDS = 50_000


def derive(password: bytes, salt: bytes, rounds: int) -> bytes:
    """Derive a key. This is what runs in the workers, so it stands at module level."""
    return hashlib.pbkdf2_hmac("sha256", password, salt, rounds)


def handler(event: dict[str, Any], context: object = None) -> dict[str, Any]:
    """Derive a key for each item of the event.

    Args:
        event: ``items``, a list of ``{"id": ..., "password": base64, "salt": base64}``; may have ``rounds``.
        context: What Lambda knows about the call; not used.

    Returns:
        A response with a JSON body: the ``keys``, in hexadecimal, by id, and the ``backend`` that computed them.
    """
    items = event["items"]
    passwords = [base64.b64decode(item["password"]) for item in items]
    salts = [base64.b64decode(item["salt"]) for item in items]
    rounds = [int(event.get("rounds", ROUNDS))] * len(items)
    with futures.ProcessPoolExecutor(max_workers=4) as pool:
        keys = list(pool.map(derive, passwords, salts, rounds))
    decision = last_decision()  # None with UNIRUN_COMPAT_MODE=passthrough: the stdlib decides nothing
    body = {
        "keys": {item["id"]: key.hex() for item, key in zip(items, keys, strict=True)},
        "backend": decision.backend if decision else None,
    }
    return {"statusCode": 200, "headers": {"Content-Type": "application/json"}, "body": json.dumps(body)}


def sample_event(count: int = 8) -> dict[str, Any]:
    """Return an event as a client would send it."""
    items = [
        {
            "id": f"item-{number}",
            "password": base64.b64encode(f"correct horse {number}".encode()).decode(),
            "salt": base64.b64encode(f"battery staple {number}".encode()).decode(),
        }
        for number in range(count)
    ]
    return {"items": items}


if __name__ == "__main__":
    response = handler(sample_event())
    print(json.dumps(json.loads(response["body"]), indent=2))
