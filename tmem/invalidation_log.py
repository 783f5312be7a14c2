"""The log of pages that went while their client was being saved.

Owns: that log, one per client: a chain of cells from ``first_gone`` to ``last_gone``. A persistent
page that is flushed, replaced or destroyed meanwhile may have been sent already, so the receiver
must be told. A page frees one cell at least, so there always is one for the log.
"""

# Kernel arguments are typed by numba; annotations would only repeat "int".
# ruff: noqa: ANN001, ANN201

from __future__ import annotations

from tmem.index import free_cell, pool_of_page, take_cell
from tmem.layout import (
    C_FIRST_GONE,
    C_IS_MIGRATING,
    C_LAST_GONE,
    CELL_CHAIN,
    CELL_INDEX,
    CELL_MATES,
    CELL_OID,
    CELL_OWNER,
    CELL_WORDS,
    CLIENT_WORDS,
    CLIENTS,
    H_CELLS,
    P_IS_PERSISTENT,
    P_OWNER,
    POOL_WORDS,
    POOLS,
    POOLS_PER_CLIENT,
)
from tmem.pages import drop_page
from tmem.raw_memory import field, kernel, oids_at, set_field

GONE_INDEX = CELL_MATES  # word of a gone cell


@kernel
def drop_and_log(s, page):
    """Drop a page on its client's wish, not for lack of memory."""
    pool = pool_of_page(s, page)
    p = POOLS + pool * POOL_WORDS
    c = CLIENTS + s[p + P_OWNER] * CLIENT_WORDS
    if not s[p + P_IS_PERSISTENT] or not s[c + C_IS_MIGRATING]:
        drop_page(s, page)
        return
    oids, at = oids_at(s[H_CELLS]), CELL_WORDS // 2
    named = field(s, page, CELL_OWNER) * at + CELL_OID
    oid0, oid1, oid2 = oids[named], oids[named + 1], oids[named + 2]
    index = field(s, page, CELL_INDEX)
    drop_page(s, page)
    cell = take_cell(s)
    named = cell * at + CELL_OID
    oids[named] = oid0
    oids[named + 1] = oid1
    oids[named + 2] = oid2
    set_field(s, cell, CELL_CHAIN, 0)
    set_field(s, cell, CELL_OWNER, pool)
    set_field(s, cell, GONE_INDEX, index)
    if s[c + C_LAST_GONE] == 0:
        s[c + C_FIRST_GONE] = cell
    else:
        set_field(s, s[c + C_LAST_GONE], CELL_CHAIN, cell)
    s[c + C_LAST_GONE] = cell


@kernel
def take_gone(s, client, out):
    """Take the oldest name off the log: 1, and ``out`` has slot, index and oid; 0 for none."""
    c = CLIENTS + client * CLIENT_WORDS
    cell = s[c + C_FIRST_GONE]
    if cell == 0:
        return 0
    words, oids = oids_at(out), oids_at(s[H_CELLS])
    words[0] = field(s, cell, CELL_OWNER) % POOLS_PER_CLIENT
    words[1] = field(s, cell, GONE_INDEX)
    for word in range(3):
        words[2 + word] = oids[cell * (CELL_WORDS // 2) + CELL_OID + word]
    s[c + C_FIRST_GONE] = field(s, cell, CELL_CHAIN)
    if s[c + C_FIRST_GONE] == 0:
        s[c + C_LAST_GONE] = 0
    free_cell(s, cell)
    return 1


@kernel
def forget_gone(s, client):
    """Empty the log of a client."""
    c = CLIENTS + client * CLIENT_WORDS
    cell = s[c + C_FIRST_GONE]
    while cell != 0:
        after = field(s, cell, CELL_CHAIN)
        free_cell(s, cell)
        cell = after
    s[c + C_FIRST_GONE] = 0
    s[c + C_LAST_GONE] = 0
