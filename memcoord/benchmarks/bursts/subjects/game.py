"""A game's loop without a screen: levels are loaded, played at 60 frames a second, and left.

``SDL_VIDEODRIVER=dummy python3 game.py LEVELS SECONDS``. Needs pygame. Each level has textures and
sprites of its own, made from its number, and sparks that come in showers. Imports nothing of ours:
any Python that has pygame can run it.

API: run as a program by ``memcoord.benchmarks.bursts.record``.
"""

import random
import sys

import pygame  # type: ignore[import-not-found, unused-ignore]

FRAME_RATE = 60
SIZE = (1280, 720)
TEXTURES, TEXTURE_SIZE = 12, (1024, 1024)
SPRITES, SHOWER_CHANCE, SHOWER, SPARK_SIZE = 150, 0.02, 400, (48, 48)


def level_of(number: int) -> tuple[list[pygame.Surface], list[pygame.Surface]]:
    """The textures and sprites of a level: loading it."""
    source = random.Random(number)
    textures = []
    for _ in range(TEXTURES + 6 * (number % 3)):
        texture = pygame.Surface(TEXTURE_SIZE, pygame.SRCALPHA)
        texture.fill([source.randrange(256) for _ in range(4)])
        for _ in range(30):
            at = [source.randrange(side) for side in TEXTURE_SIZE]
            color = [source.randrange(256) for _ in range(3)]
            pygame.draw.circle(texture, color, at, source.randrange(8, 200))
        textures.append(texture)
    sprites = [
        pygame.transform.rotozoom(source.choice(textures), source.uniform(0, 360), 0.12)
        for _ in range(SPRITES)
    ]
    return textures, sprites


def play(number: int, seconds: float, screen: pygame.Surface, clock: pygame.time.Clock) -> None:
    """Load a level and run it."""
    textures, sprites = level_of(number)
    source, sparks = random.Random(number), []
    for frame in range(int(seconds * FRAME_RATE)):
        screen.blit(textures[frame // 20 % len(textures)], (0, 0))
        for sprite in sprites:
            screen.blit(sprite, [source.randrange(side) for side in SIZE])
        if source.random() < SHOWER_CHANCE:
            sparks += [pygame.Surface(SPARK_SIZE, pygame.SRCALPHA) for _ in range(SHOWER)]
        for spark in sparks:
            spark.fill((255, 220, 120, 90))
            screen.blit(spark, [source.randrange(side) for side in SIZE])
        sparks = sparks[len(sparks) // 20 :]
        pygame.display.flip()
        clock.tick(FRAME_RATE)


def main(levels: int, seconds: float) -> None:
    """All levels, one after the other."""
    pygame.init()
    screen, clock = pygame.display.set_mode(SIZE), pygame.time.Clock()
    for number in range(levels):
        play(number, seconds, screen, clock)
    pygame.quit()


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
