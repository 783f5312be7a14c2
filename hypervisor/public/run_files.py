"""The names of what a hypervisor and its keeper make in a run directory.

Owns: these names. Any module may import this one, which imports nothing: the keeper takes the
directory before it has loaded anything.
"""

EVENTS = "events.jsonl"
ATTACH_SOCKET = "attach.sock"
CONTROL_SOCKET = "control.ipc"
STATS_SOCKET = "stats.ipc"
DOORBELL_SOCKET = "doorbell.ipc"
KEEPER_SOCKET = "keeper.sock"
#: All sockets; each is removed at the end.
SOCKETS = (ATTACH_SOCKET, CONTROL_SOCKET, STATS_SOCKET, DOORBELL_SOCKET, KEEPER_SOCKET)
#: The operator's token, TOKEN_BYTES random bytes in hexadecimal digits.
TOKEN_FILE = "control.token"
TOKEN_BYTES = 32
