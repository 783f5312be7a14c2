"""More pages than frames: a guest's memory manager, with tmem and the swap file under it."""
