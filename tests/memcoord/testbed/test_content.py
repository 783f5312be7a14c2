"""Page content: any difference from what was written is noticed, and where it begins."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from guest_page import PAGE_BYTES, Page
from hypothesis import given
from hypothesis import strategies as st

from memcoord.testbed.guests._content import lib

U64 = st.integers(0, 2**64 - 1)


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    made = Page()
    yield made
    made.release()


@given(domain=U64, number=U64, version=U64)
def test_what_was_filled_is_right(page: Page, domain: int, number: int, version: int) -> None:
    lib.mc_content_fill(page.address, domain, number, version)
    assert lib.mc_content_check(page.address, domain, number, version) == -1


@given(offset=st.integers(0, PAGE_BYTES - 1), flip=st.integers(1, 255))
def test_one_wrong_byte_is_found(page: Page, offset: int, flip: int) -> None:
    lib.mc_content_fill(page.address, 1, 2, 3)
    page.memory[offset] ^= flip
    assert lib.mc_content_check(page.address, 1, 2, 3) == offset // 8


def test_the_first_of_several_wrong_words_is_named(page: Page) -> None:
    lib.mc_content_fill(page.address, 1, 2, 3)
    for word in (500, 7, 300):
        page.memory[8 * word] ^= 1
    assert lib.mc_content_check(page.address, 1, 2, 3) == 7


@pytest.mark.parametrize("other", [(2, 2, 3), (1, 3, 3), (1, 2, 4), (2, 1, 3), (1, 2, 2)])
def test_another_domain_page_or_version_is_wrong_from_the_start(
    page: Page, other: tuple[int, int, int]
) -> None:
    lib.mc_content_fill(page.address, 1, 2, 3)
    assert lib.mc_content_check(page.address, *other) == 0


def test_a_torn_page_is_found_where_it_is_torn(page: Page) -> None:
    lib.mc_content_fill(page.address, 1, 2, 3)
    older = page.memory[:]
    lib.mc_content_fill(page.address, 1, 2, 4)
    page.memory[2048:] = older[2048:]
    assert lib.mc_content_check(page.address, 1, 2, 4) == 2048 // 8


def test_no_two_pages_of_a_workload_are_alike(page: Page) -> None:
    seen = set()
    for domain in range(1, 4):
        for number in range(200):
            for version in range(1, 4):
                lib.mc_content_fill(page.address, domain, number, version)
                seen.add(page.memory[:])
    assert len(seen) == 3 * 200 * 3
