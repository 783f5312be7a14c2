"""tmem by itself: pages by name, in memory that nobody else wants just now."""

from tmem import PoolFlag, Tmem

pages = Tmem(pages=4096)
pages.open_client(1)
pool = pages.new_pool(1, PoolFlag.VERSION)
file, index = (7, 0, 0), 3
print("put answers", pages.put(1, pool, file, index, b"x" * 4096))
page = bytearray(4096)
print("get answers", pages.get(1, pool, file, index, page), "with", bytes(page[:4]))
