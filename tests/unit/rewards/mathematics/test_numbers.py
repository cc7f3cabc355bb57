"""Tiny numbers, bases, congruences and sequences: what stands beside the digits counts."""

from __future__ import annotations

from tests.unit.rewards.mathematics.judged import boxed_reward, judged

TINY_EQUAL = [
    (r"\frac{1}{2006!}", r"\frac{1}{2006!}"),
    (r"\frac{1}{2006 \cdot 2005!}", r"\frac{1}{2005! \cdot 2006}"),
    (r"2^{-98}", r"\frac{1}{2^{98}}"),
    (r"\frac{1}{4^{49}}", r"\frac{1}{2^{98}}"),
    ("1e-30", "10^{-30}"),
    (r"1.0 \times 10^{-30}", "1e-30"),
    (r"6.02\times10^{-23}", "6.02e-23"),
    (r"6.02 \cdot 10^{-23}", r"60.2\times 10^{-24}"),
    ("0.0000001", r"10^{-7}"),
    ("0.0000001", "1e-7"),
    ("0.00000010", "0.0000001"),
    (r"\frac{1}{8}\times 10^{-9}", r"1.25 \times 10^{-10}"),
    ("0.333333", r"\frac13"),
    ("0.083333", r"\frac{1}{12}"),
    ("0.8660254", r"\frac{\sqrt{3}}{2}"),
    ("3.141593", r"\pi"),
    (r"2.314814814815 \times 10^{-3}", r"\frac{1}{432}"),
    (r"6.02 \times 10^{23}", "602000000000000000000000"),
    (r"(10^{-8}, 2)", r"(0.00000001, 2)"),
    (r"10^{-30}x", r"\frac{x}{10^{30}}"),
]

TINY_DIFFERENT = [
    (r"\frac{1}{2006!}", r"\frac{1}{2004!}"),
    (r"\frac{1}{2^{98}}", r"\frac{1}{2^{99}}"),
    (r"\frac{1}{3^{40}}", r"\frac{1}{3^{41}}"),
    ("2^{-98}", "2^{-99}"),
    ("0.0000001", "0.0000002"),
    ("1e-30", "2e-30"),
    ("10^{-30}", r"2 \cdot 10^{-30}"),
    (r"6.02\times10^{-23}", r"6.63\times10^{-34}"),
    (r"6.02\times10^{-23}", r"6.02\times10^{-24}"),
    (r"\frac{1}{3 \cdot 2^{2006}}", r"\frac{2^{2005}+1}{3 \cdot 2^{2006}}"),
    (r"\frac{2^{2005}+1}{3 \cdot 2^{2006}}", r"\frac{1}{6}"),
    (r"\frac{2^{2005}+1}{3 \cdot 2^{2006}}", r"\frac{2^{2005}+2}{3 \cdot 2^{2006}}"),
    ("0", "10^{-8}"),
    ("10^{-8}", "0"),
    ("0.0", r"\frac{1}{2006!}"),
    (r"\sqrt{2}+10^{-30}", r"\sqrt{2}"),
    ("1.0001e-20", "1.0002e-20"),
    ("-1e-9", "1e-9"),
    (r"\frac{\pi}{10^{9}}", r"\frac{e}{10^{9}}"),
    (r"(10^{-8}, 2)", r"(2\cdot 10^{-8}, 2)"),
    (r"\{10^{-8}, 1\}", r"\{2\cdot 10^{-8}, 1\}"),
    (r"\left[0, 10^{-9}\right]", r"\left[0, 10^{-8}\right]"),
    (r"10^{-30}x", r"2 \cdot 10^{-30}x"),
    (r"x = 10^{-12}", r"x = 10^{-13}"),
    (r"e^{-100}", r"e^{-101}"),
    ("0.33", r"\frac13"),
    ("3.14", r"\pi"),
]

BASES_EQUAL = [
    ("4210_{7}", "4210_7"),
    ("4210_7", "4210_{7}"),
    ("321", "321_8"),
    ("321_8", "321_{8}"),
    (r"1010_{\text{two}}", "1010_2"),
    (r"1010_{\text{base } 2}", "1010_2"),
    ("(1010)_2", "1010_2"),
    ("101₂", "101_2"),
    (r"321 \text{ base } 8", "321_8"),
    (r"321_{\text{eight}}", "321_8"),
    ("0101_2", "101_2"),
    (r"\text{2A}_{16}", r"2A_{16}"),
    ("2A_{16}", "2A_{16}"),
    ("8_{10}", "8"),
    ("8", "8_{10}"),
    (r"1\,010_2", "1010_2"),
]

BASES_DIFFERENT = [
    ("4210_{7}", "4210_8"),
    ("101_2", "101"),
    ("101_2", "101_3"),
    ("4211_7", "4210_7"),
    ("322", "321_8"),
    ("5", "101_2"),
    ("101_2", "5"),
    ("100_2", "10_4"),
    ("4290_7", "4290"),
    (r"1010_{\text{two}}", "1010_3"),
    (r"1010_{\text{two}}", "1010"),
    (r"321 \text{ base } 8", r"321_7"),
    ("101₂", "101"),
    ("2A_{16}", "2B_{16}"),
]

CONGRUENT = [
    (r"x \equiv 3 \pmod 7", r"x \equiv 3 \pmod{7}"),
    (r"x\equiv 3\pmod{7}", r"x \equiv 3 \pmod 7"),
    (r"x ≡ 3 (mod 7)", r"x \equiv 3 \pmod 7"),
    (r"x \equiv 3 (\text{mod } 7)", r"x \equiv 3 \pmod 7"),
    (r"x \equiv 3 \mod 7", r"x \equiv 3 \pmod 7"),
    (r"x \equiv 3 \; (\bmod\; 7)", r"x \equiv 3 \pmod 7"),
    (r"3 \pmod 7", r"x \equiv 3 \pmod 7"),
    (r"x \equiv 3 \pmod 7", r"3 \pmod 7"),
    (r"x \equiv 10 \pmod 7", r"x \equiv 3 \pmod 7"),
    (r"x \equiv -4 \pmod 7", r"x \equiv 3 \pmod 7"),
    (r"x \equiv 1, 2 \pmod 5", r"x \equiv 2, 1 \pmod 5"),
    (r"x \equiv 2 \text{ or } 3 \pmod 5", r"x \equiv \pm 2 \pmod 5"),
    (r"x \equiv 3 \pmod 7", "3"),
    ("3", r"x \equiv 3 \pmod 7"),
    (r"n \equiv a \pmod m", r"n \equiv a \pmod m"),
]

INCONGRUENT = [
    (r"x \equiv 3 \pmod 7", r"x \equiv 4 \pmod 7"),
    (r"x\equiv 1 \pmod 3", r"x \equiv 2 \pmod 3"),
    (r"x \equiv 3 \pmod 7", r"x \equiv 3 \pmod 8"),
    (r"3 \pmod 7", r"4 \pmod 7"),
    (r"3 \pmod 7", r"3 \pmod 5"),
    (r"x ≡ 3 (mod 7)", r"x ≡ 3 (mod 5)"),
    (r"x \equiv 3 \mod 7", r"x \equiv 4 \mod 7"),
    (r"x \equiv 3 \pmod 7", r"y \equiv 3 \pmod 7"),
    (r"x \equiv 1 \pmod 5", r"x \equiv 1, 2 \pmod 5"),
    (r"x \equiv \pm 2 \pmod 5", r"x \equiv \pm 1 \pmod 5"),
    (r"x \equiv 3 \pmod 7", "7"),
    ("7", r"x \equiv 3 \pmod 7"),
    ("4", r"x \equiv 3 \pmod 7"),
    (r"17 \bmod 5", "2"),
    (r"17 \pmod 5", "2"),
    (r"x \equiv 4 \pmod 7", "3"),
]

SAME_SEQUENCE = [
    (r"1,2,\dots,n", r"1, 2, \ldots, n"),
    (r"1, 2, ..., n", r"1, 2, \ldots, n"),
    (r"1, 2, …, n", r"1, 2, \cdots, n"),
    (r"1, 2, 3, \ldots, n", r"1, 2, \ldots, n"),
    (r"\{1, 2, \ldots, n\}", r"\{1,2,\dots,n\}"),
    (r"1, 3, 5, \ldots, 2n-1", r"1, 3, \ldots, 2n-1"),
    (r"2, 4, 8, \ldots", r"2, 4, 8, \dots"),
    (r"1, 4, 9, \ldots, n^2", r"1, 4, 9, \dots, n \cdot n"),
    (r"1, 2, \ldots, 10", "1,2,3,4,5,6,7,8,9,10"),
    ("1,2,3,4,5", r"1, 2, \ldots, 5"),
    (r"2, 4, \ldots, 10", r"2, 4, 6, 8, 10"),
    (r"\ldots, -1, 0, 1, \ldots", r"\dots, -1, 0, 1, \dots"),
    (r"a_1, a_2, \ldots, a_n", r"a_1,a_2,\dots,a_n"),
    (r"1+2+\cdots+n", r"1 + 2 + \cdots + n"),
]

OTHER_SEQUENCE = [
    (r"1, 3, 5, \ldots, 2n-1", r"1, 2, \ldots, n"),
    (r"1, 2, \ldots, n", r"1, 3, 5, \ldots, 2n-1"),
    (r"1, 2, \ldots, n", r"1, 2, \ldots, m"),
    (r"1, 2, \ldots, n", r"1, 2, \ldots, n+1"),
    (r"2, 4, 8, \ldots", r"2, 4, 6, \ldots"),
    (r"1, 2, 4, \ldots, n", r"1, 2, 3, \ldots, n"),
    (r"1, 2, \ldots", r"1, 2, \ldots, n"),
    (r"1, 2, \ldots, n", "1, 2, n"),
    ("1, 2, n", r"1, 2, \ldots, n"),
    (r"1, 2, \ldots, 10", r"1, 2, \ldots, 11"),
    ("1,2,3,4", r"1, 2, \ldots, 5"),
    ("1,2,5", r"1, 2, \ldots, 5"),
    (r"0, 1, 2, \ldots", r"1, 2, 3, \ldots"),
    (r"1+2+\cdots+n", r"\frac{n(n+1)}{2}"),
    (r"\{1, 2, \ldots, n\}", r"\{2, 3, \ldots, n\}"),
]


@judged(TINY_EQUAL, TINY_DIFFERENT)
def test_numbers_below_a_thousandth_are_compared_relatively(
    given: str, reference: str, reward: float
):
    assert boxed_reward(given, reference) == reward


@judged(BASES_EQUAL, BASES_DIFFERENT)
def test_a_base_belongs_to_the_number(given: str, reference: str, reward: float):
    assert boxed_reward(given, reference) == reward


@judged(CONGRUENT, INCONGRUENT)
def test_residue_and_modulus_make_a_congruence(given: str, reference: str, reward: float):
    assert boxed_reward(given, reference) == reward


@judged(SAME_SEQUENCE, OTHER_SEQUENCE)
def test_the_terms_around_an_ellipsis_count(given: str, reference: str, reward: float):
    assert boxed_reward(given, reference) == reward
