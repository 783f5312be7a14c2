"""The pages of a domain: which lie in frames, which in tmem, which on disk, and who moves them."""
