"""Frontswap: pages on their way to a swap device, kept in tmem as long as it takes them.

Owns: one persistent private pool for all swap devices, and per device a map of the slots that are
in tmem, a byte each. Linux' rules (``mm/frontswap.c``, ``drivers/xen/tmem.c``):

  store        When tmem refuses, the caller writes the page to the real swap device, and a slot
               that was in tmem is unmarked, because tmem has dropped the old copy.
  load         Of a marked slot only. A marked slot is never read from the device, whose bytes are
               old.
  invalidate   Before a slot is used for another page, and when the slot is freed.
  swapoff      Invalidates the device: 16 objects, one doorbell.
  shrink       A partial swapoff: pages are pulled back into the guest's RAM.

A slot ``offset`` of device ``type`` is page ``offset >> 4`` of object ``(type << 4) | (offset &
15)``. With ``exclusive_gets`` a load takes the page out of tmem: the copy in RAM is the only one.
Rules: one thread. Every operation raises PeerGone when the hypervisor is dead; the pages it kept
are lost then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from frontend.tmem_client import DONE, INDEX_MAX, Oid, TmemBatch, TmemClient, check_record
from hypervisor.public.errors import ConfigError, InternalError
from hypervisor.public.units import PoolId

#: Objects of one device, and the slots each holds at most.
DEVICE_OBJECTS = 16
DEVICES_MAX = 32
SLOTS_MAX = DEVICE_OBJECTS * (INDEX_MAX + 1)

#: Self-shrink, Linux' constants: looks without growth before the first shrink, and the share (a
#: twentieth) that each look from then on gives back. Linux looks every 5 s.
SELFSHRINK_INERTIA = 3
SELFSHRINK_HYSTERESIS = 20

#: Pull a slot's page back into RAM: load it, free the slot. False when there is no RAM left.
Unuse = Callable[[int, int], bool]

_NO_POOL = PoolId(-1)


def name_of(device: int, offset: int) -> tuple[Oid, int]:
    """Object and index of a swap slot."""
    return (device << 4 | offset & 15, 0, 0), offset >> 4


@dataclass
class _Device:
    held: bytearray  # one byte per slot: 1 when its page is in tmem
    stored: int = 0

    def mark(self, offset: int, held: int) -> None:
        self.stored += held - self.held[offset]
        self.held[offset] = held

    def offsets(self) -> Iterator[int]:
        """Slots whose page is in tmem, ascending."""
        offset = self.held.find(1)
        while offset >= 0:
            yield offset
            offset = self.held.find(1, offset + 1)


class Frontswap:
    """The swap devices of one domain. Counters are public and only rise."""

    def __init__(self, tmem: TmemClient, *, exclusive_gets: bool = False) -> None:
        self.exclusive_gets = exclusive_gets
        self.stores = self.failed_stores = self.loads = self.invalidates = 0
        self._tmem = tmem
        self._pool = _NO_POOL
        self._devices: dict[int, _Device] = {}
        self._pulled: tuple[int, int] | None = None  # the slot that ``shrink`` pulls back now
        self._is_refilled = False  # another page was stored in that slot meanwhile
        self._batch = tmem.batch()

    def swapon(self, device: int, slots: int) -> None:
        """Add a device of ``slots`` pages, none of them in tmem; the first makes the pool.

        ConfigError for a device that is on already or a size out of range; NoMemory when tmem
        gives no pool.
        """
        if device in self._devices or not 0 <= device < DEVICES_MAX:
            raise ConfigError("device", f"{device}: in use already, or not 0 to {DEVICES_MAX - 1}")
        if not 0 < slots <= SLOTS_MAX:
            raise ConfigError("slots", f"{slots}: must be 1 to {SLOTS_MAX}")
        if self._pool == _NO_POOL:
            self._pool = self._tmem.new_pool(persistent=True)
        self._devices[device] = _Device(bytearray(slots))

    def swapoff(self, device: int) -> None:
        """Forget a device and its pages in tmem; the guest has read the pages that it wants."""
        self.invalidate_area(device)
        del self._devices[device]

    def close(self) -> None:
        """Forget every device, and the pool."""
        if self._pool != _NO_POOL:
            self._tmem.destroy_pool(self._pool)
        self._devices.clear()
        self._pool = _NO_POOL

    @property
    def stored_pages(self) -> int:
        """Pages in tmem, of all devices."""
        return sum(device.stored for device in self._devices.values())

    def holds(self, device: int, offset: int) -> bool:
        """Whether the page of a slot is in tmem."""
        return self._slot(device, offset).held[offset] == 1

    def offsets(self, device: int) -> list[int]:
        """The slots of a device whose page is in tmem, ascending."""
        return list(self._device(device).offsets())

    def store(self, device: int, offset: int, frame: int) -> bool:
        """Keep a copy of ``frame`` for a slot; False: the caller writes it to the swap device."""
        place = self.add_store(self._batch, device, offset, frame)
        return self.settle_store(device, offset, frame, self._batch.submit()[place])

    def load(self, device: int, offset: int, frame: int) -> bool:
        """Fill ``frame`` from tmem; False: the caller reads the swap device.

        InternalError when tmem has lost the page.
        """
        if not self.holds(device, offset):
            return False
        place = self.add_load(self._batch, device, offset, frame)
        self.settle_load(device, offset, self._batch.submit()[place])
        return True

    def invalidate_page(self, device: int, offset: int) -> None:
        """Forget the page of a slot that is freed or is about to hold another page."""
        if self.holds(device, offset):
            self._tmem.flush_page(self._pool, *name_of(device, offset))
            self._devices[device].mark(offset, 0)
            self.invalidates += 1

    def invalidate_area(self, device: int) -> None:
        """Forget the pages of all slots of a device."""
        found = self._device(device)
        for number in range(DEVICE_OBJECTS):
            self._batch.flush_object(self._pool, (device << 4 | number, 0, 0))
        self._batch.submit()
        found.held, found.stored = bytearray(len(found.held)), 0
        self.invalidates += 1

    def shrink(
        self, target_pages: int, unuse: Unuse, has_room: Callable[[int], bool] | None = None
    ) -> int:
        """Pull pages back until ``target_pages`` are left in tmem, or one device is done.

        Takes the first device for whose pages ``has_room(pages)``, slots in ascending order. Stops
        when ``unuse(device, offset)`` says so. ``unuse`` may free the slot and store another page
        there, and free other slots, which are not pulled back then. Returns the number of pages
        pulled back.
        """
        surplus = self.stored_pages - target_pages
        for number, device in self._devices.items():
            wanted = min(surplus, device.stored)
            if wanted > 0 and (has_room is None or has_room(wanted)):
                return self._pull(number, device, wanted, unuse)
        return 0

    def _pull(self, number: int, device: _Device, wanted: int, unuse: Unuse) -> int:
        pulled = 0
        try:
            for offset in list(device.offsets())[:wanted]:
                if self._devices.get(number) is not device:  # swapped off meanwhile
                    break
                if not device.held[offset]:  # freed meanwhile
                    continue
                self._pulled, self._is_refilled = (number, offset), False
                if not unuse(number, offset):
                    break
                if self._devices.get(number) is device and not self._is_refilled:
                    self.invalidate_page(number, offset)  # in case the caller did not
                pulled += 1
        finally:
            self._pulled = None
        return pulled

    # For a caller that puts several operations into one batch of its own

    def add_store(self, batch: TmemBatch, device: int, offset: int, frame: int) -> int:
        """Add a store; its answer, at the place returned, belongs to ``settle_store``."""
        self._slot(device, offset)
        oid, index = name_of(device, offset)
        return batch.put(self._pool, oid, index, frame)

    def settle_store(self, device: int, offset: int, frame: int, answer: int) -> bool:
        """What ``store`` returns. Any refusal leaves nothing of the slot in tmem."""
        if answer == DONE:
            self.stores += 1
            self._devices[device].mark(offset, 1)
            self._is_refilled |= (device, offset) == self._pulled
            return True
        check_record(answer, frame)
        self.failed_stores += 1
        self._devices[device].mark(offset, 0)
        return False

    def add_load(self, batch: TmemBatch, device: int, offset: int, frame: int) -> int:
        """Add a load of a slot that is in tmem; its answer belongs to ``settle_load``."""
        oid, index = name_of(device, offset)
        place = batch.get(self._pool, oid, index, frame)
        if self.exclusive_gets:
            batch.flush_page(self._pool, oid, index)
        return place

    def settle_load(self, device: int, offset: int, answer: int) -> None:
        """InternalError when tmem has lost the page: it must keep a page of a persistent pool."""
        if answer != DONE:
            raise InternalError(
                f"tmem lost page {offset} of swap device {device}: it answered {answer}"
            )
        self.loads += 1
        if self.exclusive_gets:
            self._devices[device].mark(offset, 0)

    def _device(self, device: int) -> _Device:
        found = self._devices.get(device)
        if found is None:
            raise ConfigError("device", f"{device}: is not on")
        return found

    def _slot(self, device: int, offset: int) -> _Device:
        found = self._devices.get(device)
        if found is None or not 0 <= offset < len(found.held):
            slots = len(self._device(device).held)
            raise IndexError(f"slot {offset} of a swap device of {slots}")
        return found


class SelfShrink:
    """When a guest that does not swap more takes its pages back: ``look`` every 5 s.

    Pages that were swapped out and never missed sit in tmem and keep others out. Once frontswap has
    not grown for SELFSHRINK_INERTIA looks, a twentieth is pulled back at each.
    """

    def __init__(self) -> None:
        self._last_pages = self._inertia = 0

    def look(self, pages: int) -> int | None:
        """The target for ``Frontswap.shrink`` now that it holds ``pages``; None: leave it."""
        last, self._last_pages = self._last_pages, pages
        if pages == 0 or pages > last:
            self._inertia = SELFSHRINK_INERTIA
            return None
        self._inertia = max(self._inertia - 1, 0)
        if self._inertia:
            return None
        if pages <= SELFSHRINK_HYSTERESIS:
            return 0
        return pages - pages // SELFSHRINK_HYSTERESIS
