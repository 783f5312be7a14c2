"""What a guest boots: an initial file system of busybox, our agent, modules and programs."""
