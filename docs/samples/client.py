"""Requests with a Latchkey API key: python3 client.py URL [COUNT]

Uses only the standard library. The key is read from LATCHKEY_KEY, so that it is in no command line.
"""
import os
import sys
import time
import urllib.error
import urllib.request


def get(url: str, key: str, attempts: int = 5) -> bytes:
    """Return the body of a GET request. After 429 or 503, wait for Retry-After and try again."""
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"})
    for attempt in range(1, attempts + 1):
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            wait = error.headers.get("Retry-After", "")
            if error.code not in (429, 503) or not wait.isdigit() or attempt == attempts:
                raise  # 401 and 403 stay the same, however often the request is repeated
            print(f"{error.code}: waiting {wait} s", file=sys.stderr)
            time.sleep(int(wait))


if __name__ == "__main__":
    for _ in range(int(sys.argv[2]) if len(sys.argv) > 2 else 1):
        print(get(sys.argv[1], os.environ["LATCHKEY_KEY"]).decode())
