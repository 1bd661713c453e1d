"""CloudFormation's intrinsic functions, as far as they can be told before a deployment.

What is left is what only a deployment knows: references to resources and pseudo parameters.
"""

import re
from collections.abc import Mapping
from typing import Any

type Json = dict[str, Any]

_NO_VALUE = {"Ref": "AWS::NoValue"}


def resolved(template: Json, parameters: Mapping[str, Any]) -> Json:
    """The template with its conditions decided and its parameters filled in."""
    decide = _Deciding(template.get("Conditions", {}), parameters)
    made: Json = decide.value({key: template[key] for key in template if key not in {"Conditions", "Rules"}})
    for section in ("Resources", "Outputs"):
        made[section] = {
            name: part for name, part in made[section].items() if decide.condition(part.get("Condition", True))
        }
    return made


def broken_rules(template: Json, parameters: Mapping[str, Any]) -> list[str]:
    """What CloudFormation says against these parameters before it begins."""
    decide = _Deciding({}, parameters)
    return [
        assertion["AssertDescription"]
        for rule in template["Rules"].values()
        if decide.condition(rule.get("RuleCondition", True))
        for assertion in rule["Assertions"]
        if not decide.condition(assertion["Assert"])
    ]


class _Deciding:
    def __init__(self, conditions: Mapping[str, Any], parameters: Mapping[str, Any]) -> None:
        self._conditions = conditions
        self._parameters = parameters

    def condition(self, condition: Any) -> bool:
        match condition:
            case bool():
                return condition
            case str():
                return self.condition(self._conditions[condition])
            case {"Condition": name}:
                return self.condition(name)
            case {"Fn::Not": [inner]}:
                return not self.condition(inner)
            case {"Fn::Equals": [left, right]}:
                return str(self.value(left)) == str(self.value(right))
        raise NotImplementedError(condition)

    def value(self, value: Any) -> Any:
        match value:
            case {"Ref": name} if name in self._parameters:
                return self._parameters[name]
            case {"Fn::If": [condition, chosen, otherwise]}:
                return self.value(chosen if self.condition(condition) else otherwise)
            case {"Fn::Sub": text}:
                return self._substituted(*text) if isinstance(text, list) else self._substituted(text, {})
            case dict():
                known = {key: one for key, item in value.items() if (one := self.value(item)) != _NO_VALUE}
                return _picked(known)
            case list():
                return [one for item in value if (one := self.value(item)) != _NO_VALUE]
        return value

    def _substituted(self, text: str, variables: Mapping[str, Any]) -> Any:
        """The text, or `Fn::Sub` again where a name is left that only a deployment knows."""
        known = {**self._parameters, **self.value(variables)}
        left: Json = {}

        def replacement(match: re.Match[str]) -> str:
            match known.get(match[1]):
                case None:
                    return match[0]
                case {"Ref": str(name)}:
                    return f"${{{name}}}"
                case {"Fn::GetAtt": [name, attribute]}:
                    return f"${{{name}.{attribute}}}"
                case {"Fn::Sub": str(inner)}:
                    return inner
                case dict() as unknown:
                    left[match[1]] = unknown
                    return match[0]
                case plain:
                    return str(plain)

        filled = re.sub(r"\$\{([\w.:]+)\}", replacement, text)
        if left:
            return {"Fn::Sub": [filled, left]}
        return {"Fn::Sub": filled} if "${" in filled else filled


def _picked(value: Json) -> Any:
    """`Fn::Join`, `Fn::Split` and `Fn::Select`, where their text is known."""
    match value:
        case {"Fn::Join": [str(separator), list(items)]} if all(isinstance(item, str) for item in items):
            return separator.join(items)
        case {"Fn::Split": [str(separator), {"Fn::Join": [joined_by, list(items)]}]} if separator == joined_by:
            return items
        case {"Fn::Split": [str(separator), str(text)]}:
            return text.split(separator)
        case {"Fn::Select": [index, list(items)]}:
            return items[int(index)]
    return value
