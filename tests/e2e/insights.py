"""The part of CloudWatch Logs Insights that docs/operations.md and the dashboard use, over a list of log lines."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

type Row = dict[str, Any]
type Test = Callable[[Row], bool]

_TOKEN = re.compile(
    r"""\s*(?:'(?P<single>[^']*)'|"(?P<double>[^"]*)"|/(?P<regex>[^/]+)/|(?P<word>[@\w.]+)|(?P<sign>!=|>=|<=|[=<>(),*\[\]|]))"""
)
_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "=": lambda left, right: str(left) == str(right),
    "!=": lambda left, right: str(left) != str(right),
    ">": lambda left, right: float(left) > float(right),
    "<": lambda left, right: float(left) < float(right),
}


@dataclass(frozen=True, slots=True)
class Token:
    kind: str
    text: str


def tokens(query: str) -> list[Token]:
    found, position = [], 0
    query = query.strip()
    while position < len(query):
        match = _TOKEN.match(query, position)
        assert match, f"cannot read: {query[position:]}"
        kind = str(match.lastgroup)
        found.append(Token("text" if kind in {"single", "double"} else kind, match[kind]))
        position = match.end()
    return found


@dataclass
class Query:
    """One run of a query. It keeps the columns and values of the query, so that a test can look for them."""

    text: str
    columns: list[str] = field(default_factory=list)
    literals: list[tuple[str, str]] = field(default_factory=list)
    _tokens: list[Token] = field(default_factory=list)

    def run(self, rows: list[Row]) -> list[Row]:
        for command in _split(tokens(self.text), "|"):
            self._tokens = command[1:]
            rows = getattr(self, f"_{command[0].text.lower()}")(rows)
        return [{name: row.get(name) for name in self.columns} for row in rows]

    # Commands

    def _source(self, rows: list[Row]) -> list[Row]:
        return rows

    def _fields(self, rows: list[Row]) -> list[Row]:
        self.columns = [token.text for token in self._tokens if token.kind == "word"]
        return rows

    def _filter(self, rows: list[Row]) -> list[Row]:
        test = self._any()
        assert not self._tokens, self._tokens
        return [row for row in rows if test(row)]

    def _sort(self, rows: list[Row]) -> list[Row]:
        name, direction = self._take().text, self._take().text
        there = sorted((row for row in rows if row.get(name) is not None), key=lambda row: row[name])
        return there[::-1] if direction == "desc" else there

    def _limit(self, rows: list[Row]) -> list[Row]:
        return rows[: int(self._take().text)]

    def _stats(self, rows: list[Row]) -> list[Row]:
        *_, by = _split(self._tokens, "by")
        keys = [token.text for token in by if token.kind == "word"]
        measures = list(self._measures(self._tokens[: -len(by) - 1]))
        groups: dict[tuple[Any, ...], list[Row]] = {}
        for row in rows:
            groups.setdefault(tuple(row.get(key) for key in keys), []).append(row)
        self.columns = [*keys, *(alias for alias, _ in measures)]
        return [
            dict(zip(keys, group, strict=True)) | {alias: measure(found) for alias, measure in measures}
            for group, found in groups.items()
        ]

    @staticmethod
    def _measures(listed: list[Token]) -> Iterator[tuple[str, Callable[[list[Row]], Any]]]:
        text = " ".join(token.text for token in listed)
        for match in re.finditer(r"(\w+) \( ([@\w.*]+)(?: , (\d+))? \) as (\w+)", text):
            function, name, number, alias = match.groups()
            yield alias, _aggregate(function, name, int(number or 0))

    # Conditions

    def _any(self) -> Test:
        tests = [self._all()]
        while self._next_is("or"):
            self._take()
            tests.append(self._all())
        return lambda row: any(test(row) for test in tests)

    def _all(self) -> Test:
        tests = [self._one()]
        while self._next_is("and"):
            self._take()
            tests.append(self._one())
        return lambda row: all(test(row) for test in tests)

    def _one(self) -> Test:
        name = self._take().text
        if name == "(":
            test = self._any()
            self._take()
            return test
        if name == "ispresent":
            _, argument, _ = self._take(), self._take(), self._take()
            return lambda row: row.get(argument.text) is not None
        operator = self._take().text
        if operator == "not":
            test = self._operation(name, self._take().text, wanted=False)
            return lambda row: not test(row)
        return self._operation(name, operator, wanted=True)

    def _operation(self, name: str, operator: str, *, wanted: bool) -> Test:
        if operator == "in":
            values = [token.text for token in self._list()]
            self.literals += [(name, value) for value in values if wanted]
            return lambda row: str(row.get(name)) in values
        value = self._take()
        if operator == "like":
            pattern = value.text if value.kind == "regex" else re.escape(value.text)
            return lambda row: re.search(pattern, str(row.get(name, ""))) is not None
        if operator == "=" and wanted:
            self.literals.append((name, value.text))
        compare = _COMPARISONS[operator]
        return lambda row: row.get(name) is not None and compare(row[name], value.text)

    def _list(self) -> Sequence[Token]:
        end = next(number for number, token in enumerate(self._tokens) if token.text == "]")
        listed = [token for token in self._tokens[:end] if token.kind == "text"]
        del self._tokens[: end + 1]
        return listed

    def _take(self) -> Token:
        return self._tokens.pop(0)

    def _next_is(self, word: str) -> bool:
        return bool(self._tokens) and self._tokens[0] == Token("word", word)


def _split(listed: list[Token], separator: str) -> list[list[Token]]:
    parts: list[list[Token]] = [[]]
    for token in listed:
        if token.text == separator and token.kind in {"sign", "word"}:
            parts.append([])
        else:
            parts[-1].append(token)
    return parts


def _aggregate(function: str, name: str, number: int) -> Callable[[list[Row]], Any]:
    def aggregate(rows: list[Row]) -> Any:
        if function == "count":
            return len(rows)
        there = [row for row in rows if row.get(name) is not None]
        if not there:
            return None
        if function == "latest":
            return max(reversed(there), key=lambda row: row["@timestamp"])[name]
        values = sorted(row[name] for row in there)
        percentile = values[min(len(values) - 1, len(values) * number // 100)]
        return {"sum": sum(values) if name != "@timestamp" else None, "max": values[-1], "pct": percentile}[function]

    return aggregate
