"""The log of pages that went while their client was being saved.

Owns: that log, one per client: a chain of cells from ``first_gone`` to ``last_gone``. A persistent
page that is flushed, replaced or destroyed during a live save may have been sent already, so the
receiver must be told. A dropped page frees one cell at least, so the log always finds one.
Used by the kernels, ``tmem.pools`` and ``tmem.serve``.
"""

# Kernel arguments are typed by numba; annotations would only repeat "int".
# ruff: noqa: ANN001, ANN201

from __future__ import annotations

from tmem.index import free_cell, name_of, object_of, take_cell
from tmem.layout import POOLS_PER_CLIENT
from tmem.pages import drop_page
from tmem.raw_memory import kernel, words_at


@kernel
def drop_and_log(state, page):
    """Drop a page on its client's wish, not for lack of memory."""
    pool = state.pools[object_of(state, page).pool]
    client = state.clients[pool.owner]
    if not pool.is_persistent or not client.is_migrating:
        drop_page(state, page)
        return
    name = name_of(state, page)
    drop_page(state, page)
    cell, log = take_cell(state), state.cells.gone
    log[cell].chain = 0
    log[cell].pool = name.pool
    log[cell].index = name.index
    log[cell].oid[0], log[cell].oid[1], log[cell].oid[2] = name.oid
    if client.last_gone == 0:
        client.first_gone = cell
    else:
        log[client.last_gone].chain = cell
    client.last_gone = cell


@kernel
def take_gone(state, client, out):
    """Take the oldest name off the log: 1, and the five words at the address ``out`` are slot,
    index and oid; 0 when the log is empty."""
    its = state.clients[client]
    cell = its.first_gone
    if cell == 0:
        return 0
    entry, words = state.cells.gone[cell], words_at(out)
    words[0] = entry.pool % POOLS_PER_CLIENT
    words[1] = entry.index
    for part in range(3):
        words[2 + part] = entry.oid[part]
    its.first_gone = entry.chain
    if its.first_gone == 0:
        its.last_gone = 0
    free_cell(state, cell)
    return 1


@kernel
def forget_gone(state, client):
    """Empty the log of a client."""
    its = state.clients[client]
    cell = its.first_gone
    while cell != 0:
        after = state.cells[cell].chain
        free_cell(state, cell)
        cell = after
    its.first_gone = 0
    its.last_gone = 0
