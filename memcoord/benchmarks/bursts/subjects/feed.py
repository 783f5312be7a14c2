"""A client of a feed of pictures: it asks a server over HTTP, decodes what comes, and scrolls.

``python feed.py http://127.0.0.1:PORT PICTURES SCREENS``. Needs Pillow. A reader scrolls a screen
of posts at a time and rests; the pictures of the screens that are near are kept decoded, as clients
keep them. Imports nothing of ours.

API: run as a program by ``memcoord.benchmarks.bursts.record``.
"""

import io
import random
import sys
import time
import urllib.request

from PIL import Image

POSTS_MAX, KEPT_SCREENS = 6, 3
REST_S = 0.5
SCREEN_WIDTH = 1280


def picture(url: str, number: int) -> tuple[Image.Image, Image.Image]:
    """One picture, decoded, and as wide as the screen."""
    with urllib.request.urlopen(f"{url}/picture{number}.jpg", timeout=10) as answer:
        whole = Image.open(io.BytesIO(answer.read())).convert("RGBA")
    height = max(whole.height * SCREEN_WIDTH // whole.width, 1)
    return whole, whole.resize((SCREEN_WIDTH, height))


def main(url: str, pictures: int, screens: int) -> None:
    """Scroll; rests are drawn from an exponential law."""
    source, kept = random.Random(7), []
    for _ in range(screens):
        posts = source.randint(1, POSTS_MAX)
        kept.append([picture(url, source.randrange(pictures)) for _ in range(posts)])
        kept = kept[-KEPT_SCREENS:]
        time.sleep(source.expovariate(1 / REST_S))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
