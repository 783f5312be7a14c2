"""The storage half of a look at a pool from outside: frames, contents, compressed pages.

Owns: the copies of the cells, and the part of ``validate`` that asks where the data of each page
is, and whether what lies there points back. Plain Python on copies, as ``tmem.validate``, which is
the only caller.
"""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Callable

import numpy as np

from tmem import layout
from tmem.state import State

Need = Callable[[bool, str], None]


class Cells:
    """A copy of every field of the cells ever taken: one list per field, by the cell's number."""

    def __init__(self, state: State) -> None:
        cells = state.cells[: state.header["cells_touched"]]
        page, made = cells["page"], cells["object"]
        self.chain: list[int] = cells["chain"].tolist()
        self.object: list[int] = page["object"].tolist()
        self.index: list[int] = page["index"].tolist()
        self.store: list[int] = page["store"].tolist()
        self.links: dict[str, tuple[list[int], list[int]]] = {
            name: (page[name]["next"].tolist(), page[name]["previous"].tolist())
            for name in ("mates", "of_client", "eviction")
        }
        self.pool: list[int] = made["pool"].tolist()
        self.oid: list[list[int]] = made["oid"].tolist()
        self.content = cells["content"].copy()

    def __len__(self) -> int:
        return len(self.chain)


def bytes_of(state: State, frame: int) -> bytes:
    """The content of a frame of the slab."""
    address = int(state.header["slab"]) + frame * layout.PAGE_BYTES
    return ctypes.string_at(address, layout.PAGE_BYTES)


def head_of(state: State, frame: int) -> np.void:
    """The head of a frame of compressed pages."""
    head: np.void = np.frombuffer(bytes_of(state, frame), layout.PACKED_HEAD, 1)[0]
    return head


class StoreWalk:
    """Where the pages are, and who must hold which frame therefore.

    ``pages`` maps each page to (store word, pool number).
    """

    def __init__(
        self, state: State, cells: Cells, pages: dict[int, tuple[int, int]], need: Need
    ) -> None:
        self.state, self.cells, self.pages, self.need = state, cells, pages, need
        self.header = state.header
        self.holders: dict[int, int] = {}  # frame -> what its entry must be
        self.zero: set[int] = set()
        self.kinds: dict[int, set[bool]] = {}  # frame -> are its pages persistent
        self.packed: dict[int, dict[int, int]] = {}  # frame -> slot -> page
        self.refs: Counter[int] = Counter()  # of content cells
        for page, (place, pool) in pages.items():
            self._locate(page, place, bool(state.pools["is_persistent"][pool]))

    def _locate(self, page: int, place: int, persistent: bool) -> None:
        if place == layout.NO_FRAME:
            self.zero.add(page)
            return
        holder = page
        if place & layout.STORE_SHARED:
            cell = place & layout.STORE_MASK
            self.need(layout.FIRST_CELL <= cell < len(self.cells), f"page {page}: its content")
            self.refs[cell] += 1
            frame, holder = int(self.cells.content[cell]["frame"]), layout.FRAME_SHARED | cell
        elif place & layout.STORE_PACKED:
            frame, slot = divmod(place & layout.STORE_MASK, 1 << layout.PACKED_SLOT_BITS)
            slots = self.packed.setdefault(frame, {})
            self.need(slot not in slots, f"slot {slot} of frame {frame} has two pages")
            slots[slot] = page
            holder = int(self.state.frames[frame])
            marks = layout.FRAME_FREE | layout.FRAME_SHARED | layout.FRAME_PACKED
            self.need(holder & marks == layout.FRAME_PACKED, f"frame {frame} is not packed")
        else:
            frame = place
        self.need(self.holders.setdefault(frame, holder) == holder, f"frame {frame} is held twice")
        self.kinds.setdefault(frame, set()).add(persistent)

    def check(self) -> None:
        """Contents, compressed frames, hash chains and the counters of all these."""
        self._check_contents()
        self._check_packed()
        if self.header["dedup"]:
            self._check_hashed()
        kinds = list(self.kinds.values())
        self.need(all(len(kind) == 1 for kind in kinds), "a frame has pages of both kinds")
        now = {
            "zero_pages": len(self.zero),
            "ephemeral_stored": sum(kind == {False} for kind in kinds),
            "contents": len(self.refs),
            "shared_pages": self.refs.total(),
            "packed_pages": sum(map(len, self.packed.values())),
            "packed_frames": len(self.packed),
        }
        for name, count in now.items():
            self.need(self.header[name] == count, f"{name} is {self.header[name]}, not {count}")

    def _check_contents(self) -> None:
        scopes: dict[int, int] = {}
        for page, (place, pool) in self.pages.items():
            if place == layout.NO_FRAME or not place & layout.STORE_SHARED:
                continue
            cell = place & layout.STORE_MASK
            content = self.cells.content[cell]
            self.need(content["references"] == self.refs[cell], f"content {cell}: references")
            scope = int(content["scope"])
            self.need(scopes.setdefault(cell, scope) == scope, f"content {cell}: scope")
            persistent = bool(self.state.pools["is_persistent"][pool])
            self.need(scope % 2 == persistent, f"page {page} has content of another kind")

    def _check_packed(self) -> None:
        total = 0
        open_frames: dict[int, set[int]] = {}
        for frame, slots in self.packed.items():
            group = int(self.state.frames[frame]) & (layout.FRAME_PACKED - 1)
            self.need(group < layout.PACKED_CLASSES, f"frame {frame} is of no class")
            self.need(self.kinds[frame] == {bool(group % 2)}, f"frame {frame}: another kind")
            content = bytes_of(self.state, frame)
            used = int(head_of(self.state, frame)["used"])
            self.need(used == sum(1 << slot for slot in slots), f"frame {frame}: used slots")
            for slot, page in slots.items():
                size = layout.SLOT_BYTES[group // 2]
                at = layout.PACKED_HEADER_BYTES + slot * size
                owner, length = np.frombuffer(content, layout.PACKED_SLOT, 1, at)[0].tolist()
                self.need(owner == page, f"slot {slot} of frame {frame}: page")
                self.need(0 < length <= size - layout.SLOT_HEADER_BYTES, f"frame {frame}: length")
                total += length
            if len(slots) < layout.SLOTS_PER_FRAME[group // 2]:
                open_frames.setdefault(group, set()).add(frame)
        self.need(self.header["packed_bytes"] == total, "packed_bytes")
        for group in range(layout.PACKED_CLASSES):
            before, link = 0, int(self.header["packed"][group])
            expected = open_frames.get(group, set())
            while link:
                self.need(link - 1 in expected, f"class {group}: frame {link - 1} is not open")
                expected.discard(link - 1)
                head = head_of(self.state, link - 1)
                self.need(head["previous"] == before, f"class {group}: {link - 1} points astray")
                before, link = link, int(head["next"])
            self.need(not expected, f"class {group}: open frames are missing")

    def _check_hashed(self) -> None:
        count = len(self.state.hash_buckets)
        seen: set[int] = set()
        for bucket in np.flatnonzero(self.state.hash_buckets).tolist():
            link = int(self.state.hash_buckets[bucket])
            while link:
                frame = link - 1
                self.need(frame not in seen, f"frame {frame} is hashed twice")
                seen.add(frame)
                link, tag = self.state.hashed[frame].tolist()
                self.need(link != layout.NOT_HASHED, f"frame {frame} is on a chain")
                self.need(tag * count >> 32 == bucket, f"frame {frame} is on a foreign chain")
        for frame in self.holders:
            hashed = int(self.state.hashed["chain"][frame]) != layout.NOT_HASHED
            self.need(hashed == (frame in seen), f"frame {frame}: hashed or not")
            self.need(not (hashed and frame in self.packed), f"frame {frame} is packed and hashed")
        self.need(seen <= set(self.holders), "a frame nobody holds is hashed")
