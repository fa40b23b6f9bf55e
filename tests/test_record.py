"""Sizes and counts as people write them, phases, and parameters by their command-line names."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcmpi.record import Phases, count, human_bytes, option, parameters, size_in_bytes


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("1000", 1000),
        ("1_000_000", 10**6),
        (" 12 ", 12),
        ("1e9", 10**9),
        ("1E9", 10**9),
        ("1e+9", 10**9),
        ("1.5e3", 1500),
        ("1.50e1", 15),
        ("0.5e1", 5),
        ("2.50e2", 250),
        ("0e0", 0),
        ("2^30", 2**30),
        ("2**30", 2**30),
        ("1e18", 10**18),
        ("123456789.123456789e9", 123456789123456789),
        ("9007199254740993", 2**53 + 1),
        ("0^0", 1),
    ],
)
def test_count_is_exact(text, value):
    assert count(text) == value
    assert type(count(text)) is int


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "x", "-1", "+1", "1.5", "1.0", "1.25e1", "1e-1", "1e", "e9", "2^", "^30", "2^-1", "2^^3", "2***3"),
        *("0x10", "inf", "nan", "1,000", "1 000", "_1", "1_", "1__0", "1e9e9", "2^3^4", "1e999", "1k", "1\n2", "--n"),
    ],
)
def test_what_is_no_count_is_named_and_told_what_a_count_is(text):
    with pytest.raises(ValueError, match="is not a whole number such as 1000, 1e9 or 2\\^30") as error:
        count(text)
    assert repr(text) in str(error.value)


@given(st.integers(0, 10**40))
def test_count_reads_any_whole_number_back(n):
    assert count(str(n)) == n
    assert count(f"{n:_}") == n


@given(st.integers(0, 10**6), st.integers(0, 99))
def test_count_of_powers_and_exponents(n, e):
    assert count(f"{n}e{e}") == n * 10**e
    assert count(f"{n}^{e}") == count(f"{n}**{e}") == n**e


@given(st.text(max_size=12))
def test_count_and_size_refuse_any_other_text_by_name_and_with_valueerror_alone(text):
    for parse in (count, size_in_bytes):
        try:
            outcome = parse(text)
        except ValueError as error:
            outcome = str(error)
        assert repr(text) in outcome if isinstance(outcome, str) else outcome >= 0


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("512", 512),
        ("64MiB", 64 * 2**20),
        ("64 MiB", 64 * 2**20),
        ("64mib", 64 * 2**20),
        ("64Mi", 64 * 2**20),
        ("64MB", 64 * 10**6),
        ("64M", 64 * 10**6),
        ("1.5G", 1_500_000_000),
        ("0.5KiB", 512),
        ("1T", 10**12),
        ("1TiB", 2**40),
        ("10B", 10),
        ("1e9", 10**9),
        ("2^30", 2**30),
        ("9007199254740993", 2**53 + 1),
    ],
)
def test_size_in_bytes(text, value):
    assert size_in_bytes(text) == value


@pytest.mark.parametrize(
    "text", ["", "MiB", ".", "1.2.3M", "-1M", "1 M iB", "1PiB", "1MiBB", "inf", "1e9M", "nan", "5%", "1,5G"]
)
def test_what_is_no_size_is_named_and_told_what_a_size_is(text):
    with pytest.raises(ValueError, match=r"is not a size such as 64MiB, 1\.5G or 1e9") as error:
        size_in_bytes(text)
    assert repr(text) in str(error.value)


def test_a_size_beyond_all_floats_is_exact_all_the_same():
    assert size_in_bytes("9" * 400) == 10**400 - 1


@pytest.mark.parametrize(
    ("n", "text"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (999, "999 B"),
        (1000, "1000 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (512 * 2**20, "512 MiB"),
        (1000 * 2**20, "1000 MiB"),
        (2**30, "1 GiB"),
        (2**40, "1 TiB"),
        (1500 * 2**40, "1,500 TiB"),
        (-3 * 2**20, "-3 MiB"),
    ],
)
def test_human_bytes(n, text):
    assert human_bytes(n) == text


@given(st.integers(0, 900 * 2**40))
def test_human_bytes_are_true_to_half_a_percent(n):
    assert abs(size_in_bytes(human_bytes(n)) - n) <= Fraction(n, 200) + 1
    assert "e" not in human_bytes(n).lower()


class Clock:
    """A counter of traffic, and a list of what was announced."""

    def __init__(self):
        self.received, self.messages, self.announced = 0, 0, []

    def traffic(self):
        return self.received, self.messages

    def receive(self, nbytes):
        self.received += nbytes
        self.messages += 1


def test_phases_keep_their_order_and_add_up_when_entered_again():
    clock = Clock()
    phases = Phases(clock.traffic, clock.announced.append)
    clock.receive(1000)  # before any phase
    with phases("read"):
        clock.receive(3)
    with phases("run"):
        clock.receive(10)
        clock.receive(20)
    once = phases.by_name["run"].seconds
    with phases("run"):
        clock.receive(30)
    assert clock.announced == ["read", "run", "run"]
    assert list(phases.by_name) == ["read", "run"]
    assert (phases.by_name["read"].bytes_received, phases.by_name["read"].messages) == (3, 1)
    assert (phases.by_name["run"].bytes_received, phases.by_name["run"].messages) == (60, 3)
    assert phases.by_name["run"].seconds > once > 0


def test_a_phase_is_announced_before_it_begins_and_lets_errors_through():
    order = []
    phases = Phases(announce=order.append)
    with pytest.raises(ZeroDivisionError), phases("run"):
        order.append(1 // len(order[1:]))
    assert order == ["run"]


@dataclass(frozen=True)
class Params:
    n: int | None = option(None, "Rows.", parse=count, short="-n")
    transpose_a: bool = option(False, "Transpose.")
    method: str = option("auto", "How.", choices=("auto", "ring"))
    seed: int = 1


def test_parameters_go_by_their_command_line_names_without_those_not_set():
    assert parameters(Params()) == {"transpose-a": False, "method": "auto", "seed": 1}
    assert parameters(Params(n=0, transpose_a=True)) == {"n": 0, "transpose-a": True, "method": "auto", "seed": 1}
