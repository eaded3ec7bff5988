"""Conditions: what they choose is what a plain loop chooses; no Python runs; errors name what doesn't fit."""

import operator

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.errors import UsageError
from streaming.where import parse_where

PITCH = [21, 40, 60, 61, 108, None, -5, 60]
LEVEL = [0.5, None, -1.0, 2.0, 60.0, 1e300, 0.0, 60.0]
FAMILY = ["bass", "organ", "it's", None, "bass", "reed", "", "organ"]
LOUD = [True, False, None, True, True, False, None, True]
TABLE = pa.table(
    {"pitch": PITCH, "level": LEVEL, "family": FAMILY, "loud": LOUD}
    | {"a name": PITCH, "tags": [[1]] * 8, "none": [None] * 8, "true": FAMILY}
)
SIGNS = {"==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


def chosen(text: str) -> list[int]:
    where = parse_where(text, schema=TABLE.schema)
    numbered = TABLE.select(list(where.columns)).append_column("number", pa.array(range(TABLE.num_rows)))
    return sorted(numbered.filter(where.expression)["number"].to_pylist())


@st.composite
def comparisons(draw: st.DrawFn):
    """A comparison as text, and as what SQL says of it: true, false or None."""
    column, values, literals = draw(
        st.sampled_from(
            [("pitch", PITCH, [60, -5, 40.5, 7]), ("level", LEVEL, [0, 2, -1.5]), ("family", FAMILY, ["bass", "it's"])]
        )
    )
    if draw(st.booleans()):
        sign, literal = draw(st.sampled_from(sorted(SIGNS))), draw(st.sampled_from(literals))
        return f"{column} {sign} {literal!r}", [None if v is None else SIGNS[sign](v, literal) for v in values]
    among, word = draw(st.lists(st.sampled_from(literals), min_size=1, max_size=3)), draw(st.sampled_from(["", "not "]))
    found = [None if v is None else (v in among) != bool(word) for v in values]
    return f"{column} {word}in {among!r}", found


def both(left, right):
    return False if False in (left, right) else None if None in (left, right) else True


def invert(value):
    return None if value is None else not value


CONDITIONS = st.recursive(
    comparisons(),
    lambda inner: (
        inner.map(lambda one: (f"not ({one[0]})", [invert(v) for v in one[1]]))
        | st.tuples(inner, inner).map(
            lambda two: (
                f"({two[0][0]}) and ({two[1][0]})",
                [both(*pair) for pair in zip(two[0][1], two[1][1], strict=True)],
            )
        )
        | st.tuples(inner, inner).map(
            lambda two: (
                f"({two[0][0]}) or ({two[1][0]})",
                [invert(both(invert(a), invert(b))) for a, b in zip(two[0][1], two[1][1], strict=True)],
            )
        )
    ),
    max_leaves=5,
)


@given(CONDITIONS)
@settings(max_examples=150, deadline=None)
def test_a_condition_chooses_what_a_plain_loop_chooses(condition):
    text, said = condition
    assert chosen(text) == [i for i, value in enumerate(said) if value is True]


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("40 <= pitch < 61", [1, 2, 7]),
        ("60 == pitch", [2, 7]),
        ("pitch == level", [7]),
        ("pitch in (60)", [2, 7]),
        ("pitch == null", [5]),
        ("null != loud and loud", [0, 3, 4, 7]),
        ("not loud", [1, 5]),
        ("loud == false", [1, 5]),
        ("none == null and family == ''", [6]),
        ("column('a name') > 100", [4]),
        ("true == 'organ'", [1, 7]),
        ("family == 'it\\'s'", [2]),
        ("  family\n == 'reed' ", None),
        ("(family\n == 'reed')", [5]),
    ],
)
def test_the_forms_of_the_page(text: str, rows: list[int] | None):
    if rows is None:
        with pytest.raises(UsageError, match="can't be read"):
            chosen(text)
    else:
        assert chosen(text) == rows


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("pitsch == 60", r"where names 'pitsch', which is no column: take of pitch, level, family"),
        ("column('x') == 60", r"where names 'x', which is no column"),
        ("pitch = 60", r"where can't be read \(.*'pitch = 60'; write it like .* with == for equal"),
        ("pitch ==", r"where can't be read \(invalid syntax\)"),
        ("", r"where can't be read"),
        ("pitch == 'a'", r"where can't tell pitch \(int64\) == 'a': compare numbers with numbers"),
        ("loud == 1", r"where can't tell loud \(bool\) == 1"),
        ("loud < true", r"where can't tell loud \(bool\) < true"),
        ("tags == 1", r"where can't tell tags \(list<.*>\) == 1"),
        ("tags == tags", r"where can't tell tags"),
        ("none == 1", r"where can't tell none \(null\) == 1"),
        ("pitch < null", r"where can't tell pitch \(int64\) < null"),
        ("pitch in (1, 'a')", r"where can't tell pitch \(int64\) == 'a'"),
        ("pitch in ()", r"where has pitch \(int64\) beside in: write COLUMN in"),
        ("3 in (3, 4)", r"where has 3 beside in"),
        ("pitch in (level, 3)", r"where has pitch \(int64\) beside in"),
        ("1 == 1", r"where compares 1 with 1: name a column on one side"),
        ("pitch", r"where has pitch \(int64\) for a condition: compare it"),
        ("True", r"where has true for a condition"),
        ("pitch == 9223372036854775808000", r"where can't be read \(.*too (large|big)"),
        ("pitch is null", r"where can't hold 'pitch is null'"),
        ("pitch + 1 == 3", r"where can't hold 'pitch \+ 1'"),
        ("pitch == 3j", r"where can't hold '3j'"),
        ("family == b'bass'", r"where can't hold \"b'bass'\""),
        ("family == f'{1}'", r"where can't hold"),
        ("__import__('os').system('touch hit') == 0", r"where can't hold \"__import__\('os'\).system"),
        ("open('hit', 'w') == 0", r"where can't hold \"open\('hit', 'w'\)\""),
        ("pitch.__class__ == 3", r"where can't hold 'pitch.__class__'"),
        ("[p for p in (1, 2)] == 3", r"where can't hold"),
        ("(pitch := 3) == 3", r"where can't hold"),
        ("lambda: 3", r"where can't hold"),
        ("pitch == 3; pitch", r"where can't be read"),
        ("\0", r"where can't be read"),
        ("(" * 3000 + "pitch", r"where can't be read"),
        ("pitch == " + "-" * 9000 + "1", r"where can't (be read|hold)"),
        ("pitch == 1 or " * 800, r"where must have up to 10,000 characters, got 11,200"),
        ("family == '\x1b[31m' and pitch == 'x'", r"where can't tell pitch"),
    ],
)
def test_errors_name_what_does_not_fit(text: str, told: str, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=told) as caught:
        chosen(text)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600
    assert not list(tmp_path.iterdir()), "nothing was run"


def test_deep_conditions_are_read_or_refused():
    assert chosen("not " * 400 + "pitch == 60") == [2, 7]
    assert chosen(" or ".join(["pitch == 60"] * 500)) == [2, 7]
