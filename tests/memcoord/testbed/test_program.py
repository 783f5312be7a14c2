"""A program's pages: any difference from what was written is noticed, and where it begins."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from guest_page import PAGE_BYTES, WORDS, Page
from hypothesis import given
from hypothesis import strategies as st

from memcoord.testbed.guests._content import ffi, lib

WRITE, CAME, FIRST = 1, 2, 4
VERSION = st.one_of(st.integers(1, 2 * WORDS), st.integers(1, 2**64 - 1))
NUMBER = st.integers(0, 2**32 - 1)


class UsedPage(Page):
    """A page, and a program that uses it."""

    def __init__(self) -> None:
        super().__init__()
        self.program, self.version = ffi.new("struct mc_program *"), ffi.new("uint64_t *")

    def use(self, how: int, page: int = 3) -> Any:
        return lib.mc_program_use(self.program, self.address, self.version, page, how)


@pytest.fixture
def page() -> Iterator[UsedPage]:
    made = UsedPage()
    yield made
    made.release()


@pytest.fixture(scope="module")
def shared() -> Iterator[UsedPage]:
    made = UsedPage()
    yield made
    made.release()


@given(domain=NUMBER, number=NUMBER, version=VERSION)
def test_a_write_makes_the_next_version(
    shared: UsedPage, domain: int, number: int, version: int
) -> None:
    shared.program.domain, shared.version[0] = domain, version
    lib.mc_program_fill(shared.address, domain, number, version)
    assert shared.use(CAME | WRITE, number) == 0
    assert shared.version[0] == (version + 1) % 2**64
    assert lib.mc_program_check(shared.address, domain, number, shared.version[0]) == -1


@given(offset=st.integers(0, PAGE_BYTES - 1), flip=st.integers(1, 255), version=VERSION)
def test_one_wrong_byte_is_found(shared: UsedPage, offset: int, flip: int, version: int) -> None:
    lib.mc_program_fill(shared.address, 1, 2, version)
    shared.memory[offset] ^= flip
    assert lib.mc_program_check(shared.address, 1, 2, version) == offset // 8


@given(version=st.integers(1, 2000), older=st.integers(1, 2000))
def test_an_older_version_is_wrong(shared: UsedPage, version: int, older: int) -> None:
    lib.mc_program_fill(shared.address, 1, 2, version)
    wrong = lib.mc_program_check(shared.address, 1, 2, older)
    assert (wrong == -1) == (version == older)


@pytest.mark.parametrize("other", [(2, 2), (1, 3), (2, 1), (3, 2)])
def test_another_domain_or_page_is_wrong_from_the_start(
    page: UsedPage, other: tuple[int, int]
) -> None:
    lib.mc_program_fill(page.address, 1, 2, 700)
    assert lib.mc_program_check(page.address, *other, 700) == 0


def test_a_first_touch_fills_and_a_hit_looks_at_the_last_word_written(page: UsedPage) -> None:
    assert page.use(CAME | FIRST) == 0
    assert (page.version[0], page.program.verified) == (1, 0)
    for version in range(2, 4):
        assert page.use(WRITE) == 0
        assert (page.version[0], page.program.verified) == (version, version - 1)
    page.memory[8 * 100] ^= 1
    assert page.use(0) == 0, "it is not where the last write was"
    assert page.use(CAME) == 1
    found = page.program
    assert (found.wrong_page, found.wrong_version, found.wrong_word) == (3, 3, 100)
    page.memory[8 * 3] ^= 1
    assert page.use(0) == 1
    assert page.program.wrong_word == 3


def test_a_page_of_the_programs_file_has_its_first_version(page: UsedPage) -> None:
    assert page.use(CAME) == 1, "zeroes"
    lib.mc_program_fill(page.address, 0, 3, 1)
    assert page.use(CAME) == 0
    assert (page.version[0], page.program.verified) == (1, 1)


def test_work_is_done_after_each_reference(page: UsedPage) -> None:
    page.program.work = 5
    page.use(CAME | FIRST)
    once = page.program.worked
    page.use(0)
    assert 0 != once != page.program.worked != 0
