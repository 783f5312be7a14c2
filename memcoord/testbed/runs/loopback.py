"""Where servers of ours listen, and the names by which a browser may ask for them.

Owns: nothing else. A foreign name that leads here is DNS rebinding: who serves refuses it. Used by
the page of a run and by the exporter of metrics.
"""

ADDRESS = "127.0.0.1"
HOSTS = (ADDRESS, "localhost", "[::1]")
