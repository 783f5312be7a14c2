"""Guest side: attach, frame allocation, tmem client, guest memory manager."""
