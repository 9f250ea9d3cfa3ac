"""Random texts of lines: words, running text, code, numbers, addresses, and random characters."""

from __future__ import annotations

import re
import string
import sysconfig
from functools import cache
from pathlib import Path

import numpy as np

__all__ = ["Texts"]

LETTERS = string.ascii_letters
PRINTABLE = "".join(chr(code) for code in range(32, 127))
COMMON_WORDS = """
the of and a to in is you that it he was for on are as with his they I at be this have from or one had by
word but not what all were we when your can said there use an each which she do how their if will up other
about out many then them these so some her would make like him into time has look two more write go see
number no way could my than first been call who its now find long down day did get come made may part over
new after only little work
""".split()  # noqa: SIM905
WORD_LISTS = ("/usr/share/dict/american-english", "/usr/share/dict/british-english")
LOOKALIKES = "O0oQ Il1|i! S5 B8 Z2z '`\" .,:; -_~ (){}[] /\\| cC vV wW uU xX sS pP kK".split()  # noqa: SIM905


@cache
def _words() -> list[str]:
    found = {word for path in WORD_LISTS for word in Path(path).read_text().split() if word.isascii()}
    # The lists have a genitive of every noun: one in ten of those is as frequent as in print.
    chosen = sorted(word for word in found if len(word) <= 16)
    return [word for index, word in enumerate(chosen) if "'" not in word or index % 10 == 0]


@cache
def _running_text() -> list[str]:
    """Lines of Python's standard library, code and comments, with single spaces."""
    lines: list[str] = []
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        for line in path.read_text(errors="ignore").splitlines():
            line = re.sub(r"\s+", " ", line).strip()
            if len(line) >= 8 and line.isascii() and line.isprintable():
                lines.append(line)
    return lines


class Texts:
    """Texts of 1 to ``longest`` printable ASCII characters, without spaces at the ends or two spaces in a row."""

    def __init__(self, rng: np.random.Generator, longest: int = 40) -> None:
        self.rng, self.longest = rng, longest

    def line(self) -> str:
        """One line. A sixth of them are single words, a sixth running text; 40 % of the others have many marks."""
        while True:
            text = re.sub(" +", " ", self._line()).strip()
            if 1 <= len(text) <= self.longest:
                return text

    def _chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def _pick(self, choices: str | list[str] | tuple[str, ...]) -> str:
        return choices[int(self.rng.integers(len(choices)))]

    def _from(self, alphabet: str, low: int, high: int) -> str:
        return "".join(
            alphabet[i] for i in self.rng.integers(len(alphabet), size=int(self.rng.integers(low, high + 1)))
        )

    def _line(self) -> str:
        kind = self.rng.random()
        if kind < 0.16:
            return self._single()
        length = int(self.rng.integers(3 if self._chance(0.5) else self.longest // 2, self.longest + 1))
        if kind < 0.32:
            line = self._pick(_running_text())
            start = int(self.rng.integers(max(1, len(line) - length + 1)))
            if self._chance(0.8):
                start = line.rfind(" ", 0, start + 1) + 1
            return line[start : start + length]
        decorated = self._chance(0.4)
        parts: list[str] = []
        size = -1
        while size < length:
            part = self._special() if self._chance(0.45 if decorated else 0.05) else self._word()
            if decorated:
                part = self._decorate(part)
            elif self._chance(0.1):
                part += self._pick(",,..;:?!")
            parts.append(part)
            size += len(part) + 1
        text = " ".join(parts)
        text = text.upper() if self._chance(0.05) else text
        if len(text) <= length:
            return text
        whole = text[: length + 1].rsplit(" ", 1)[0]
        return whole if len(whole) >= 3 and self._chance(0.85) else text[:length]

    def _single(self) -> str:
        kind = self.rng.random()
        if kind < 0.62:
            return self._word()
        if kind < 0.72:
            return self._decorate(self._word())
        if kind < 0.92:
            return self._special()
        return self._from(PRINTABLE[1:], 1, 8)

    def _word(self) -> str:
        word = self._pick(COMMON_WORDS) if self._chance(0.3) else self._pick(_words())
        kind = self.rng.random()
        if kind < 0.12:
            return word.capitalize()
        if kind < 0.17:
            return word.upper()
        if kind < 0.19:
            return "".join(c.upper() if self._chance(0.5) else c for c in word)
        if kind < 0.23:
            return (
                self._from(string.ascii_lowercase, 1, 9).capitalize()
                if self._chance(0.4)
                else self._from(LETTERS, 1, 8)
            )
        return word

    def _decorate(self, part: str) -> str:
        kind = self.rng.random()
        if kind < 0.2:
            return part + self._pick(".,;:!?,.")
        if kind < 0.42:
            pair = self._pick(["()", "[]", "{}", '""', "''", "<>", "``", '""', "''", "**", "__", "||", "//", "~~"])
            return pair[0] + part + pair[1] + (self._pick(".,;:") if self._chance(0.25) else "")
        if kind < 0.52:
            return self._pick("#@$%&*+-=/\\|~^_<>!.:'\"") + part
        if kind < 0.6:
            return part + self._pick(
                [
                    "'s",
                    "%",
                    "+",
                    "*",
                    "...",
                    "!!",
                    "?!",
                    '"',
                    "'",
                    "-",
                    "=",
                    "()",
                    "[0]",
                    "++",
                    "\\",
                    "|",
                    "^2",
                ]
            )
        if kind < 0.7:
            return part + self._pick("-/_.:=+&@|'~") + self._word()
        if kind < 0.82:  # spaces that are rare in print
            return self._pick(
                [
                    f"{part} {self._pick('-=+*/|&:;,.!?<>~')}",
                    f"( {part} )",
                    f'" {part} "',
                    f"{part} .",
                    f"{part} ,",
                ]
            )
        return part

    def _special(self) -> str:
        """Anything but a word: a number, price, date, time, address, path, code or random characters."""
        kinds = (
            self._number,
            self._price,
            self._date,
            self._time,
            self._mail,
            self._link,
            self._code,
            self._path,
            self._groups,
            self._telephone,
            self._plate,
            self._hexadecimal,
            self._token,
            self._measure,
            self._version,
            self._jumble,
            self._lookalikes,
            self._marks,
        )
        return kinds[int(self.rng.integers(len(kinds)))]()

    def _below(self, high: int) -> int:
        return int(self.rng.integers(high))

    def _digits(self, low: int, high: int) -> str:
        return self._from(string.digits, low, high)

    def _number(self) -> str:
        return str(self._below(10 ** int(self.rng.integers(1, 9))))

    def _price(self) -> str:
        currency = self._pick(["$", "", "USD ", "-", "+", "~"])
        whole = self._below(10 ** int(self.rng.integers(1, 7)))
        return f"{currency}{whole:,}.{self._digits(2, 2)}"

    def _date(self) -> str:
        mark = self._pick("-/.")
        day, month, year = (int(self.rng.integers(1, high)) for high in (32, 13, 130))
        german = f"{day:02}{mark}{month:02}{mark}{1900 + year}"
        sortable = f"{1900 + year}{mark}{month:02}{mark}{day:02}"
        return self._pick([german, sortable, f"{day}{mark}{month}{mark}{year % 100:02}"])

    def _time(self) -> str:
        clock = f"{self._below(24):02}:{self._below(60):02}"
        return clock + self._pick(["", f":{self._below(60):02}", " am", "PM", "h"])

    def _mail(self) -> str:
        name = self._word().lower() + self._pick([".", "_", "", "-"]) + self._digits(0, 3)
        return f"{name}@{self._word().lower()}." + self._pick(["com", "org", "net", "de", "io", "co.uk"])

    def _link(self) -> str:
        start = self._pick(["http://", "https://", "www.", "ftp://"]) + self._word().lower()
        start += "." + self._pick(["com", "org", "net"]) + "/"
        return start + self._pick(["", self._word(), "~" + self._word(), "?id=" + self._digits(1, 4)])

    def _code(self) -> str:
        joints = [
            "()",
            "(x)",
            "[i]",
            "[0]",
            " = ",
            " == ",
            " != ",
            " += ",
            "->",
            "::",
            ".",
            " <= ",
            " && ",
            " || ",
        ]
        start = self._word().lower() + self._pick(joints) + self._word().lower()
        return start + self._pick(["", ";", ",", ")", " {", "}"])

    def _path(self) -> str:
        start = self._pick(["/", "./", "~/", "C:\\", "../"]) + self._word() + self._pick(["/", "\\", "_"])
        return start + self._word() + "." + self._pick(["txt", "py", "c", "html", "tar.gz"])

    def _groups(self) -> str:
        return "-".join(self._digits(2, 4) for _ in range(int(self.rng.integers(2, 5))))

    def _telephone(self) -> str:
        if self._chance(0.5):
            return f"({self._digits(3, 3)}) {self._digits(3, 3)}-{self._digits(4, 4)}"
        return f"+{self._digits(2, 2)} {self._digits(3, 4)} {self._digits(4, 7)}"

    def _plate(self) -> str:
        return self._from(string.ascii_uppercase + string.digits, 4, 12)

    def _hexadecimal(self) -> str:
        return "0x" + self._from("0123456789abcdef" if self._chance(0.6) else "0123456789ABCDEF", 2, 8)

    def _token(self) -> str:
        return self._from(LETTERS + string.digits + "-_", 4, 14)

    def _measure(self) -> str:
        units = ["%", " %", "kg", " km", "px", ".5", "/10", " GB", "x", "th", "+", "."]
        return self._digits(1, 3) + self._pick(units)

    def _version(self) -> str:
        numbers = f"v{self._below(20)}.{self._below(20)}.{self._below(20)}"
        return numbers + self._pick(["", "-rc1", "b2", "~beta", "+dfsg"])

    def _jumble(self) -> str:
        return self._from(PRINTABLE, 2, 10)

    def _lookalikes(self) -> str:
        return self._from(
            self._pick(LOOKALIKES) + self._pick(LOOKALIKES) + self._from(LETTERS + string.digits, 1, 3), 2, 7
        )

    def _marks(self) -> str:
        return self._from(string.punctuation, 1, 5)
