"""``memcoord bench tmem``: a page put and got beside rival page stores."""
