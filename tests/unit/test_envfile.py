# SPDX-License-Identifier: GPL-3.0-or-later
"""The codec of ``.env``: every printable value survives, what people wrote stays, and an error names file and line but
never a value. What Compose makes of the same text is tested in integration/test_envfile_compose.py.
"""

from __future__ import annotations

from typing import Dict, List, NamedTuple, Tuple

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from ansible_collections.multibase.supabase.plugins.module_utils import _envfile
from ansible_collections.multibase.supabase.plugins.module_utils._errors import StateCorrupt
from unit.support import PROPERTY

HOSTILE = [
    "", " ", "  leading", "trailing  ", "a b", "a#b", "a #b", "# comment", "#", '"', '""', "'", "''", '"quoted"',
    "'quoted'", "it's", 'say "x"', "\\", "\\\\", "trailing\\", "a\\nb", "a\\\\nb", "\\$", "$", "$$", "$HOME", "${HOME}",
    "${HOME:-x}", "$(id)", "`id`", "a\nb", "a\n\nb\n", "\n", "a\tb", "=", "a=b", "=a", "!", "%s", "{{ 7*7 }}",
    "*anchor",
    "{a: b}", "x: y\nprivileged: true", "yes", "null", "1e3", "0x1F", "~", "ä€😀", "а", "\u202e", "\u2028", "\u00a0x",
    "\\t", "\\r", "\\u0041", "a\\", "export A=b", "'a\"b$c\\d#e\nf'", "p@ss/w:rd?&+%41", "x" * 65536,
]  # fmt: skip
printable = st.text(st.characters(exclude_categories=("Cs", "Cc"), include_characters="\n\t"), max_size=60)
nasty = st.text(st.sampled_from("\"'\\$#=\n\t `{}ab "), max_size=20)


def roundtrip(values: List[str]) -> Dict[str, str]:
    named = {"V{0}".format(number): value for number, value in enumerate(values)}
    text = _envfile.render([("Heading", named)])
    assert _envfile.parse(text) == named
    return named


@pytest.mark.parametrize("value", HOSTILE, ids=lambda value: ascii(value[:20]))
def test_hostile_values_survive(value: str) -> None:
    assert _envfile.decode_value(_envfile.encode_value(value)) == value
    assert "\n" not in _envfile.encode_value(value), "one line each"
    roundtrip([value, "next"])


@PROPERTY
@given(st.lists(printable | nasty, max_size=8))
@example(["\\", "next"])
@example(['"', "#"])
def test_any_printable_value_survives(values: List[str]) -> None:
    roundtrip(values)


@PROPERTY
@given(printable | nasty)
def test_encoding_is_stable(value: str) -> None:
    encoded = _envfile.encode_value(value)
    assert _envfile.encode_value(_envfile.decode_value(encoded)) == encoded


@pytest.mark.parametrize(
    "character", [chr(code) for code in range(32) if chr(code) not in "\t\n"] + ["\x7f"], ids=ascii
)
def test_control_characters_are_refused(character: str) -> None:
    assert _envfile.value_problem("a" + character)
    with pytest.raises(ValueError) as caught:
        _envfile.render([("Heading", {"NAME": "canary" + character})])
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("value", ["\ud800", "a\udfff", "\udc80b", "\ude00\ud83d"], ids=ascii)
def test_lone_surrogates_are_refused(value: str) -> None:
    # UTF-8 has no form for them: the file could not be written.
    assert "half a character" in _envfile.value_problem(value)
    with pytest.raises(ValueError, match="half a character"):
        _envfile.encode_value(value)


@pytest.mark.parametrize("character", ["x", "$", "é", "\U0001f600"])
def test_what_no_process_could_get_is_refused(character: str) -> None:
    longest = character * (_envfile.LONGEST_VALUE // len(character.encode()))
    assert _envfile.value_problem(longest) == ""
    assert _envfile.decode_value(_envfile.encode_value(longest)) == longest
    assert "127 KiB" in _envfile.value_problem(longest + character)
    with pytest.raises(ValueError, match="127 KiB"):
        _envfile.encode_value(longest + character)


@pytest.mark.parametrize("name", ["", "1A", "A-B", "A B", "A=B", "Ä", "A\n", "$A"])
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError):
        _envfile.render([("Heading", {name: "value"})])


def test_layout_of_the_file() -> None:
    text = _envfile.render([("First", {"A": "1", "B": "x y"}), ("Empty", {}), ("Last", {"C": ""})])
    assert text == '# First\nA=1\nB="x y"\n\n# Last\nC=\n'


def test_what_people_write_is_read() -> None:
    text = "\n# comment\n  # indented\nA=1\nexport B=2\n C = 3 \nD='a b'\n"
    text += 'E="a \\"b\\" \\$c \\\\ \\n"\nF=x # why\nG=a#b\nH=\n'
    assert _envfile.parse(text) == {
        "A": "1", "B": "2", "C": "3", "D": "a b", "E": 'a "b" $c \\ \n', "F": "x", "G": "a#b", "H": "",
    }  # fmt: skip
    assert _envfile.parse('A=1\r\nB="x"\r\n') == {"A": "1", "B": "x"}


# Read off Compose 2.26.1 and 5.6.1, which agree.
AS_COMPOSE_READS = {
    "": "", "  x  ": "x", "a#b": "a#b", "#b": "#b", " # b": "# b", "a #b": "a", "a\t#b": "a\t#b", "a=b": "a=b",
    "a\u00a0# b": "a\u00a0# b", 'a"b': 'a"b', "a'b'": "a'b'", "a\\nb": "a\\nb", "a\\": "a\\", "a\rb\r": "a\rb",
    "\x85\u00a0x\x85\u00a0\u2003\u2028\u3000": "x", "\u2003x": "\u2003x", "\x1cx\x1c": "\x1cx\x1c",
    "$": "$", "$$": "$", "$$x": "$x", "$$$$": "$$", "a$ $1 $.": "a$ $1 $.", '"$$x"': "$x", "'$$x $x'": "$$x $x",
    "'it\\'s'": "it's", "'a\\\\'": "a\\\\", "'a\\nb'": "a\\nb", "'a\"b'": 'a"b', "''": "", "'a' # b": "a", "'a'#b": "a",
    '"a\\"b"': 'a"b', '"a\\\\"': "a\\", '"\\n\\r\\t\\a\\b\\f\\v"': "\n\r\t\a\b\f\v", '"\\$x"': "$x", '"\\\\n"': "\\n",
    '"\\q\\c\\x41\\u0041\\\'"': "\\q\\c\\x41\\u0041\\'", '"a # b"': "a # b", '"a"\t# b': "a",
}  # fmt: skip


@pytest.mark.parametrize("text", AS_COMPOSE_READS, ids=ascii)
def test_values_are_read_as_compose_reads_them(text: str) -> None:
    assert _envfile.decode_value(text) == AS_COMPOSE_READS[text]
    assert _envfile.parse("A=" + text, plain=[]) == {"A": AS_COMPOSE_READS[text]}


@pytest.mark.parametrize(
    "text", ["$X", "a${X}b", "${X:-d}", '"$X"', '"\\n${X}"', "$x", "$_", "$$$X", "$\u017f", "$\u212a"], ids=ascii
)
def test_references_stay_references(text: str) -> None:
    value = text.strip('"').replace("\\n", "\n")
    assert _envfile.parse("A=" + text) == {"A": value} == {"A": _envfile.decode_value(text)}
    with pytest.raises(StateCorrupt, match=r"/x/\.env, line 2: A refers to other variables"):
        _envfile.parse("B=$X\nA=" + text, "/x/.env", plain=["A"])


def test_a_dollar_sign_beside_a_reference_stays_written_twice() -> None:
    assert _envfile.decode_value("$$a$X") == "$$a$X"
    assert _envfile.decode_value('"\\$a$X"') == "$$a$X"


def test_what_cannot_be_written_again_is_refused_where_it_has_to_be() -> None:
    assert _envfile.parse('A="a\\rb"') == {"A": "a\rb"}
    with pytest.raises(StateCorrupt, match="line 1: A holds control characters"):
        _envfile.parse('A="a\\rb"', plain={"A", "B"})
    assert _envfile.parse("A='a$b'\nB=a$$b\n", plain={"A", "B"}) == {"A": "a$b", "B": "a$b"}


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('A="one\ntwo"\n', "line 1: A has a quoted value that does not end on its line"),
        ("B=1\nA='one\ntwo'\n", "line 2: A has a quoted value that does not end on its line"),
        ('A="x" y\n', "line 1: A has text behind its closing quote"),
        ("A='x'B=1\n", "line 1: A has text behind its closing quote"),
        ('A="\\0101"\n', "line 1: A has an octal escape"),
        ("A: 1\n", "line 1: not of the form"),
        ("A\n", "line 1: not of the form"),
        ("export =1\n", "line 1: not of the form"),
        ("export\nA=1\n", "line 1: not of the form"),
        ("\u00a0A=1\n", "line 1: not of the form"),
        ("\x1c\n", "line 1: not of the form"),
        ("A.B=1\n", "line 1: not of the form"),
    ],
    ids=ascii,
)
def test_what_compose_reads_and_we_do_not(text: str, what: str) -> None:
    with pytest.raises(StateCorrupt) as caught:
        _envfile.parse(text, "/srv/x/.env")
    assert "/srv/x/.env, " + what in str(caught.value)


CANARY = "s3cr3tcanary"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("A=1\n{0}\n".format(CANARY), 2),
        ("A=1\nB B={0}\n".format(CANARY), 2),
        ("A=1\n\n# x\n={0}\n".format(CANARY), 4),
        ("A=\"{0}\n".format(CANARY), 1),
        ("A='{0}\n".format(CANARY), 1),
        ("A=\"{0}\\\"\n".format(CANARY), 1),
        ("A=\"x\" {0}\"\n".format(CANARY), 1),
        ("A=\"\n", 1),
        ("A=1\nA={0}\n".format(CANARY), 2),
        ("POSTGRES_PASSWORD=1\nPOSTGRES_PASSWORD={0}\n".format(CANARY), 2),
    ],
)  # fmt: skip
def test_errors_name_file_and_line_but_no_value(text: str, line: int) -> None:
    with pytest.raises(StateCorrupt) as caught:
        _envfile.parse(text, "/srv/x/.env")
    message = str(caught.value)
    assert "/srv/x/.env" in message and "line {0}".format(line) in message
    assert CANARY not in message
    assert CANARY not in repr(caught.value.__cause__)


@pytest.mark.parametrize("text", ["\ufeffA=1\n", "A=1\x00\n"])
def test_damaged_files_are_refused(text: str) -> None:
    with pytest.raises(StateCorrupt, match=r"/srv/x/\.env"):
        _envfile.parse(text, "/srv/x/.env")


@PROPERTY
@given(st.text(max_size=80))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        _envfile.parse(text)
    except StateCorrupt:
        return


# What people wrote


def rewritten(text: str, *ours: str) -> List[str]:
    _envfile.parse(text)
    return _envfile.hand_written(text, ours, ["First", "Last"])


def test_nothing_was_written_by_hand() -> None:
    text = _envfile.render([("First", {"A": "1"}), ("Last", {"B": "2 3", "C": ""})])
    assert rewritten(text, "A", "B", "C") == []
    assert _envfile.hand_written("", ["A"], []) == _envfile.hand_written("\n\n", [], []) == []


def test_comments_and_order_stay() -> None:
    text = "# Mine\n\n# First\nA=1\nMINE=${A} # why\n\n\n  # more\nexport ALSO='x'\nB=2\n"
    text += "\n# Last\n#OFF=1\nC=3\nEND=1\n\n\n"
    hand = rewritten(text, "A", "B", "C")
    assert hand == ["# Mine", "", "MINE=${A} # why", "", "  # more", "export ALSO='x'", "#OFF=1", "", "END=1"]
    text = _envfile.render([("First", {"A": "1"})], hand)
    assert text.startswith("# First\nA=1\n\n# Added by hand; kept as it is\n# Mine\n\nMINE=")
    assert text.endswith("\n\nEND=1\n")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# c\nMINE=1\nA=1\n", ["# c", "MINE=1"]),
        ("# c\nA=1\nMINE=1\n", ["# c", "", "MINE=1"]),
        ("# c\n# First\nMINE=1\n", ["# c", "", "MINE=1"]),
        ("# c\nA=1\n# d\nB=1\nMINE=1\n", ["# c", "", "# d", "", "MINE=1"]),
        ("MINE=1\nA=1\n# c\n", ["MINE=1", "# c"]),
        ("MINE=1\n\n# First\nA=1\nALSO=1\n", ["MINE=1", "ALSO=1"]),
        ("MINE=1\n\n# First \nA=1\n \t\nALSO=1\n", ["MINE=1", "", "ALSO=1"]),
        ("# c\n\n# Last\nMINE=1\n", ["# c", "", "MINE=1"]),
        ("# Last, edited\nA=1\n", ["# Last, edited"]),
        ("# last\n#First\nA=1\n", ["# last", "#First"]),
        ("# Added by hand; kept as it is\nMINE=1\n", ["MINE=1"]),
        ("# A=2\nA=1\nexport B=1\n  A1=2\n", ["# A=2", "", "  A1=2"]),
        ("# First\r\nA=1\r\n\r\n# c\r\nMINE=1\r\n", ["# c", "MINE=1"]),
        ("A=1\nMINE=1", ["MINE=1"]),
    ],
    ids=ascii,
)
def test_what_is_kept(text: str, expected: List[str]) -> None:
    assert rewritten(text, "A", "B") == expected
    again = _envfile.render([("First", {"A": "1", "B": "2"})], expected)
    assert rewritten(again, "A", "B") == expected


def test_a_variable_that_becomes_ours_is_dropped_and_its_comment_stays() -> None:
    text = _envfile.render([("First", {"A": "1"})], ["# mine", "B=1", "C=1"])
    assert rewritten(text, "A", "B") == ["# mine", "", "C=1"]


def test_the_added_heading_is_not_the_first_line_of_a_section() -> None:
    assert _envfile.render([], ["A=1"]) == "# Added by hand; kept as it is\nA=1\n"


class Edited(NamedTuple):
    """A rendered file that somebody edited, and what the next rendering makes of it."""

    lines: List[str]
    ours: List[str]
    hand: List[str]
    sections: List[Tuple[str, Dict[str, str]]]


HEADINGS = ["One", "Two", "Three", "Four"]
OURS = ["O{0}".format(number) for number in range(8)]
COMMENTS = st.sampled_from(["# {0}", "#{0}", "  # {0}", "# {0}=1", "#O1={0}", "# One {0}", "\t#\t{0}  "])
ADDED = st.sampled_from(["{0}=1", "export {0}=2", " {0} = x # y", "{0}='$O1'", "{0}=${{O1}}", '{0}="a \\"b"', "{0}="])


@st.composite
def sections_of(draw: st.DrawFn, headings: List[str], names: List[str]) -> List[Tuple[str, Dict[str, str]]]:
    """Some of the headings, each with some of the variables."""
    chosen = draw(st.lists(st.sampled_from(names), unique=True, min_size=1))
    places = draw(st.lists(st.sampled_from(headings), min_size=len(chosen), max_size=len(chosen)))
    values = draw(st.lists(nasty, min_size=len(chosen), max_size=len(chosen)))
    made: Dict[str, Dict[str, str]] = {}
    for name, place, value in zip(chosen, places, values):
        made.setdefault(place, {})[name] = value
    return list(made.items())


@st.composite
def edited_files(draw: st.DrawFn) -> Edited:
    """A file that was rendered, edited, rendered and edited again, and the sections of the next rendering."""
    lines: List[str] = []
    ours: List[str] = []
    number = 0
    for _turn in range(draw(st.integers(1, 3))):
        sections = draw(sections_of(HEADINGS, OURS))
        now = [name for _heading, variables in sections for name in variables]
        hand = _envfile.hand_written("\n".join(lines), ours + now, HEADINGS)
        lines, ours = _envfile.render(sections, hand).split("\n"), now
        for place in draw(st.lists(st.integers(0, 60), max_size=8)):
            number += 1
            text = draw(st.one_of(COMMENTS, ADDED, st.sampled_from(["", " "]))).format("H{0}".format(number))
            lines.insert(min(place, len(lines) - 1), text)
    following = draw(sections_of(HEADINGS, OURS + ["H{0}".format(count) for count in range(1, number + 1)]))
    taken = ours + [name for _heading, variables in following for name in variables]
    headings = {"# " + heading for heading in [*HEADINGS, _envfile.ADDED_HEADING]}
    hand = [line for line in lines if line.strip() and line not in headings and name_of(line) not in taken]
    return Edited(lines, taken, hand, following)


def name_of(line: str) -> str:
    """The variable that a line of these tests sets."""
    return "" if line.lstrip().startswith("#") else line.partition("=")[0].replace("export", "").strip()


def rendered_again(edited: Edited, end: str = "\n") -> str:
    return _envfile.render(edited.sections, _envfile.hand_written(end.join(edited.lines), edited.ours, HEADINGS))


@PROPERTY
@given(edited_files(), st.sampled_from(["\n", "\r\n"]))
def test_everything_that_people_wrote_survives_in_its_order(edited: Edited, end: str) -> None:
    again = rendered_again(edited, end)
    _sections, heading, below = again.partition("# {0}\n".format(_envfile.ADDED_HEADING))
    assert bool(heading) == bool(edited.hand)
    assert [line for line in below.split("\n") if line.strip()] == edited.hand
    before = _envfile.parse("\n".join(edited.lines))
    kept = {name: value for name, value in before.items() if name not in edited.ours}
    ours = {name: value for _heading, variables in edited.sections for name, value in variables.items()}
    assert _envfile.parse(again) == {**ours, **kept}


@PROPERTY
@given(edited_files())
def test_the_second_rendering_changes_nothing(edited: Edited) -> None:
    again = rendered_again(edited)
    hand = _envfile.hand_written(again, edited.ours, HEADINGS)
    assert _envfile.render(edited.sections, hand) == again
    assert "\n\n\n" not in again


@PROPERTY
@given(edited_files())
def test_a_comment_stays_above_its_variable_and_comes_above_no_other(edited: Edited) -> None:
    again = rendered_again(edited).split("\n")
    for line, following in zip(edited.lines, edited.lines[1:]):
        if line not in edited.hand or name_of(line):
            continue
        below = again[again.index(line) + 1]
        if following in edited.hand:
            assert below == following
        else:
            assert not name_of(below)


# Names


@pytest.mark.parametrize("name", ["A", "_", "a1", "http_proxy", "GOTRUE_SMTP_HOST", "x" * 200])
def test_names_of_variables(name: str) -> None:
    assert _envfile.name_problem(name) == ""
    assert _envfile.parse(_envfile.render([("Heading", {name: "value"})])) == {name: "value"}


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("", "is empty"), ("1A", "begins with a digit"), ("0", "begins with a digit"), ("A-B", "holds other"),
        ("A.B", "holds other"), ("A B", "holds other"), ("A=B", "holds other"), ("A\n", "holds other"),
        ("A\x00", "holds other"), ("Ä", "holds other"), ("\u0661A", "holds other"), ("$A", "holds other"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_name(name: str, problem: str) -> None:
    assert _envfile.name_problem(name).startswith(problem)


@PROPERTY
@given(st.text(st.characters(codec="utf-8"), max_size=6) | st.text("Aa_1é", max_size=6))
def test_a_good_name_is_one_that_is_read_back(name: str) -> None:
    assume("\x00" not in name and not name.startswith("\ufeff"))
    line = name + "=value"
    try:
        good = list(_envfile.parse(line)) == [name]
    except StateCorrupt:
        good = False
    assert good == (_envfile.name_problem(name) == "")


SECRET_NAMES = [
    "PASSWORD", "DB_PASSWORD", "PGPASSWORD", "SMTP_PASS", "MYSQL_PWD", "ROOT_PASSWD", "ADMIN_PW", "SECRET",
    "CLIENT_SECRET", "SECRETS", "TOKEN", "TOKENS", "GITHUB_TOKEN", "KEY", "API_KEY", "API_KEY_2", "APIKEY1",
    "KEYS", "JWT_KEYS", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "SECRET_KEY_BASE", "CREDENTIAL",
    "GOOGLE_CREDENTIALS", "AWS_CREDS", "PRIVATE", "RSA_PRIVATE", "BASIC_AUTH", "REDIS_AUTH", "SENTRY_DSN",
    "DSN", "IMGPROXY_SALT", "RELEASE_COOKIE", "GPG_PASSPHRASE", "apiKey", "dbPassword", "api_key", "APIKey",
    "PASSWORD_HASH", "KEY_PUBLIC", "LOGFLARE_PUBLIC_ACCESS_TOKEN", "GOTRUE_SMS_TWILIO_AUTH_TOKEN",
    "GOTRUE_SAML_PRIVATE_KEY", "GOTRUE_HOOK_SEND_SMS_SECRETS", "GOTRUE_SECURITY_CAPTCHA_SECRET",
]  # fmt: skip
OPEN_NAMES = [
    "KEYBOARD", "PASSENGER", "MONKEY", "MONKEYS", "TURKEY", "DONKEY_COUNT", "KEYSTONE", "COMPASS", "BYPASS",
    "TOKENIZER", "SECRETARY", "AUTHOR", "AUTHORITY", "KEYCLOAK_URL", "GOTRUE_EXTERNAL_KEYCLOAK_URL",
    "OAUTH2_ISSUER", "AUTH_SITE_URL", "PRIVATE_NETWORK", "PWD", "OLDPWD", "COOKIE_DOMAIN", "TOKEN_EXPIRY",
    "TOKEN_TTL", "PASSWORD_MIN_LENGTH", "GOTRUE_PASSWORD_MIN_LENGTH", "GOTRUE_PASSWORD_REQUIRED_CHARACTERS",
    "GOTRUE_SECURITY_REFRESH_TOKEN_ROTATION_ENABLED", "GOTRUE_SECURITY_REFRESH_TOKEN_REUSE_INTERVAL",
    "ENABLE_PASSWORD_LOGIN", "DISABLE_AUTH", "PUBLIC_KEY", "VAPID_PUBLIC_KEY", "SUPABASE_PUBLISHABLE_KEY",
    "PASSWORD_FILE", "KEY_PATH", "API_KEY_HEADER", "CACHE_KEY_PREFIX", "JWT_EXPIRY", "GOTRUE_JWT_EXP",
    "SMTP_HOST", "SMTP_USER", "LOG_LEVEL", "http_proxy", "NO_PROXY", "TZ", "_", "1",
    "GOTRUE_EXTERNAL_GOOGLE_CLIENT_ID", "FUNCTIONS_VERIFY_JWT", "PGRST_DB_SCHEMAS",
]  # fmt: skip


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_names_that_look_secret(name: str) -> None:
    assert _envfile.looks_secret(name)
    assert _envfile.looks_secret("MY_" + name) and _envfile.looks_secret(name + "_1")


@pytest.mark.parametrize("name", OPEN_NAMES)
def test_names_that_do_not_look_secret(name: str) -> None:
    assert not _envfile.looks_secret(name)


def test_the_empty_name_is_no_secret() -> None:
    assert not _envfile.looks_secret("")
