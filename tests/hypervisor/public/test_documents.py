"""Goal: whatever is wrong in a document is one line that names the key. Both forms, one verdict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hypervisor.config import HypervisorConfig, read
from hypervisor.public.documents import check_values, decode_json, decode_toml
from hypervisor.public.errors import ConfigError
from hypervisor.public.settings import convert

DIGITS = "9" * 5000
GOOD: dict[str, Any] = {
    "total_frames": 16384,
    "domains": [{"name": "vm1", "maxmem_frames": 8192, "boot_frames": 512, "target_frames": 1024}],
}


def told(path: Path, text: str | bytes) -> ConfigError:
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ConfigError) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    "number",
    [DIGITS, f"-{DIGITS}", str(2**64), str(2**63), str(2**70), "-1", "1.5", "1e400", "true", "NaN"],
)
@pytest.mark.parametrize(
    "key", ["maxmem_frames", "boot_frames", "credit_areas", "priority", "tmem_min_pages"]
)
def test_a_number_that_cannot_be_is_named_by_its_path(
    tmp_path: Path, key: str, number: str
) -> None:
    if (key, number) == ("priority", "-1"):
        return
    document = json.dumps(GOOD | {"domains": [GOOD["domains"][0] | {key: "HERE"}]})
    error = told(tmp_path / "h.json", document.replace('"HERE"', number))
    assert error.key == f"domains[0].{key}"
    assert len(str(error)) < 300


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("total_frames", 0),
        ("total_frames", 2**63),
        ("spin_ns", -5),
        ("spin_ns", 2**63),
        ("policy_deadline_ms", 0),
        ("policy_deadline_ms", -1),
        ("policy_deadline_ms", 10**400),
        ("error_budget", -1),
        ("error_budget", 2**32),
        ("interval_ms", 2**62),
        ("tmem_max_pages", 2**62),
        ("policy", "x" * 5000),
        ("policy", "a\0b"),
        ("policy", "\ud800"),
        ("tmem_record", "a\0b"),
        ("huge_dir", "a\0b"),
        ("banks[0].frames", [{"frames": -16384}, {"frames": 32768}]),
        ("banks[0].node", [{"frames": 16384, "node": 99999999999}]),
        ("banks[0].node", [{"frames": 16384, "node": -7}]),
    ],
)
def test_every_setting_of_a_host_has_bounds(tmp_path: Path, setting: str, value: object) -> None:
    document = GOOD | {setting.partition("[")[0]: value}
    assert told(tmp_path / "h.json", json.dumps(document)).key == setting


def test_every_number_of_a_host_has_bounds() -> None:
    """Goal: no setting is left out. Method: the largest number of 64 bits, in each."""
    for name in HypervisorConfig.__struct_fields__:
        document = GOOD | {name: (1 << 64) - 1}
        with pytest.raises(ConfigError):
            convert(document, HypervisorConfig)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no JSON"),
        (b"{", "no JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"policy": "\xff"}', "not UTF-8 text at byte 12"),
        (json.dumps(GOOD).encode("utf-16"), "not UTF-8"),
        (b'{"total_frames": 1, "total_frames": 16384}', "total_frames: is given twice"),
    ],
)
def test_what_is_no_document_is_said(tmp_path: Path, data: bytes, words: str) -> None:
    assert words in str(told(tmp_path / "h.json", data))


def test_a_byte_order_mark_is_no_harm() -> None:
    assert decode_json(b"\xef\xbb\xbf{}", "x") == {}


@pytest.mark.parametrize(
    ("text", "words"),
    [("a = ", "x: "), ("[" * 100_000, "x: "), ("a = " + "[" * 100_000, "nested too deeply")],
)
def test_what_is_no_toml_is_said(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        decode_toml(text, "x")


@pytest.mark.parametrize("number", [DIGITS, f"-{DIGITS}", "nan", "-inf", "1e400", f"0x{'f' * 50}"])
def test_a_number_of_toml_is_named_by_its_path(number: str) -> None:
    document = decode_toml(f"[[domain]]\n[[domain]]\nsize.most = [1, {number}]", "x")
    with pytest.raises(ConfigError, match="out of range") as caught:
        check_values(document)
    assert caught.value.key == "domain[1].size.most[1]"
