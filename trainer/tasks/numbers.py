"""Numbers as people and models write them: read as they were meant, or not at all.

The idea: a grader that takes "9 trillion" for 9, or the 2 of "2√3" for an answer, rewards what is wrong and never says
so. Nobody can list all that makes a number another one, so what leaves it as it is gets listed instead: an end, a
sentence's end, a unit, a word that is neither a multiplier nor arithmetic. After anything else there is no number.

Text is only ever parsed, never evaluated.

Simplifications: words are English; spelled numbers, fractions, roots and powers of ten are recognised, so that nothing
beside them is taken for the answer, and not worked out.
"""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from typing import Final

LONGEST: Final = 40
"""Characters of a number, at most, and digits it may have when written out."""

# --- what a number looks like ------------------------------------------------------------------------

_GROUPED = "|".join(
    (
        r"[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?",  # 1,234,567.8
        r"[1-9]\d?(?:,\d\d)+,\d{3}(?:\.\d+)?",  # 12,34,567 as in India
        r"[1-9]\d{0,2}(?:\.\d{3})+,\d+",  # 1.234,56: here the comma can only be the decimal one
        r"[1-9]\d{0,2}(?:\.\d{3}){2,}",  # 1.234.567
        r"[1-9]\d{0,2}(?:['’]\d{3})+(?:\.\d+)?",  # 1'234.5
    )
)
_DIGITS = rf"(?>(?:{_GROUPED})(?![\d.,'’]*\d)|\d+(?:\.\d+)?|\.\d+)"
"""As much as belongs to a number, never less. "0,500" is in no groups of three: it ends before its comma."""
SIGNED = rf"(?:(?<![\d.])[-+])?{_DIGITS}"
_NUMBER = rf"(?:(?:minus|negative|plus|positive) {_DIGITS}|{SIGNED})"
_DECIMAL_COMMA = r"(?:\d+,(?:\d{1,2}|\d{4,})|0,\d+|\d{4,},\d+)"
"""What a comma means where nothing else is written. In a sentence "3,14" may be two numbers."""


def _value(number: str) -> Decimal | None:
    """What digits in groups with a sign, or a word for one, are worth; None for more digits than anybody writes."""
    digits = re.sub(r"^[a-z]+ ", "", number.casefold()).lstrip("+-").replace("’", "").replace("'", "")
    if re.fullmatch(rf"(?:{_DECIMAL_COMMA}|\d+(?:\.\d{{3}})+,\d+)(?:e.*)?", digits):
        digits = digits.replace(".", "").replace(",", ".")
    elif digits.count(".") > 1:
        digits = digits.replace(".", "")
    try:
        value = Decimal(digits.replace(",", ""))
    except InvalidOperation:
        return None
    if len(number) > LONGEST or not value.is_finite() or abs(value.adjusted()) > LONGEST:
        return None
    return -value if re.match("-|minus|negative", number.casefold()) else value


def spelled(number: str) -> str | None:
    """One spelling per number: "1200" for "1,200", "12" for "012" and "12.0"."""
    value = _value(number)
    if value is None:
        return None
    plain = format(value, "f")
    if "." in plain:
        plain = plain.rstrip("0").rstrip(".")
    return "0" if plain in {"-0", ""} else plain


# --- text without its decoration ---------------------------------------------------------------------

_MINUS: Final = str.maketrans("−–‐‑﹣", "-----")
_CURRENCY = "$£€¥¢₹₽₩₺₫"
_REWRITES: Final = tuple(
    (re.compile(pattern, re.IGNORECASE), plain)
    for pattern, plain in (
        (r"\r\n?|</(?:final_?)?answer>", "\n"),
        (r"</?(?:b|i|em|strong|u|p|span|div|code|mark|br)\b[^<>]*>", " "),
        (r"(?<=\d)\{,\}(?=\d)", ","),
        (r"\\(?:text|textbf|textit|mathrm|mathbf|mbox|emph) ?\{([^{}]*)\}", r" \1 "),
        (r"\\(?:left|right|displaystyle)(?![a-z])", " "),
        (r"\\(?:cdot|times|ast)(?![a-z])", "×"),
        (r"\\div(?![a-z])", "÷"),
        (r"\\([%$#])", r"\1"),
        (rf"(?<=[-+])[{_CURRENCY}](?=[\d.])", ""),
        (rf"(?:\*\*|__|\\q?quad(?![a-z])|\\[,;:!>()\[\] ]|[`\"“”{_CURRENCY}]|[^\S\n])+", " "),
        (r" \^", "^"),
    )
)


def undecorated(text: str) -> str:
    """`text` with one minus sign and single spaces, without what only decorates: emphasis, currency, LaTeX's frames."""
    text = text.translate(_MINUS)
    for pattern, plain in _REWRITES:
        text = pattern.sub(plain, text)
    return text


# --- what follows a number ---------------------------------------------------------------------------

_CLOSING = re.compile(r"(?:[*_'’]| ?[)\]}»☺✓✔✅\U0001f300-\U0001faff\ufe0f\u200d])*")
_UNIT = re.compile(
    r" ?(?P<percent>%)| ?°[CFK]?(?!\w)"
    r"|(?:km|cm|mm|kg|mg|g|ml|cl|dl|l|L|lbs?|oz|ft|yd|mi|mph|kph|mins?|secs?|hrs?|h|am|pm|kB|MB|GB|kW|kWh|px|USD|EUR)"
    r"(?:[²³]|\^?[23])?(?:/[a-z]+[²³]?)?(?![\w^])"
)
"""What may stand close behind its number. Not "m", which is as often a million as a metre, nor "k"."""
_ENDED = re.compile(r" ?(?P<mark>[.!?;…]+)[*_'’)\]}»]*(?= |$|[A-Z][a-z])")
_OPERATION = re.compile(r" ?(?:[+*/×÷^·⋅√=<>±≈]|-+ ?[(]?\.?\d)")
_ASIDE = re.compile(r" \((?P<aside>[^()]*)\)?")
_DASH = re.compile(r"(?: - | ?— ?)(?=[^\W\d_]{2})")
_CLAUSE = re.compile(r"(?:[^.!?;,(:…]|[.,](?=\d))*")

_NUMBER_WORDS = (
    "two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|(?:thir|four|fif|six|seven|eigh|nine)teen|"
    "(?:twen|thir|for|fif|six|seven|eigh|nine)ty|zero"
)
_MULTIPLIERS = (
    r"(?:dozen|hundred|thousand|(?:m|b|tr|quadr|quint|sext)illion|lakh|crore|milliard)s?|gross|score|tausend|mille|"
    r"millionen|milliarden|millones"
)
_ABBREVIATED = "k|mil|bn|tn|mln|mio|mrd|mld"
_FRACTIONS = (
    r"hal(?:f|ves)|quarters?|thirds|fourths|fifths|sixths|sevenths|eighths|ninths|tenths|[a-z]+(?:teen|ie)ths|"
    r"(?:hundred|thousand|million)ths"
)
_SPELLED = rf"(?:{_NUMBER_WORDS}|{_MULTIPLIERS})(?!\w)"
SPELLED_ANYWHERE = re.compile(rf"\b{_SPELLED}", re.IGNORECASE)
_NUMERIC = re.compile(
    rf"[-+*/×÷^·(\[]*(?:\.?\d|[\\√∛½⅓⅔¼¾⅕⅛π])|[+*/×÷^·⋅=±<>≈]"
    rf"|(?:{_NUMBER_WORDS}|{_MULTIPLIERS}|{_FRACTIONS}|pi|sqrt|root|log|ln)(?!\w)",
    re.IGNORECASE,
)
"""The beginning of a word that is a number, or makes one."""
_CHANGING = re.compile(
    rf"(?:{_MULTIPLIERS}|{_ABBREVIATED}|{_FRACTIONS}|squared|cubed|factorial|recurring|repeating|repeated|pi|or|over|mod|"
    r"modulo|base|choose|plus|minus|divided|multiplied|raised|into|in (?:base|binary|octal|hex\w*)|to the|"
    r"and (?:a|an|some|change|[a-z]+ths?|half)|times (?:the|that|this|its|his|her|their|[b-z])"
    r"|\w+ (?:squared|cubed|factorial|or))(?!\w)|(?:\w+ )?(?:below|under) freezing",
    re.IGNORECASE,
)
"""What makes another number of the one it follows, by itself."""
_LETTER = re.compile(r"(?![aAiImgslh]\b)[^\W\d_](?!\w)")
"""A letter by itself that is no word and no unit: "9 x"."""
_ARITHMETIC = re.compile(
    r"\b(?:plus|minus|times|over|divided|multiplied|mod|modulo|less|more|fewer|greater|than|power|per ?cent|and|or)\b"
)
_HARMLESS = re.compile(r"\b(?:in|after|for|because|as|since|with|when|at|on|if|so|is|was|are)$")
"""The last word before a second number that leaves the first one alone."""


def is_whole(number: str, rest: str) -> bool:
    """Whether `rest`, what follows `number` in plain text, leaves it what it is."""
    line = _closed(rest.partition("\n")[0])
    clause = ""
    if unit := _UNIT.match(line):
        clause, line = "percent" if unit["percent"] else "unit", _closed(line[unit.end() :])
    if not line.strip():
        return True
    if ended := _ENDED.match(line):
        after, is_trailing_off = line[ended.end() :], ".." in ended["mark"] or "…" in ended["mark"]
        if is_trailing_off and ("." in number or _NUMERIC.match(after.lstrip())):
            return False
        return not _OPERATION.match(after)
    if aside := _ASIDE.match(line):
        is_comment = "=" in aside["aside"] or (
            re.match(r"[^\W\d_]{2}", aside["aside"]) and not _changes(aside["aside"], is_aside=True)
        )
        return bool(is_comment) and is_whole(number, line[aside.end() :])
    if dash := _DASH.match(line):
        return not _changes(line[dash.end() :], is_aside=True)
    if line.startswith(": "):
        return "=" in line or not _NUMERIC.match(line[2:])
    if re.match(r" ?, ", line):
        return not _changes(line.lstrip(" ,"), is_aside=True)
    if re.match(r" [^\W\d_]", line):
        return not _changes(f"{clause}{line}".lstrip(), is_aside=False)
    return False


def _closed(line: str) -> str:
    """The line without the brackets, emphasis and pictures it begins with."""
    closing = _CLOSING.match(line)
    return line[closing.end() :] if closing else line


def _changes(text: str, *, is_aside: bool) -> bool:
    """Whether words that follow a number make another one of it; an aside follows a comma, a dash or a bracket."""
    if _CHANGING.match(text) or _LETTER.match(text):
        return True
    clause = _CLAUSE.match(text)
    end = clause.end() if clause else 0
    words = text[:end].casefold().split()[:6]
    for place, word in enumerate(words):
        is_near = place <= (1 if is_aside else 2)
        if is_near and re.search(r"\w[+*/×÷·=]-?\.?\d", word):
            return True
        if _NUMERIC.match(word):
            is_odds = words == ["in", word]  # "9 in 10", but "9 in 2 steps"
            if is_near and (is_odds or not _HARMLESS.search(" ".join(words[:place]))):
                return True
            return bool(_ARITHMETIC.search(" ".join(words[: min(1 if is_aside else 3, place)])))
    is_list = len(words) <= 2 and re.match(r", (?:and |or |plus )?", text[end:])
    return bool(is_list and not is_aside and _NUMERIC.match(text[end + is_list.end() :]))


# --- what stands before a number ---------------------------------------------------------------------

_OPENING = r"[\s:*_'‘(\[{«]*"
_TOTALS = ("total", "sum", "result", "answer", "value", "amount", "cost", "price")
_NOT_A_TOTAL = "".join(rf"(?<!\b{word} )" for word in _TOTALS)
_LEADING = re.compile(
    r"\\[a-z]+$|\w\($|(?:^|\W)(?:half|twice|double|triple|thrice|quadruple|third|quarter|fifth|tenth|root|square|cube|log|ln"
    r"|exp|sin|cos|tan|sqrt|than|least|most|over|under|above|below|almost|nearly|plus|minus|times|or|between|within|percent"
    rf"|divided by|multiplied by|{_MULTIPLIERS})$|{_NOT_A_TOTAL}\bof$",
    re.IGNORECASE,
)
"""Words that, before a number, make another one of it, or a bound."""
_UNARY_MINUS = re.compile(
    r"(?:^|(?:\b(?:is|was|be|are|equals|makes|gives|get|to|at|of|answer)|[=:,.!?;]) ?)minus$|\bnegative$", re.IGNORECASE
)
DENIAL = re.compile(r"\b(?:not|never|cannot)\b|n['’]t\b", re.IGNORECASE)
_PART = re.compile(r"\b(?:half|twice|double|triple|thrice|third|quarter)(?: of)? (?:the|my) (?:\w+ )?$", re.IGNORECASE)


def sign_before(before: str) -> str | None:
    """The sign that what stands before a number gives it ("-" or ""); None if it makes another number of it."""
    clause = re.split(r"[.!?;] |\n", before)[-1].rstrip(" *_'‘[{«")
    if re.search(r"\w\($", clause):
        return None
    clause = clause.rstrip(" *_'‘([{«")
    if _UNARY_MINUS.search(clause):
        return "-"
    if clause and not re.search(r"[^\W\d_]$|[.!?;:,]$|(?:^|[^<>!=≠≤≥])=$", clause):
        return None
    return None if _LEADING.search(clause) else ""


# --- reading -----------------------------------------------------------------------------------------

_LONE_NUMBER = re.compile(rf"[*_'‘(\[{{«]*(?P<number>{SIGNED})")
_WHOLE_TEXT = re.compile(
    rf"[ *_'‘]*(?P<boxed>\\boxed ?)?[ {{]*(?P<number>(?:(?:minus|negative|plus|positive) |[-+])?"
    rf"(?:{_DECIMAL_COMMA}(?![\d.,])|{_DIGITS})(?:e[-+]?\d{{1,3}}(?!\w))?)(?P<rest>.*)",
    re.IGNORECASE,
)
_NAMED = re.compile(
    r"(?: ?[%°*_'’}]*)(?:(?: ?[^\W\d_]+\.?(?:[²³]|\^[23])?(?:/[a-z]+[²³]?)?)(?: [^\W\d_]+){0,2})?[ .*_'’}]*"
)
"""All that may follow a number that is the whole text: up to three words for what is counted or measured."""
_TERM = rf"[(\[]*{SIGNED}[)\]]*"
_LEFT_SIDES = rf"(?:{_TERM}(?: ?[-+*/×÷^x·⋅] ?{_TERM})* ?= ?)*"
"""In "7 + 5 = 12" what stands before the result."""
_MARK = re.compile(
    r"(?P<frame>\\boxed(?![a-z])|<(?:final_?)?answer>)|(?P<hashes>(?<!#)####(?!#))"
    r"|(?<![^\W_])answer\s*(?:is|was|equals|(?:should|would|must|will) be|:|=)(?![a-z])",
    re.IGNORECASE,
)
"""A place that names what follows as the answer."""
_FILLERS = (
    r"(?:(?:actually|really|just|only|simply|exactly|now|then|therefore|thus|about|approximately|roughly|around|equal "
    r"to|clearly|indeed|still) )*"
)
_STATED = re.compile(
    rf"{_OPENING}{_FILLERS}{_OPENING}(?:[a-z] ?= ?)?(?:{_LEFT_SIDES}{_OPENING}(?P<number>{_NUMBER})"
    rf"|(?P<unreadable>[-+±~≈<>|√∛\\½⅓⅔¼¾π]|(?:half|twice|double|triple|minus|negative|{SPELLED_ANYWHERE.pattern})\b))",
    re.IGNORECASE,
)
_STATED_BEFORE = re.compile(
    rf"(?:^|(?<! )[.!?;:] |= ?|\b(?:so|then|thus|hence|therefore|that),? )[ *_'‘(\[{{]*(?P<number>{_NUMBER})"
    r"[*_'’%)\]} ]*\bis (?:the|my) (?:(?:final|right|correct) )?answer\b",
    re.IGNORECASE | re.MULTILINE,
)
"""As "9 is the answer"."""
_HEADING = re.compile(r"\s*\d+[.):] *[^\W\d_]|\s*[^\W\d_]")


def normalise_number(text: str) -> str | None:
    """One spelling per number ("1200" for "$1,200", "3.14" for "3,14", "12" for "12.0" and "12 apples").

    None if `text` is more, or something else, than a number with what it counts.
    """
    found = _WHOLE_TEXT.fullmatch(undecorated(text).strip())
    if not found or not _NAMED.fullmatch(found["rest"]):
        return None
    return spelled(found["number"]) if is_whole(found["number"], found["rest"]) else None


def stated_numbers(text: str) -> list[str | None]:
    """Every number that plain `text` names as its answer, in order; None for one that cannot be read."""
    found: list[tuple[int, str | None]] = []
    for mark in _MARK.finditer(text):
        line = text[mark.end() :].partition("\n")[0]
        if mark["hashes"] and (_HEADING.match(line) or not line.strip()):
            continue
        stated = _STATED.match(text, mark.end())
        if stated is None and not mark["frame"]:
            continue
        found.append((mark.start(), _read_stated(text, mark, stated)))
    for stated in _STATED_BEFORE.finditer(text):
        found.append((stated.start(), spelled(stated["number"])))
    return [number for _, number in sorted(found, key=lambda item: item[0])]


def _read_stated(text: str, mark: re.Match[str], stated: re.Match[str] | None) -> str | None:
    """The number behind a mark that names it, unless something around it makes it another or denies it."""
    if stated is None or stated["number"] is None or not is_whole(stated["number"], text[stated.end() :]):
        return None
    clause = re.split(r"[.!?;:,\n]", text[: mark.start()])[-1]
    if DENIAL.search(clause) or _PART.search(clause):
        return None
    if mark["frame"] and sign_before(text[: mark.start()]) != "":
        return None
    return spelled(stated["number"])


def stated_answer(text: str) -> str | None:
    """The number a text states last: "the answer is 9", "the answer is 7 + 2 = 9", "9 is the answer", "#### 9".

    None if it states none, denies it ("is not 9"), or means more than the number ("9/2", "9 + 4", "9:30", "9 or 10",
    "9 trillion", "9√2").
    """
    statements = stated_numbers(undecorated(text))
    return statements[-1] if statements else None


def _only_number(text: str) -> str | None:
    """The number of a plain text that has one number and does not deny it ("She has 9 apples left."), else None."""
    words = [word for word in re.finditer(r"\S+", text) if re.search(r"\d", word[0])]
    if len(words) != 1 or DENIAL.search(text) or SPELLED_ANYWHERE.search(text):
        return None
    found = _LONE_NUMBER.match(text, words[0].start())
    if not found or not is_whole(found["number"], text[found.end() :]):
        return None
    sign = sign_before(text[: found.start("number")])
    return None if sign is None else spelled(sign + found["number"])


def extract_answer(text: str) -> str | None:
    """The number an answer commits to: the one it states last, else the only one in it."""
    text = undecorated(text)
    statements = stated_numbers(text)
    return statements[-1] if statements else _only_number(text)


# --- working -----------------------------------------------------------------------------------------

_ANY_NUMBER = re.compile(SIGNED)
_EQUATION = re.compile(
    rf"(?<![\w.+*/×÷=·⋅√\\^-])(?<![+*/×÷=·⋅^-] )({SIGNED}) ?([-+*/×÷·⋅]) ?({SIGNED}) ?= ?({SIGNED})"
    rf"(?![\w½²³√\\!%]|[.,'’]\d| ?[+*/×÷·⋅^√\\]| ?- ?\d| (?:{_MULTIPLIERS}|{_ABBREVIATED}|{_FRACTIONS}|percent)\b)",
    re.IGNORECASE,
)


def _holds(left: str, operator: str, right: str, result: str) -> bool:
    """Whether the equation is right, by parsed decimals."""
    a, b, c = (_value(number) for number in (left, right, result))
    if a is None or b is None or c is None:
        return False
    if operator == "+":
        return a + b == c
    if operator == "-":
        return a - b == c
    if operator in "*×·⋅":
        return a * b == c
    return b != 0 and c * b == a


def shows_steps(text: str, answer: str) -> bool:
    """Whether the text has equations, every one of them right, and its last number is `answer`."""
    text = undecorated(text)
    equations = _EQUATION.findall(text)
    if not equations or len(equations) != text.count("="):
        return False
    last = spelled(_ANY_NUMBER.findall(text)[-1])
    return last == answer and all(_holds(*equation) for equation in equations)
